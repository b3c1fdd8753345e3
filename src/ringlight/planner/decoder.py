"""The VAE as a list of its convolutions: what each multiplies, holds, keeps and sends. Mirrors models/wan/vae.

Rows and columns are counted in latents. The first latent frame gives one frame at every level and sees no history; each
later one gives twice as many after every upsampler in time.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import msgspec

from ringlight.core.portions import HISTORY
from ringlight.core.spec import VaeSpec


class Convolution(msgspec.Struct, frozen=True, kw_only=True):
    """One layer: channels, kernel (frames, rows, columns), how many times more rows and columns than latents its input
    has, and how many frames it sees for a later latent frame.

    `positions`: input pixels for each position that is multiplied (a stride). `outputs`: channels that are made for
    each stored one (4 where one convolution makes four pixels). `is_normed`: a norm and an activation come before.
    """

    inputs: int
    channels: int
    kernel: tuple[int, int, int]
    scale: int
    frames: int = 1
    in_pairs: bool = False
    is_normed: bool = False
    has_halo: bool = True
    executed_kernel: int | None = None
    positions: int = 1
    skips_first: bool = False

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        frames, rows, columns = self.kernel
        return self.channels * (self.inputs * frames * rows * columns + 1)

    def flops(self, latent_pixels: int, first: bool, winograd: bool) -> float:
        """Operations for one latent frame. Of a kernel of three frames the first latent frame needs one, and in pairs
        of frames Winograd's F(2, 3) four products of six."""
        if first and self.skips_first:
            return 0.0
        frames, rows, columns = self.kernel
        products: float = self.executed_kernel or rows * columns * (1 if first else frames)
        if winograd and self.in_pairs and not first and frames == 3:
            products *= 2 / 3
        seen = latent_pixels * self.scale**2 * (1 if first else self.frames)
        return 2.0 * seen / self.positions * products * self.inputs * self.channels


def decoder(vae: VaeSpec) -> list[Convolution]:
    """All convolutions of the decoder in the order in which they run; the mid block's attention is not among them."""
    dims = [vae.decoder_dim * multiple for multiple in (vae.dim_mult[-1], *vae.dim_mult[::-1])]
    temporal, last = vae.temperal_downsample[::-1], len(vae.dim_mult) - 1
    layers = [
        Convolution(inputs=vae.z_dim, channels=vae.z_dim, kernel=(1, 1, 1), scale=1, has_halo=False),
        Convolution(inputs=vae.z_dim, channels=dims[0], kernel=(3, 3, 3), scale=1),
    ]
    layers += 4 * [Convolution(inputs=dims[0], channels=dims[0], kernel=(3, 3, 3), scale=1, is_normed=True)]
    frames, scale = 1, 1
    for level, (narrow, wide) in enumerate(pairwise(dims)):
        pairs = any(temporal[:level])
        layers += _residuals(narrow, wide, vae.num_res_blocks + 1, scale, frames, pairs)
        if level < last:
            if temporal[level]:
                layers.append(
                    Convolution(
                        inputs=wide,
                        channels=2 * wide,
                        kernel=(3, 1, 1),
                        scale=scale,
                        frames=frames,
                        has_halo=False,
                        skips_first=True,
                    )
                )
                frames *= 2
            layers.append(
                Convolution(
                    inputs=wide, channels=wide, kernel=(1, 3, 3), scale=scale, frames=frames, executed_kernel=16
                )
            )
            scale *= 2
    layers.append(
        Convolution(
            inputs=dims[-1],
            channels=vae.out_channels,
            kernel=(3, 3, 3),
            scale=scale,
            frames=frames,
            in_pairs=any(temporal),
            is_normed=True,
        )
    )
    return layers


