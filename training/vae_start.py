"""What the small VAE begins with: an encoder that needs no training, and a decoder that already carries colours.

The shortcuts of the residual VAE average 2 x 2 pixels and keep the frames of a group of four apart. So an encoder whose
other branches do nothing gives the mean colour of each 16 x 16 block in each of four frames: twelve latents. The last
branch that halves the picture adds what the four quarters of a block differ by: across, down, and diagonally, 36 more.
Together they are the mean colours of 8 x 8 pixels, exactly (but one: its channel is spent, see `CONSTANT_CHANNEL`).
`means` computes the same without the network, a hundred times faster.

The decoder lets the right frame through at each doubling of time, and interpolates in space. Before each last norm one
channel is a large constant, so that the norm changes hardly anything, and SiLU is used where it is almost linear. All
else in the decoder begins small and random, and is what training is for.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from diffusers import AutoencoderKLWan
from torch import Tensor

BASE, DECODER_BASE, LATENTS = 12, 16, 48
SMOOTH = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16  # after doubling pixels: bilinear interpolation
LOUDNESS, DETAIL_LOUDNESS = 2.0, 6.0  # a latent is so many times the colour, or the difference
COLOURS = range(3)
QUIET = slice(40, 64)  # decoder channels that carry nothing yet: the last shortcut deals them out to pixels

# Of the quarters of a block, row by row: right minus left, below minus above, one diagonal minus the other.
DETAILS = torch.tensor([[-1.0, 1, -1, 1], [-1, -1, 1, 1], [1, -1, -1, 1]]).view(3, 2, 2) / 4
NUM_MEANS, NUM_PAIRED = 12, 6  # latents that are mean colours; channels of a pair of frames
# The encoder's last norm divides by the size of all channels. This one is large and always the same, in place of the
# diagonal difference of blue in the second frame of four.
CONSTANT_CHANNEL, CONSTANT, GAIN = 46, 80.0, 0.3


def make_vae() -> AutoencoderKLWan:
    """A small VAE of the kind of Wan2.2, with random weights."""
    return AutoencoderKLWan(
        base_dim=BASE, decoder_base_dim=DECODER_BASE, z_dim=LATENTS, dim_mult=[1, 2, 4, 4], num_res_blocks=1,
        attn_scales=[], temperal_downsample=[False, True, True], dropout=0.0, is_residual=True, in_channels=12,
        out_channels=12, patch_size=2, scale_factor_spatial=16, scale_factor_temporal=4,
        latents_mean=[0.0] * LATENTS, latents_std=[1.0] * LATENTS,
    )  # fmt: skip


@torch.no_grad()
def start(vae: AutoencoderKLWan) -> None:
    """Give `vae` (of `make_vae`) the weights to begin with."""
    for name, parameter in vae.named_parameters():
        if name.endswith(("conv2.weight", "proj.weight")):
            parameter.mul_(0.2)
        if name.endswith("bias"):
            parameter.zero_()
    _start_encoder(vae)
    for convolution in (vae.quant_conv, vae.post_quant_conv):
        convolution.weight.zero_()
        for i in range(convolution.weight.shape[0]):
            convolution.weight[i, i] = 1
    _start_doublings(vae)
    _start_pixels(vae)


def _of_group(frame: int, colour: int) -> int:
    """The decoder's channel that carries a colour of one of the group's four frames."""
    return 3 * frame + colour


def _of_pair(half: int, colour: int) -> int:
    """The decoder's channel for it after the first doubling of time."""
    return 12 + 3 * half + colour


def _of_one(colour: int) -> int:
    """And after the second."""
    return 18 + colour


