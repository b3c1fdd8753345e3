"""The world that the trained demo checkpoint knows: a coloured solid, its motion, a place, and the words for them."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

Rgb = tuple[int, int, int]


class Look(msgspec.Struct, frozen=True):
    """Appearance of a film, or what its prompt asks for; None for aspects that are not shown or named."""

    colour: str | None = None
    shape: str | None = None
    motion: str | None = None
    place: str | None = None


class Landscape(msgspec.Struct, frozen=True):
    """Names of a place in captions (the first phrase is the usual one), and its colours from top to bottom."""

    phrases: tuple[str, ...]
    sky: Rgb
    horizon: Rgb
    far: Rgb  # the ground at the horizon
    near: Rgb  # and at the bottom


COLOURS: Mapping[str, Rgb] = {
    "red": (214, 40, 40),
    "orange": (247, 127, 0),
    "yellow": (250, 220, 40),
    "green": (20, 120, 60),
    "blue": (30, 80, 220),
    "purple": (140, 45, 180),
}
SHAPES = ("ball", "box", "cone")
PLACES: Mapping[str, Landscape] = {
    "meadow": Landscape(
        ("over green ground", "over a meadow"), (90, 160, 235), (190, 220, 250), (155, 210, 105), (115, 185, 80)
    ),
    "desert": Landscape(
        ("over sand", "in a desert"), (110, 180, 230), (235, 230, 210), (236, 205, 150), (215, 170, 110)
    ),
    "snow": Landscape(("over snow", "in winter"), (140, 165, 190), (205, 215, 225), (245, 248, 252), (205, 215, 230)),
    "night": Landscape(("at night", "under the moon"), (8, 10, 40), (40, 45, 95), (38, 60, 60), (16, 28, 32)),
}
# The first phrase is the usual one.
MOTIONS: Mapping[str, tuple[str, ...]] = {
    "right": ("rolls to the right", "moves right"),
    "left": ("rolls to the left", "moves left"),
    "rise": ("rises", "moves up"),
    "fall": ("falls", "moves down"),
}
# Words that mean the same here, and so share one embedding.
SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "a": ("an", "the", "one"),
    "ball": ("sphere",),
    "box": ("cube", "block"),
    "cone": ("pyramid",),
    "rolls": ("moves", "slides", "glides", "flies", "drifts", "travels", "goes", "floats"),
    "rises": ("climbs", "ascends"),
    "falls": ("drops", "sinks", "descends"),
    "right": ("rightwards",),
    "left": ("leftwards",),
    "up": ("upwards",),
    "down": ("downwards",),
    "over": ("on", "across", "above", "in", "at", "under", "through"),
    "to": ("towards",),
    "meadow": ("grass", "lawn"),
    "desert": ("dunes",),
    "night": ("midnight",),
    "purple": ("violet",),
}
_MOTION_OF = {"right": "right", "left": "left", "rises": "rise", "up": "rise", "falls": "fall", "down": "fall"}
_PLACE_OF = {"ground": "meadow", "meadow": "meadow", "sand": "desert", "desert": "desert", "snow": "snow"} | {
    "winter": "snow",
    "night": "night",
    "moon": "night",
}


def words() -> dict[str, str]:
    """Every word that captions know, and the word whose meaning it has (mostly itself), in a fixed order."""
    phrases = [*COLOURS, *SHAPES, *SYNONYMS]
    phrases += [way for place in PLACES.values() for way in place.phrases]
    phrases += [way for ways in MOTIONS.values() for way in ways]
    meaning = {other: word for word, others in SYNONYMS.items() for other in others}
    known = {word for phrase in phrases for word in phrase.split()} | set(meaning)
    return {word: meaning.get(word, word) for word in sorted(known)}


def read_prompt(prompt: str) -> Look:
    """Parse what a prompt asks for; the first word on an aspect counts."""
    known = words()
    said = [known.get(word, word) for word in re.findall(r"[a-z]+", prompt.lower())]
    pairs = zip(said, [*said, ""][1:], strict=True)
    colours = [word for word, after in pairs if word in COLOURS and (word, after) != ("green", "ground")]
    return Look(
        colour=next(iter(colours), None),
        shape=next((word for word in said if word in SHAPES), None),
        motion=next((_MOTION_OF[word] for word in said if word in _MOTION_OF), None),
        place=next((_PLACE_OF[word] for word in said if word in _PLACE_OF), None),
    )
