"""Condition: what a request's picture does to the latents, at every step and at the end.

Latents and conditions are (1, C, T, h, w); z channels of latents.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Condition(Protocol):
    """Effect of a picture on a model.

    `tokens` (L, C) of it are attended to beside the text, by models that know any.
    """

    @property
    def tokens(self) -> Tensor | None: ...

    def seen(self, latents: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """Latents as the network sees them, with the picture, and the times of its tokens.

        There is one time for all tokens, or two: the first latent frame's and all others'.
        """

    def settle_(self, video: Tensor) -> Tensor:
        """Put what is known of a video in its place in the latents."""


class NoPicture:
    """Condition of requests without pictures."""

    tokens = None

    def seen(self, latents: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        return latents, time.view(1)

    def settle_(self, video: Tensor) -> Tensor:
        return video


class FirstFrame:
    """Condition of a picture that is the first latent frame, always clean, at time 0: as Wan2.2-TI2V has it."""

    tokens = None

    def __init__(self, first_frame: Tensor) -> None:
        """Keep the first latent frame, (1, z, 1, h, w)."""
        self._first_frame = first_frame

    def seen(self, latents: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat([self._first_frame, latents[:, :, 1:]], dim=2), torch.stack([torch.zeros_like(time), time])

    def settle_(self, video: Tensor) -> Tensor:
        video[:, :, :1] = self._first_frame
        return video


class Beside:
    """Condition of channels beside the latents, as Wan's I2V models have it.

    They say which frames are given, and what is known of all. The latents themselves are not changed.
    """

    def __init__(self, channels: Tensor, tokens: Tensor | None = None) -> None:
        """Keep the channels, (1, C - z, T, h, w): those of the mask, then those of the encoded video."""
        self._channels, self.tokens = channels, tokens

    def seen(self, latents: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat([latents, self._channels], dim=1), time.view(1)

    def settle_(self, video: Tensor) -> Tensor:
        return video
