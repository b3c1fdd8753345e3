"""Draw the frames of a scene with numpy: any size, any length, any part of the picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ringlight.core.demo_world import COLOURS, PLACES, Rgb
from training.world import Scene

Floats = NDArray[np.float32]
Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class Size:
    """Of a clip: pixels of a frame, and how many frames the motion takes."""

    width: int = 256
    height: int = 160
    frames: int = 17

    @classmethod
    def read(cls, text: str) -> Size:
        """Read WIDTHxHEIGHTxFRAMES."""
        return cls(*(int(part) for part in text.split("x")))

    def __str__(self) -> str:
        return f"{self.width}x{self.height}x{self.frames}"


@dataclass(frozen=True)
class Window:
    """A part of the frames, in pixels; the whole where it is not given."""

    x: int
    y: int
    width: int
    height: int


def path_of(scene: Scene, size: Size) -> Floats:
    """(F, 2): x of the solid's middle and how far it is above the floor, in pixels, in each frame."""
    t = np.arange(size.frames, dtype=np.float32) / max(size.frames - 1, 1)
    x = np.full_like(t, scene.x * size.width)
    up = np.zeros_like(t)
    if scene.sideways:
        x += scene.travel * size.width * t * (1 if scene.motion == "right" else -1)
    else:
        up = scene.travel * size.height * (t if scene.motion == "rise" else 1 - t)
    return np.stack([x, up], axis=1)


def floor_of(scene: Scene, size: Size) -> float:
    """The row on which the solid's shadow lies."""
    return size.height * (scene.depth + 0.3 * scene.radius)


def middle_of(scene: Scene, size: Size) -> Floats:
    """(F, 2): x and y of the solid's middle in each frame, in pixels."""
    at = path_of(scene, size)
    y = floor_of(scene, size) - at[:, 1] - 0.92 * scene.radius * size.height
    return np.stack([at[:, 0], y], axis=1)


def draw(scene: Scene, size: Size, frames: range | None = None, window: Window | None = None) -> Frames:
    """(F, H, W, 3): these frames of the clip (all of them) in this window (the whole picture)."""
    window = window or Window(0, 0, size.width, size.height)
    chosen = frames if frames is not None else range(size.frames)
    picture = _background(scene, size, window)
    out = np.repeat(picture[None], len(chosen), axis=0)
    middle, path = middle_of(scene, size), path_of(scene, size)
    for n, frame in enumerate(chosen):
        x, y = middle[frame] - (window.x, window.y)
        floor, up = floor_of(scene, size) - window.y, float(path[frame, 1])
        _shadow(out[n], float(x), floor, scene.radius * size.height, up / size.height)
        _solid(out[n], scene, float(x), float(y), scene.radius * size.height)
    return np.clip(out * scene.light + 0.5, 0, 255).astype(np.uint8)


def _grid(x0: int, y0: int, width: int, height: int) -> tuple[Floats, Floats]:
    """Rows and columns of pixels' middles: (H, 1) and (1, W)."""
    y = np.arange(y0, y0 + height, dtype=np.float32)[:, None] + 0.5
    x = np.arange(x0, x0 + width, dtype=np.float32)[None] + 0.5
    return y, x


def _between(top: Rgb, bottom: Rgb, share: Floats) -> Floats:
    first, second = np.array(top, np.float32), np.array(bottom, np.float32)
    return first + (second - first) * np.clip(share, 0, 1)[..., None]


def _over(picture: Floats, colour: Floats | Rgb, alpha: Floats) -> Floats:
    return np.asarray(picture + (np.array(colour, np.float32) - picture) * alpha[..., None], np.float32)


def _background(scene: Scene, size: Size, window: Window) -> Floats:
    """(H, W, 3): sky, ground, and what hangs in the sky."""
    place, height = PLACES[scene.place], size.height
    y, x = _grid(window.x, window.y, window.width, window.height)
    edge = scene.horizon * height
    sky = _between(place.sky, place.horizon, y / edge)
    ground = _between(place.far, place.near, (y - edge) / (height - edge))
    column = sky + (ground - sky) * np.clip((y - edge) / 2 + 0.5, 0, 1)[..., None]
    picture = np.asarray(np.repeat(column, window.width, axis=1), np.float32)
    if scene.place in ("night", "desert"):
        away = np.hypot(x - size.width * (0.12 + 0.76 * scene.phase), y - height * 0.16)
        disc = np.clip(height * 0.07 - away + 0.5, 0, 1)
        glow = 0.35 * np.exp(-((away / (height * 0.16)) ** 2))
        return _over(picture, (235, 235, 215) if scene.place == "night" else (255, 244, 200), np.maximum(disc, glow))
    if scene.place == "meadow":
        across = x - size.width * (0.15 + 0.7 * scene.phase)
        cloud = np.zeros(picture.shape[:2], np.float32)
        for dx, dy, r in ((-0.16, 0.02, 0.055), (0, 0, 0.085), (0.15, 0.02, 0.06)):
            away = np.hypot((across - dx * height) * 0.7, y - height * (0.17 + dy))
            cloud = np.maximum(cloud, np.clip((height * r - away) / 4 + 0.5, 0, 1))
        return _over(picture, (252, 252, 252), 0.85 * cloud)
    return picture


def _patch(picture: Floats, x: float, y: float, wide: float, tall: float) -> tuple[Floats, Floats, Floats]:
    """The part of a picture around a point, and its rows and columns; empty where it lies outside."""
    height, width = picture.shape[:2]
    x0, x1 = (int(np.clip(v, 0, width)) for v in (x - wide, x + wide + 1))
    y0, y1 = (int(np.clip(v, 0, height)) for v in (y - tall, y + tall + 1))
    rows, columns = _grid(x0, y0, x1 - x0, y1 - y0)
    return picture[y0:y1, x0:x1], rows, columns


def _shadow(picture: Floats, x: float, floor: float, radius: float, up: float) -> None:
    """An ellipse on the ground, fainter the higher the solid is."""
    area, rows, columns = _patch(picture, x, floor, radius * 1.4, radius * 0.5)
    away = np.hypot((columns - x) / (radius * 1.05), (rows - floor) / (radius * 0.24))
    area *= (1 - np.clip((1 - away) * 3, 0, 1) * 0.42 * np.exp(-up / 0.35))[..., None]


def _solid(picture: Floats, scene: Scene, x: float, y: float, radius: float) -> None:
    area, rows, columns = _patch(picture, x, y, radius * 1.2, radius * 1.2)
    u, v = np.broadcast_arrays((columns - x) / radius, (rows - y) / radius)
    shine = np.zeros_like(u)
    if scene.shape == "ball":
        away = np.hypot(u, v) - 1
        z = np.sqrt(np.clip(1 - u * u - v * v, 0, 1))
        light = 0.55 + 0.5 * np.clip(-0.45 * u - 0.6 * v + 0.66 * z, 0, 1)
        shine = 0.75 * np.exp(-((u + 0.38) ** 2 + (v + 0.42) ** 2) / 0.05)
    elif scene.shape == "box":
        away = np.maximum(np.abs(u), np.abs(v)) - 0.92
        light = np.where(v < -0.45, 1.12, np.where(u > 0.42, 0.62, 0.88))
    else:
        away = np.maximum(0.894 * np.abs(u) - 0.447 * (v + 1), v - 0.92)
        light = 0.98 - 0.38 * np.clip((u + 0.25) * 1.3, 0, 1)
    base = np.array(COLOURS[scene.colour], np.float32) * light[..., None]
    colour = base + (255 - base) * shine[..., None]
    area += (colour - area) * np.clip(0.5 - away * radius, 0, 1)[..., None]
