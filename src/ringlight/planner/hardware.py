"""Hardware of ranks and between them: cards, links, and how much of a data sheet work reaches."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import msgspec

from ringlight.core.errors import InvalidSetting

DtypeName = Literal["float32", "bfloat16"]
T = TypeVar("T", bound=msgspec.Struct)

ITEMSIZES: dict[DtypeName, int] = {"float32": 4, "bfloat16": 2}


class Fractions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Fraction of a data sheet's figure that each kind of work reaches. Assumptions, until a calibration replaces them.

    `products` and `text`: matrix products; `attention`: fused attention; `convolution`: 3x3x3 and 2x2; `memory`: work
    that only reads and writes (norms, casts, activations, weights).
    """

    products: float = 0.70
    attention: float = 0.60
    convolution: float = 0.45
    text: float = 0.50
    memory: float = 0.80


class Card(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Card of the catalogue: dense operations a second by dtype, memory, and where the figures come from.

    `bus` is the catalogue's name of what lies between it and the host's memory, which a CPU does not have.
    `tf32_flops` is what float32 convolutions use unless TensorFloat-32 is off. `context_bytes` is what the driver and
    the communication library take beside the tensors. `launch_seconds`: the least that a block of the network takes,
    however small, because its kernels have to be started: 0.69 ms of Python and dispatch for a block of one slice from
    text, 1.1 ms from a picture (measured with nothing to compute, torch 2.13, one core of an EPYC, 26 November 2026).
    """

    name: str
    bf16_flops: float
    fp32_flops: float
    tf32_flops: float
    memory_bytes: int
    memory_bytes_per_second: float
    source: str
    bus: str = "pcie4x16"
    fractions: Fractions = Fractions()
    context_bytes: int = 2**30
    launch_seconds: float = 0.7e-3
    is_cpu: bool = False

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a card from a TOML file with these fields. Raises InvalidSetting naming file and field."""
        return read_toml(path, cls)


class Bus(msgspec.Struct, frozen=True, kw_only=True):
    """Connection between a card and the host's memory: achieved bytes a second each way, from pinned memory."""

    name: str
    bytes_per_second: float
    source: str

    def seconds(self, num_bytes: float) -> float:
        """Seconds to transfer bytes in large pieces."""
        return num_bytes / self.bytes_per_second


class LinkRates(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Achieved bytes a second from one rank to another while as much comes in, and seconds for a message.

    `busy_seconds_per_byte` is what a byte takes from the computation itself (TCP on a CPU), which no overlap hides.
    `shares_bus`: it comes in over the card's bus, as all but NVLink does.
    """

    name: str
    bytes_per_second: float
    latency_seconds: float
    source: str
    busy_seconds_per_byte: float = 0.0
    shares_bus: bool = True

    def seconds(self, num_bytes: float, num_messages: float = 1) -> float:
        """Seconds to send bytes as `num_messages` messages, one after another; 0 for 0 bytes."""
        return num_bytes / self.bytes_per_second + num_messages * self.latency_seconds if num_bytes else 0.0

    def bare_seconds(self, num_bytes: float, num_messages: float) -> float:
        """Seconds that a transfer adds to the computation if nothing hides it."""
        return self.seconds(num_bytes, num_messages) + num_bytes * self.busy_seconds_per_byte


class RunSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings that change cost. `decode_chunk` and `num_slices` 0 follow as they do in a run.

    `memory_budget_bytes` of a rank's device; 0: what it has. On a CPU, of memory that is a rank's own.
    """

    dtype: DtypeName = "bfloat16"
    vae_dtype: DtypeName = "float32"
    tf32: bool = True
    decode_chunk: int = 0
    num_slices: int = 0
    memory_budget_bytes: int = 0

    @property
    def itemsize(self) -> int:
        return ITEMSIZES[self.dtype]

    @property
    def vae_itemsize(self) -> int:
        return ITEMSIZES[self.vae_dtype]


class Correction(msgspec.Struct, frozen=True, kw_only=True):
    """Corrections of the assumptions by a measurement, by stage: measured seconds per predicted second.

    `other_seconds` lie in no stage. `base_bytes` are the idle process beside its weights, and `growth` the measured per
    predicted byte of activations, by stage; empty where nothing was measured.
    """

    by_stage: dict[str, float] = {}
    other_seconds: float = 0.0
    base_bytes: int = 0
    growth: dict[str, float] = {}


class Hardware(msgspec.Struct, frozen=True, kw_only=True):
    """Equal cards with equal links between all of them, as far as they are known."""

    card: Card
    link: LinkRates
    correction: Correction = Correction()


def read_toml(path: Path, kind: type[T]) -> T:
    """Read a struct from a TOML file. Raises InvalidSetting naming the file and what is wrong in it."""
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        return msgspec.convert(values, kind)
    except OSError as error:
        raise InvalidSetting(f"{path}: {error.strerror}") from None
    except (ValueError, msgspec.ValidationError) as error:  # ValueError: no UTF-8, no TOML
        raise InvalidSetting(f"{path}: {error}") from None
