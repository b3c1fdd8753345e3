"""VaeSpec: the numbers of Wan's causal VAEs, and their layers as data."""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise
from typing import Annotated

import msgspec

from ringlight.core.layout import split_sizes
from ringlight.core.plan import Placement
from ringlight.core.portions import takes_pairs
from ringlight.families.layers.convolution import Convolution, MidLayers, ResidualLayers
from ringlight.families.layers.decoder import DecoderLayers, UpLayers
from ringlight.families.layers.encoder import DownLayers, EncoderLayers
from ringlight.families.model import Positive
from ringlight.families.wan.work.decoding import decoder_peak, norm_copies
from ringlight.families.wan.work.encoding import EncoderPeak


class VaeSpec(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """Numbers of an AutoencoderKLWan's `config.json`: of the 2.2 kind (residual, patched) or the 2.1 kind (neither).

    What files of the 2.1 kind leave out has diffusers' defaults.
    """

    base_dim: Positive
    z_dim: Positive
    dim_mult: list[Positive]
    num_res_blocks: Positive
    temperal_downsample: list[bool]
    latents_mean: list[float]
    latents_std: list[Annotated[float, msgspec.Meta(gt=0)]]
    in_channels: Positive = 3
    out_channels: Positive = 3
    patch_size: Positive | None = None
    scale_factor_temporal: Positive = 4
    scale_factor_spatial: Positive = 8
    decoder_base_dim: Positive | None = None
    is_residual: bool = False
    attn_scales: list[float] = []

    @property
    def patch(self) -> int:
        """Rows, and columns, of pixels that make one of the network's."""
        return self.patch_size or 1

    @property
    def decoder_dim(self) -> int:
        """Channels of the decoder where it is narrowest."""
        return self.decoder_base_dim or self.base_dim

    @cached_property
    def decoder(self) -> DecoderLayers:
        """All layers of the decoder."""
        dims = [self.decoder_dim * multiple for multiple in (self.dim_mult[-1], *self.dim_mult[::-1])]
        levels, frames = [], 1
        for level, (inputs, channels) in enumerate(pairwise(dims)):
            levels.append(self._up(level, inputs, channels, frames))
            frames *= 2 if self._doubles_frames(level) else 1
        return DecoderLayers(
            post_quant=Convolution(inputs=self.z_dim, channels=self.z_dim, kernel=(1, 1, 1)),
            conv_in=Convolution(inputs=self.z_dim, channels=dims[0], kernel=(3, 3, 3)),
            mid=MidLayers(dims[0]),
            levels=tuple(levels),
            conv_out=Convolution(
                inputs=dims[-1],
                channels=self.out_channels,
                kernel=(3, 3, 3),
                scale=2 ** (len(levels) - 1),
                frames=frames,
                in_pairs=frames > 1,
                is_normed=True,
            ),
            patch=self.patch,
        )

    @cached_property
    def encoder(self) -> EncoderLayers:
        """All layers of the encoder."""
        dims = [self.base_dim * multiple for multiple in (1, *self.dim_mult)]
        last = len(self.dim_mult) - 1
        moments = 2 * self.z_dim
        return EncoderLayers(
            conv_in=Convolution(
                inputs=self.in_channels, channels=dims[0], kernel=(3, 3, 3), scale=2**last, frames=self._frames_at(0)
            ),
            levels=tuple(
                self._down(level, inputs, channels, 2 ** (last - level))
                for level, (inputs, channels) in enumerate(pairwise(dims))
            ),
            mid=MidLayers(dims[-1]),
            conv_out=Convolution(inputs=dims[-1], channels=moments, kernel=(3, 3, 3), is_normed=True),
            quant=Convolution(inputs=moments, channels=moments, kernel=(1, 1, 1)),
        )

    def decoding_elements(
        self,
        latent_size: tuple[int, int, int],
        num_ranks: int,
        portion: int,
        on_cpu: bool,
        itemsize: int,
        placement: Placement | None = None,
    ) -> int:
        """Elements that a rank's decoder holds at its most: history, the workspace of convolutions, activations."""
        num_latents, rows, columns = latent_size
        own, is_split, goes_on = split_sizes(rows, num_ranks)[0], num_ranks > 1 and rows > 1, num_latents > 1
        host_levels = placement.host_history if placement else 0
        history = self.decoder.history_elements(own, columns, is_split, host_levels) if goes_on else 0
        winograd = takes_pairs(on_cpu, itemsize == 4)
        peak = decoder_peak(self.decoder, own, columns, is_split, winograd, norm_copies(on_cpu, itemsize))
        return history + peak.of(min(portion, max(1, num_latents - 1)), goes_on, placement)

    def encoding_elements(self, latent_size: tuple[int, int, int], num_ranks: int, on_cpu: bool, itemsize: int) -> int:
        """Elements that a rank's encoder holds at its most: history, pixels, the workspace, activations."""
        num_latents, rows, columns = latent_size
        own, is_split, goes_on = split_sizes(rows, num_ranks)[0], num_ranks > 1 and rows > 1, num_latents > 1
        history = self.encoder.history_elements(own, columns, is_split) if goes_on else 0
        peak = EncoderPeak(self.encoder, own, columns, is_split, norm_copies(on_cpu, itemsize), goes_on)
        return history + peak.of_a_portion()

    def _frames_at(self, level: int) -> int:
        """Frames that a level of the encoder sees for a later latent frame."""
        return 1 << sum(self.temperal_downsample[level:])

    def _doubles_frames(self, level: int) -> bool:
        """Whether a level of the decoder has an upsampler in time."""
        return level < len(self.temperal_downsample) and self.temperal_downsample[::-1][level]

    def _up(self, level: int, inputs: int, channels: int, frames: int) -> UpLayers:
        """Layers of a decoder's level.

        Without shortcuts past it, its upsampler halves the channels, so that the next level begins with half of what
        the level before has.
        """
        scale, in_pairs = 2**level, frames > 1
        if level and not self.is_residual:
            inputs //= 2
        widths = [inputs] + [channels] * (self.num_res_blocks + 1)
        residuals = tuple(ResidualLayers.of(a, b, scale, frames, in_pairs) for a, b in pairwise(widths))
        if level == len(self.dim_mult) - 1:
            return UpLayers(residuals, repeats=self.is_residual)
        time_conv = None
        if self._doubles_frames(level):
            time_conv = Convolution(
                inputs=channels, channels=2 * channels, kernel=(3, 1, 1), scale=scale, frames=frames, skips_first=True
            )
            frames *= 2
        upsample = Convolution(
            inputs=channels,
            channels=channels if self.is_residual else channels // 2,
            kernel=(1, 3, 3),
            scale=scale,
            frames=frames,
            doubles=True,
        )
        return UpLayers(residuals, time_conv, upsample, repeats=self.is_residual)

    def _down(self, level: int, inputs: int, channels: int, scale: int) -> DownLayers:
        """A level of the encoder."""
        widths, frames = [inputs] + [channels] * self.num_res_blocks, self._frames_at(level)
        residuals = tuple(ResidualLayers.of(a, b, scale, frames) for a, b in pairwise(widths))
        if level == len(self.dim_mult) - 1:
            return DownLayers(residuals, averages=self.is_residual)
        downsample = Convolution(
            inputs=channels, channels=channels, kernel=(1, 3, 3), scale=scale, frames=frames, halves=True
        )
        time_conv = None
        if self.temperal_downsample[level]:
            time_conv = Convolution(  # its frames are those that it makes of twice as many
                inputs=channels,
                channels=channels,
                kernel=(3, 1, 1),
                scale=scale // 2,
                frames=self._frames_at(level + 1),
                skips_first=True,
            )
        return DownLayers(residuals, downsample, time_conv, averages=self.is_residual)
