"""In what portions work is done: slices of tokens that are sent ahead, runs of tokens, latent frames, layers by rank.

Workers go by these, and plans reckon with them. Arithmetic alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

from ringlight.core.spec import VaeSpec

# Link seconds to compute seconds of a layer from which so many slices pay, and from which two forwards on the same
# ranks should take turns, which by themselves hide most (docs/log.md).
SLICES_FROM = ((0.8, 4), (0.55, 3), (0.1, 2))
SLICES_IN_TURNS_FROM = ((0.6, 2),)
TURNS_FROM = 0.05
LEAST_SLICE_TOKENS = 16
SLICE_WEIGHTS = {2: (1, 1), 4: (1, 2, 3, 2)}  # by the number of slices, where measured (docs/log.md)

SLICE_TOKENS = 4096  # at a time, of what follows attention: the feed-forward's activations are wide
OFFERED_TOKENS_ON_CPU, OFFERED_TOKENS = 512, 4096  # at a time, where q, k and v are copied to be sent

MAX_DECODED_LATENTS = 8
MAX_ELEMENTS = 2**31 - 1  # from the first to the last of a tensor: many CUDA kernels count in 32 bits
HISTORY = 2  # frames before the current one that a kernel of three reaches
SPARE_SHARE = 0.25  # of a GPU's memory beside the weights, that decoding may take


def offered_tokens(on_cpu: bool) -> int:
    """Tokens whose q, k and v are made at a time, on a CPU and on everything else."""
    return OFFERED_TOKENS_ON_CPU if on_cpu else OFFERED_TOKENS


def choose_slices(link_to_layer: float, num_tokens: int, in_turns: bool) -> int:
    """Slices of a rank's `num_tokens` tokens, where a layer's data is so much longer on the link than its work takes.

    One where there is little to hide: every slice costs some messages, and reads the weights once more.
    """
    for ratio, num_slices in SLICES_IN_TURNS_FROM if in_turns else SLICES_FROM:
        if link_to_layer >= ratio:
            return max(1, min(num_slices, num_tokens // LEAST_SLICE_TOKENS))
    return 1


def slice_weights(num_slices: int) -> tuple[int, ...]:
    """How large each slice is, beside the others: the first is small, so that it leaves soon, and the last not too
    large, for it is waited for with nothing left to do but attend to it."""
    return SLICE_WEIGHTS.get(num_slices) or (1, *[2] * (num_slices - 2), 1)


def slice_sizes(num_tokens: int, num_slices: int) -> tuple[int, ...]:
    """Tokens of each slice."""
    weights = slice_weights(num_slices)
    ends = [num_tokens * part // sum(weights) for part in accumulate(weights, initial=0)]
    return tuple(stop - start for start, stop in pairwise(ends))


def merges_padding(on_cpu: bool) -> bool:
    """Whether one key stands for all the padding of a prompt. On a GPU all rows are keys: merging takes longer there,
    and cuDNN makes a plan for each new shape, and keeps it."""
    return on_cpu


def decoded_latents(vae: VaeSpec, latent_pixels: int, itemsize: int, spare_bytes: int) -> int:
    """How many latent frames to decode at a time: as many as a quarter of `spare_bytes` holds, at least one.

    `latent_pixels`: of the largest band of a frame. `spare_bytes`: all memory of a GPU beside the weights, whoever has
    it at the moment, for another portion rounds otherwise and the same video comes out the same. On a CPU there are
    none to spare: more at a time gained nothing there (docs/log.md).
    """
    # The widest activations: full resolution before unpatching, five of them alive at once.
    pixels = latent_pixels * (vae.scale_factor_spatial // vae.patch_size) ** 2
    each = 5 * pixels * vae.scale_factor_temporal * vae.decoder_dim * vae.dim_mult[1] * itemsize
    return max(1, min(MAX_DECODED_LATENTS, int(SPARE_SHARE * spare_bytes) // each))


def most_latents(vae: VaeSpec, rows: int, columns: int) -> int:
    """How many latent frames of so many rows and columns may be decoded at a time, for no tensor to be too long.

    At least one, which then goes through the last levels a frame at a time (`frames_at_once`).
    """
    fitting = [n for n in range(1, MAX_DECODED_LATENTS + 1) if _window(vae, rows, columns, 2 * n) <= MAX_ELEMENTS]
    return max(fitting, default=1)


def frames_at_once(vae: VaeSpec, rows: int, columns: int, num_latents: int, max_elements: int = MAX_ELEMENTS) -> int:
    """At how many frames at a time the decoder's levels work: half of a portion's, or one where these are too long."""
    return 2 * num_latents if _window(vae, rows, columns, 2 * num_latents) <= max_elements else 1


def most_pixels(vae: VaeSpec) -> int:
    """Of a frame, for it to be no tensor that is too long where the decoder is widest."""
    return MAX_ELEMENTS // max(channels * scale**2 for channels, scale in _levels(vae)) * vae.scale_factor_spatial**2


def most_tokens(num_channels: int) -> int:
    """Of a sequence whose keys and values, side by side, are no tensor that is too long."""
    return MAX_ELEMENTS // (2 * num_channels)


def _window(vae: VaeSpec, rows: int, columns: int, frames: int) -> int:
    """Elements of the decoder's longest tensor, with its halo rows: so many frames and their history."""
    seen = HISTORY + frames
    return max(seen * (rows * scale + 2) * columns * scale * channels for channels, scale in _levels(vae))


def _levels(vae: VaeSpec) -> list[tuple[int, int]]:
    """(channels, rows for each latent row) of what comes to each level of the decoder."""
    multiples = (vae.dim_mult[-1], *vae.dim_mult[:0:-1])
    return [(vae.decoder_dim * multiple, 2**level) for level, multiple in enumerate(multiples)]


def split_runs(sizes: Sequence[int], parts: int) -> list[range]:
    """Items over ranks, each a run of neighbours of about the same size: which items each rank holds.

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