def _only(weight: Tensor, out: int, source: int, tap: Tensor | float) -> None:
    """Make output `out` of a convolution its input `source`: the newest frame, and the middle pixel or all by `tap`."""
    weight[out] = 0
    if weight.ndim == 4:
        weight[out, source] = tap
    else:
        weight[out, source, -1, weight.shape[3] // 2, weight.shape[4] // 2] = tap


def _start_encoder(vae: AutoencoderKLWan) -> None:
    encoder = vae.encoder
    for name, parameter in encoder.named_parameters():
        if not name.endswith("gamma"):
            parameter.zero_()
    for colour in COLOURS:
        encoder.conv_in.weight[colour, 4 * colour : 4 * colour + 4, -1, 1, 1] = 0.25
    halving = encoder.down_blocks[2]
    space, time = halving.downsampler.resample[1].weight, halving.downsampler.time_conv.weight
    for i in range(NUM_PAIRED):
        halving.resnets[0].conv_shortcut.weight[i, i] = 1
        for d in range(3):
            new = NUM_MEANS + 2 * (3 * i + d) + 1
            space[new, i, :2, :2] = DETAILS[d]
            time[new, new, 2] = 1
            time[new - 1, new, 1] = 1
    time[CONSTANT_CHANNEL] = 0
    encoder.mid_block.resnets[1].conv2.bias[CONSTANT_CHANNEL] = CONSTANT
    encoder.norm_out.gamma.fill_(GAIN)
    for i, loudness in enumerate(_loudness().tolist()):
        encoder.conv_out.weight[i, i, -1, 1, 1] = loudness / _level()
    encoder.conv_out.weight[CONSTANT_CHANNEL] = 0


def _level() -> float:
    """What a colour of 1 is after the encoder's last norm and SiLU: its last block doubles, SiLU halves."""
    return GAIN * 2 * LATENTS**0.5 / CONSTANT / 2


def _loudness() -> Tensor:
    return torch.tensor([LOUDNESS] * NUM_MEANS + [DETAIL_LOUDNESS] * (LATENTS - NUM_MEANS))


def means(video: Tensor) -> Tensor:
    """(B, 3, F, H, W) in -1..1, F = 4n + 1 -> latents (B, 48, n + 1, H / 16, W / 16): what the encoder gives.

    The first frame stands alone: of its group the other three are 0.
    """
    batch, _, frames, height, width = video.shape
    quarters = video.view(batch, 3, frames, height // 16, 2, 8, width // 16, 2, 8).mean((5, 8))
    block = quarters.mean((4, 6))
    detail = torch.einsum("bcfhpwq,dpq->bcdfhw", quarters, DETAILS)
    # (pair of the group, frame of the pair) of each frame, older first; the group of the first frame is padded
    block, detail = (F.pad(x, (0, 0, 0, 0, 3, 0)).unflatten(-3, (-1, 2, 2)) for x in (block, detail))
    block = block.permute(0, 1, 4, 3, 2, 5, 6).flatten(1, 3)
    detail = detail.permute(0, 1, 5, 2, 4, 3, 6, 7).flatten(1, 4)
    x = 2 * torch.cat([block, detail], dim=1)
    x[:, CONSTANT_CHANNEL] = CONSTANT
    x = F.silu(x * (GAIN * LATENTS**0.5) / x.norm(dim=1, keepdim=True))
    x[:, CONSTANT_CHANNEL] = 0
    return x * (_loudness() / _level()).view(-1, 1, 1, 1)


def _start_doublings(vae: AutoencoderKLWan) -> None:
    """The decoder as far as time is doubled: the first half of a group and then its first frame come out first."""
    vae.decoder.conv_in.weight[12:21] = 0
    vae.decoder.conv_in.weight[QUIET] = 0
    for frame in range(4):
        late, inner = divmod(frame, 2)
        for colour in COLOURS:
            _only(vae.decoder.conv_in.weight, _of_group(frame, colour), 4 * colour + 2 * inner + late, 1.0)
    for number, block in enumerate(vae.decoder.up_blocks[:2]):
        time, space = block.upsampler.time_conv.weight, block.upsampler.resample[1].weight
        width = space.shape[0]
        time.mul_(0.2)
        space.mul_(0.5)
        for half in range(2):
            for i in range(width):
                time[half * width + i, i, 2] += 0.8
        for colour in COLOURS:
            (_first_doubling if number == 0 else _second_doubling)(time, space, width, colour)
        space[QUIET] *= 0.2


def _first_doubling(time: Tensor, space: Tensor, width: int, colour: int) -> None:
    for inner in range(2):
        _only(space, _of_pair(inner, colour), _of_group(2 + inner, colour), SMOOTH)
        for late in range(2):
            row = time[late * width + _of_group(2 + inner, colour)]
            row.zero_()
            row[_of_group(2 * late + inner, colour), 2] = 1


def _second_doubling(time: Tensor, space: Tensor, width: int, colour: int) -> None:
    _only(space, _of_one(colour), _of_pair(1, colour), SMOOTH)
    for inner in range(2):
        row = time[inner * width + _of_pair(1, colour)]
        row.zero_()
        row[_of_pair(inner, colour), 2] = 1


def _start_pixels(vae: AutoencoderKLWan) -> None:
    """The decoder's last two blocks and its output: from one colour to the pixels of a patch."""
    decoder, constant, gain = vae.decoder, 20.0, 0.5
    third, last = decoder.up_blocks[2:]
    third.upsampler.resample[1].weight.mul_(0.5)
    for colour in COLOURS:
        _only(third.resnets[0].conv_shortcut.weight, colour, _of_one(colour), 1.0)
    for i in range(12):
        _only(third.upsampler.resample[1].weight, 20 + i, i // 4, SMOOTH)
        _only(last.resnets[0].conv_shortcut.weight, i, 20 + i, 1.0)
    last.resnets[0].conv_shortcut.weight[12] = 0
    last.resnets[0].conv_shortcut.bias[12] = constant
    decoder.norm_out.gamma.fill_(gain)
    level = gain * decoder.norm_out.gamma.shape[0] ** 0.5 / constant / 2
    decoder.conv_out.weight.mul_(0.3)
    for i in range(12):
        decoder.conv_out.weight[i] *= 0.3
        decoder.conv_out.weight[i, i, 2, 1, 1] = 1 / level / LOUDNESS
