"""Whole generations through the Engine: videos, cancelling, and running out of memory, each in a real worker."""

from __future__ import annotations

import contextlib
import resource
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import safetensors.torch
import torch

from gpu.parity import PROMPT, SEED, device_name
from gpu.picture import picture
from gpu.report import Row, error_line, within
from gpu.scale import Scale
from gpu.section import Section
from ringlight.core.config import EngineConfig
from ringlight.core.errors import Cancelled, OutOfMemory, RinglightError
from ringlight.core.report import GIB, RunReport
from ringlight.core.request import RequestLimits
from ringlight.engine.driver import find_cards, hardware_of
from ringlight.engine.engine import Engine
from ringlight.engine.job_state import JobState
from ringlight.engine.jobs import Job
from ringlight.engine.launch.local import LocalLauncher
from ringlight.engine.ranked import RankedReplica
from ringlight.families.wan22_ti2v.demo import DEMO

WAIT_SECONDS = 120.0
CANCEL_SECONDS = 5.0
SQUEEZED_BYTES = 4 * GIB  # what a worker is left with when it is to run out of memory
MEMORY_RATIO = 1.1
# What does not fit: on CUDA the small VAE's activations, on a CPU already the noise.
TOO_LARGE = {
    "cuda": {"width": 4096, "height": 2304, "num_frames": 9},
    "cpu": {"width": 16352, "height": 16352, "num_frames": 121},
}
WIDE_LIMITS = RequestLimits(max_pixels=16352 * 16352)


