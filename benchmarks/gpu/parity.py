"""The whole recipe on the device against the CPU, from a demo checkpoint's files to latents and frames."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from gpu.picture import picture
from gpu.report import Row, within
from gpu.scale import Scale
from gpu.section import Section
from ringlight.core.config import DeviceName, EngineConfig, read_defaults
from ringlight.core.request import RequestLimits, VideoRequest
from ringlight.families.wan.recipe import WanRecipe
from ringlight.families.wan22_ti2v.demo import DEMO
from ringlight.parallel.mesh import ParallelMesh
from ringlight.pipelines.stages.decoding import decode
from ringlight.pipelines.trace import Tracer
from ringlight.worker import environment

CPU = torch.device("cpu")
BOUND = 1e-3  # of latents and of frames in [-1, 1], largest difference
SEED = 7
PROMPT = "A lighthouse on a cliff at dusk, waves breaking below, the beam turning slowly"


class Unheard:
    """Events that nobody hears."""

    turn_ends = False

    def stage_started(self, stage: str) -> None: ...

    def step_finished(self, step: int, num_steps: int, seconds: float) -> None: ...

    def frames_decoded(self, num_done: int, num_frames: int) -> None: ...

    def boundary(self, problem: Exception | None = None) -> None:
        self.check_problem(problem)

    def check_problem(self, problem: Exception | None) -> None:
        if problem is not None:
            raise problem


class Unmeasured:
    """A meter that measures nothing."""

    def reset(self) -> None: ...

    def peak_bytes(self) -> int:
        return 0


class Frames:
    """A writer that keeps the frames: float32 (F, H, W, 3) in [-1, 1] on the CPU."""

    def __init__(self) -> None:
        self.parts: list[Tensor] = []

    def write(self, frames_FHWC: Tensor) -> None:
        self.parts.append(frames_FHWC.float().cpu())

    def finish(self) -> list[str]:
        return []

    def abort(self) -> None: ...


@dataclass(frozen=True)
class Made:
    """One generation: final latents (1, z, T, h, w), frames (F, H, W, 3), both float32 on the CPU, and its seconds."""

    latents: Tensor
    frames: Tensor
    seconds: float


def run(section: Section, scale: Scale) -> None:
    """Text-to-video and image-to-video with every demo checkpoint."""
    for size, fields in scale.demos.items():
        with TemporaryDirectory() as name:
            folder = Path(name) / size
            DEMO.write(folder, size)
            for kind, image in (("T2V", None), ("I2V", picture())):
                label = f"{size} {kind}"
                check = partial(_compare, label, folder, fields | {"image": image}, scale.device)
                section.attempt(label, check)


def _compare(label: str, folder: Path, fields: dict[str, Any], device: torch.device) -> Iterator[Row]:
    truth = generate(folder, fields, CPU, torch.float32)
    yield Row(f"{label}: float32 on the CPU", f"{truth.seconds:.2f} s with loading", numbers={"seconds": truth.seconds})
    made = generate(folder, fields, device, torch.float32)
    yield _difference(f"{label}: latents, float32 on {device.type}", made.latents, truth.latents, BOUND)
    yield _difference(f"{label}: frames, float32 on {device.type}", made.frames, truth.frames, BOUND)
    rough = generate(folder, fields, device, torch.bfloat16)
    yield _difference(f"{label}: latents, bfloat16 on {device.type}", rough.latents, truth.latents, None)
    yield _difference(f"{label}: frames, bfloat16 on {device.type}", rough.frames, truth.frames, None)


def _difference(name: str, found: Tensor, truth: Tensor, bound: float | None) -> Row:
    """Largest and root-mean-square difference; without a bound it only has to be finite."""
    delta = (found - truth).double()
    largest, rms = float(delta.abs().max()), float(delta.square().mean().sqrt())
    spread = float(truth.double().std())
    measured = f"max {largest:.2g}, rms {rms:.2g} (the values' own spread is {spread:.2g})"
    numbers = {"max_difference": largest, "rms_difference": rms, "spread": spread}
    if bound is None:
        finite = bool(found.isfinite().all())
        return Row(name, measured, "finite", "info" if finite else "FAIL", numbers)
    return within(name, measured, f"max {bound:g}", largest <= bound, **numbers)


def device_name(device: torch.device) -> DeviceName:
    """The device as a setting of the engine."""
    return "cuda" if device.type == "cuda" else "cpu"


@torch.inference_mode()
def generate(folder: Path, fields: dict[str, Any], device: torch.device, dtype: torch.dtype) -> Made:
    """Make one video as a worker does, TensorFloat-32 off, with transformer and VAE in `dtype`."""
    config = EngineConfig(model_path=str(folder), device=device_name(device), tf32=False)
    environment.apply_settings(config, device, num_local=1)
    start = time.perf_counter()
    pipeline = WanRecipe(config, RequestLimits(), device, dtype, dtype)
    request: VideoRequest = read_defaults(folder).complete(PROMPT, pipeline.spec, seed=SEED, **fields)
    output = folder / "latents.safetensors"
    alone = ParallelMesh.alone()
    pipeline.run(request, output, "parity", Tracer(device, Unmeasured(), Unheard()), alone)
    latents = safetensors.torch.load_file(output)["latents"]
    writer, vae = Frames(), pipeline.vae
    decode(
        latents.to(device),
        vae,
        vae.spec.decoder.portion(*latents.shape[-2:], vae.dtype.itemsize, pipeline.spare_bytes),
        Tensor.float,
        writer,
        Unheard(),
        alone.world,
    )
    return Made(latents, torch.cat(writer.parts), time.perf_counter() - start)
