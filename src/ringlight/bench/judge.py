"""The judge: whether a film shows what its prompt asks for, by plain image processing.

It knows the films of the trained demo checkpoint alone (`core.demo_world`): one solid before sky and ground. The solid
is the largest patch of colour that differs from most of its rows, and is no shadow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ringlight.core.demo_world import COLOURS, PLACES, SHAPES, Look, read_prompt

Frames = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Floats = NDArray[np.float32]

ASPECTS = ("colour", "shape", "motion", "place")
CELL = 4  # pixels of a side of the cells in which patches are told apart
CANDIDATES, SAMPLES = 16, 64  # pixels of a row that are tried as its background, and that they are held to
SMALLEST_SOLID = 0.03  # of the square of the height
SAME, DIFFERENT, COLOURFUL, SHADOW = 12.0, 36.0, 36.0, 26.0  # distances in 0..255
COLOUR_WITHIN, PLACE_WITHIN = 70.0, 90.0
ALIKE = 0.75  # of a solid's outline and the one that it should have: what both cover, of what either does
ASIDE, UPWARD = 0.25, 0.17  # of width and height: a shorter path is no motion
SEEN = 0.8  # of frames in which a solid must be, for a motion
BORDER = 0.04  # of the height, at top and bottom: where the place is looked at


class Judgement(msgspec.Struct, frozen=True):
    """Aspects that were asked for, aspects that are seen, and which of them are right."""

    asked: Look
    seen: Look
    right: dict[str, bool]

    @property
    def whole(self) -> bool:
        return all(self.right.values())


def judge(frames: Frames, asked: Look | str) -> Judgement:
    """Judge a film (F, H, W, 3), or a still of one frame, by a prompt or a look; a still has no motion."""
    look = read_prompt(asked) if isinstance(asked, str) else asked
    seen = look_at(frames)
    told = {name: getattr(look, name) for name in ASPECTS if name != "motion" or len(frames) > 1}
    right = {name: getattr(seen, name) == value for name, value in told.items() if value is not None}
    return Judgement(look, seen, right)


def look_at(frames: Frames) -> Look:
    """Recognise what a film shows: the colour of most frames, and the shape that most of their outlines share."""
    masks = solids(frames)
    solid = [(frame, mask) for frame, mask in zip(frames, masks, strict=True) if mask.any()]
    return Look(
        colour=_most(_colour(frame, mask) for frame, mask in solid),
        shape=_shape(_outline([mask for _, mask in solid])) if solid else None,
        motion=_motion(masks) if len(frames) > 1 else None,
        place=_place(frames),
    )


def solids(frames: Frames) -> Mask:
    """(F, H, W): where the solid is; nowhere in a frame that shows none."""
    pixels = frames.astype(np.float32)
    behind = _background(pixels)
    far = np.linalg.norm(pixels - behind, axis=-1) > DIFFERENT
    colourful = pixels.max(axis=-1) - pixels.min(axis=-1) > COLOURFUL
    return np.stack([_largest(mask) for mask in far & colourful & ~_shadowed(pixels, behind)])


def _background(pixels: Floats) -> Floats:
    """Background colours (F, H, 1, 3): for each row the pixel that is most like the others.

    The median would not do: a solid and a cloud may cover more than half of a row.
    """
    width = pixels.shape[2]
    some = pixels[:, :, :: max(1, width // SAMPLES)]
    candidates = pixels[:, :, :: max(1, width // CANDIDATES)]
    alike = np.abs(some[:, :, None] - candidates[:, :, :, None]).max(axis=-1) < SAME
    chosen = alike.sum(axis=-1).argmax(axis=-1)[..., None, None]
    return np.asarray(np.take_along_axis(candidates, chosen, axis=2), np.float32)


def _shadowed(pixels: Floats, behind: Floats) -> Mask:
    """Pixels that are as most of their row, only darker."""
    share = (pixels * behind).sum(-1) / np.maximum((behind * behind).sum(-1), 1.0)
    rest = np.linalg.norm(pixels - share[..., None] * behind, axis=-1)
    return np.asarray((share < 1) & (rest < SHADOW), np.bool_)


def _largest(mask: Mask) -> Mask:
    """The largest patch, without holes (a solid is convex); empty where it is too small."""
    height, width = mask.shape
    rows, columns = height // CELL, width // CELL
    cells = mask[: rows * CELL, : columns * CELL].reshape(rows, CELL, columns, CELL).mean((1, 3)) >= 0.5
    patch = np.zeros_like(mask)
    patch[: rows * CELL, : columns * CELL] = _grown(_largest_cells(cells)).repeat(CELL, 0).repeat(CELL, 1)
    patch &= mask
    return _filled(patch) if patch.sum() >= SMALLEST_SOLID * height**2 else np.zeros_like(mask)


def _largest_cells(cells: Mask) -> Mask:
    """The largest connected patch: every cell takes the highest number of its neighbours until none changes."""
    label = np.where(cells, np.arange(1, cells.size + 1).reshape(cells.shape), 0)
    while True:
        padded = np.pad(label, 1)
        around = [padded[1:-1, 1:-1], padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]]
        new = np.where(cells, np.max(around, axis=0), 0)
        if (new == label).all():
            break
        label = new
    counts = np.bincount(label[cells].ravel(), minlength=1)
    return np.asarray(cells & (label == counts.argmax()), np.bool_)


def _grown(cells: Mask) -> Mask:
    padded = np.pad(cells, 1)
    return padded[1:-1, 1:-1] | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]


def _filled(mask: Mask) -> Mask:
    """Fill a mask between its first and its last pixel, along rows and along columns."""

    def between(axis: int) -> Mask:
        after = np.maximum.accumulate(mask, axis)
        before = np.flip(np.maximum.accumulate(np.flip(mask, axis), axis), axis)
        return np.asarray(after & before, np.bool_)

    return between(0) & between(1)


def _inner(mask: Mask, margin: int) -> Mask:
    for _ in range(margin):
        padded = np.pad(mask, 1)
        mask = mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask


def _colour(frame: Frames, mask: Mask) -> str | None:
    """The colour whose ray, from black outwards, passes nearest to the solid's pixels."""
    inner = _inner(mask, 3)
    pixels = frame[inner if inner.any() else mask].astype(np.float32)

    def distance(name: str) -> float:
        base = np.array(COLOURS[name], np.float32)
        share = np.clip(pixels @ base / (base @ base), 0.35, 1.2)
        return float(np.median(np.linalg.norm(pixels - share[:, None] * base, axis=-1)))

    nearest = min(COLOURS, key=distance)
    return nearest if distance(nearest) < COLOUR_WITHIN else None


