"""Portions of work: slices of tokens that are sent ahead, runs of tokens, layers by rank.

Workers go by these, and plans reckon with them. Arithmetic alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

SLICE_WEIGHTS = {2: (1, 1), 4: (1, 2, 3, 2)}  # by the number of slices, where measured (docs/log.md)

SLICE_TOKENS = 4096  # at a time, of what follows attention: the feed-forward's activations are wide
OFFERED_TOKENS_ON_CPU, OFFERED_TOKENS = 512, 4096  # at a time, where q, k and v are copied to be sent

MERGED_NUMBERS = 2**23  # of a weight at a time, where something is added to it in float32

HISTORY = 2  # frames before the current one that a kernel of three reaches
MAX_ELEMENTS = 2**31 - 1  # from the first to the last of a tensor: many CUDA kernels count in 32 bits


def offered_tokens(on_cpu: bool) -> int:
    """Tokens whose q, k and v are made at a time, on a CPU and on everything else."""
    return OFFERED_TOKENS_ON_CPU if on_cpu else OFFERED_TOKENS


def slice_weights(num_slices: int) -> tuple[int, ...]:
    """Relative sizes of the slices.

    The first is small, so that it leaves soon. The last is not too large, because nothing hides the wait for it.
    """
    return SLICE_WEIGHTS.get(num_slices) or (1, *[2] * (num_slices - 2), 1)


def slice_sizes(num_tokens: int, num_slices: int) -> tuple[int, ...]:
    """Tokens of each slice."""
    weights = slice_weights(num_slices)
    ends = [num_tokens * part // sum(weights) for part in accumulate(weights, initial=0)]
    return tuple(stop - start for start, stop in pairwise(ends))


def takes_pairs(on_cpu: bool, is_float32: bool) -> bool:
    """Whether frames that come in twos are convolved two by two: it gains in float32 on a CPU (docs/log.md)."""
    return on_cpu and is_float32


def merges_padding(on_cpu: bool) -> bool:
    """Whether one key stands for all the padding of a prompt.

    On a GPU all rows are keys: merging takes longer there, and cuDNN makes a plan for each new shape, and keeps it.
    """
    return on_cpu


def most_tokens(num_channels: int) -> int:
    """Longest sequence, in tokens, whose keys and values side by side fit in one tensor."""
    return MAX_ELEMENTS // (2 * num_channels)


def split_runs(sizes: Sequence[int], parts: int) -> list[range]:
    """Split items over ranks into runs of neighbours of about the same size; returns the items of each rank.

    A rank takes an item if at least half of it lies within an even share of what is left. As long as there are items
    it takes one, so that the ranks without any are the last ones.
    """
    runs, stop, left = [], 0, sum(sizes)
    for ranks in range(parts, 0, -1):
        start, taken = stop, 0
        while stop < len(sizes) and (stop == start or (2 * taken + sizes[stop]) * ranks <= 2 * left):
            taken += sizes[stop]
            stop += 1
        runs.append(range(start, stop))
        left -= taken
    return runs
