"""The VAE of Wan2.2 over a whole clip at once, for training.

diffusers encodes and decodes in portions, with a cache of past frames. Here all frames go through each layer together:
the same numbers, with fewer and larger passes, and with gradients that cost a CPU half as much.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import patchify, unpatchify
from torch import Tensor


def encode(vae: AutoencoderKLWan, video: Tensor) -> Tensor:
    """(B, 3, F, H, W) in -1..1 -> (B, 48, ...), the latents' means, not normalised."""
    net = vae.encoder
    x = net.conv_in(patchify(video, vae.config.patch_size))
    for block in net.down_blocks:
        x = _down(block, x)
    x = _middle(net.mid_block, x)
    means, _ = vae.quant_conv(net.conv_out(_norm_silu(x, net.norm_out))).chunk(2, dim=1)
    return means


def decode(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """(B, 48, ...), not normalised -> (B, 3, F, H, W), not clamped."""
    net = vae.decoder
    x = _middle(net.mid_block, net.conv_in(vae.post_quant_conv(latents)))
    for block in net.up_blocks:
        x = _up(block, x)
    return unpatchify(net.conv_out(_norm_silu(x, net.norm_out)), vae.config.patch_size)


def _norm_silu(x: Tensor, norm: Any) -> Tensor:
    last = x.permute(0, 2, 3, 4, 1)  # channels are last in memory as well
    gamma = norm.gamma.flatten().to(x.dtype)
    return F.silu(F.rms_norm(last, gamma.shape, gamma, eps=1e-12)).permute(0, 4, 1, 2, 3)


def _resnet(block: Any, x: Tensor) -> Tensor:
    y = block.conv1(_norm_silu(x, block.norm1))
    return block.conv2(_norm_silu(y, block.norm2)) + block.conv_shortcut(x)


def _middle(block: Any, x: Tensor) -> Tensor:
    return _resnet(block.resnets[1], block.attentions[0](_resnet(block.resnets[0], x)))


def _each_frame(layer: Any, x: Tensor) -> Tensor:
    batch, channels, frames, height, width = x.shape
    y = layer(x.transpose(1, 2).reshape(batch * frames, channels, height, width))
    return y.view(batch, frames, *y.shape[1:]).transpose(1, 2)


def _down(block: Any, x: Tensor) -> Tensor:
    y = x
    for resnet in block.resnets:
        y = _resnet(resnet, y)
    sampler = block.downsampler
    if sampler is not None:
        y = _each_frame(sampler.resample, y)
        if sampler.mode == "downsample3d" and y.shape[2] > 1:
            later = F.conv3d(y, sampler.time_conv.weight, sampler.time_conv.bias, stride=(2, 1, 1))
            y = _joined(y[:, :, :1], later)
    return y + block.avg_shortcut(x)


def _up(block: Any, x: Tensor) -> Tensor:
    y = x
    for resnet in block.resnets:
        y = _resnet(resnet, y)
    sampler = block.upsampler
    if sampler is not None:
        if sampler.mode == "upsample3d" and y.shape[2] > 1:
            later = sampler.time_conv(y[:, :, 1:])
            batch, twice, frames, height, width = later.shape
            halves = later.view(batch, 2, twice // 2, frames, height, width).permute(0, 2, 3, 1, 4, 5)
            y = _joined(y[:, :, :1], halves.reshape(batch, twice // 2, 2 * frames, height, width))
        y = _each_frame(sampler.resample, y)
    return y if block.avg_shortcut is None else y + block.avg_shortcut(x, first_chunk=True)


def _joined(first: Tensor, later: Tensor) -> Tensor:
    """The first frame, which is coded alone, before the others."""
    return torch.cat([first, later], dim=2)
