"""Denoising: noise to latents, step by step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ringlight.attention.kernel import AttentionKernel
from ringlight.core.errors import NumericalError
from ringlight.models.wan.transformer import TextKeys, WanTransformer
from ringlight.parallel.mesh import ParallelMesh
from ringlight.pipelines.trace import StepClock, Tracer


class Guided:
    """Predicts the noise of one request: one forward, or two with guidance. Text keys are projected once."""

    def __init__(
        self,
        transformer: WanTransformer,
        kernel: AttentionKernel,
        mesh: ParallelMesh,
        texts: list[Tensor],
        num_rows: int,
        guidance_scale: float,
    ) -> None:
        self._transformer = transformer
        self._kernel = kernel
        self._mesh = mesh
        self._guidance_scale = guidance_scale
        self._keys = [transformer.text_keys(text, num_rows) for text in texts]

    def predict(self, latents: Tensor, timesteps: Tensor) -> Tensor:
        """uncond + guidance_scale * (cond - uncond), or the conditional prediction alone, in float32."""
        conditional, *unconditional = (self._forward(latents, timesteps, keys) for keys in self._keys)
        if not unconditional:
            return conditional
        (base,) = unconditional
        return base + self._guidance_scale * (conditional - base)

    def _forward(self, latents: Tensor, timesteps: Tensor, keys: list[TextKeys]) -> Tensor:
        noise: Tensor = self._transformer(latents, timesteps, keys, self._kernel, self._mesh)
        return noise.float()


def denoise(latents: Tensor, first_frame: Tensor | None, scheduler: Any, guided: Guided, tracer: Tracer) -> Tensor:
    """float32 latents (1, z, T, h, w) after all steps.

    With a first frame (1, z, 1, h, w) the model always sees it clean, at time 0, and it stands in the result.
    Raises NumericalError when latents stop being finite, Cancelled at the step after a cancel.
    """
    clock = StepClock(tracer, latents.device, len(scheduler.timesteps))
    for step, time in enumerate(scheduler.timesteps):
        tracer.events.check_cancelled()
        if first_frame is None:
            noise = guided.predict(latents, time.view(1))
        else:
            seen = torch.cat([first_frame, latents[:, :, 1:]], dim=2)
            noise = guided.predict(seen, torch.stack([torch.zeros_like(time), time]))
        latents = scheduler.step(noise, time, latents, return_dict=False)[0]
        if not bool(latents.isfinite().all()):
            raise NumericalError(f"latents are not finite after step {step + 1} of {len(scheduler.timesteps)}")
        clock.tick()
    if first_frame is not None:
        latents[:, :, :1] = first_frame
    return latents
