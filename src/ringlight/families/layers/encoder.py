"""EncoderLayers: a picture's encoder as data, from pixels to latents. Rows and columns are counted in latents."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import msgspec

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
        """All of them; those in time are held, and run for no single picture."""
        within = [layer for level in self.levels for layer in level.convolutions]
        return [self.conv_in, *within, *self.mid.convolutions, self.conv_out, self.quant]

    @property
    def parameters(self) -> int:
        """Weights, biases and gains."""
        return parameters(self.convolutions) + self.mid.attention_parameters

    def flops(self, rows: int, all_rows: int, columns: int) -> float:
        """Operations of encoding these of all latent rows of one picture."""
        pixels = rows * columns
        middle = self.mid.attention_flops(pixels, all_rows * columns)
        return middle + sum(layer.flops(pixels, True, False) for layer in self.convolutions)

    def sent_bytes(self, num_ranks: int, rank: int, latent_size: tuple[int, int], itemsize: int) -> dict[str, int]:
        """Bytes that a rank sends to encode a picture; `latent_size` is (rows, columns). The result is float32."""
        rows, columns = latent_size
        own, (above, below), num_bands = split_bands(rows, num_ranks, rank)
        running = [layer for layer in self.convolutions if layer.has_halo]
        edges = 0
        for layer in running:
            sees_above, sees_below = layer.sees
            edges += layer.edge_elements(columns, 1) * ((sees_below and above) + (sees_above and below))
        attended = 2 * self.mid.channels * own * columns * (num_bands - 1)
        latents = self.quant.channels // 2 * own * columns * (num_ranks - 1)
        return {"halo": edges * itemsize, "gather": attended * itemsize + 4 * latents}
