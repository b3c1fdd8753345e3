"""Convolution: one layer of a video's encoder or decoder as data, and the blocks that it stands in.

Rows and columns are counted in latents. The first latent frame gives one frame at every level and sees no history; each
later one gives twice as many after every upsampler in time.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from ringlight.core.layout import split_sizes
from ringlight.core.portions import HISTORY

DOUBLED = 16  # products for each input pixel of a doubling convolution: four phases of 2x2


class Convolution(msgspec.Struct, frozen=True, kw_only=True):
    """Convolution as data: channels, kernel (frames, rows, columns) and the size of its input.

    The input has `scale` times the rows and columns of latents, and `frames` frames for a later latent frame.

    `is_normed`: a norm and an activation come before. `in_pairs`: after the first frame, frames come in even numbers.
    `doubles`: it sees every pixel repeated over 2x2. `halves`: it makes every other row and column, and sees no row
    above. `skips_first`: the first latent frame goes past it.
    """

    inputs: int
    channels: int
    kernel: tuple[int, int, int]
    scale: int = 1
    frames: int = 1
    in_pairs: bool = False
    is_normed: bool = False
    doubles: bool = False
    halves: bool = False
    skips_first: bool = False

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        frames, rows, columns = self.kernel
        return self.channels * (self.inputs * frames * rows * columns + 1)

    @property
    def made_parameters(self) -> int:
        """Weights and biases of the four phases that a doubling convolution makes for itself."""
        return DOUBLED * self.inputs * self.channels + 4 * self.channels if self.doubles else 0

    @property
    def sums_pairs(self) -> bool:
        """Whether pairs of frames may go through it by sums of its kernel's frames."""
        return self.in_pairs and self.kernel[0] == 1 + HISTORY

    @property
    def sees(self) -> tuple[bool, bool]:
        """Whether a band's rows need one of the band above, and one of the band below."""
        has_rows = self.kernel[1] > 1
        return has_rows and not self.halves, has_rows

    @property
    def has_halo(self) -> bool:
        """Whether rows of neighbours are needed at all."""
        return any(self.sees)

    def flops(self, latent_pixels: int, first: bool, winograd: bool) -> float:
        """Operations for one latent frame.

        The first latent frame needs one kernel frame of three. Pairs of frames by Winograd's F(2, 3) need four products
        instead of six.
        """
        if first and self.skips_first:
            return 0.0
        frames, rows, columns = self.kernel
        products: float = DOUBLED if self.doubles else rows * columns * (1 if first else frames)
        if winograd and self.in_pairs and not first and frames == 3:
            products *= 2 / 3
        seen = latent_pixels * self.scale**2 * (1 if first else self.frames)
        return 2.0 * seen / (4 if self.halves else 1) * products * self.inputs * self.channels

    def edge_elements(self, columns: int, num_latents: int) -> int:
        """Elements of one edge row of its input, over so many latent frames."""
        later = self.frames * (num_latents - 1)
        return self.inputs * self.scale * columns * (later if self.skips_first else 1 + later)

    def history_elements(self, rows: int, columns: int, is_split: bool) -> int:
        """Elements that are kept between portions: two frames for a kernel of three, with their halo rows."""
        if self.kernel[0] == 1:
            return 0
        halo = 2 if is_split and self.has_halo else 0
        return HISTORY * (rows * self.scale + halo) * columns * self.scale * self.inputs


class ResidualLayers(msgspec.Struct, frozen=True):
    """Two normed convolutions beside a shortcut, which has a convolution where the number of channels changes."""

    conv1: Convolution
    conv2: Convolution
    shortcut: Convolution | None = None

    @classmethod
    def of(cls, inputs: int, channels: int, scale: int = 1, frames: int = 1, in_pairs: bool = False) -> ResidualLayers:
        """A block from `inputs` to `channels`."""

        def normed(inputs: int) -> Convolution:
            return Convolution(
                inputs=inputs,
                channels=channels,
                kernel=(3, 3, 3),
                scale=scale,
                frames=frames,
                in_pairs=in_pairs,
                is_normed=True,
            )

        through = Convolution(inputs=inputs, channels=channels, kernel=(1, 1, 1), scale=scale, frames=frames)
        return cls(normed(inputs), normed(channels), through if inputs != channels else None)

    @property
    def convolutions(self) -> Iterator[Convolution]:
        """All of the block, in the order in which they run."""
        yield from (self.conv1, self.conv2)
        if self.shortcut is not None:
            yield self.shortcut


class MidLayers(msgspec.Struct, frozen=True):
    """Residual, attention of all pixels of a frame, residual, at the lowest resolution."""

    channels: int

    @property
    def residual(self) -> ResidualLayers:
        """Either of the two residual blocks."""
        return ResidualLayers.of(self.channels, self.channels)

    @property
    def convolutions(self) -> Iterator[Convolution]:
        """Convolutions in the order in which they run; the attention is not among them."""
        for _ in range(2):
            yield from self.residual.convolutions

    @property
    def attention_parameters(self) -> int:
        """Norm, projections of q, k and v, and of the result."""
        return self.channels + 4 * self.channels * (self.channels + 1)

    def attention_flops(self, own_pixels: int, all_pixels: int) -> float:
        """Operations of the attention for one frame: projections, and own queries with all keys."""
        return 8.0 * own_pixels * self.channels**2 + 4.0 * own_pixels * all_pixels * self.channels


def split_bands(rows: int, num_ranks: int, rank: int) -> tuple[int, tuple[bool, bool], int]:
    """(rows of this rank's band, whether there is a band above and below it, number of bands)."""
    num_bands = min(rows, num_ranks)
    own = split_sizes(rows, num_ranks)[rank]
    return own, (0 < rank < num_bands, rank + 1 < num_bands), num_bands


def parameters(convolutions: list[Convolution]) -> int:
    """All parameters of convolutions, the gains of their norms included."""
    gains = sum(layer.inputs for layer in convolutions if layer.is_normed)
    return sum(layer.parameters for layer in convolutions) + gains
