"""Runs that are broken off after a step, as if their process had died there, and taken up again."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch.distributed as dist
from torch import Tensor

from ringlight.core.plan import SIMPLEST, JobPlan
from ringlight.core.request import VideoRequest
from ringlight.families.wan.recipe import WanRecipe
from ringlight.parallel.control import Control
from ringlight.parallel.mesh import ParallelMesh
from ringlight.pipelines.output import finish
from ringlight.pipelines.resume import StateFile
from ringlight.pipelines.trace import Tracer
from ringlight.pipelines.turn import uninterrupted
from ringlight.worker.memory import ResidentMeter
from tests.ours import CPU, Silent


class Broken(Exception):
    """The end of a run at a step, as if its process had died there."""


class Watched(Silent):
    """Breaks a run off after a step, on all ranks alike; every step waits until the state of the last one is saved."""

    def __init__(self, break_after: int | None = None) -> None:
        self.saved: list[int] = []
        self.steps: list[int] = []
        self.decoded: list[int] = []
        self.state: StateFile | None = None
        self._break_after = break_after

    def state_saved(self, step: int) -> None:
        self.saved.append(step)

    def step_finished(self, step: int, num_steps: int, seconds: float) -> None:
        self.steps.append(step)

    def frames_decoded(self, num_done: int, num_frames: int) -> None:
        self.decoded.append(num_done)

    def boundary(self, problem: Exception | None = None) -> None:
        if self.state is not None:
            self.state.wait()
        if self.steps and self.steps[-1] == self._break_after:
            raise Broken


def control_of(mesh: ParallelMesh) -> Control:
    group = dist.group.WORLD if mesh.world.size > 1 else None
    return Control(group, mesh.world.rank, mesh.world.size)


def run(
    pipeline: WanRecipe,
    request: VideoRequest,
    folder: Path,
    mesh: ParallelMesh,
    events: Watched,
    keep: bool = True,
    output: str = "latents.safetensors",
    plan: JobPlan = SIMPLEST,
) -> Tracer:
    """A run to latents or frames in `folder`, which ends as `events` say; raises Broken."""
    tracer = Tracer(CPU, ResidentMeter(), events)
    path = folder / "state.safetensors"
    state = StateFile(path, 0.0, "this very job", "job", control_of(mesh), tracer) if keep else None
    events.state = state
    try:
        made = uninterrupted(pipeline.make(request, folder / output, "job", tracer, mesh, plan, state))
    finally:
        if state is not None:
            state.wait()
    if made is not None:
        finish(made)
    return tracer


def latents_in(folder: Path) -> Tensor:
    return safetensors.torch.load_file(folder / "latents.safetensors")["latents"]