def encoder(vae: VaeSpec) -> list[Convolution]:
    """All convolutions that the encoder runs for one picture, with the temporal ones that it only holds."""
    dims = [vae.base_dim * multiple for multiple in (1, *vae.dim_mult)]
    last = len(vae.dim_mult) - 1
    scale = 2**last
    layers = [Convolution(inputs=vae.in_channels, channels=dims[0], kernel=(3, 3, 3), scale=scale)]
    for level, (narrow, wide) in enumerate(pairwise(dims)):
        layers += _residuals(narrow, wide, vae.num_res_blocks, scale, 1, False)
        if level < last:
            layers.append(Convolution(inputs=wide, channels=wide, kernel=(1, 3, 3), scale=scale, positions=4))
            scale //= 2
            if vae.temperal_downsample[level]:
                layers.append(
                    Convolution(
                        inputs=wide, channels=wide, kernel=(3, 1, 1), scale=scale, has_halo=False, skips_first=True
                    )
                )
    layers += 4 * [Convolution(inputs=dims[-1], channels=dims[-1], kernel=(3, 3, 3), scale=1, is_normed=True)]
    moments = 2 * vae.z_dim
    layers.append(Convolution(inputs=dims[-1], channels=moments, kernel=(3, 3, 3), scale=1, is_normed=True))
    layers.append(Convolution(inputs=moments, channels=moments, kernel=(1, 1, 1), scale=1, has_halo=False))
    return layers


def _residuals(narrow: int, wide: int, count: int, scale: int, frames: int, pairs: bool) -> Iterator[Convolution]:
    """Residual blocks: two normed convolutions, and one without a kernel where the number of channels changes."""
    for index in range(count):
        inputs = wide if index else narrow
        for channels in (inputs, wide):
            yield Convolution(
                inputs=channels,
                channels=wide,
                kernel=(3, 3, 3),
                scale=scale,
                frames=frames,
                in_pairs=pairs,
                is_normed=True,
            )
        if inputs != wide:
            yield Convolution(
                inputs=inputs, channels=wide, kernel=(1, 1, 1), scale=scale, frames=frames, has_halo=False
            )


def attention_flops(channels: int, own_pixels: int, all_pixels: int) -> float:
    """Operations of the mid block's attention for one frame: projections, and own queries with all keys."""
    return 8.0 * own_pixels * channels**2 + 4.0 * own_pixels * all_pixels * channels


def attention_parameters(channels: int) -> int:
    """Norm, projections of q, k and v, and of the result."""
    return channels + 4 * channels * (channels + 1)


def parameters(layers: list[Convolution], mid_channels: int) -> int:
    """All parameters of a decoder or an encoder, the gains of its norms included."""
    gains = sum(layer.inputs for layer in layers if layer.is_normed)
    return sum(layer.parameters for layer in layers) + gains + attention_parameters(mid_channels)


def decode_flops(vae: VaeSpec, rows: int, all_rows: int, columns: int, first: bool, winograd: bool) -> float:
    """Operations of decoding `rows` of the latent rows of one latent frame."""
    pixels = rows * columns
    middle = attention_flops(vae.decoder_dim * vae.dim_mult[-1], pixels, all_rows * columns)
    return middle + sum(layer.flops(pixels, first, winograd) for layer in decoder(vae))


def encode_flops(vae: VaeSpec, rows: int, all_rows: int, columns: int) -> float:
    """Operations of encoding these latent rows of one picture."""
    pixels = rows * columns
    middle = attention_flops(vae.base_dim * vae.dim_mult[-1], pixels, all_rows * columns)
    return middle + sum(layer.flops(pixels, True, False) for layer in encoder(vae))


def history_elements(vae: VaeSpec, rows: int, columns: int, is_split: bool) -> int:
    """What the decoder keeps between portions: two frames for every kernel of three, with its halo rows."""
    total = 0
    for layer in decoder(vae):
        if layer.kernel[0] > 1:
            halo = 2 if is_split and layer.has_halo else 0
            total += HISTORY * (rows * layer.scale + halo) * columns * layer.scale * layer.inputs
    return total
