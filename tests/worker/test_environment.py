"""What a worker decides before it loads: device, dtypes, and how it names what went wrong."""

from __future__ import annotations

import errno
import os
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from ringlight.core.config import EngineConfig
from ringlight.core.errors import (
    Cancelled,
    InvalidInstallation,
    InvalidLayout,
    InvalidSetting,
    OutOfMemory,
    OutputError,
    WorkerError,
)
from ringlight.core.messages import RankPlace, RunJob
from ringlight.core.request import VideoRequest
from ringlight.worker.environment import (
    apply_settings,
    choose_device,
    choose_dtypes,
    describe,
    require_right_convolutions,
)
from ringlight.worker.failures import as_ringlight_error, is_device_fault, output_error, too_large_message

CPU = torch.device("cpu")
CUDA = torch.device("cuda", 0)
JOB = RunJob(
    job_id="video_1",
    request=VideoRequest(
        prompt="a cat",
        negative_prompt="",
        width=1280,
        height=704,
        num_frames=121,
        fps=24,
        num_inference_steps=50,
        guidance_scale=5.0,
        flow_shift=5.0,
        seed=1,
    ),
    output="/tmp/cat.mp4",
)


def config(**settings: str) -> EngineConfig:
    return EngineConfig(model_path="anywhere", **settings)


def test_devices() -> None:
    assert choose_device(config(device="cpu"), RankPlace()) == CPU
    assert choose_device(config(), RankPlace()).type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_an_error_with_its_remedy() -> None:
    with pytest.raises(InvalidSetting, match="--device cpu"):
        choose_device(config(device="cuda"), RankPlace())


def test_every_rank_of_a_machine_needs_a_device_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InvalidLayout, match=r"4 ranks on this machine .* torch sees 2; use --num-gpus 2"):
        choose_device(config(device="cuda"), RankPlace(rank=5, num_ranks=8, local_rank=1, num_local=4))


def test_replicas_of_a_machine_take_devices_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    second = RankPlace(rank=1, num_ranks=2, local_rank=1, num_local=2, first_device=2)
    assert choose_device(config(device="cuda"), second) == torch.device("cuda", 3)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    with pytest.raises(InvalidLayout, match=r"after the 2 of other replicas, and torch sees 3; use fewer replicas"):
        choose_device(config(device="cuda"), second)
    assert choose_device(config(device="cpu"), second) == CPU


