"""What a user can mend: an exit code, one line on stderr without a traceback, and nothing written."""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch

from ringlight.core.errors import (
    Cancelled,
    InvalidCheckpoint,
    InvalidLayout,
    InvalidRequest,
    InvalidSetting,
    NumericalError,
    OutOfMemory,
    RinglightError,
    WorkerError,
)
from tests.cli.commands import Done, here, ringlight, together
from tests.core.checkpoints import edit
from tests.core.pictures import bomb

WEIGHTS = Path("transformer/diffusion_pytorch_model.safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of wrong pictures."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "text.png").write_text("not a picture")
    (folder / "bomb.png").write_bytes(bomb(20_000))
    assert (folder / "bomb.png").stat().st_size < 200_000
    return folder


@pytest.fixture
def results(folder: Path) -> Iterator[Path]:
    """An empty folder, `results` in the folder of pictures: whatever is refused leaves it so."""
    path = folder / "results"
    path.mkdir()
    yield path
    shutil.rmtree(path)


def small(model_path: object, output: object, *flags: object) -> list[object]:
    """The arguments of a small video, in which later flags win."""
    return [
        *("generate", "--model-path", model_path, "--prompt", "a cat", "--num-threads", 1),
        *("--width", 64, "--height", 64, "--num-frames", 5, "--num-inference-steps", 2, "-o", output),
        *flags,
    ]


def assert_refused(done: Done, code: str, words: list[str]) -> None:
    """Exit code 3, nothing on stdout, and one line on stderr with these words, but for progress every ten seconds."""
    assert (done.code, done.out) == (3, ""), done.err
    told = re.sub(r"^  0%  loading, \d+ s\n", "", done.err, flags=re.MULTILINE)
    assert told.startswith(f"ringlight: {code}: ")
    assert told.endswith("\n")
    assert told.count("\n") == 1
    for word in words:
        assert word in done.err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--width", "1280", "--height", "720"], ["height: 720", "nearest: 704"]),
        (["--num-frames", "96"], ["num_frames: 96", "nearest: 97"]),
        (["--guidance-scale", "nan"], ["guidance_scale", "finite"]),
        (["--prompt", ""], ["prompt", "empty"]),
        (["--prompt", "a\udcffb"], ["prompt", "Unicode"]),
        (["--seed", "-2"], ["seed: -2", "nearest: 0"]),
        (["--image-path", "https://example.com/a.jpg"], ["image", "is an address", "fetch it first"]),
        (["--image-path", "missing.png"], ["image: missing.png", "No such file"]),
        (["--image-path", "results"], ["image: results", "Is a directory"]),
        (["--image-path", "text.png"], ["image", "not a picture"]),
        (["--image-path", "bomb.png"], ["image", "smaller picture"]),
        (["-o", "missing/film.mp4"], ["output", "no folder missing"]),
        (["-o", "results"], ["output", ".mp4"]),
        (["-o", "results/film.avi"], ["output", ".mp4", ".safetensors"]),
        (["-o", "results/film.png"], ["output", "film_%04d.png"]),
        (["-o", "results/" + "a" * 300 + ".mp4"], ["output"]),
        (["--report", "missing/report.json"], ["report", "no folder missing"]),
        (["--report", "results"], ["report", "is a folder"]),
    ],
    ids=lambda value: " ".join(value)[:30].encode("ascii", "backslashreplace").decode() if value else "",
)
def test_a_wrong_request(tiny: Path, folder: Path, results: Path, flags: list[str], words: list[str]) -> None:
    before = sorted(folder.iterdir())
    done = here(*small(tiny, "results/film.npy", *flags), folder=folder)
    assert_refused(done, "invalid_request", words)
    assert sorted(folder.iterdir()) == before
    assert list(results.iterdir()) == []


def test_a_command_is_refused_so_too(tiny: Path, results: Path) -> None:
    done = ringlight(*small(tiny, results / "film.npy", "--height", 720))
    assert_refused(done, "invalid_request", ["height: 720", "nearest: 704"])


