"""The size of a video where a request leaves it open: as its picture is shaped, or near to what was asked."""

from __future__ import annotations

import math

from ringlight.core.geometry import Geometry
from ringlight.core.request import RequestDefaults, RequestLimits, nearest_multiple

LONGEST_SHAPE = 3.0  # width to height, or height to width: of a longer picture the middle is taken

Size = tuple[int, int]
AskedSize = tuple[int | None, int | None]


def decide_size(
    asked: AskedSize,
    picture: Size | None,
    defaults: RequestDefaults,
    spec: Geometry,
    limits: RequestLimits,
    round_sizes: bool = False,
) -> AskedSize:
    """Decide width and height in pixels, None for the default's. `picture` is upright.

    What was asked stays, or with `round_sizes` becomes the nearest that can be made. What was not follows the picture:
    both sides at no more than the default's area, or one side at the length of the other.
    """
    width, height = rounded(asked, spec, limits) if round_sizes else asked
    if picture is None or (width is not None and height is not None):
        return width, height
    shape = min(max(picture[0] / picture[1], 1 / LONGEST_SHAPE), LONGEST_SHAPE)
    high, wide = spec.size_multiple
    if width is not None:
        return width, _beside(width, 1 / shape, high, spec, limits)
    if height is not None:
        return _beside(height, shape, wide, spec, limits), height
    return size_like(shape, min(defaults.width * defaults.height, limits.max_pixels), spec)


def size_like(shape: float, area: int, spec: Geometry) -> Size:
    """The size of at most `area` pixels whose width to height is nearest to `shape`.

    As Wan's own best_output_size (wan/utils/utils.py): one side as long as its multiples allow, then the other as long
    as the area does, the way that keeps the shape better; or both as multiples allow, so that a square stays one.
    """
    high, wide = spec.size_multiple
    longest = spec.max_positions
    width = _down(math.sqrt(area * shape), wide, longest)
    height = _down(math.sqrt(area / shape), high, longest)
    found = (
        (width, _down(area / width, high, longest)),
        (_down(area / height, wide, longest), height),
        (width, height),
    )
    return min(found, key=lambda size: abs(math.log(size[0] / size[1] / shape)))


def rounded(asked: AskedSize, spec: Geometry, limits: RequestLimits) -> AskedSize:
    """Nearest size that can be made. What is no length at all is left to be refused."""
    high, wide = spec.size_multiple
    sides = tuple(zip(asked, (wide, high), strict=True))
    near = [side if side is None or side < 1 else max(m, nearest_multiple(side, m)) for side, m in sides]
    width, height = near
    if width is not None and height is not None and width * height > limits.max_pixels:  # then no longer than asked
        width, height = (max(m, side // m * m) for side, m in sides if side is not None)
    return width, height


def _beside(other: int, shape: float, multiple: int, spec: Geometry, limits: RequestLimits) -> int:
    """A side of `shape` times the length of the `other`, as far as limits allow."""
    most = limits.max_pixels // max(1, other) // multiple
    number = min(nearest_multiple(round(other * shape), multiple) // multiple, spec.max_positions, most)
    return max(1, number) * multiple


def _down(length: float, multiple: int, most: int) -> int:
    return min(max(1, int(length // multiple)), most) * multiple
