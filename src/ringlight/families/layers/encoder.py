"""EncoderLayers: the encoder of pictures and videos as data, from pixels to latents.

Rows and columns are counted in latents. A video goes through it a latent frame at a time: its first frame alone, then
as many as become one.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import msgspec

from ringlight.core.portions import HISTORY, MAX_ELEMENTS
from ringlight.families.layers.convolution import (
    Convolution,
    MidLayers,
    ResidualLayers,
    parameters,
    split_bands,
)


class DownLayers(msgspec.Struct, frozen=True):
    """A level: residual blocks, then half the rows and columns, and half the frames, where these are not None.

    `averages`: a shortcut of means goes past all of it.
    """

    residuals: tuple[ResidualLayers, ...]
    downsample: Convolution | None = None
    time_conv: Convolution | None = None
    averages: bool = False

    @property
    def convolutions(self) -> Iterator[Convolution]:
        """All of the level, in the order in which they run."""
        for block in self.residuals:
            yield from block.convolutions
        yield from filter(None, (self.downsample, self.time_conv))


class EncoderLayers(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """All layers of an encoder."""

    conv_in: Convolution
    levels: tuple[DownLayers, ...]
    mid: MidLayers
    conv_out: Convolution
    quant: Convolution

    @cached_property
    def convolutions(self) -> list[Convolution]:
        """Convolutions of the encoder; those in time are held, but do not run for a single picture."""
        within = [layer for level in self.levels for layer in level.convolutions]
        return [self.conv_in, *within, *self.mid.convolutions, self.conv_out, self.quant]

    @property
    def parameters(self) -> int:
        """Weights, biases and gains."""
        return parameters(self.convolutions) + self.mid.attention_parameters

    def flops(self, rows: int, all_rows: int, columns: int, num_latents: int = 1) -> float:
        """Operations of encoding these of all latent rows of one picture, or of a video of so many latent frames."""
        pixels = rows * columns
        middle = self.mid.attention_flops(pixels, all_rows * columns)
        first = sum(layer.flops(pixels, True, False) for layer in self.convolutions)
        later = sum(layer.flops(pixels, False, False) for layer in self.convolutions) if num_latents > 1 else 0.0
        return num_latents * middle + first + (num_latents - 1) * later

    def history_elements(self, rows: int, columns: int, is_split: bool) -> int:
        """Elements that are kept between the portions of a video."""
        return sum(layer.history_elements(rows, columns, is_split) for layer in self.convolutions)

    @property
    def most_latent_pixels(self) -> int:
        """Latent pixels of the largest frame of a video whose tensors are not too long in any portion."""
        seen = (layer for layer in self.convolutions if layer.kernel[0] > 1)
        return MAX_ELEMENTS // max((HISTORY + layer.frames) * layer.inputs * layer.scale**2 for layer in seen)

    def sent_bytes(
        self, num_ranks: int, rank: int, latent_size: tuple[int, int], itemsize: int, num_latents: int = 1
    ) -> dict[str, int]:
        """Bytes that a rank sends to encode a picture, or a video of so many latent frames.

        `latent_size` is (rows, columns). The result is float32.
        """
        rows, columns = latent_size
        own, (above, below), num_bands = split_bands(rows, num_ranks, rank)
        running = [layer for layer in self.convolutions if layer.has_halo]
        edges = 0
        for layer in running:
            sees_above, sees_below = layer.sees
            edges += layer.edge_elements(columns, num_latents) * ((sees_below and above) + (sees_above and below))
        attended = 2 * self.mid.channels * own * columns * (num_bands - 1)
        latents = self.quant.channels // 2 * own * columns * (num_ranks - 1)
        return {"halo": edges * itemsize, "gather": num_latents * (attended * itemsize + 4 * latents)}
