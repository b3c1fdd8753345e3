"""Traffic between ranks, in bytes: formulas for one rank of a layout, by kind of traffic as in the report.

N tokens of the whole sequence, H heads of width D, u Ulysses and r ring ranks. Tokens and heads are dealt as evenly as
whole numbers go. At N and H that divide, each rank sends 4 (N/ur) HD (u-1)/u elements a block for Ulysses and
2 (N/r) (HD/u) (r-1) for the ring (arXiv 2309.14509, 2310.01889). What decoders and encoders send: layers/.
"""

from __future__ import annotations

from ringlight.core.layout import ParallelLayout, split_sizes
from ringlight.families.work import Work

Traffic = dict[str, int]


def attention_elements(layout: ParallelLayout, rank: int, num_tokens: int, num_heads: int, ahead: bool) -> Traffic:
    """Elements, in units of the head width, that a rank sends for the attention of one block.

    `rank` counts within the sequence. Sent ahead, keys and values go straight to all ranks that need them.
    """
    ring, ulysses = divmod(rank, layout.ulysses)
    tokens, heads = split_sizes(num_tokens, layout.sp), split_sizes(num_heads, layout.ulysses)
    groups = [sum(tokens[i * layout.ulysses : (i + 1) * layout.ulysses]) for i in range(layout.ring)]
    own, others_heads = tokens[rank], num_heads - heads[ulysses]
    back = (groups[ring] - own) * heads[ulysses]
    if ahead:
        around = 2 * own * num_heads * (layout.ring - 1)
    else:
        around = sum(2 * groups[(ring - hop) % layout.ring] * heads[ulysses] for hop in range(layout.ring - 1))
    return {"ring": around, "ulysses": 3 * own * others_heads + back}


def denoising_bytes(work: Work, layout: ParallelLayout, rank: int, num_slices: int, itemsize: int) -> Traffic:
    """Bytes that a rank sends in all of Denoising, by kind; `itemsize` is that of the dtype of the products."""
    network, place = work.spec.transformer, rank % layout.sp
    forwards = work.num_calls * work.num_forwards(layout)
    sent = attention_elements(layout, place, work.num_tokens, network.num_attention_heads, ahead=num_slices > 1)
    blocks = forwards * network.num_layers * network.attention_head_dim * itemsize
    _, patch_height, patch_width = network.patch_size
    own = split_sizes(work.num_tokens, layout.sp)[place]
    out = own * network.out_channels * patch_height * patch_width
    traffic = {kind: elements * blocks for kind, elements in sent.items()}
    traffic["gather"] = forwards * out * (layout.sp - 1) * itemsize
    traffic["cfg"] = work.num_calls * work.latent_values * itemsize if layout.cfg == 2 else 0
    return {kind: num_bytes for kind, num_bytes in traffic.items() if num_bytes}


def text_bytes(num_holders: int, num_ranks: int, rank: int, num_values: int, itemsize: int) -> int:
    """Bytes that a rank sends to encode prompts of `num_values` elements (tokens x channels), of which none is known.

    The first `num_holders` ranks have layers: hidden states go along them, and the last one tells all ranks.
    """
    if rank >= num_holders:
        return 0
    return num_values * itemsize * (num_ranks - 1 if rank == num_holders - 1 else 1)
