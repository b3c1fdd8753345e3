"""Text encoders of a checkpoint, whole or one rank's run of layers, without the rest of the pipeline."""

from __future__ import annotations

from pathlib import Path

import torch

from ringlight.families.table import checkpoint_at, model_of
from ringlight.families.wan.headers import TIED_NAMES, in_our_names
from ringlight.families.wan.networks.text_encoder import TextEncoder, load_tokenizer, read_umt5
from ringlight.families.wan.work.text_encoder import TextEncoderSpec
from ringlight.models.loading import WeightFiles, load_weights
from ringlight.parallel.link import Link
from ringlight.parallel.mesh import Axis

MAX_TOKENS = 64


def axes(size: int) -> list[Axis]:
    """Each rank's view of an axis, for what needs no traffic."""
    return [Axis(tuple(range(size)), rank, Link()) for rank in range(size)]


def unfilled(checkpoint: Path, axis: Axis | None = None, dtype: torch.dtype = torch.float32) -> TextEncoder:
    """The encoder with memory that has not been written to."""
    found = checkpoint_at(checkpoint)
    numbers = model_of(found).text_encoder
    assert isinstance(numbers, TextEncoderSpec)
    encoder = TextEncoder(read_umt5(found, numbers.held), load_tokenizer(found.tokenizer), MAX_TOKENS, axis)
    encoder.prepare(torch.device("cpu"), dtype)
    return encoder


def loaded(checkpoint: Path, axis: Axis | None = None, dtype: torch.dtype = torch.float32) -> TextEncoder:
    """The encoder with its weights. Raises what loading raises."""
    encoder = unfilled(checkpoint, axis, dtype)
    load_weights(encoder, WeightFiles(checkpoint / "text_encoder", "model", TIED_NAMES, in_our_names))
    return encoder