ON_TWO_NODES = ["--nnodes", "2", "--dist-init-addr", "localhost:29500"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--num-gpus", "0"], ["num-gpus", "at least 1", "0"]),
        (["--ring-degree", "-1"], ["ring-degree", "at least 1", "-1"]),
        (["--cfg-degree", "3"], ["cfg-degree", "1 or 2", "3"]),
        (
            ["--sp-degree", "4", "--ulysses-degree", "2", "--ring-degree", "1"],
            ["sp-degree 4 is not ulysses-degree 2 x ring-degree 1", "leave one of them out", "--ring-degree 2"],
        ),
        (
            ["--num-gpus", "3", "--cfg-degree", "2", "--sp-degree", "2"],
            ["num-gpus 3 is not cfg-degree 2 x sp-degree 2", "--num-gpus 4"],
        ),
        (
            ["--num-gpus", "3", "--ulysses-degree", "2"],
            ["num-gpus 3", "multiple of ulysses-degree 2", "--num-gpus 2"],
        ),
        (["--num-gpus", "8", "--sp-degree", "2"], ["num-gpus 8", "sp-degree 2", "--num-gpus 2 or 4"]),
        (["--ulysses-degree", "5"], ["ulysses-degree 5 is more than the 4 heads", "--ring-degree"]),
        (["--sp-degree", "5", "--ring-degree", "1"], ["ring-degree 1", "4 heads", "leave --ring-degree out"]),
        (["--num-gpus", "3", *ON_TWO_NODES], ["num-gpus 3", "nnodes 2", "--num-gpus 2"]),
        (ON_TWO_NODES, ["num-gpus is left out", "nnodes 2", "--num-gpus 2"]),
        (["--num-gpus", "3", *ON_TWO_NODES, "--node-rank", "1"], ["num-gpus 3", "nnodes 2", "--num-gpus 2"]),
        (["--num-gpus", "2", *ON_TWO_NODES, "--node-rank", "2"], ["node-rank 2", "0..1"]),
        (["--node-rank", "1"], ["node-rank 1", "0..0"]),
        (["--nnodes", "0"], ["nnodes", "at least 1"]),
        (["--num-gpus", "2", "--nnodes", "2"], ["nnodes 2", "--dist-init-addr HOST:PORT"]),
        (["--dist-init-addr", "localhost"], ["dist-init-addr 'localhost'", "HOST:PORT"]),
        (
            ["--memory-budget", "100MiB"],
            ["which has 0.10 (the memory budget)", "predicted to fit with --memory-budget 2"],
        ),
    ],
    ids=lambda value: " ".join(value)[:60],
)
def test_a_wrong_layout(tiny: Path, results: Path, tmp_path: Path, flags: list[str], words: list[str]) -> None:
    """There is not even a weight to be read."""
    copy = tmp_path / "checkpoint"
    shutil.copytree(tiny, copy, ignore=shutil.ignore_patterns("*.safetensors"))
    done = here(*small(copy, results / "film.npy", "--report", results / "report.json", *flags))
    assert_refused(done, "invalid_layout", words)
    assert list(results.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--num-slices", "-1"], ["num-slices", "0 or more", "-1"]),
        (["--watchdog-timeout", "0"], ["watchdog-timeout", "above 0"]),
        (["--watchdog-timeout", "nan"], ["watchdog-timeout", "above 0"]),
        (["--memory-budget", "10 apples"], ["memory-budget: '10 apples'", "10GiB"]),
        (["--memory-budget", "0"], ["memory-budget", "more than 0"]),
        (["--memory-budget", "-1GiB"], ["memory-budget: '-1GiB'", "10GiB"]),
    ],
    ids=" ".join,
)
def test_a_wrong_setting(tiny: Path, results: Path, flags: list[str], words: list[str]) -> None:
    assert_refused(here(*small(tiny, results / "film.npy", *flags)), "invalid_setting", words)
    assert list(results.iterdir()) == []


@pytest.mark.parametrize(
    "flags",
    [
        ["--size", "64x64", "--width", "64"],
        ["--size", "64x"],
        ["--no-such-flag"],
        ["--size", "64x64x64"],
        ["--num-frames", "many"],
        ["--device", "tpu"],
        ["--num-threads", "-1"],
        ["superfluous"],
    ],
    ids=" ".join,
)
def test_a_wrong_flag_is_a_usage_error(tiny: Path, tmp_path: Path, flags: list[str]) -> None:
    arguments = ["--model-path", tiny, "--prompt", "a cat", "-o", tmp_path / "film.npy"]
    done = here("generate", *arguments, *flags)
    assert (done.code, done.out) == (2, "")
    assert "Traceback" not in done.err
    assert flags[0] in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["--model-path", "--prompt", "--output"])
