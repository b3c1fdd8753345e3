"""The most that the decoder holds at once: a walk through its levels that counts instead of computing."""

from __future__ import annotations

from functools import cached_property, lru_cache
from itertools import pairwise
from typing import NamedTuple

from ringlight.core.plan import Placement
from ringlight.core.portions import HISTORY, MAX_ELEMENTS
from ringlight.families.layers.convolution import Convolution
from ringlight.families.layers.decoder import DecoderLayers, UpLayers


def norm_copies(on_cpu: bool, itemsize: int) -> int:
    """Copies of its input that a norm of the VAE holds: one on a GPU, a float32 one on a CPU in bfloat16."""
    return (2 if itemsize < 4 else 0) if on_cpu else 1


class Passage(NamedTuple):
    """Elements of frames that go through a stage of the decoder together.

    They are the most that are alive at once, the frames' results, and the windows that convolutions see, one after
    another.
    """

    most: int
    made: int
    windows: list[int]


class DecoderPeak:
    """Counter of the peak elements in the decoder, by the same steps as the VAEs of Wan.

    Where its parts come one at a time they are among these: the largest is there where activations are small.
    """

    def __init__(
        self, layers: DecoderLayers, rows: int, columns: int, is_split: bool, winograd: bool, norm_copies: int = 0
    ) -> None:
        """`norm_copies`: how often a norm holds its input beside it, in elements of the activation's dtype."""
        self._layers, self._rows, self._columns = layers, rows, columns
        self._is_split, self._winograd, self._norm_copies = is_split, winograd, norm_copies
        self._passages: dict[tuple[int, int, bool, bool], Passage] = {}  # all placements have much the same ones
        self._has_history, self._peak = False, 0
        self._windows: list[int] = []

    def of(self, portion: int, has_history: bool, placement: Placement | None = None) -> int:
        """Peak elements for portions of so many latent frames.

        Activations and the workspace count, and of weights the part in use if they come one at a time. Without history
        the portion is the very first latent frame.
        """
        layers, where, peak, windows = self._layers, placement or Placement(), 0, [0]
        at_most = layers.frames_at_once(
            self._rows, self._columns, portion, asked=where.frames_at_once, in_pairs=self._winograd
        )
        # Elements of what each stage takes next, whole while a part of it is left; the last of what has been made.
        waiting = [0] * (len(layers.stages) + 1)
        left = [0] * len(waiting)  # frames that have not gone through
        for stage, frames in layers.visits(portion, not has_history, at_most):
            passage = self._passage(stage, frames, has_history, layers.on_host(stage, where.host_history))
            weights = self._weights[stage] if where.streams_decoder else 0
            peak = max(peak, sum(waiting) + weights + passage.most)
            windows += passage.windows
            left[stage] -= frames
            if not left[stage]:
                waiting[stage] = 0
            left[stage + 1] = frames * layers.frame_factor(stage, not has_history)
            waiting[stage + 1] = passage.made if stage <= len(layers.levels) else waiting[-1] + passage.made
        # Windows share the workspace: in turn, or where some history lies on the host, two neighbours at a time.
        workspace = max(map(sum, pairwise(windows)) if where.host_history and has_history else windows)
        return workspace + max(peak, 3 * waiting[-1])  # parts are joined, and made into frames of pixels

    @cached_property
    def _weights(self) -> list[int]:
        """Bytes of weights of each stage, as they are used: Winograd's sums have four kernels for three."""
        summed = [sum(layer.parameters for layer in stage if layer.sums_pairs) for stage in self._layers.stages]
        return [part + self._winograd * (each // 3) for part, each in zip(self._layers.parts, summed, strict=True)]

    def _passage(self, stage: int, frames: int, has_history: bool, is_hosted: bool) -> Passage:
        key = stage, frames, has_history, is_hosted
        if key not in self._passages:
            self._has_history, self._peak, self._windows = has_history, 0, []
            made = self._visit(stage, frames, is_hosted)
            self._passages[key] = Passage(self._peak, made, self._windows)
        return self._passages[key]

    def _visit(self, stage: int, frames: int, is_hosted: bool) -> int:
        """Count frames through a stage. Returns the elements of its result."""
        layers = self._layers
        if stage == 0:
            for layer in layers.stages[0]:
                self._convolve(layer, frames, is_hosted)
            hidden = self._size(1, frames, layers.mid.channels)
            self._see(2 * hidden)
            return hidden
        if stage <= len(layers.levels):
            return self._level(layers.levels[stage - 1], frames, is_hosted)
        last = layers.conv_out
        self._convolve(last, frames, is_hosted)
        self._see(self._norm_copies * self._size(last.scale, frames, last.inputs))
        made = self._size(last.scale, frames, last.channels)
        self._see(2 * made)
        return made

    def _level(self, layers: UpLayers, frames: int, is_hosted: bool) -> int:
        hidden = self._size(layers.scale, frames, layers.channels)
        for index, block in enumerate(layers.residuals):
            before = hidden if index else 0
            self._convolve(block.conv1, frames, is_hosted)
            self._see(before + self._norm_copies * self._size(layers.scale, frames, block.conv1.inputs))
            self._see(before + hidden + self._pairs(block.conv1))
            self._convolve(block.conv2, frames, is_hosted)
            self._see(before + (1 + self._norm_copies) * hidden)
            self._see(before + 2 * hidden + max(self._pairs(block.conv2), 0 if index else hidden))
        return hidden if layers.upsample is None else self._upsample(layers, frames, hidden, is_hosted)

    def _upsample(self, layers: UpLayers, frames: int, inside: int, is_hosted: bool) -> int:
        """Count an upsampling of frames, then of rows and columns. Returns the elements of its result."""
        assert layers.upsample is not None
        if layers.time_conv is not None and self._has_history:
            self._convolve(layers.time_conv, frames, is_hosted)
            frames *= 2
            doubled = self._size(layers.scale, frames, layers.channels)
            self._see(inside + 2 * doubled)
            inside += doubled
        channels = layers.upsample.channels
        out = self._size(2 * layers.scale, frames, channels)
        self._see(inside + out + self._size(layers.scale, 1, 4 * channels))
        return out

    def _size(self, scale: int, frames: int, channels: int, halo: int = 0) -> int:
        return frames * (self._rows * scale + halo) * self._columns * scale * channels

    def _convolve(self, layer: Convolution, frames: int, is_hosted: bool) -> None:
        """Count a convolution, whose input stands with its history in a window."""
        if layer.kernel[0] == 1:
            return
        halo = 2 if self._is_split and layer.has_halo else 0
        window = self._size(layer.scale, (HISTORY if self._has_history else 0) + frames, layer.inputs, halo)
        if window > MAX_ELEMENTS and frames == 1 and not is_hosted:  # then history stays where it is
            window = self._size(layer.scale, 1, layer.inputs, halo)
        self._windows.append(window)

    def _see(self, elements: int) -> None:
        self._peak = max(self._peak, elements)

    def _pairs(self, layer: Convolution) -> int:
        """Mixed frames and partial results of Winograd's pairs, a frame of each."""
        if not (self._winograd and layer.in_pairs):
            return 0
        return self._size(layer.scale, 1, layer.inputs) + 3 * self._size(layer.scale, 1, layer.channels)


decoder_peak = lru_cache(maxsize=64)(DecoderPeak)  # of the same size for every plan that is tried
