"""The most that the decoder holds at once: a walk through its levels that counts instead of computing."""

from __future__ import annotations

from ringlight.core.portions import HISTORY, MAX_ELEMENTS
from ringlight.families.layers.convolution import Convolution
from ringlight.families.layers.decoder import DecoderLayers, UpLayers


def norm_copies(on_cpu: bool, itemsize: int) -> int:
    """How often a norm of the VAE holds its input beside it: a GPU's once, a CPU's in bfloat16 as float32."""
    return (2 if itemsize < 4 else 0) if on_cpu else 1


class DecoderPeak:
    """Walks through the decoder as the VAEs of Wan do and remembers the most elements that were alive at once."""

    def __init__(
        self, layers: DecoderLayers, rows: int, columns: int, is_split: bool, winograd: bool, norm_copies: int = 0
    ) -> None:
        """`norm_copies`: how often a norm holds its input beside it, in elements of the activation's dtype."""
        self._layers, self._rows, self._columns = layers, rows, columns
        self._halo, self._winograd, self._norm_copies = 2 if is_split else 0, winograd, norm_copies
        self._before = self._workspace = self._peak = 0

    def of(self, portion: int, has_history: bool) -> int:
        """Elements at most, for portions of so many latent frames: activations and the workspace."""
        self._before = HISTORY if has_history else 0
        self._workspace = self._peak = 0
        layers, channels = self._layers, self._layers.mid.channels
        self._convolve(1, portion, channels)
        self._see(2 * self._size(1, portion, channels))
        at_most = 2 * portion if self._winograd else layers.frames_at_once(self._rows, self._columns, portion)
        self._rise(portion, 0, 0, at_most)
        frames = self._size(1, portion, 1) * layers.rows_each**2 * layers.frames_each * 3
        return self._workspace + max(self._peak + frames, 3 * frames)  # frames of earlier parts are kept

    def _size(self, scale: int, frames: int, channels: int, halo: int = 0) -> int:
        return frames * (self._rows * scale + halo) * self._columns * scale * channels

    def _convolve(self, scale: int, frames: int, channels: int) -> None:
        """A convolution's input stands with its history in the workspace, which all share and which only grows."""
        window = self._size(scale, self._before + frames, channels, self._halo)
        if window > MAX_ELEMENTS and frames == 1:  # then history stays where it is
            window = self._size(scale, 1, channels, self._halo)
        self._workspace = max(self._workspace, window)

    def _see(self, elements: int) -> None:
        self._peak = max(self._peak, elements)

    def _rise(self, frames: int, level: int, held: int, at_most: int) -> None:
        """Frames at a level, of which `held` are alive above it; parts of them go on one after another."""
        part = min(frames, at_most)
        if level == len(self._layers.levels):
            self._end(frames, part, held)
            return
        layers = self._layers.levels[level]
        alive = held + self._size(layers.scale, frames, layers.inputs)
        hidden = self._size(layers.scale, part, layers.channels)
        for index, block in enumerate(layers.residuals):
            before = hidden if index else 0
            self._convolve(layers.scale, part, block.conv1.inputs)
            self._see(alive + before + self._norm_copies * self._size(layers.scale, part, block.conv1.inputs))
            self._see(alive + before + hidden + self._pairs(block.conv1))
            self._convolve(layers.scale, part, layers.channels)
            self._see(alive + before + (1 + self._norm_copies) * hidden)
            self._see(alive + before + 2 * hidden + max(self._pairs(block.conv2), 0 if index else hidden))
        if layers.upsample is None:
            self._rise(part, level + 1, alive, at_most)
        else:
            self._rise(self._upsample(layers, part, alive + hidden), level + 1, alive, at_most)

    def _upsample(self, layers: UpLayers, part: int, inside: int) -> int:
        """Twice the frames of a part, then twice its rows and columns. Returns how many frames it has become."""
        assert layers.upsample is not None
        if layers.time_conv is not None:
            self._convolve(layers.scale, part, layers.channels)
            part *= 2
            doubled = self._size(layers.scale, part, layers.channels)
            self._see(inside + 2 * doubled)
            inside += doubled
        channels = layers.upsample.channels
        out = self._size(2 * layers.scale, part, channels)
        self._see(inside + out + self._size(layers.scale, 1, 4 * channels))
        return part

    def _end(self, frames: int, part: int, held: int) -> None:
        """The last convolution, which makes patches of pixels."""
        last = self._layers.conv_out
        x = self._size(last.scale, frames, last.inputs)
        self._convolve(last.scale, part, last.inputs)
        self._see(held + x + self._norm_copies * self._size(last.scale, part, last.inputs))
        self._see(held + x + self._size(last.scale, part, 2 * last.channels))

    def _pairs(self, layer: Convolution) -> int:
        """Mixed frames and partial results of Winograd's pairs, a frame of each."""
        if not (self._winograd and layer.in_pairs):
            return 0
        return self._size(layer.scale, 1, layer.inputs) + 3 * self._size(layer.scale, 1, layer.channels)
