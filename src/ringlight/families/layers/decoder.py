"""DecoderLayers: a video's decoder as data, from latents to frames.

Which portions it takes them in follows from it: no tensor may be too long for a GPU's kernels, nor activations for its
memory. Rows and columns are counted in latents.
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

MAX_DECODED_LATENTS = 8
SPARE_SHARE = 0.25  # of a GPU's memory beside the weights, that decoding may take
WIDEST_ALIVE = 5  # of the widest activations, at once


class UpLayers(msgspec.Struct, frozen=True):
    """A level: residual blocks, then twice the frames, and twice the rows and columns, where these are not None.

    `repeats`: a shortcut that repeats values over what is made goes past all of it.
    """

    residuals: tuple[ResidualLayers, ...]
    time_conv: Convolution | None = None
    upsample: Convolution | None = None
    repeats: bool = False

    @property
    def inputs(self) -> int:
        """Channels of what comes to the level."""
        return self.residuals[0].conv1.inputs

    @property
    def channels(self) -> int:
        """Channels within it."""
        return self.residuals[0].conv1.channels

    @property
    def scale(self) -> int:
        """How many times more rows and columns than latents it has."""
        return self.residuals[0].conv1.scale

    @property
    def convolutions(self) -> Iterator[Convolution]:
        """All of the level, in the order in which they run."""
        for block in self.residuals:
            yield from block.convolutions
        yield from filter(None, (self.time_conv, self.upsample))


class DecoderLayers(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """All layers of a decoder. Its last convolution makes `patch` x `patch` pixels of three colours."""

    post_quant: Convolution
    conv_in: Convolution
    mid: MidLayers
    levels: tuple[UpLayers, ...]
    conv_out: Convolution
    patch: int = 1

    @cached_property
    def convolutions(self) -> list[Convolution]:
        """All of them in the order in which they run; the middle's attention is not among them."""
        within = [layer for level in self.levels for layer in level.convolutions]
        return [self.post_quant, self.conv_in, *self.mid.convolutions, *within, self.conv_out]

    @property
    def parameters(self) -> int:
        """Weights, biases and gains."""
        return parameters(self.convolutions, self.mid)

    @property
    def made_parameters(self) -> int:
        """Weights that the decoder makes for itself, beside those that are loaded."""
        return sum(layer.made_parameters for layer in self.convolutions)

    @property
    def frames_each(self) -> int:
        """Frames that a later latent frame becomes."""
        return self.conv_out.frames

    @property
    def rows_each(self) -> int:
        """Rows, and columns, of pixels that one of latents becomes."""
        return self.conv_out.scale * self.patch

    def flops(self, rows: int, all_rows: int, columns: int, first: bool, winograd: bool) -> float:
        """Operations of decoding `rows` of all latent rows of one latent frame."""
        pixels = rows * columns
        middle = self.mid.attention_flops(pixels, all_rows * columns)
        return middle + sum(layer.flops(pixels, first, winograd) for layer in self.convolutions)

    def history_elements(self, rows: int, columns: int, is_split: bool) -> int:
        """Elements that are kept between portions."""
        return sum(layer.history_elements(rows, columns, is_split) for layer in self.convolutions)

    def sent_bytes(
        self, num_ranks: int, rank: int, latent_size: tuple[int, int, int], frame_itemsize: int, itemsize: int
    ) -> dict[str, int]:
        """Bytes that a rank sends in all of Decoding; `latent_size` is (frames, rows, columns) of the latents.

        `frame_itemsize`: 1 for pixels, 4 for float32 frames. `itemsize` is that of the decoder's dtype.
        """
        num_latents, rows, columns = latent_size
        own, neighbours, num_bands = split_bands(rows, num_ranks, rank)
        edge = sum(layer.edge_elements(columns, num_latents) for layer in self.convolutions if layer.has_halo)
        pixels = ((num_latents - 1) * self.frames_each + 1) * own * columns * self.rows_each**2
        return {
            "halo": edge * sum(neighbours) * itemsize,
            "gather": 2 * self.mid.channels * own * columns * num_latents * (num_bands - 1) * itemsize,
            "frames": 3 * pixels * frame_itemsize if rank else 0,
        }

    def portion(self, rows: int, columns: int, itemsize: int, spare_bytes: int, asked: int = 0) -> int:
        """Latent frames to decode at a time: as `asked`, or for 0 as many as a quarter of `spare_bytes` holds.

        At least one, and no more than tensors have room for. `rows`, `columns`: of the largest band of a frame.
        `spare_bytes`: all memory of a GPU beside the weights, whoever has it at the moment, for another portion rounds
        otherwise and the same video comes out the same. On a CPU there are none to spare: more at a time gained nothing
        there (docs/log.md).
        """
        pixels = rows * columns * self.conv_out.scale**2
        each = WIDEST_ALIVE * pixels * self.frames_each * self.levels[-1].inputs * itemsize
        wanted = asked or min(MAX_DECODED_LATENTS, int(SPARE_SHARE * spare_bytes) // each)
        return max(1, min(wanted, self.most_latents(rows, columns)))

    def most_latents(self, rows: int, columns: int) -> int:
        """Latent frames of so many rows and columns that may be decoded at a time, for no tensor to be too long.

        At least one, which then goes through the last levels a frame at a time (`frames_at_once`).
        """
        counts = range(1, MAX_DECODED_LATENTS + 1)
        return max((n for n in counts if self._window(rows, columns, 2 * n) <= MAX_ELEMENTS), default=1)

    def frames_at_once(self, rows: int, columns: int, num_latents: int, max_elements: int = MAX_ELEMENTS) -> int:
        """Frames at a time of the levels' work: half of a portion's, or one where these are too long."""
        return 2 * num_latents if self._window(rows, columns, 2 * num_latents) <= max_elements else 1

    @property
    def most_pixels(self) -> int:
        """Pixels of a frame that is no tensor that is too long where the decoder is widest."""
        return MAX_ELEMENTS // max(channels * scale**2 for channels, scale in self._widths) * self.rows_each**2

    def _window(self, rows: int, columns: int, frames: int) -> int:
        """Elements of the longest tensor, with its halo rows: so many frames and their history."""
        seen = HISTORY + frames
        return max(seen * (rows * scale + 2) * columns * scale * channels for channels, scale in self._widths)

    @property
    def _widths(self) -> list[tuple[int, int]]:
        """(channels, rows for each latent row) of the widest that a convolution of each level sees."""
        return [(max(level.inputs, level.channels), level.scale) for level in self.levels]
