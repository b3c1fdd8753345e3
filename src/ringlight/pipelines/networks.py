"""Protocols of the networks that stages use. A family's networks have these methods; nothing is inherited."""

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
        """Keys and values of a prompt's embeddings (L, C), padded to `num_rows`, and of tokens of its pictures.

        They are made once a request; `steps` takes them.
        """

    def steps(
        self,
        latents_BCTHW: Tensor,
        timesteps: Tensor,
        keys: Any,
        kernel: AttentionKernel,
        mesh: ParallelMesh,
        num_slices: int = 1,
    ) -> Generator[int, None, Tensor]:
        """Run a forward that pauses wherever its data travels, yielding how many blocks are done (parallel/turns).

        It returns the velocity, BCTHW, on every rank.

        `timesteps` holds one value for all tokens, or two: the first latent frame's, then all others'.
        """


class PictureEncoder(Protocol):
    """A network that makes tokens of pictures."""

    @property
    def image_size(self) -> int:
        """Rows, and columns, of the pixels that it sees."""

    def tokens(self, pixels_BHWC: Tensor) -> Tensor:
        """Tokens (B, L, C) of pictures of this size, of three colours from 0 to 1."""


class DecodingStream(Protocol):
    """Stream of one video through a decoder. `extremes` are (2,) of each portion: least and greatest, unclamped."""

    @property
    def extremes(self) -> list[Tensor]: ...

    def close(self) -> None:
        """Close the stream, after all frames or after an error: waits for what is under way to or from the host."""


class Autoencoder(Protocol):
    """A network that makes latents of frames, and frames of latents, each rank its band of rows."""

    @property
    def spec(self) -> VideoScales: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def encode(self, frames_FHWC: Tensor, bands: Bands | None = None) -> Tensor:
        """Encode frames (F, H, W, 3) in [-1, 1] to normalised latents (z, T, h, w), float32: this rank's rows."""

    def start_encoding(self, bands: Bands, columns: int, num_frames: int, device: torch.device) -> Any:
        """Start a stream for `encode_next`, of so many frames whose latents have these rows of bands, and columns."""

    def encode_next(self, frames_FHWC: Tensor, stream: Any) -> Tensor:
        """Encode the next frames to a latent frame (z, 1, h, w): the first one alone, then as many as become one."""

    def start_decoding(
        self, bands: Bands, columns: int, num_latents: int, device: torch.device, placement: Placement | None = None
    ) -> Any:
        """Start a `DecodingStream` for so many latent frames, decoded on this device; `decode_next` takes it.

        Only one may be open at a time if its `placement` has history on the host.
        """

    def decode_next(self, latents_ZTHW: Tensor, stream: Any, first: bool) -> Tensor:
        """Decode the next latent frames to frames (F, H, W, 3) in [-1, 1]; the very first one comes alone (`first`)."""


class PromptEncoder(Protocol):
    """A network that makes embeddings of prompts."""

    @property
    def max_tokens(self) -> int: ...

    def encode(self, prompts: Sequence[str]) -> list[Tensor]:
        """Embeddings (L, C) of each prompt, on every rank."""

    def count_tokens(self, prompt: str) -> int:
        """Number of tokens of a prompt, before any truncation."""
