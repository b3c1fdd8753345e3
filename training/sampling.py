"""Films from trained networks, many at once: the same sums as a pipeline's, for the judge."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel
from torch import Tensor
from transformers import UMT5EncoderModel

from training import vae_whole
from training.drawing import Frames, Size
from training.networks import embed, forward
from training.run import fast
from training.train_transformer import CELL, tokens_of
from training.train_vae import to_video
from training.vae_start import LATENTS


@dataclass(frozen=True)
class Sampling:
    """How films are made of prompts."""

    steps: int = 20
    guidance: float = 2.0
    shift: float = 5.0
    seed: int = 0


class Film:
    """The networks of a checkpoint's folder, in float32."""

    def __init__(self, folder: Path) -> None:
        self.model = WanTransformer3DModel.from_pretrained(folder / "transformer").float().eval()
        self.encoder = UMT5EncoderModel.from_pretrained(folder / "text_encoder").float().eval()
        self.vae = AutoencoderKLWan.from_pretrained(folder / "vae").float().eval()
        config = self.vae.config
        self.mean, self.std = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in (config.latents_mean, config.latents_std))

    @torch.no_grad()
    def make(self, prompts: list[str], size: Size, how: Sampling, first: list[Frames] | None = None) -> list[Frames]:
        """A film (F, H, W, 3) of each prompt; with `first`, (1, H, W, 3) each, they go on from these frames."""
        given = None if first is None else self._encode(first)
        latents = self._denoise(prompts, size, how, given)
        return [self._decode(one) for one in latents.split(1)]

    @torch.no_grad()
    def again(self, frames: Frames) -> Frames:
        """Frames through encoder and decoder."""
        return self._decode(self._encode([frames]))

    def _encode(self, frames: list[Frames]) -> Tensor:
        with fast():
            latents = torch.cat([vae_whole.encode(self.vae, to_video(frame[None])).float() for frame in frames])
        return (latents - self.mean) / self.std

    def _decode(self, latents: Tensor) -> Frames:
        with fast():
            video = vae_whole.decode(self.vae, latents * self.std + self.mean).float().clamp(-1, 1)
        return ((video[0].permute(1, 2, 3, 0) + 1) * 127.5).round().byte().numpy()

    def _denoise(self, prompts: list[str], size: Size, how: Sampling, first: Tensor | None) -> Tensor:
        scheduler = UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=how.shift, num_train_timesteps=1000
        )
        scheduler.set_timesteps(how.steps)
        count, shape = len(prompts), (1 + (size.frames - 1) // 4, size.height // CELL, size.width // CELL)
        latents = torch.randn(count, LATENTS, *shape, generator=torch.Generator().manual_seed(how.seed))
        ids, lengths = tokens_of([*prompts, *[""] * count])
        with fast():
            words = embed(self.encoder, ids, lengths)
        for t in scheduler.timesteps:
            times, given = torch.full((2 * count, 2), float(t)), latents.clone()
            if first is not None:
                given[:, :, :1] = first
                times[:, 0] = 0
            with fast():
                yes, no = forward(self.model, given.repeat(2, 1, 1, 1, 1), times, words, lengths).chunk(2)
            latents = scheduler.step(no + how.guidance * (yes - no), t, latents, return_dict=False)[0]
        if first is not None:
            latents[:, :, :1] = first
        return latents
