"""Condition: what a request's picture does to the latents, at every step and at the end.

Latents and conditions are (1, C, T, h, w); z channels of latents.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Condition(Protocol):
    """How a model is told of a picture. `tokens` (L, C) of it are attended to beside the text, by models that know
    any."""

    @property
    def tokens(self) -> Tensor | None: ...

    def seen(self, latents: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """What the network sees of latents at a time: with the picture, and the times of its tokens: one for all of
        them, or two, the first latent frame's and all others'."""

    def settle_(self, video: Tensor) -> Tensor:
        """Latents of a video with what is known of it put in its place."""


class NoPicture:
    """Of text alone."""

    tokens = None

    def seen(self, latents: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        return latents, time.view(1)

    def settle_(self, video: Tensor) -> Tensor:
        return video


class FirstFrame:
    """The picture is the first latent frame, always clean, at time 0: as Wan2.2-TI2V has it."""

    tokens = None

    def __init__(self, first_frame: Tensor) -> None:
        """`first_frame` is (1, z, 1, h, w)."""
        self._first_frame = first_frame

    def seen(self, latents: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat([self._first_frame, latents[:, :, 1:]], dim=2), torch.stack([torch.zeros_like(time), time])

    def settle_(self, video: Tensor) -> Tensor:
        video[:, :, :1] = self._first_frame
        return video


class Beside:
    """Channels beside the latents say which frames are given, and what is known of all: as Wan's I2V models have it.
    Nothing of the latents is put in its place."""

    def __init__(self, channels: Tensor, tokens: Tensor | None = None) -> None:
        """`channels` are (1, C - z, T, h, w): those of the mask, then those of the encoded video."""
        self._channels, self.tokens = channels, tokens

    def seen(self, latents: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat([latents, self._channels], dim=1), time.view(1)

    def settle_(self, video: Tensor) -> Tensor:
        return video