def test_flags_that_must_be_given(tmp_path: Path, missing: str) -> None:
    given = {"--model-path": str(tmp_path), "--prompt": "a cat", "--output": "film.npy"}
    del given[missing]
    done = here("generate", *(part for pair in given.items() for part in pair), folder=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert missing in done.err


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda copy: shutil.rmtree(copy), ["no such folder", "--model-path"]),
        (lambda copy: (copy / "model_index.json").unlink(), ["model_index.json", "no such file"]),
        (lambda copy: (copy / "vae/config.json").write_text("{"), ["vae/config.json", "JSON"]),
        (lambda copy: (copy / "transformer/config.json").write_text("{}"), ["transformer/config.json"]),
        (lambda copy: (copy / "model_index.json").write_text('{"_class_name": "FluxPipeline"}'), ["FluxPipeline"]),
        (lambda copy: (copy / "ringlight.json").write_text('{"defaults": {"size": 1}}'), ["ringlight.json", "size"]),
    ],
    ids=["wrong path", "missing file", "wrong JSON", "missing keys", "another architecture", "wrong defaults"],
)
def test_a_checkpoint_that_is_none(
    tiny: Path, results: Path, tmp_path: Path, damage: Callable[[Path], object], words: list[str]
) -> None:
    copy = tmp_path / "checkpoint"
    shutil.copytree(tiny, copy, ignore=shutil.ignore_patterns("*.safetensors"))
    damage(copy)
    assert_refused(here(*small(copy, results / "film.npy")), "invalid_checkpoint", words)
    assert list(results.iterdir()) == []


def test_a_path_that_no_file_system_has(results: Path) -> None:
    done = here(*small("a" * 300, results / "film.npy"))
    assert_refused(done, "invalid_checkpoint", ["--model-path"])


def cut_short(copy: Path) -> None:
    os.truncate(copy / WEIGHTS, 100_000)


def mixed_up(copy: Path) -> None:
    tensors = safetensors.torch.load_file(copy / WEIGHTS)
    del tensors["proj_out.bias"]
    tensors["surplus"] = torch.zeros(1)
    tensors["scale_shift_table"] = torch.zeros(2, 128)
    (copy / WEIGHTS).unlink()
    safetensors.torch.save_file(tensors, copy / WEIGHTS)


def another_flow(copy: Path) -> None:
    edit(copy, "scheduler/scheduler_config.json", use_flow_sigmas=False)


DAMAGES: dict[Callable[[Path], None], list[str]] = {
    cut_short: [WEIGHTS.name, "download"],
    mixed_up: ["missing proj_out.bias", "surplus", "scale_shift_table [2, 128], expected [1, 2, 128]"],
    another_flow: ["UniPCMultistepScheduler has no flow sigmas", "use_flow_sigmas is false"],
}


@pytest.mark.slow
def test_damaged_weights(tiny: Path, results: Path, tmp_path: Path) -> None:
    """What only the worker finds out; tests/worker has many more."""
    copies = [tmp_path / damage.__name__ / "checkpoint" for damage in DAMAGES]
    for damage, copy in zip(DAMAGES, copies, strict=True):
        shutil.copytree(tiny, copy)
        damage(copy)
    done = together(small(copy, results / "film.npy") for copy in copies)
    for refused, words in zip(done, DAMAGES.values(), strict=True):
        assert_refused(refused, "invalid_checkpoint", words)
    assert list(results.iterdir()) == []


def broken_colours(copy: Path, value: float) -> None:
    path = copy / "vae/diffusion_pytorch_model.safetensors"
    tensors = safetensors.torch.load_file(path)
    tensors["decoder.conv_out.weight"].fill_(value)
    path.unlink()
    safetensors.torch.save_file(tensors, path)


@pytest.mark.slow
def test_a_video_of_numbers_that_are_not_finite_is_none(tiny: Path, results: Path, tmp_path: Path) -> None:
    """Weights that are not finite, and finite ones that make such frames."""
    copies = {value: tmp_path / f"{value}" / "checkpoint" for value in (math.nan, 1e38)}
    for value, copy in copies.items():
        shutil.copytree(tiny, copy)
        broken_colours(copy, value)
    damaged, overflowing = together(small(copy, results / "film.mp4") for copy in copies.values())
    assert damaged.code in (3, 4)
    assert (overflowing.code, overflowing.out) == (4, "")
    assert overflowing.err.splitlines()[-1].startswith("ringlight: numerical_error: Decoding: frames hold NaN")
    assert list(results.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidRequest.of("fps", "is wrong"), 3),
        (InvalidCheckpoint("wrong"), 3),
        (InvalidSetting("wrong"), 3),
        (InvalidLayout("wrong"), 3),
        (WorkerError("died"), 4),
        (OutOfMemory("too large"), 4),
        (NumericalError("not finite"), 4),
        (Cancelled("cancelled"), 130),
    ],
    ids=lambda value: getattr(value, "code", value),
)
def test_exit_codes(error: RinglightError, code: int) -> None:
    assert error.kind.exit_code == code
