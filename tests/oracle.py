"""diffusers as the oracle: its pipelines on our demo checkpoints, and its numbers in our shapes."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from diffusers import WanImageToVideoPipeline, WanPipeline
from PIL import Image
from torch import Tensor

from ringlight.core.request import VideoRequest


@dataclass(frozen=True)
class Oracle:
    """diffusers' text-to-video and image-to-video pipelines over the same weights."""

    t2v: Any
    i2v: Any

    scheduler: Any

    @property
    def experts(self) -> list[Any]:
        """The transformers."""
        return [self.t2v.transformer, *([self.t2v.transformer_2] if self.t2v.transformer_2 is not None else [])]

    def latents(
        self,
        request: VideoRequest,
        image: Image.Image | None = None,
        last_image: Image.Image | None = None,
        scheduler: Any = None,
    ) -> Tensor:
        """Final latents (1, z, T, h, w) of a request, in float32, by the checkpoint's scheduler or another.

        The pipelines give their generator to no scheduler: what noise it adds would be of no seed. Here it gets it.
        """
        extra: dict[str, Any] = {} if image is None else {"image": image}
        if last_image is not None:
            extra["last_image"] = last_image
        if request.guidance_scale_2 is not None:
            extra["guidance_scale_2"] = request.guidance_scale_2
        pipeline, scheduler = self.t2v if image is None else self.i2v, scheduler or self.scheduler
        key = "flow_shift" if "flow_shift" in scheduler.config else "shift"
        pipeline.scheduler = type(scheduler).from_config(scheduler.config, **{key: request.flow_shift})
        generator = torch.Generator().manual_seed(request.seed)
        if "generator" in inspect.signature(pipeline.scheduler.step).parameters:
            pipeline.scheduler.step = partial(pipeline.scheduler.step, generator=generator)
        latents: Tensor = pipeline(
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            width=request.width,
            height=request.height,
            num_frames=request.num_frames,
            num_inference_steps=request.num_inference_steps,
            guidance_scale=request.guidance_scale,
            generator=generator,
            output_type="latent",
            **extra,
        ).frames
        return latents.float()

    def decode(self, latents: Tensor) -> Tensor:
        """Frames (F, H, W, 3) in 0..1 of normalised latents (1, z, T, h, w)."""
        vae = self.t2v.vae
        mean, std = (self._statistic(name) for name in ("latents_mean", "latents_std"))
        video = vae.decode((latents * std + mean).to(vae.dtype), return_dict=False)[0]
        frames: Tensor = video[0].permute(1, 2, 3, 0).float().div(2).add(0.5)
        return frames

    def encode(self, frames_FHWC: Tensor) -> Tensor:
        """Normalised latents (z, T, h, w) of frames in [-1, 1]."""
        video = frames_FHWC.permute(3, 0, 1, 2).unsqueeze(0)
        mode = self.t2v.vae.encode(video, return_dict=False)[0].mode()
        mean, std = (self._statistic(name) for name in ("latents_mean", "latents_std"))
        latents: Tensor = ((mode - mean) / std)[0]
        return latents

    def _statistic(self, name: str) -> Tensor:
        return torch.tensor(self.t2v.vae.config[name]).view(1, -1, 1, 1, 1)


@cache
def load_oracle(folder: Path, dtype: torch.dtype = torch.float32) -> Oracle:
    """The oracle of a checkpoint, loaded once a process."""
    if json.loads((folder / "model_index.json").read_text())["_class_name"] == "WanImageToVideoPipeline":
        t2v = i2v = WanImageToVideoPipeline.from_pretrained(folder, torch_dtype=dtype)
    else:
        t2v = WanPipeline.from_pretrained(folder, torch_dtype=dtype)
        components = dict(t2v.components)
        i2v = WanImageToVideoPipeline(**components, image_encoder=None, image_processor=None, expand_timesteps=True)
    for pipeline in (t2v, i2v):
        pipeline.set_progress_bar_config(disable=True)
    return Oracle(t2v, i2v, t2v.scheduler)
