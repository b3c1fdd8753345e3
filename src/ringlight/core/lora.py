"""Lora: a LoRA that a request asks for, and what is known of a LoRA's file once it is matched with a network.

A LoRA changes weights by products of two narrow matrices, and some files hold whole differences of small tensors too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from ringlight.core.errors import InvalidRequest

Target = Literal["both", "high", "low"]
FIELD = "lora"  # of a request


class Lora(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A LoRA of a request: its name, how strongly it is applied, and to which of two experts.

    `sha256` of the file's bytes and `num_bytes`, what its tensors take on a device, are found with the file: they are
    empty in what a client asks, and set in every request that a worker has.
    """

    name: str
    strength: float = 1.0
    target: Target = "both"
    sha256: str = ""
    num_bytes: int = 0

    @property
    def experts(self) -> tuple[int, ...]:
        """The experts that it changes: 0 is that for high noise, or the only transformer, and 1 that for low."""
        return {"both": (0, 1), "high": (0,), "low": (1,)}[self.target]

    def __str__(self) -> str:
        """As the flag has it, as short as can be."""
        text = self.name
        if self.strength != 1 or self.target != "both":
            text += f":{self.strength:g}"
        return text if self.target == "both" else f"{text}:{self.target}"


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """Two matrices whose product, times `scale` and the request's strength, is added to a weight.

    `weight` is the weight's name in the checkpoint as diffusers has it (blocks.0.attn1.to_q.weight); `down` (rank,
    inputs) and `up` (outputs, rank) are names in the file.
    """

    weight: str
    down: str
    up: str
    rank: int
    scale: float


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A whole tensor that, times the request's strength, is added to one of the checkpoint (`weight`, as in Delta)."""

    weight: str
    stored: str


class LoraFile(msgspec.Struct, frozen=True, kw_only=True):
    """A LoRA's file, matched with a network: every tensor in it has its place there.

    `told` says in words what was found: of how many modules, with which alpha.
    """

    path: Path
    sha256: str
    num_bytes: int
    deltas: tuple[Delta, ...]
    differences: tuple[Difference, ...]
    told: str


class AskedLora(msgspec.Struct, frozen=True, kw_only=True):
    """What `--lora` says: a file, or a name of one that the operator offers; how strongly, and of which expert."""

    place: str
    strength: float = 1.0
    target: Target = "both"


def parse_lora(text: str) -> AskedLora:
    """FILE[:STRENGTH[:TARGET]]. Raises InvalidRequest."""
    raise InvalidRequest.of(FIELD, f"{text!r} is not read yet")