@pytest.mark.parametrize(("num_threads", "num_local"), [(0, 2), (0, 1000), (3, 2)])
def test_ranks_of_a_machine_share_its_cores(num_threads: int, num_local: int) -> None:
    before = torch.get_num_threads()
    try:
        apply_settings(EngineConfig(model_path="anywhere", num_threads=num_threads), CPU, num_local)
        cores = len(os.sched_getaffinity(0))
        assert torch.get_num_threads() == (num_threads or max(1, cores // num_local))
    finally:
        torch.set_num_threads(before)


def test_products_in_bfloat16_are_summed_in_float32() -> None:
    """However many rows a rank has."""
    matmul = torch.backends.cuda.matmul
    matmul.allow_bf16_reduced_precision_reduction = True
    apply_settings(config(), CPU, num_local=1)
    assert matmul.allow_bf16_reduced_precision_reduction is False
    assert matmul.allow_tf32 is False


@pytest.mark.parametrize(
    ("cudnn", "asked", "device", "is_wrong"),
    [
        (91002, {"vae_dtype": "bfloat16"}, CUDA, True),
        (91002, {}, CUDA, True),  # TensorFloat-32 is on
        (91002, {"tf32": False}, CUDA, False),
        (91002, {"vae_dtype": "bfloat16", "tf32": False}, CUDA, True),
        (91002, {"vae_dtype": "bfloat16"}, CPU, False),
        (91500, {}, CUDA, True),
        (91501, {"vae_dtype": "bfloat16"}, CUDA, False),
        (92300, {}, CUDA, False),
        (90701, {}, CUDA, False),
        (None, {}, CUDA, False),
    ],
)
def test_convolutions_that_are_known_to_be_wrong_are_refused(
    monkeypatch: pytest.MonkeyPatch, cudnn: int | None, asked: dict[str, object], device: torch.device, is_wrong: bool
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: cudnn)
    asked_config = EngineConfig(model_path="anywhere", **asked)
    _, vae_dtype = choose_dtypes(asked_config, device)
    refused = pytest.raises(InvalidSetting, match=r"cuDNN 9\.1[05]\.[02] .*torch 2\.10 .*--vae-dtype float32 --no-tf32")
    with refused if is_wrong else nullcontext():
        require_right_convolutions(asked_config, device, vae_dtype)


def test_dtypes() -> None:
    assert choose_dtypes(config(), CPU) == (torch.float32, torch.float32)
    assert choose_dtypes(config(), CUDA) == (torch.bfloat16, torch.float32)
    asked = config(dtype="bfloat16", vae_dtype="bfloat16")
    assert choose_dtypes(asked, CPU) == (torch.bfloat16, torch.bfloat16)
    assert choose_dtypes(config(dtype="float32"), CUDA) == (torch.float32, torch.float32)


def test_the_conditions_of_a_measurement() -> None:
    told = describe(config(), CPU, torch.bfloat16, torch.float32, "flash_cpu")
    assert (told["dtype"], told["vae_dtype"], told["device_type"]) == ("bfloat16", "float32", "cpu")
    assert told["versions"]["torch"] == torch.__version__
    assert told["device"]
    assert told["num_threads"] == torch.get_num_threads()
    in_a_checkout = (Path(__file__).parents[2] / ".git").exists()
    assert bool(told["commit"]) == in_a_checkout


def test_running_out_of_memory_is_told_with_a_remedy() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)  # more than any machine has
    no_map = OSError(errno.ENOMEM, "Cannot allocate memory")
    for error in (caught.value, MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), no_map):
        told = as_ringlight_error(error, too_large_message(JOB.request))
        assert isinstance(told, OutOfMemory)
        assert "1280x704 with 121 frames" in str(told)
        assert "fewer frames" in str(told)


LIBRARIES = [  # as they say that memory has run out; none of them raises torch's own kind of error
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("HIP error: out of memory"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN SDPA execution failed: CUDA_ERROR_OUT_OF_MEMORY"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("FIND was unable to find an engine to execute this computation"),
    torch.distributed.DistBackendError("NCCL error: unhandled cuda error. Last error: Cuda failure 2 'out of memory'"),
]


@pytest.mark.parametrize("error", LIBRARIES, ids=str)
def test_every_librarys_words_for_out_of_memory(error: RuntimeError) -> None:
    assert isinstance(as_ringlight_error(error, "too large"), OutOfMemory)
    assert not is_device_fault(error), "the next video is made all the same"


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), True),
        (RuntimeError("CUDA error: unspecified launch failure"), True),  # torch before it had a kind for that
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("CUDA error: not of the device"), False),
    ],
    ids=str,
)
def test_a_device_that_has_failed_is_told_from_a_job_that_has(error: Exception, is_one: bool) -> None:
    assert is_device_fault(error) == is_one


def test_an_import_that_fails_late_names_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    told = as_ringlight_error(ModuleNotFoundError("No module named 'scipy'", name="scipy"), "too large")
    assert isinstance(told, InvalidInstallation)
    assert "scipy is not installed" in str(told) and "`pip install scipy`" in str(told)


def test_other_errors_keep_their_kind_or_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    ours = Cancelled("cancelled")
    assert as_ringlight_error(ours, "too large") is ours
    assert capsys.readouterr().err == ""
    told = as_ringlight_error(LookupError("no such thing"), "too large")
    assert type(told) is WorkerError
    assert str(told) == "LookupError: no such thing"
    assert "Traceback" not in str(told)
    assert "LookupError" in capsys.readouterr().err  # the log has what the message leaves out


def test_a_full_disk_is_told_in_a_line_that_names_the_output() -> None:
    told = output_error(OSError(errno.ENOSPC, "No space left on device"), JOB)
    assert isinstance(told, OutputError)
    assert str(told).startswith(f"{JOB.output}: No space left on device; make room")
    assert output_error(OSError(errno.EIO, "Input/output error"), JOB) is None
    assert output_error(LookupError("no such thing"), JOB) is None
