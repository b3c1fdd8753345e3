"""What a pause costs: a film with many and one without, less the seconds of the clips in between."""

from __future__ import annotations

import statistics

from .bars import Bar, Part
from .orders import PAUSING
from .sizes import Sizes
from .takes import Site, interrupt

ALLOWED_SECONDS = 0.010
ALLOWED_IDLE = 0.02


def cost_of_pause(site: Site, sizes: Sizes) -> Part:
    """Films with and without pauses, in turns. Idle is the time in which the ranks worked on no job."""
    rows = []
    for number in range(sizes.rounds + 2):
        without = site.submit(PAUSING, sizes.film, seed=number)
        film_seconds = without.wall_seconds
        film = site.submit(PAUSING, sizes.film, seed=number)
        clips = interrupt(film, sizes.pause_steps, lambda seed: site.submit(PAUSING, sizes.clip, seed=seed))
        pauses = film.report().pauses
        clip_seconds = sum(clip.busy_seconds for clip in clips)
        wall = film.wall_seconds
        idle_seconds = wall - film.busy_seconds - clip_seconds
        rows.append(
            {
                "round": number + 1,
                "without, s": film_seconds,
                "with, s": wall,
                "clips, s": clip_seconds,
                "pauses": pauses,
                "a pause costs, ms": 1e3 * (wall - clip_seconds - film_seconds) / max(1, pauses),
                "idle": idle_seconds / wall,
                "idle before a turn, ms": 1e3 * idle_seconds / max(1, 2 * pauses),
            }
        )
    cost = statistics.median(row["a pause costs, ms"] for row in rows)
    return Part(
        bars=[
            Bar(
                name="films with fewer pauses than clips",
                at_most=0,
                measured=sum(row["pauses"] < len(sizes.pause_steps) for row in rows),
                is_timed=False,
            ),
            Bar(name="a pause costs", at_most=ALLOWED_SECONDS * 1e3, measured=cost, unit="ms"),
            Bar(
                name="idle between turns",
                at_most=ALLOWED_IDLE,
                measured=statistics.median(row["idle"] for row in rows),
                unit="%",
            ),
        ],
        rows=rows,
        notes={"film": sizes.film, "clip": sizes.clip, "files": "latents"},
    )
