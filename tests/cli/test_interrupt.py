"""Ctrl-C and SIGTERM in the middle: exit code 130, nothing half-written, no process left."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.cli.commands import Done, Running
from tests.engine.processes import ends

pytestmark = pytest.mark.slow

STOPPING = "stopping at the next step"


class Plan(NamedTuple):
    """A command that would go on for minutes, and the signals it gets once it has said a word."""

    word: str
    signals: list[signal.Signals]
    flags: list[object]
    output: str
    num_ranks: int = 1


PLANS = {
    "Ctrl-C": Plan(
        "Denoising", [signal.SIGINT], ["--size", "256x160", "--num-frames", 5, "--num-inference-steps", 1000], "a.mp4"
    ),
    "SIGTERM": Plan(
        "Decoding", [signal.SIGTERM], ["--size", "256x160", "--num-frames", 481, "--num-inference-steps", 1], "%03d.png"
    ),
    "Ctrl-C on two ranks": Plan(
        "Denoising",
        [signal.SIGINT],
        ["--num-gpus", 2, "--size", "256x160", "--num-frames", 5, "--num-inference-steps", 1000],
        "a.gif",
        num_ranks=2,
    ),
    "a lost terminal": Plan(
        "Decoding", [signal.SIGHUP], ["--size", "256x160", "--num-frames", 481, "--num-inference-steps", 1], "b%03d.png"
    ),
    "Ctrl-C twice": Plan(
        "Denoising",
        [signal.SIGINT, signal.SIGINT],
        ["--size", "512x320", "--num-frames", 121, "--num-inference-steps", 1000],  # the second comes within a step
        "a.npy",
    ),
}


class Interrupted(NamedTuple):
    done: Done
    folder: Path
    workers: list[int]


def interrupt(running: Running, plan: Plan, folder: Path) -> Interrupted:
    running.wait_for(plan.word)
    workers = running.workers(plan.num_ranks)
    first, *more = plan.signals
    running.interrupt(first)
    for number in more:
        running.wait_for(STOPPING)
        running.interrupt(number)
    return Interrupted(running.end(), folder, workers)


@pytest.fixture(scope="module")
def interrupted(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Interrupted]]:
    """All commands by name: they load at the same time, and each is interrupted as soon as it has said its word."""
    folders = {name: tmp_path_factory.mktemp("interrupted") for name in PLANS}
    started: dict[str, Running] = {}
    try:
        for name, plan in PLANS.items():
            arguments = ["--model-path", tiny, "--prompt", "a cat", "--num-threads", 1, *plan.flags]
            log = tmp_path_factory.mktemp("log")
            started[name] = Running(log, "generate", *arguments, "-o", folders[name] / plan.output)
        with ThreadPoolExecutor(len(PLANS)) as pool:
            ended = pool.map(lambda name: interrupt(started[name], PLANS[name], folders[name]), PLANS)
        yield dict(zip(PLANS, ended, strict=True))
    finally:
        for running in started.values():
            running.kill()


@pytest.mark.parametrize("name", PLANS)
def test_an_interrupted_command_leaves_nothing(interrupted: dict[str, Interrupted], name: str) -> None:
    done, folder, workers = interrupted[name]
    assert done.code == 130
    assert done.out == ""
    assert STOPPING in done.err
    assert "Traceback" not in done.err
    assert list(folder.iterdir()) == []
    assert all(map(ends, workers))


@pytest.mark.parametrize("name", ["Ctrl-C", "SIGTERM", "Ctrl-C on two ranks"])
def test_the_first_interrupt_is_answered_with_a_line(interrupted: dict[str, Interrupted], name: str) -> None:
    assert interrupted[name].done.err.splitlines()[-1] == "ringlight: cancelled"


def test_a_second_interrupt_does_not_wait_for_the_step(interrupted: dict[str, Interrupted]) -> None:
    assert "ringlight: cancelled" not in interrupted["Ctrl-C twice"].done.err


def test_an_interrupt_while_loading_ends_too(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "results").mkdir()
    arguments = ["--model-path", tiny, "--prompt", "a cat", "-o", tmp_path / "results" / "film.mp4"]
    running = Running(tmp_path / "log", "generate", *arguments)
    try:
        (worker,) = running.workers()
        running.interrupt(signal.SIGINT)
        done = running.end()
    finally:
        running.kill()
    assert (done.code, done.out) == (130, "")
    assert "Traceback" not in done.err
    assert ends(worker)
    assert list((tmp_path / "results").iterdir()) == []
