"""How much each part does: enough to believe it in 25 minutes on two quiet cores, or the least that runs every line."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .orders import ORDERS, PAUSING, SHORTEST, Order

Fields = dict[str, Any]

FILM: Fields = {"width": 256, "height": 160, "num_frames": 17, "num_inference_steps": 180}
CLIP: Fields = {"width": 192, "height": 128, "num_frames": 5, "num_inference_steps": 8}
DASH: Fields = {"width": 64, "height": 64, "num_frames": 5, "num_inference_steps": 2}


def of_steps(fields: Fields, number: int) -> Fields:
    """The same with so many steps."""
    return fields | {"num_inference_steps": number}


@dataclass(frozen=True)
class Sizes:
    """Of a whole run.

    All clips together are a small part of the work, as they are among real films (33 frames at 480p beside 121 at 720p:
    1/22 of the seconds each). That decides what films pay: where work that is not lost goes first, and takes the share
    x of the time, the mean of what comes behind is 1 / (1 - x) times that of first come, first served, whoever does it.

    Bytes: `brief_film` in each of `layouts`, of `tasks` and as `kinds`, interrupted by DASH after each of
    `brief_steps`, and killed under `long_clip` after the second of them. Amid films: `num_clips` a round, one every
    `every_seconds`. Cost: `film` interrupted by `clip` after each of `pause_steps`. Trace: by load so many jobs, of
    `trace_film` and `trace_clip`, once for each of `seeds` under each of `orders`; before that `alone` of each kind
    are made by themselves.
    """

    film: Fields = field(default_factory=lambda: FILM)
    clip: Fields = field(default_factory=lambda: CLIP)
    rounds: int = 3

    layouts: tuple[str, ...] = ("c2u1r1", "u2r1", "u1r2")
    tasks: tuple[str, ...] = ("T2V", "I2V")
    kinds: tuple[str, ...] = (".safetensors", ".mp4")
    brief_film: Fields = field(default_factory=lambda: of_steps(FILM, 100))
    brief_steps: tuple[int, ...] = (1, 10, 20, 30, 40, 50)
    long_clip: Fields = field(default_factory=lambda: of_steps(CLIP, 60))

    num_clips: int = 30
    every_seconds: float = 1.5

    pause_steps: tuple[int, ...] = tuple(range(8, 168, 8))

    trace_film: Fields = field(default_factory=lambda: of_steps(FILM, 130))
    trace_clip: Fields = field(default_factory=lambda: of_steps(CLIP, 4))
    num_jobs: tuple[tuple[float, int], ...] = ((0.7, 120), (0.4, 120))
    seeds: tuple[int, ...] = (1, 2, 3)
    orders: tuple[Order, ...] = ORDERS
    alone: int = 10


def smallest() -> Sizes:
    """For the self-test."""
    film = of_steps(DASH, 40)
    return Sizes(
        film=film,
        clip=DASH,
        rounds=1,
        layouts=("u1r2",),
        tasks=("T2V",),
        kinds=(".safetensors",),
        brief_film=of_steps(DASH, 50),
        brief_steps=(1, 4, 7, 10, 13),
        long_clip=of_steps(DASH, 15),
        num_clips=2,
        every_seconds=0.2,
        pause_steps=(1, 4),
        trace_film=film,
        trace_clip=DASH,
        num_jobs=((0.7, 3),),
        seeds=(1,),
        orders=(SHORTEST, PAUSING),
        alone=1,
    )