def _outline(masks: Sequence[Mask]) -> Mask:
    """(2 H, 2 W): the solid, its middle in the middle, as half of the frames show it: their faults are not alike."""
    height, width = masks[0].shape
    shown = np.zeros((2 * height, 2 * width), np.int32)
    for mask in masks:
        row, column = (round(index.mean()) for index in np.nonzero(mask))
        shown[height - row : 2 * height - row, width - column : 2 * width - column] += mask
    return np.asarray(2 * shown >= len(masks), np.bool_)


def _shape(mask: Mask) -> str | None:
    """The shape whose outline, drawn into the solid's box, covers most like it."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    v = (np.arange(part.shape[0])[:, None] + 0.5) / part.shape[0] * 2 - 1
    u = (np.arange(part.shape[1])[None] + 0.5) / part.shape[1] * 2 - 1
    outlines = {"ball": u * u + v * v <= 1, "box": np.abs(u) + 0 * v <= 1, "cone": np.abs(u) <= (v + 1) / 2}

    def alike(name: str) -> float:
        return float((part & outlines[name]).sum() / (part | outlines[name]).sum())

    nearest = max(SHAPES, key=alike)
    return nearest if alike(nearest) >= ALIKE else None


def _motion(masks: Mask) -> str | None:
    """Direction of the solid's middle, from the first two frames that show it to the last two; None if too few do."""
    shown = [mask for mask in masks if mask.any()]
    if len(shown) < max(2, SEEN * len(masks)):
        return None
    middles = np.array([[np.mean(index) for index in np.nonzero(mask)] for mask in shown]) / masks.shape[1:]
    up, aside = middles[-2:].mean(0) - middles[:2].mean(0)
    if abs(aside) > ASIDE:
        return "right" if aside > 0 else "left"
    if abs(up) > UPWARD:
        return "fall" if up > 0 else "rise"
    return None


def _place(frames: Frames) -> str | None:
    """The place whose colours at the top and at the bottom are nearest."""
    border = max(1, round(BORDER * frames.shape[1]))
    top, bottom = (np.median(part.reshape(-1, 3), 0) for part in (frames[:, :border], frames[:, -border:]))

    def distance(name: str) -> float:
        place = PLACES[name]
        return float(np.linalg.norm(top - place.sky) + np.linalg.norm(bottom - place.near))

    nearest = min(PLACES, key=distance)
    return nearest if distance(nearest) < PLACE_WITHIN else None


def _most(values: Iterable[Any]) -> Any:
    """The value that comes most often; None of none."""
    counted = Counter(values).most_common(1)
    return counted[0][0] if counted else None
