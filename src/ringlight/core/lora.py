"""Lora: a LoRA that a request asks for, and what is known of a LoRA's file once it is matched with a network.

A LoRA changes weights by products of two narrow matrices, and some files hold whole differences of small tensors too.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import msgspec

from ringlight.core.errors import InvalidCheckpoint, InvalidRequest
from ringlight.core.foreign import PICKLE_SUFFIXES
from ringlight.core.plain import plain
from ringlight.core.presence import listed, require_file

Target = Literal["both", "high", "low"]
TARGETS: tuple[Target, ...] = get_args(Target)
FIELD = "lora"  # of a request
MAX_STRENGTH = 10.0  # either way
FORM = "FILE[:STRENGTH[:TARGET]]"
SUFFIX = ".safetensors"
NAMELESS = (
    "adapter_model.safetensors",
    "pytorch_lora_weights.safetensors",
)  # of PEFT, diffusers: the folder has a name


class Lora(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A LoRA of a request: its name, how strongly it is applied, and to which of two experts.

    Without a `target` the file's name says it (high_noise, low_noise), else it is both. `sha256` of the file's bytes
    (and of what PEFT wrote beside it) and `num_bytes`, what its tensors take on a device, are found with the file. All
    three are empty in what a client asks, and set in every request that a worker has.
    """

    name: str
    strength: float = 1.0
    target: Target | None = None
    sha256: str = ""
    num_bytes: int = 0

    @property
    def experts(self) -> tuple[int, ...]:
        """The experts that it changes: 0 is that for high noise, or the only transformer, and 1 that for low."""
        return {"high": (0,), "low": (1,)}.get(self.target or "both", (0, 1))

    def __str__(self) -> str:
        """Text of the LoRA in the form of the flag, as short as possible; it parses to the same LoRA."""
        target = "" if self.target in (None, "both") else f":{self.target}"
        has_strength = self.strength != 1 or target or _is_end(self.name.rpartition(":"))
        return self.name + (f":{plain(self.strength)}" if has_strength else "") + target


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """Two matrices whose product, times `scale` and the request's strength, is added to a weight.

    `weight` is the weight's name in the checkpoint as diffusers has it (blocks.0.attn1.to_q.weight); `down` (rank,
    inputs) and `up` (outputs, rank) are names in the file. Of a convolution, or as if of one, they have more sides:
    all but the first are one then, as `flatten(1)` has it, and the product has the weight's numbers in their order.
    """

    weight: str
    down: str
    up: str
    rank: int
    scale: float


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A whole tensor that, times the request's strength, is added to one of the checkpoint (`weight`, as in Delta).

    It has as many numbers, in their order; sides of length 1 may be missing."""

    weight: str
    stored: str


class LoraFile(msgspec.Struct, frozen=True, kw_only=True):
    """A LoRA's file, matched with a network: every tensor in it has its place there, but for what is `left_out`.

    `told` says in words what was found: of how many modules, with which alpha. `left_out` is a sentence about tensors
    of an image branch that the model has not; empty where all is taken. `num_bytes`: of all tensors that are taken, as
    they lie in the file. All of this is in its header; `sha256` is empty until its bytes are read too.
    """

    path: Path
    sha256: str = ""
    num_bytes: int
    deltas: tuple[Delta, ...]
    differences: tuple[Difference, ...]
    told: str
    left_out: str = ""


class AskedLora(msgspec.Struct, frozen=True, kw_only=True):
    """LoRA of a `--lora` flag: a file or an offered name, its strength, and its expert (None: as its name says)."""

    place: str
    strength: float = 1.0
    target: Target | None = None


def parse_lora(text: str) -> AskedLora:
    """Parse FILE[:STRENGTH[:TARGET]] from the right, since names of files may hold colons.

    A number behind the last colon is a strength, and all else belongs to the name. Raises InvalidRequest.
    """
    place, strength, target = text, 1.0, None
    rest, _, last = place.rpartition(":")
    if last in TARGETS and rest:
        place, target = rest, last
    rest, _, last = place.rpartition(":")
    if rest and (number := _number(last)) is not None:
        place, strength = rest, number
    if not place or place in TARGETS:
        raise InvalidRequest.of(FIELD, f"{text!r} names no file; it is {FORM}")
    if wrong := wrong_strength(strength):
        raise InvalidRequest.of(FIELD, f"{text!r}: {wrong}")
    return AskedLora(place=place, strength=strength, target=target)


def wrong_end(said: str, is_known: Callable[[str], bool]) -> str | None:
    """Problem with the text behind the name of a known LoRA; None if no known name stands before a colon.

    `said` is the place of an AskedLora that does not exist, because the text behind its name could not be read.
    """
    for colon in reversed([place for place, char in enumerate(said) if char == ":"]):
        name, end = said[:colon], said[colon + 1 :]
        if "/" in end or end.endswith(SUFFIX) or not is_known(name):
            continue
        strength, _, target = end.partition(":")
        if _number(strength) is None:
            what = f"{strength!a:.80} is no strength, nor a target ({', '.join(TARGETS)})"
        elif target not in ("", *TARGETS):
            what = f"{target!a:.80} is no target ({', '.join(TARGETS)})"
        else:
            what = "strength and target are said once, behind the name or in fields of their own"
        return f"{what}; such as {listed([name])}:0.8{':high' if target else ''}"
    return None


def lora_file(place: Path) -> Path:
    """File of a LoRA: the one that is named, or that of a folder as PEFT and diffusers write it.

    Raises InvalidCheckpoint if there is none, or one that is not read.
    """
    path = place
    if place.is_dir():
        written = [found for name in NAMELESS if (found := place / name).is_file()]
        if not written:
            raise InvalidCheckpoint(
                f"{place}: a folder without {' or '.join(NAMELESS)}; name a file, or offer all of it with --lora-dir"
            )
        path = written[0]
    require_file(path)
    if path.suffix in PICKLE_SUFFIXES:
        raise InvalidCheckpoint(f"{path}: is pickled, which can run code; take the LoRA as safetensors")
    if path.suffix != SUFFIX:
        raise InvalidCheckpoint(f"{path}: is no safetensors file, as LoRAs are")
    return path


def lora_name(file: Path) -> str:
    """Name of a LoRA by its file, or by its folder if the file has one of the names that all trainers use."""
    return file.parent.name if file.name in NAMELESS else file.name.removesuffix(SUFFIX)


def wrong_strength(strength: float) -> str | None:
    """Reason why a strength is not allowed; None if it is."""
    if not -MAX_STRENGTH <= strength <= MAX_STRENGTH:  # nor is it where it is no number
        return f"the strength must lie between -{plain(MAX_STRENGTH)} and {plain(MAX_STRENGTH)}, not {plain(strength)}"
    return "a strength of 0 changes nothing; leave the LoRA out" if strength == 0 else None


def _is_end(parted: tuple[str, str, str]) -> bool:
    """Whether what stands behind the last colon of a name would be read as a strength or a target."""
    name, _, last = parted
    return bool(name) and (last in TARGETS or _number(last) is not None)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
