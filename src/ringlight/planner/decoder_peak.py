"""The most that the decoder holds at once: a walk through its levels that counts instead of computing."""

from __future__ import annotations

from ringlight.core.portions import HISTORY, MAX_ELEMENTS, frames_at_once
from ringlight.core.spec import VaeSpec


def norm_copies(on_cpu: bool, itemsize: int) -> int:
    """How often a norm of the VAE holds its input beside it: a GPU's once, a CPU's in bfloat16 as float32."""
    return (2 if itemsize < 4 else 0) if on_cpu else 1


class DecoderPeak:
    """Walks through the decoder as models/wan/vae does and remembers the most elements that were alive at once."""

    def __init__(
        self, vae: VaeSpec, rows: int, columns: int, is_split: bool, winograd: bool, norm_copies: int = 0
    ) -> None:
        """`norm_copies`: how often a norm holds its input beside it, in elements of the activation's dtype."""
        self._vae, self._rows, self._columns = vae, rows, columns
        self._halo, self._winograd, self._norm_copies = 2 if is_split else 0, winograd, norm_copies
        self._dims = [vae.decoder_dim * multiple for multiple in (vae.dim_mult[-1], *vae.dim_mult[::-1])]
        self._temporal = vae.temperal_downsample[::-1]
        self._before = self._workspace = self._peak = 0

    def of(self, portion: int, has_history: bool) -> int:
        """Elements at most, for portions of so many latent frames: activations and the workspace."""
        self._before = HISTORY if has_history else 0
        self._workspace = self._peak = 0
        self._convolve(1, portion, self._dims[0])
        self._see(2 * self._size(1, portion, self._dims[0]))
        at_most = 2 * portion if self._winograd else frames_at_once(self._vae, self._rows, self._columns, portion)
        self._rise(portion, 0, 0, at_most)
        frames = self._size(1, portion, 1) * self._vae.scale_factor_spatial**2 * self._vae.scale_factor_temporal * 3
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
        scale, x = 2**level, self._size(2**level, frames, self._dims[level])
        part = min(frames, at_most)
        if level == len(self._vae.dim_mult):
            last = scale // 2  # the last level does not grow
            x = self._size(last, frames, self._dims[level])
            self._convolve(last, part, self._dims[level])
            self._see(held + x + self._norm_copies * self._size(last, part, self._dims[level]))
            self._see(held + x + self._size(last, part, 2 * self._vae.out_channels))
            return
        alive = held + x
        narrow, wide = self._dims[level : level + 2]
        hidden = self._size(scale, part, wide)
        for index in range(self._vae.num_res_blocks + 1):
            channels, before = (wide, hidden) if index else (narrow, 0)
            self._convolve(scale, part, channels)
            pairs = self._pairs(scale, channels, wide, level)
            self._see(alive + before + self._norm_copies * self._size(scale, part, channels))
            self._see(alive + before + hidden + pairs)
            self._convolve(scale, part, wide)
            self._see(alive + before + (1 + self._norm_copies) * hidden)
            self._see(alive + before + 2 * hidden + max(self._pairs(scale, wide, wide, level), 0 if index else hidden))
        if level == len(self._vae.dim_mult) - 1:
            self._rise(part, level + 1, alive, at_most)
            return
        doubled = part
        inside = alive + hidden
        if self._temporal[level]:
            doubled = 2 * part
            self._convolve(scale, part, wide)
            self._see(inside + 2 * self._size(scale, doubled, wide))
            inside += self._size(scale, doubled, wide)
        out = self._size(2 * scale, doubled, wide)
        self._see(inside + out + self._size(scale, 1, 4 * wide))
        self._rise(doubled, level + 1, alive, at_most)

    def _pairs(self, scale: int, inputs: int, channels: int, level: int) -> int:
        """Mixed frames and partial results of Winograd's pairs, a frame of each."""
        if not (self._winograd and any(self._temporal[:level])):
            return 0
        return self._size(scale, 1, inputs) + 3 * self._size(scale, 1, channels)
