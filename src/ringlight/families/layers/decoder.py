"""DecoderLayers: a video's decoder as data, from latents to frames.

Which portions it takes them in follows from it: no tensor may be too long for a GPU's kernels, nor activations for its
memory. Rows and columns are counted in latents.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import chain
from typing import NamedTuple

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
        """Ratio of its rows and columns to those of latents."""
        return self.residuals[0].conv1.scale

    @property
    def convolutions(self) -> Iterator[Convolution]:
        """All of the level, in the order in which they run."""
        for block in self.residuals:
            yield from block.convolutions
        yield from filter(None, (self.time_conv, self.upsample))


class Visit(NamedTuple):
    """Frames that go through a stage of the decoder together."""

    stage: int
    frames: int


class DecoderLayers(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """All layers of a decoder. Its last convolution makes `patch` x `patch` pixels of three colours.

    It runs in stages: what comes before the levels, each level, and its last convolution. History may lie on the host
    for the last `host_levels` of its levels, with which the last convolution goes.
    """

    post_quant: Convolution
    conv_in: Convolution
    mid: MidLayers
    levels: tuple[UpLayers, ...]
    conv_out: Convolution
    patch: int = 1

    @cached_property
    def stages(self) -> list[list[Convolution]]:
        """Convolutions of each stage, in the order in which they run, without the middle's attention."""
        before = [self.post_quant, self.conv_in, *self.mid.convolutions]
        return [before, *(list(level.convolutions) for level in self.levels), [self.conv_out]]

    @cached_property
    def convolutions(self) -> list[Convolution]:
        """All of them in the order in which they run."""
        return list(chain.from_iterable(self.stages))

    @cached_property
    def parameters(self) -> int:
        """Weights, biases and gains."""
        return parameters(self.convolutions) + self.mid.attention_parameters

    @cached_property
    def made_parameters(self) -> int:
        """Weights that the decoder makes for itself, beside those that are loaded."""
        return sum(layer.made_parameters for layer in self.convolutions)

    @cached_property
    def parts(self) -> list[int]:
        """Parameters of each stage, loaded and made ones."""
        parts = [parameters(stage) + sum(layer.made_parameters for layer in stage) for stage in self.stages]
        parts[0] += self.mid.attention_parameters
        return parts

    def made_of_parts(self, winograd: bool) -> list[int]:
        """Parameters of each stage from which a CPU makes others when it lays them out.

        They are the made ones of phases, and all of the kernels whose sums Winograd's pairs of frames take.
        """
        return [
            sum(layer.made_parameters + (layer.parameters if winograd and layer.sums_pairs else 0) for layer in stage)
            for stage in self.stages
        ]

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

    def visits(self, num_latents: int, first: bool, at_most: int) -> Iterator[Visit]:
        """Yield the order in which a portion goes through the stages.

        `at_most` frames at a time pass the levels and what follows, so that the last stages, where frames are many and
        large, hold few of them at once.

        `first`: the very first latent frame, which stays one frame.
        """
        yield Visit(0, num_latents)
        yield from self._visits_from(1, num_latents, first, at_most)

    def _visits_from(self, stage: int, frames: int, first: bool, at_most: int) -> Iterator[Visit]:
        for start in range(0, frames, at_most):
            part = min(at_most, frames - start)
            yield Visit(stage, part)
            if stage <= len(self.levels):
                yield from self._visits_from(stage + 1, part * self.frame_factor(stage, first), first, at_most)

    def frame_factor(self, stage: int, first: bool) -> int:
        """Number of frames that a stage makes of one."""
        if first or not 0 < stage <= len(self.levels):
            return 1
        return 1 if self.levels[stage - 1].time_conv is None else 2

    def on_host(self, stage: int, host_levels: int) -> bool:
        """Whether the history of a stage lies on the host."""
        return host_levels > 0 and stage > max(0, len(self.levels) - host_levels)

    def history_elements(self, rows: int, columns: int, is_split: bool, host_levels: int = 0) -> int:
        """Elements that are kept between portions on the device."""
        everything = sum(layer.history_elements(rows, columns, is_split) for layer in self.convolutions)
        return everything - self.host_history_elements(rows, columns, is_split, host_levels)

    def host_history_elements(self, rows: int, columns: int, is_split: bool, host_levels: int) -> int:
        """Elements that are kept between portions on the host."""
        return sum(
            layer.history_elements(rows, columns, is_split)
            for stage, layers in enumerate(self.stages)
            if self.on_host(stage, host_levels)
            for layer in layers
        )

    def history_traffic(
        self, rows: int, columns: int, is_split: bool, host_levels: int, frames_at_once: int, portion: int
    ) -> tuple[int, int]:
        """(to the device, out of it): elements of history that travel for a later portion of so many latent frames.

        Whatever goes through a stage at once brings all of the stage's history, and sends out what is new of it.
        """
        at_most = self.frames_at_once(rows, columns, portion, asked=frames_at_once)
        into = out = 0
        for stage, frames in self.visits(portion, False, at_most):
            if self.on_host(stage, host_levels):
                kept = sum(layer.history_elements(rows, columns, is_split) for layer in self.stages[stage])
                into += kept
                out += kept * min(frames, HISTORY) // HISTORY
        return into, out

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

    def frames_at_once(
        self,
        rows: int,
        columns: int,
        num_latents: int,
        max_elements: int = MAX_ELEMENTS,
        asked: int = 0,
        in_pairs: bool = False,
    ) -> int:
        """Frames at a time of the levels' work: as `asked`, or for 0 half of a portion's; one where these are too long.

        Where frames are convolved `in_pairs` an even number, however long.
        """
        wanted = asked or 2 * num_latents
        if in_pairs:
            return wanted + wanted % 2
        return wanted if self._window(rows, columns, wanted) <= max_elements else 1

    @property
    def most_pixels(self) -> int:
        """Pixels of the largest frame whose tensors are not too long where the decoder is widest."""
        return MAX_ELEMENTS // max(channels * scale**2 for channels, scale in self._widths) * self.rows_each**2

    def _window(self, rows: int, columns: int, frames: int) -> int:
        """Elements of the longest tensor, with its halo rows: so many frames and their history."""
        seen = HISTORY + frames
        return max(seen * (rows * scale + 2) * columns * scale * channels for channels, scale in self._widths)

    @property
    def _widths(self) -> list[tuple[int, int]]:
        """(channels, rows for each latent row) of the widest that a convolution of each level sees."""
        return [(max(level.inputs, level.channels), level.scale) for level in self.levels]
