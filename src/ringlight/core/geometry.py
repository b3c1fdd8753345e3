"""Geometry: what sizes and lengths of videos a model makes, as far as a request must know."""

from __future__ import annotations

from typing import Protocol

from ringlight.core.scheduler import SchedulerSpec


class Geometry(Protocol):
    """Model as its requests see it. Sizes are in pixels."""

    @property
    def name(self) -> str: ...

    @property
    def scheduler(self) -> SchedulerSpec: ...

    @property
    def takes_picture(self) -> bool:
        """Whether a video may begin with a given picture."""

    @property
    def needs_picture(self) -> bool:
        """Whether every video has to begin with a picture."""

    @property
    def takes_last_picture(self) -> bool:
        """Whether a video that begins with a picture may end with one too."""

    @property
    def needs_last_picture(self) -> bool:
        """Whether every video has to end with a picture."""

    @property
    def has_experts(self) -> bool:
        """Whether it has two transformers, one for high noise and one for low."""

    @property
    def size_multiple(self) -> tuple[int, int]:
        """Multiples that height and width must be of."""

    @property
    def frame_multiple(self) -> int:
        """Number that a video's frames are a multiple of, plus one."""

    @property
    def max_positions(self) -> int:
        """Tokens along any side that the model tells apart."""

    @property
    def most_pixels(self) -> int:
        """Pixels of the largest frame that every tensor has room for."""

    @property
    def most_tokens(self) -> int:
        """Tokens of the longest sequence that every tensor has room for."""

    def num_tokens(self, num_frames: int, height: int, width: int) -> int:
        """Length of the sequence that the model sees of a video."""


class VideoScales(Protocol):
    """Ratios of pixels and frames to latents."""

    @property
    def z_dim(self) -> int: ...
    @property
    def scale_factor_temporal(self) -> int: ...
    @property
    def scale_factor_spatial(self) -> int: ...
