"""Ranks that fail on purpose: forked from the warm test process, and told by a job's prompt what to do where.

A prompt "kill 1 step 2" kills rank 1 after its second step, "saved 1 step 2" has it wait there until a state of the job
is on the disk, "asked 0 step 2" has rank 0 wait there until the job is asked to make way, or to stop (if it keeps a
state, so that the same prompt can be made at one go), "asked 0 block 2" in its second block, "nan all step 1" has all
ranks raise there, "poison 1 X" has rank 1 compute with NaN in the place of parameter X, and ";" stands between several
of these; "mesh" is while a job is set up; all other prompts are harmless. What is forked is the worker's own program,
with faults planted at the places where it tells how far it is and where it waits for the others.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import signal
import time
from collections.abc import Callable
from typing import Any

import safetensors
import torch

from ringlight.core import messages
from ringlight.core.errors import NumericalError, RinglightError
from ringlight.core.layout import ParallelLayout
from ringlight.families.wan.networks.transformer import TransformerBlock
from ringlight.families.wan.recipe import WanRecipe
from ringlight.parallel.collectives import Transfers
from ringlight.parallel.group import RankGroup
from ringlight.parallel.link import Link
from ringlight.parallel.mesh import ParallelMesh
from ringlight.pipelines.output import Output
from ringlight.pipelines.turn import Turns
from ringlight.worker import main as worker
from ringlight.worker.corridor import Corridor
from ringlight.worker.events import Events
from tests import forking
from tests.forking import Forked
from tests.ours import poison

ALL = "all"


def fork_rank(arguments: list[str], inherited: list[int], environment: dict[str, str]) -> Forked:
    """In the place of `engine.process.launch`: a rank that fails where a prompt says so."""
    return forking.fork_rank(arguments, inherited, environment, prepare=plant)


class Faults:
    """What a rank does at which points of its job."""

    def __init__(
        self, prompt: str, rank: int, state_file: str = "", is_asked: Callable[[], bool] = lambda: True
    ) -> None:
        self._state_file, self._is_asked = state_file, is_asked
        planted = [fault.split(maxsplit=2) for fault in prompt.split(";")]
        mine = [words for words in planted if words[0] in FAULTS and words[1] in (str(rank), ALL)]
        self._kinds = {point: kind for kind, _, point in mine}
        self.poisoned = [point for kind, _, point in mine if kind == "poison"]
        self._transfers = self._blocks = 0

    def at(self, point: str) -> None:
        match self._kinds.get(point):
            case None:
                return
            case "saved":
                wait_for_state(self._state_file)
            case "asked":
                while self._state_file and not self._is_asked():
                    time.sleep(0.002)
            case kind:
                FAULTS[kind]()

    def at_transfer(self) -> None:
        self._transfers += 1
        self.at(f"transfer {self._transfers}")

    def at_block(self) -> None:
        self._blocks += 1
        self.at(f"block {self._blocks}")


def wait_for_state(path: str) -> None:
    """Return when the file holds the state after a step, however slow the disk is."""
    step = 0
    while not step:
        time.sleep(0.005)
        with contextlib.suppress(FileNotFoundError), safetensors.safe_open(path, "pt") as file:
            step = json.loads(file.metadata()["plain"])["step"]


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def run_out_of_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


def break_device() -> None:
    raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


def break_release() -> None:
    """The device fails when a job's memory is given back, after the job."""

    def fail(device: torch.device) -> None:
        break_device()

    worker.release_memory = fail


def break_release_late() -> None:
    """It fails when the next job has been sent."""

    def fail(device: torch.device) -> None:
        time.sleep(1.0)
        break_device()

    worker.release_memory = fail


def be_late() -> None:
    """The engine hears late of how a job has failed."""
    told = worker.failed

    def fail(job: messages.RunJob, failure: RinglightError) -> messages.JobFailed:
        time.sleep(0.5)
        return told(job, failure)

    worker.failed = fail


def diverge() -> None:
    raise NumericalError("latents are not finite")


def err() -> None:
    raise LookupError("a fault of the program")


def fill_disk() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))


def make_room() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


FAULTS = {
    "kill": kill,
    "stop": stop,
    "memory": run_out_of_memory,
    "device": break_device,
    "release": break_release,
    "release_late": break_release_late,
    "late": be_late,
    "nan": diverge,
    "error": err,
    "full": fill_disk,
    "room": make_room,
    "saved": lambda: None,  # is told which file
    "asked": lambda: None,  # is told who knows
    "poison": lambda: None,  # all through the job
}


def plant() -> None:
    """Faults for this process. It is a forked one, so that nobody need undo it."""
    current = Faults("nothing is planted", 0)

    class FaultyEvents(Events):
        def __init__(self, corridor: Corridor, group: RankGroup, job: messages.RunJob, patience_seconds: float) -> None:
            nonlocal current
            super().__init__(corridor, group, job, patience_seconds)
            self._faults = current = Faults(job.request.prompt, group.place.rank, job.state_file, self._is_asked)

        def _is_asked(self) -> bool:
            job_id = self._job.job_id
            return self._corridor.is_asked_to_leave(job_id) or self._corridor.is_cancelled(job_id)

        def boundary(self, problem: Exception | None = None) -> None:
            nonlocal current
            current = self._faults  # this job has the turn
            super().boundary(problem)

        def stage_started(self, stage: str) -> None:
            super().stage_started(stage)
            current.at(stage)

        def step_finished(self, step: int, num_steps: int, seconds: float) -> None:
            super().step_finished(step, num_steps, seconds)
            current.at(f"step {step}")

        def frames_decoded(self, num_done: int, num_frames: int) -> None:
            super().frames_decoded(num_done, num_frames)
            current.at(f"frames {num_done}")

    class FaultyMesh(ParallelMesh):
        @classmethod
        def of(cls, layout: ParallelLayout, rank: int, link: Link) -> ParallelMesh:  # type: ignore[override]
            current.at("mesh")
            return ParallelMesh.of(layout, rank, link)

    wait = Transfers.wait

    def faulty_wait(self: Transfers) -> None:
        current.at_transfer()
        wait(self)

    finish = TransformerBlock.finish_

    def faulty_finish(self: TransformerBlock, *arguments: Any) -> None:
        current.at_block()
        finish(self, *arguments)

    make = WanRecipe.make

    def poisoned_make(self: WanRecipe, *arguments: Any, **named: Any) -> Turns[Output | None]:
        with contextlib.ExitStack() as stack:
            for name in current.poisoned:
                stack.enter_context(poison(self, name, math.nan))
            return (yield from make(self, *arguments, **named))

    WanRecipe.make = poisoned_make  # type: ignore[method-assign]
    worker.Events = FaultyEvents  # type: ignore[attr-defined]
    worker.ParallelMesh = FaultyMesh  # type: ignore[attr-defined]
    Transfers.wait = faulty_wait  # type: ignore[method-assign]
    TransformerBlock.finish_ = faulty_finish  # type: ignore[method-assign]
