"""Scenes of the world that the demo checkpoint knows, drawn by chance, and the sentence that describes each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ringlight.core.demo_world import COLOURS, MOTIONS, PLACES, SHAPES, Look

ODD_PHRASE = 0.25  # share of captions' parts that are said in the second way

HELD_OUT_EVERY, HELD_OUT_REST = 8, 5


@dataclass(frozen=True)
class Scene:
    """A clip before it is drawn. Numbers are shares of the picture's width (`x`, and `travel` to a side) or height."""

    shape: str
    colour: str
    place: str
    motion: str
    radius: float
    x: float  # where it begins
    travel: float
    depth: float  # where the floor under the solid is
    horizon: float
    light: float
    phase: float  # where cloud, sun or moon stands

    @property
    def look(self) -> Look:
        return Look(self.colour, self.shape, self.motion, self.place)

    @property
    def sideways(self) -> bool:
        return self.motion in ("right", "left")


def held_out(shape: str, colour: str, place: str) -> bool:
    """Whether this combination is kept from training, in any motion; each two of the three still occur together."""
    s, c, p = SHAPES.index(shape), list(COLOURS).index(colour), list(PLACES).index(place)
    return (c + 2 * s + 3 * p) % HELD_OUT_EVERY == HELD_OUT_REST


def draw_scene(rng: np.random.Generator, *, new: bool = False) -> Scene:
    """Draw a scene: of the combinations that are trained, or with `new` of those that are held out."""
    while True:
        shape, colour = str(rng.choice(SHAPES)), str(rng.choice(list(COLOURS)))
        place, motion = str(rng.choice(list(PLACES))), str(rng.choice(list(MOTIONS)))
        if held_out(shape, colour, place) == new:
            break
    x = {"right": rng.uniform(0.17, 0.22), "left": rng.uniform(0.78, 0.83)}.get(motion, rng.uniform(0.52, 0.64))
    return Scene(
        shape=shape,
        colour=colour,
        place=place,
        motion=motion,
        radius=rng.uniform(0.20, 0.25),
        x=x,
        travel=rng.uniform(0.56, 0.61) if motion in ("right", "left") else rng.uniform(0.36, 0.40),
        depth=rng.uniform(0.80, 0.84),
        horizon=rng.uniform(0.53, 0.55),
        light=rng.uniform(0.96, 1.03),
        phase=rng.uniform(0.04, 0.12),
    )


def caption(scene: Scene, rng: np.random.Generator | None = None, *, motion: bool = True) -> str:
    """The sentence of a scene. With `rng` some parts are said in another way; without `motion` it fits a still."""
    article = "an" if scene.colour[0] in "aeiou" else "a"
    parts = [article, scene.colour, scene.shape]
    if motion:
        parts.append(_phrase(MOTIONS[scene.motion], rng))
    return " ".join([*parts, _phrase(PLACES[scene.place].phrases, rng)])


def _phrase(ways: tuple[str, ...], rng: np.random.Generator | None) -> str:
    return ways[1] if rng is not None and rng.random() < ODD_PHRASE else ways[0]
