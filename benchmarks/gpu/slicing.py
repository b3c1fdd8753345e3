"""What lies between one self-attention and the next, on all tokens of a rank at once against slices of them.

B batch, S tokens of a rank, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise

import msgspec
import torch
from torch import Tensor

from gpu.clock import median_timing
from gpu.networks import make_transformer, random_text
from gpu.report import Row
from gpu.scale import MAX_TEXT_ROWS, Scale, Video
from gpu.transformer import DTYPE
from ringlight.core.layout import split_sizes
from ringlight.families.wan.networks.conditioning import Modulation, TextKeys
from ringlight.families.wan.networks.rope import rope_frequencies
from ringlight.families.wan.networks.transformer import TransformerBlock, WanTransformer
from ringlight.kernels.attention.kernel import AttentionKernel, choose_kernel

SLICES = (2, 4, 8)
RANKS = 2


@dataclass(frozen=True)
class Between:
    """One block, the first tokens of a video after its self-attention, and all that the block needs for them."""

    block: TransformerBlock
    kernel: AttentionKernel
    x_BSC: Tensor  # noqa: N815 - the shape in the name
    attended_BSC: Tensor  # noqa: N815
    frequencies: Tensor
    modulation: Modulation
    keys: TextKeys

    def run(self, num_slices: int) -> None:
        """Finish the block and make the next one's q, k and v, slice by slice."""
        for start, stop in pairwise(accumulate(split_sizes(self.x_BSC.shape[1], num_slices), initial=0)):
            part = slice(start, stop)
            x_BSC = self.x_BSC[:, part]
            self.block.finish_(x_BSC, self.attended_BSC[:, part], start, self.modulation, self.keys, self.kernel)
            self.block.qkv(x_BSC, start, self.modulation, self.frequencies[part])


def compare(scale: Scale) -> Iterator[Row]:
    """The largest video and a brief one, each rank with half of its tokens."""
    network = make_transformer(msgspec.structs.replace(scale.transformer, num_layers=1), scale.device, DTYPE)
    for video in (scale.videos[-1], scale.brief_video):
        yield from _compare(network, scale, video)


@torch.inference_mode()
def _compare(network: WanTransformer, scale: Scale, video: Video) -> Iterator[Row]:
    between = _between(network, scale, video)
    label = f"after attention, then q, k, v, of {between.x_BSC.shape[1]} tokens ({video} on {RANKS} ranks)"
    whole = median_timing(partial(between.run, 1), scale.device, limit_seconds=2.0)
    yield Row(f"{label}, at once", str(whole), numbers={"seconds": whole.seconds})
    for num_slices in SLICES:
        timing = median_timing(partial(between.run, num_slices), scale.device, limit_seconds=2.0)
        ratio = timing.seconds / whole.seconds
        numbers = {"seconds": timing.seconds, "ratio": ratio}
        yield Row(f"{label}, {num_slices} slices", f"{timing}; {ratio:.3f} of at once", numbers=numbers)


def _between(network: WanTransformer, scale: Scale, video: Video) -> Between:
    block = network.blocks[0]
    assert isinstance(block, TransformerBlock)
    device, spec, num_tokens = scale.device, scale.transformer, scale.num_tokens(video) // RANKS
    return Between(
        block,
        choose_kernel(device, DTYPE, spec.attention_head_dim),
        torch.randn(1, num_tokens, spec.inner_dim, device=device),
        torch.randn(1, num_tokens, spec.inner_dim, device=device).to(DTYPE),
        rope_frequencies(scale.grid(video), spec.attention_head_dim, device)[:num_tokens],
        Modulation(0.1 * torch.randn(1, 6, spec.inner_dim, device=device), (num_tokens,)),
        network.text_keys(random_text(spec, device), MAX_TEXT_ROWS)[0],
    )
