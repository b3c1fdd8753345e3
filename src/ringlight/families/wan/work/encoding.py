"""The most that the encoder holds at once for a first frame: a walk through its levels that counts."""

from __future__ import annotations

from collections.abc import Iterator

from ringlight.families.layers.encoder import DownLayers, EncoderLayers


class EncoderPeak:
    """One frame's way through the encoder as the VAEs of Wan do it, in elements. It is widest at the first levels, so
    that what follows them is not looked at."""

    def __init__(self, layers: EncoderLayers, rows: int, columns: int, is_split: bool, norm_copies: int) -> None:
        """`norm_copies`: how often a norm holds its input beside it, in elements of the activation's dtype."""
        self._layers, self._rows, self._columns = layers, rows, columns
        self._halo, self._norm_copies = 2 if is_split else 0, norm_copies

    def of_a_frame(self) -> int:
        """Elements at most: pixels, the workspace that convolutions share in turn, and activations."""
        layers = self._layers
        pixels = self._size(layers.conv_in.scale, layers.conv_in.inputs)
        seen = [layer for layer in layers.convolutions if layer.kernel == (3, 3, 3)]
        workspace = max(self._size(layer.scale, layer.inputs, self._halo) for layer in seen)
        return pixels + workspace + max(alive for level in layers.levels for alive in self._level(level))

    def _level(self, layers: DownLayers) -> Iterator[int]:
        """What is alive at each moment of a level, beside its input's pixels."""
        first = layers.residuals[0].conv1
        given, hidden = self._size(first.scale, first.inputs), self._size(first.scale, first.channels)
        for index, block in enumerate(layers.residuals):
            before = given + (hidden if index else 0)
            yield before + self._norm_copies * self._size(first.scale, block.conv1.inputs)
            yield before + (1 + self._norm_copies) * hidden
            yield before + 2 * hidden
        if layers.downsample is None:
            return
        yield given + 2 * hidden + hidden // 4  # edges are padded in a copy
        if layers.averages:  # copies with missing frames, and with offsets as channels
            yield (1 + 2 * (1 if layers.time_conv is None else 2)) * given + hidden // 4

    def _size(self, scale: int, channels: int, halo: int = 0) -> int:
        return (self._rows * scale + halo) * self._columns * scale * channels
