"""How many tokens at a time go through what follows self-attention."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from unittest.mock import patch

import msgspec
import torch

from gpu.clock import read_peak, start_peak
from gpu.networks import make_transformer
from gpu.report import Row
from gpu.scale import GIB, Scale
from gpu.transformer import DTYPE, BlockInputs, block_inputs
from gpu.turns import take_turns
from ringlight.core.portions import SLICE_TOKENS
from ringlight.families.wan.networks import transformer


def compare(scale: Scale) -> Iterator[Row]:
    """One block and the largest video: as many as today, twice as many, all."""
    network = make_transformer(msgspec.structs.replace(scale.transformer, num_layers=1), scale.device, DTYPE)
    video = scale.videos[-1]
    with torch.inference_mode():
        inputs = block_inputs(network, scale, video)
        runs, notes = {}, {}
        for tokens in (SLICE_TOKENS, 2 * SLICE_TOKENS, inputs.x_BSC.shape[1]):
            name = f"{tokens} at a time"
            runs[name] = partial(_finish, inputs, tokens)
            start_peak(scale.device)
            before = read_peak(scale.device).allocated_bytes
            runs[name]()
            notes[name] = f"{(read_peak(scale.device).allocated_bytes - before) / GIB:.2f} GiB beside its inputs"
        yield from take_turns(f"after attention, {inputs.x_BSC.shape[1]} tokens", runs, scale.device, notes)


def _finish(inputs: BlockInputs, tokens: int) -> None:
    """All that follows self-attention; q stands for its result."""
    attended = inputs.qkv[0].flatten(2)
    with patch.object(transformer, "SLICE_TOKENS", tokens):
        inputs.block.finish_(inputs.x_BSC, attended, 0, inputs.modulation, inputs.keys, inputs.kernel)
