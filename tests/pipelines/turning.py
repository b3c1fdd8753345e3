"""Jobs that take turns in the test's own process: each makes way wherever it can."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file

from ringlight.core.plan import SIMPLEST, JobPlan
from ringlight.core.request import VideoRequest
from ringlight.families.wan.recipe import WanRecipe
from ringlight.parallel.mesh import ParallelMesh
from ringlight.pipelines.output import finish
from ringlight.pipelines.trace import Tracer
from ringlight.pipelines.turn import Left
from ringlight.worker.memory import ResidentMeter
from tests.ours import CPU, Silent, final_latents

STEPS = 3


class Giving(Silent):
    """Events of a job that is to make way: before its first step, and in every turn after one more."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.steps: list[int] = []
        self.saved: list[int] = []
        self._is_asked = False

    def begin_turn(self) -> None:
        """What was asked of the turn before is not of this one."""
        self._is_asked = False

    def stage_started(self, stage: str) -> None:
        self.stages.append(stage)
        self._is_asked = stage in ("TimestepPreparation", "Denoising")

    def boundary(self, problem: Exception | None = None) -> None:
        super().boundary(problem)
        self.turn_ends = self._is_asked

    def step_finished(self, step: int, num_steps: int, seconds: float) -> None:
        self.steps.append(step)

    def state_saved(self, step: int) -> None:
        self.saved.append(step)


@dataclass
class Job:
    """A request that is made turn by turn."""

    request: VideoRequest
    output: Path
    plan: JobPlan = SIMPLEST
    events: Giving = field(default_factory=Giving)
    left: list[Left] = field(default_factory=list)


def in_turns(
    pipeline: WanRecipe,
    jobs: list[Job],
    mesh: ParallelMesh | None = None,
    between: Callable[[Job], None] = lambda job: None,
) -> None:
    """Make all of them, one turn each and then the next; `between` comes before each turn."""
    running = []
    for job in jobs:
        tracer = Tracer(CPU, ResidentMeter(), job.events)
        running.append(
            (job, pipeline.make(job.request, job.output, "job", tracer, mesh, job.plan, preview_seconds=1e-9))
        )
    while running:
        for job, making in list(running):
            between(job)
            job.events.begin_turn()
            with torch.inference_mode(False):
                try:
                    job.left.append(next(making))
                except StopIteration as end:
                    running.remove((job, making))
                    if end.value is not None:
                        finish(end.value)
                assert not torch.is_inference_mode_enabled(), "it is the computation's, not of who gives turns"


def jobs_of(folder: Path, requests: Iterable[VideoRequest], plan: JobPlan = SIMPLEST) -> list[Job]:
    """Jobs whose latents come to a folder."""
    return [Job(request, folder / f"{number}.safetensors", plan) for number, request in enumerate(requests)]


def require_the_same(pipeline: WanRecipe, folder: Path, jobs: list[Job]) -> None:
    """Each was left wherever it could be, and is what it is alone, made anew."""
    for job in jobs:
        assert torch.equal(load_file(job.output)["latents"], final_latents(pipeline, job.request, folder, job.plan))
        assert [left.step for left in job.left] == [*range(STEPS + 1)]
        assert job.events.steps == [*range(1, STEPS + 1)]
