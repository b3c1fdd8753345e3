"""The most that the encoder holds at once, for a first frame or a video: a walk through its levels that counts."""

from __future__ import annotations

from collections.abc import Iterator

from ringlight.core.portions import HISTORY
from ringlight.families.layers.convolution import Convolution
from ringlight.families.layers.encoder import DownLayers, EncoderLayers


class EncoderPeak:
    """Counter of the peak elements in the encoder, by the same steps as the VAEs of Wan.

    It counts one frame, or with history as many as become a latent frame. The first levels are the widest, so that
    later ones are not looked at.
    """

    def __init__(
        self, layers: EncoderLayers, rows: int, columns: int, is_split: bool, norm_copies: int, has_history: bool
    ) -> None:
        """`norm_copies`: how often a norm holds its input beside it, in elements of the activation's dtype."""
        self._has_history = has_history
        self._layers, self._rows, self._columns = layers, rows, columns
        self._halo, self._norm_copies = 2 if is_split else 0, norm_copies

    def of_a_portion(self) -> int:
        """Elements at most: pixels, the workspace that convolutions share in turn, and activations."""
        layers = self._layers
        pixels = self._size(layers.conv_in, layers.conv_in.inputs)
        seen = [layer for layer in layers.convolutions if layer.kernel == (3, 3, 3)]
        workspace = max(self._window(layer) for layer in seen)
        return pixels + workspace + max(alive for level in layers.levels for alive in self._level(level))

    def _level(self, layers: DownLayers) -> Iterator[int]:
        """Yield the bytes that are alive at each moment of a level, beside its input's pixels."""
        first = layers.residuals[0].conv1
        given, hidden = self._size(first, first.inputs), self._size(first, first.channels)
        for index, block in enumerate(layers.residuals):
            before = given + (hidden if index else 0)
            yield before + self._norm_copies * self._size(first, block.conv1.inputs)
            yield before + (1 + self._norm_copies) * hidden
            yield before + 2 * hidden
        if layers.downsample is None:
            return
        halved = hidden // 8 if layers.time_conv is not None and self._has_history else 0
        yield given + 2 * hidden + hidden // 4 + halved  # edges are padded in a copy
        if layers.averages:  # copies with missing frames, and with offsets as channels
            yield (1 + 2 * (1 if layers.time_conv is None else 2)) * given + hidden // 4

    def _size(self, layer: Convolution, channels: int) -> int:
        frames = layer.frames if self._has_history else 1
        return frames * self._rows * layer.scale * self._columns * layer.scale * channels

    def _window(self, layer: Convolution) -> int:
        frames = HISTORY + layer.frames if self._has_history else 1
        return frames * (self._rows * layer.scale + self._halo) * self._columns * layer.scale * layer.inputs
