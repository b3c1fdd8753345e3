"""Our pipeline in the test's own process, and the seams it needs there."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from ringlight.core.config import EngineConfig
from ringlight.core.plan import SIMPLEST, JobPlan
from ringlight.core.request import RequestLimits, VideoRequest
from ringlight.core.warning import RequestWarning
from ringlight.families.wan.recipe import WanRecipe
from ringlight.pipelines.trace import Tracer
from ringlight.worker.memory import ResidentMeter

CPU = torch.device("cpu")


class Silent:
    """Events that nobody listens to, of a job for which nobody waits."""

    turn_ends = ends_now = False

    def stage_started(self, stage: str) -> None: ...

    def warned(self, warning: RequestWarning) -> None: ...

    def step_finished(self, step: int, num_steps: int, seconds: float) -> None: ...

    def frames_decoded(self, num_done: int, num_frames: int) -> None: ...

    def state_saved(self, step: int) -> None: ...

    def preview_made(self, step: int, picture: bytes) -> None: ...

    def check_problem(self, problem: Exception | None) -> None:
        if problem is not None:
            raise problem

    def boundary(self, problem: Exception | None = None) -> None:
        if problem is not None:
            raise problem


@cache
def load_pipeline(folder: Path, dtype: torch.dtype = torch.float32) -> WanRecipe:
    """A loaded pipeline, once a process."""
    torch.set_num_threads(1)
    config = EngineConfig(model_path=str(folder), device="cpu")
    return WanRecipe(config, RequestLimits(), CPU, dtype, torch.float32)


def new_tracer() -> Tracer:
    return Tracer(CPU, ResidentMeter(), Silent())


def final_latents(pipeline: WanRecipe, request: VideoRequest, folder: Path, plan: JobPlan = SIMPLEST) -> Tensor:
    """Latents (1, z, T, h, w) of a request, through the output that holds them."""
    path = folder / "latents.safetensors"
    pipeline.run(request, path, "job", new_tracer(), plan=plan)
    return load_file(path)["latents"]


def frames(pipeline: WanRecipe, request: VideoRequest, folder: Path, plan: JobPlan = SIMPLEST) -> Tensor:
    """Frames (F, H, W, 3) in 0..1 of a request, before any codec."""
    path = folder / "frames.npy"
    pipeline.run(request, path, "job", new_tracer(), plan=plan)
    return torch.from_numpy(np.load(path))


@contextmanager
def poison(pipeline: WanRecipe, name: str, value: float) -> Iterator[None]:
    """For a while a parameter, such as vae.decoder.conv_out.bias, holds this value alone."""
    network, _, rest = name.partition(".")
    networks = {"vae": pipeline.vae, "transformer": pipeline.transformer, "text_encoder": pipeline.prompts.encoder}
    parameter = networks[network].get_parameter(rest)
    before = parameter.clone()
    parameter.fill_(value)
    try:
        yield
    finally:
        parameter.copy_(before)


def as_png(picture: Image.Image) -> bytes:
    """A picture as the bytes of a PNG."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
