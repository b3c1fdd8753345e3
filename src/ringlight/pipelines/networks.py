"""What the stages ask of a model's networks. A family's networks have these methods; nothing is inherited."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ringlight.core.geometry import VideoScales
from ringlight.core.plan import Placement
from ringlight.kernels.attention.kernel import AttentionKernel
from ringlight.parallel.halo import Bands
from ringlight.parallel.mesh import ParallelMesh


class Denoiser(Protocol):
    """A network that predicts the velocity of latents under a text."""

    def text_keys(self, text_LC: Tensor, num_rows: int, *, image_LC: Tensor | None = None) -> Any:
        """What is made of a prompt's embeddings (L, C) once a request, padded to so many rows, and of tokens of its
        pictures; `steps` takes it."""

    def steps(
        self,
        latents_BCTHW: Tensor,
        timesteps: Tensor,
        keys: Any,
        kernel: AttentionKernel,
        mesh: ParallelMesh,
        num_slices: int = 1,
    ) -> Generator[int, None, Tensor]:
        """A forward that pauses wherever its data travels, and says how many blocks are behind it (parallel/turns); it
        returns the velocity, BCTHW, on every rank.

        `timesteps` holds one value for all tokens, or two: the first latent frame's, then all others'.
        """


class PictureEncoder(Protocol):
    """A network that makes tokens of pictures."""

    @property
    def image_size(self) -> int:
        """Rows, and columns, of the pixels that it sees."""

    def tokens(self, pixels_BHWC: Tensor) -> Tensor:
        """(B, L, C) of pictures of this size, of three colours from 0 to 1."""


class DecodingStream(Protocol):
    """One video on its way through a decoder. `extremes` are (2,) of each portion: least and greatest, unclamped."""

    @property
    def extremes(self) -> list[Tensor]: ...

    def close(self) -> None:
        """Be done, with all frames or with an error: what was under way to or from the host is behind us."""


class Autoencoder(Protocol):
    """A network that makes latents of frames, and frames of latents, each rank its band of rows."""

    @property
    def spec(self) -> VideoScales: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def encode(self, frames_FHWC: Tensor, bands: Bands | None = None) -> Tensor:
        """Frames (F, H, W, 3) in [-1, 1] to normalised latents (z, T, h, w), float32: this rank's rows."""

    def start_encoding(self, bands: Bands, columns: int, num_frames: int, device: torch.device) -> Any:
        """A new stream for `encode_next`, of so many frames whose latents have these rows of bands, and columns."""

    def encode_next(self, frames_FHWC: Tensor, stream: Any) -> Tensor:
        """The next frames to a latent frame (z, 1, h, w): the very first one alone, then as many as become one."""

    def start_decoding(
        self, bands: Bands, columns: int, num_latents: int, device: torch.device, placement: Placement | None = None
    ) -> Any:
        """A new `DecodingStream` for so many latent frames, decoded on this device; `decode_next` takes it. One at a
        time is open where its `placement` has history on the host."""

    def decode_next(self, latents_ZTHW: Tensor, stream: Any, first: bool) -> Tensor:
        """The next latent frames to frames (F, H, W, 3) in [-1, 1]; the very first one comes alone (`first`)."""


class PromptEncoder(Protocol):
    """A network that makes embeddings of prompts."""

    @property
    def max_tokens(self) -> int: ...

    def encode(self, prompts: Sequence[str]) -> list[Tensor]:
        """(L, C) for each prompt, on every rank."""

    def count_tokens(self, prompt: str) -> int:
        """How many tokens a prompt has, whatever of them is read."""
