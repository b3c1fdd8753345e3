"""Whole generations through the command, as a user runs it: a checkpoint's JSON, random weights, a file, a report."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import msgspec

from gpu.parity import PROMPT, SEED, device_name
from gpu.report import Row, within
from gpu.scale import GIB, Generation, Scale
from gpu.section import Section
from ringlight.core.plain import bytes_of
from ringlight.core.report import RunReport
from ringlight.families.wan22_ti2v.demo import DEMO

MAX_ERROR_LINES = 6
LEFT_SECONDS = 2.0  # of the section, in which to tell that the command had not ended


def run(section: Section, scale: Scale) -> None:
    """The largest video first."""
    with TemporaryDirectory() as name:
        checkpoint = Path(name) / "checkpoint"
        DEMO.describe(checkpoint, scale.numbers, "full")
        for generation in scale.generations:
            check = partial(_generate, section, checkpoint, generation, scale)
            section.attempt(str(generation), check, needs_seconds=generation.needs_seconds)


def _generate(section: Section, checkpoint: Path, generation: Generation, scale: Scale) -> Iterator[Row]:
    """Rows as soon as the command has ended: what it made, where its time went, and its memory."""
    output, told = checkpoint.parent / "video.mp4", checkpoint.parent / "report.json"
    start = time.monotonic()
    done = subprocess.run(
        _command(checkpoint, generation, scale, output, told),
        capture_output=True,
        text=True,
        timeout=max(1.0, section.seconds_left - LEFT_SECONDS),
        check=False,
    )
    seconds = time.monotonic() - start
    if done.returncode:
        last = " / ".join(done.stderr.strip().splitlines()[-MAX_ERROR_LINES:])
        raise RuntimeError(f"exit code {done.returncode} after {seconds:.1f} s: {last}")
    report = msgspec.json.decode(told.read_bytes(), type=RunReport)
    video = generation.video
    with av.open(str(output)) as container:
        sizes = [(frame.width, frame.height) for frame in container.decode(video=0)]
    measured = f"{len(sizes)} frames, {output.stat().st_size:,} bytes; {seconds:.1f} s with its start"
    bound = f"{video.num_frames} frames of {video.width}x{video.height}"
    held = sizes == [(video.width, video.height)] * video.num_frames
    yield within(f"{generation}: the file", measured, bound, held, command_seconds=seconds)
    yield from _report_rows(str(generation), report)
    if generation.memory_budget:
        yield from _budget_rows(generation, report)


def _command(checkpoint: Path, generation: Generation, scale: Scale, output: Path, told: Path) -> list[str]:
    video = generation.video
    return [
        *(sys.executable, "-m", "ringlight", "generate", "--quiet", "--load-format", "dummy"),
        *("--model-path", str(checkpoint), "--device", device_name(scale.device), "--num-gpus", "1"),
        *("--prompt", PROMPT, "--seed", str(SEED), "--size", f"{video.width}x{video.height}"),
        *("--num-frames", str(video.num_frames), "--num-inference-steps", str(generation.num_steps)),
        *("--vae-dtype", generation.vae_dtype, "--output", str(output), "--report", str(told)),
        *(("--memory-budget", generation.memory_budget) if generation.memory_budget else ()),
    ]


def _report_rows(label: str, report: RunReport) -> Iterator[Row]:
    """Stages, steps, peaks, and what was predicted over what was measured."""
    environment = report.environment
    stages = {stage.name: stage.seconds for stage in report.stages}
    told = ", ".join(f"{name} {seconds:.2f}" for name, seconds in stages.items())
    load_seconds = environment["load_seconds"]
    measured = (
        f"{report.total_seconds:.2f} s ({told}, Other {report.other_seconds:.2f}); loaded in {load_seconds:.1f} s"
    )
    numbers = {"total_seconds": report.total_seconds, "stages": stages, "load_seconds": load_seconds}
    yield Row(f"{label}: seconds", measured, numbers=numbers | {"environment": environment})
    steps = ", ".join(f"{seconds:.3f}" for seconds in report.step_seconds)
    yield Row(
        f"{label}: steps", f"{steps} s; {report.num_tokens} tokens", numbers={"step_seconds": report.step_seconds}
    )
    memory = report.worst_memory
    peaks = {
        "reserved": memory.peak_reserved_bytes,
        "allocated": memory.peak_allocated_bytes,
        "resident": memory.peak_resident_bytes,
        "own": memory.peak_own_bytes,
    }
    by_stage = ", ".join(f"{stage.name} {stage.peak_bytes / GIB:.2f}" for stage in report.stages)
    told = ", ".join(f"{name} {num_bytes / GIB:.2f}" for name, num_bytes in peaks.items() if num_bytes)
    yield Row(f"{label}: peaks", f"{told} GiB; by stage {by_stage}", numbers={"peak_bytes": peaks})
    ratios = dict(report.predicted_over_measured)
    if report.predicted is not None:
        ratios["peak memory"] = report.predicted.peak_bytes / memory.peak_bytes
    told = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
    basis = "" if report.predicted is None else f"; {report.predicted.basis}"
    name = f"{label}: predicted over measured"
    yield Row(name, (told or "nothing is known of this machine") + basis, numbers={"ratios": ratios})


def _budget_rows(generation: Generation, report: RunReport) -> Iterator[Row]:
    """Whether it kept to its budget, what came from the host, and how long that was waited for."""
    budget, held = bytes_of(generation.memory_budget), report.worst_memory.peak_bytes
    yield within(
        f"{generation}: the budget", f"{held / GIB:.2f} GiB", f"{budget / GIB:.2f} GiB", held <= budget, peak_bytes=held
    )
    weights = report.ranks[0].weights
    if weights is None:
        return
    told = ", ".join(
        f"{name} {count / GIB:.2f} GiB, waited {weights.wait_seconds.get(name, 0.0):.3f} s"
        for name, count in weights.brought_bytes.items()
    )
    pinned = f"{weights.pinned_bytes / GIB:.1f} of {weights.host_bytes / GIB:.1f} GiB page-locked"
    yield Row(f"{generation}: what came", f"{told}; {pinned}", numbers={"weights": msgspec.to_builtins(weights)})
