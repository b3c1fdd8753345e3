"""EightBit: how a matrix is held in a byte a number, beside scales."""

from __future__ import annotations

import msgspec

SCALE = "weight_scale"  # what the scales of `X.weight` are called: X.weight_scale


class EightBit(msgspec.Struct, frozen=True):
    """Format of a matrix in eight bits: W = widened numbers x scales.

    The product is computed in float32 and rounded once to the compute dtype. `dtype` is torch's name of the numbers.
    Every row has a scale in float32, or every `group` of numbers in it one in float16.
    """

    dtype: str
    group: int = 0

    @property
    def scale_dtype(self) -> str:
        """Torch's name of the scales' kind."""
        return "float16" if self.group else "float32"

    def num_scales(self, columns: int) -> int:
        """Number of scales of a row."""
        return columns // self.group if self.group else 1

    def num_bytes(self, rows: int, columns: int) -> int:
        """Bytes of numbers and scales."""
        return rows * (columns + self.num_scales(columns) * (2 if self.group else 4))


KINDS = {  # by the dtype that a header names, the last one of GGUF
    "F8_E4M3": EightBit("float8_e4m3fn"),
    "F8_E5M2": EightBit("float8_e5m2"),
    "I8": EightBit("int8"),
    "Q8_0": EightBit("int8", group=32),
}


def scale_of(weight: str) -> str:
    """Name of a weight's scale."""
    return f"{weight.removesuffix('weight')}{SCALE}"


def weight_of(scale: str) -> str:
    """The weight that a scale is of."""
    return f"{scale.removesuffix(SCALE)}weight"


def is_scale(name: str) -> bool:
    """Whether a tensor of this name is a scale."""
    return name.endswith(f".{SCALE}")