def run(section: Section, scale: Scale) -> None:
    """One worker for all: what must work, and then, with little memory left to it, what must fail well."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = folder / scale.engine_demo
        DEMO.write(checkpoint, scale.engine_demo)
        config = EngineConfig(
            model_path=str(checkpoint),
            device=device_name(scale.device),
            decode_chunk=1,
            startup_timeout=WAIT_SECONDS,
            memory_check=False,  # what does not fit is to fail in a worker, not before
        )
        section.attempt("the card as plans see it", partial(_name_card, scale))
        replica = RankedReplica(config, LocalLauncher(config, WIDE_LIMITS))
        with Engine(config, WIDE_LIMITS, replica) as engine:
            section.attempt("worker starts", partial(_start, engine))
            for kind, image in (("T2V", None), ("I2V", picture())):
                label = f"{kind} to .mp4"
                section.attempt(label, partial(_make_video, label, engine, folder, scale, image))
            section.attempt("same seed twice", partial(_repeat, engine, folder, scale))
            label = "a small job's peak memory after a larger job"
            section.attempt(label, partial(_compare_peaks, label, engine, folder, scale))
            for stage in ("Denoising", "Decoding"):
                label = f"cancel in {stage}"
                section.attempt(label, partial(_cancel, label, engine, folder, scale, stage))
            label = "out of memory"
            section.attempt(label, partial(_run_out_of_memory, label, engine, replica, folder, scale))


def _name_card(scale: Scale) -> Iterator[Row]:
    """Without a plan of its card an engine chooses layouts by rule, and refuses nothing before it is loaded."""
    found = find_cards() or []
    hardware = hardware_of(found) if found else None
    told = "not in the table" if hardware is None else f"{hardware.card.name}, {hardware.link.name}"
    names = (
        ", ".join(f"{card.name} ({card.memory_bytes / GIB:.1f} GiB)" for card in found) or "the driver names no card"
    )
    held = hardware is not None or scale.device.type == "cpu"
    yield within("the card as plans see it", f"{names}: {told}", "in planner/catalogue", held)


def _start(engine: Engine) -> Iterator[Row]:
    start = time.perf_counter()
    ready = engine.start()
    assert ready is not None
    seconds = time.perf_counter() - start
    known = {name: ready.environment[name] for name in ("device", "dtype", "vae_dtype", "attention_kernel", "tf32")}
    told = ", ".join(f"{name} {value}" for name, value in known.items())
    numbers = {"seconds": seconds, "load_seconds": ready.load_seconds, "environment": ready.environment}
    yield Row("worker starts", f"{seconds:.1f} s, {ready.load_seconds:.1f} of them loading; {told}", numbers=numbers)


def _submit(
    engine: Engine, scale: Scale, output: Path, on_change: Callable[[Job], None] | None = None, **fields: Any
) -> Job:
    given = {"seed": SEED} | scale.engine_fields | fields
    return engine.submit(engine.request(PROMPT, **given), str(output), on_change)


def _make_video(label: str, engine: Engine, folder: Path, scale: Scale, image: bytes | None) -> Iterator[Row]:
    output = folder / "video.mp4"
    job = _submit(engine, scale, output, image=image)
    report = job.wait(WAIT_SECONDS)
    request = job.request
    with av.open(str(output)) as container:
        found = [(frame.width, frame.height) for frame in container.decode(video=0)]
    held = found == [(request.width, request.height)] * request.num_frames
    measured = f"{len(found)} frames, {output.stat().st_size} bytes; {_stages(report)}"
    bound = f"{request.num_frames} frames of {request.width}x{request.height}"
    yield within(label, measured, bound, held, total_seconds=report.total_seconds, memory=_peak_bytes(report))


def _stages(report: RunReport) -> str:
    stages = ", ".join(f"{stage.name} {stage.seconds:.3f}" for stage in report.stages)
    ratios = ", ".join(f"{name} {ratio:.2f}" for name, ratio in report.predicted_over_measured.items())
    peak = f"peak {report.worst_memory.peak_bytes / GIB:.2f} GiB"
    return f"{report.total_seconds:.2f} s ({stages}); {peak}; predicted over measured: {ratios or 'unknown'}"


def _peak_bytes(report: RunReport) -> int:
    """Peak of what tensors took; on a CPU, which cannot tell, of what was resident."""
    worst = report.worst_memory
    return worst.peak_allocated_bytes or worst.peak_resident_bytes or 0


def _repeat(engine: Engine, folder: Path, scale: Scale) -> Iterator[Row]:
    found = []
    for _ in range(2):
        output = folder / "latents.safetensors"
        _submit(engine, scale, output).wait(WAIT_SECONDS)
        found.append(safetensors.torch.load_file(output)["latents"])
    largest = float((found[0] - found[1]).abs().max())
    yield Row("same seed twice", f"latents differ by at most {largest:.2g}", numbers={"max_difference": largest})


def _cancel(label: str, engine: Engine, folder: Path, scale: Scale, stage: str) -> Iterator[Row]:
    """Cancel a long job in a stage; it must end at once, leave no file, and give back its memory."""
    output = folder / "cancelled.mp4"
    before = _small_peak(engine, folder, scale)
    reached = threading.Event()

    def watch(job: Job) -> None:
        if _is_within(job.state, stage) or job.state.is_over:
            reached.set()

    steps = 50 if stage == "Denoising" else 1
    job = _submit(engine, scale, output, watch, **scale.larger_fields | {"num_inference_steps": steps})
    if not reached.wait(WAIT_SECONDS):
        raise TimeoutError(f"the job never came to {stage}: {job.state}")
    start = time.perf_counter()
    engine.cancel(job)
    error = _error_of(job)
    seconds = time.perf_counter() - start
    left = [path.name for path in folder.glob("*cancelled*")]
    held = isinstance(error, Cancelled) and seconds <= CANCEL_SECONDS and not left
    told = "completed" if error is None else error_line(error)
    measured = f"{told} after {seconds:.3f} s; files left: {', '.join(left) or 'none'}"
    yield within(label, measured, f"Cancelled within {CANCEL_SECONDS:g} s, no files", held, seconds=seconds)
    yield _peak_row(f"{label}: a small job's peak memory after it", before, _small_peak(engine, folder, scale))


def _compare_peaks(label: str, engine: Engine, folder: Path, scale: Scale) -> Iterator[Row]:
    """Every job reports its own peak, and what a larger one held is given back."""
    before = _small_peak(engine, folder, scale)
    _submit(engine, scale, folder / "larger.mp4", **scale.larger_fields | {"num_inference_steps": 1}).wait(WAIT_SECONDS)
    yield _peak_row(label, before, _small_peak(engine, folder, scale))


def _small_peak(engine: Engine, folder: Path, scale: Scale) -> int:
    return _peak_bytes(_submit(engine, scale, folder / "small.mp4").wait(WAIT_SECONDS))


def _peak_row(label: str, before: int, after: int) -> Row:
    measured = f"{after / GIB:.3f} GiB, before {before / GIB:.3f} GiB"
    held = after <= MEMORY_RATIO * before
    return within(label, measured, f"{MEMORY_RATIO:g} of before", held, before_bytes=before, after_bytes=after)


def _is_within(state: JobState, stage: str) -> bool:
    """Whether a job is in a stage and has done some of its work there."""
    return state.stage == stage and (state.step >= 2 if stage == "Denoising" else state.frames_done >= 5)


def _error_of(job: Job) -> RinglightError | None:
    try:
        job.wait(WAIT_SECONDS)
    except RinglightError as error:
        return error
    return None


def _run_out_of_memory(label: str, engine: Engine, replica: RankedReplica, folder: Path, scale: Scale) -> Iterator[Row]:
    """With little memory left, a job too large must fail as out_of_memory and the next one must work."""
    with _little_memory(scale.device, replica.pids) as how:
        fields: dict[str, Any] = TOO_LARGE[scale.device.type] | {"num_inference_steps": 1, "guidance_scale": 1.0}
        start = time.perf_counter()
        error = _error_of(_submit(engine, scale, folder / "impossible.mp4", **fields))
        seconds = time.perf_counter() - start
        size = "{width}x{height}x{num_frames}".format(**fields)
        told = "completed" if error is None else f"{error.code}: {error_line(error)}"
        name = f"{label}: {size} with {how}"
        yield within(name, f"{told} (after {seconds:.1f} s)", OutOfMemory.code, isinstance(error, OutOfMemory))
        report = _submit(engine, scale, folder / "next.mp4").wait(WAIT_SECONDS)
        left = [path.name for path in folder.glob("*impossible*")]
        measured = f"{_stages(report)}; files of the failed job left: {', '.join(left) or 'none'}"
        yield within(f"{label}: the next job in the same worker", measured, "completes, no files", not left)


@contextlib.contextmanager
def _little_memory(device: torch.device, pids: list[int]) -> Iterator[str]:
    """Leave these workers SQUEEZED_BYTES, and say how: the rest of the GPU is held here, or on a CPU their address
    space may grow by no more."""
    if device.type == "cuda":
        free_bytes, _ = torch.cuda.mem_get_info(device)
        ballast = torch.empty(max(0, free_bytes - SQUEEZED_BYTES), dtype=torch.uint8, device=device)
        try:
            free_bytes, _ = torch.cuda.mem_get_info(device)
            yield f"{free_bytes / GIB:.1f} GiB of the GPU left to the worker"
        finally:
            del ballast
            torch.cuda.empty_cache()
        return
    limits = {pid: resource.prlimit(pid, resource.RLIMIT_AS) for pid in pids}
    for pid, (_, hard) in limits.items():
        resource.prlimit(pid, resource.RLIMIT_AS, (_address_space_bytes(pid) + SQUEEZED_BYTES, hard))
    try:
        yield f"{SQUEEZED_BYTES / GIB:.0f} GiB of address space left to the worker"
    finally:
        for pid, limit in limits.items():
            resource.prlimit(pid, resource.RLIMIT_AS, limit)


def _address_space_bytes(pid: int) -> int:
    """What a process has of it now."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
