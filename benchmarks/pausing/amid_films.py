"""Clips that come while films run back to back: how much longer they take than alone."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ringlight.planner.simulate import percentile

from .bars import Bar, Part
from .orders import PAUSING
from .sizes import Sizes
from .takes import Site, Take

ALLOWED_SECONDS = 0.020  # over two steps of the film: one that is under way, and one that nobody could stop any more
ALLOWED_STEPS = 2


def amid_films(site: Site, sizes: Sizes) -> Part:
    """Rounds of clips alone and clips amid films. Latents only: a film that is being decoded is not paused."""
    rows = []
    for number in range(sizes.rounds):
        step_seconds = statistics.median(site.submit(PAUSING, sizes.film, seed=0).report().step_seconds)
        by_itself = [site.submit(PAUSING, sizes.clip, seed=seed).seconds for seed in range(sizes.num_clips)]
        with films_back_to_back(site, sizes) as films:
            seconds = [clip.seconds for clip in spaced_clips(site, sizes)]
        alone, amid = percentile(by_itself, 0.95), percentile(seconds, 0.95)
        rows.append(
            {
                "round": number + 1,
                "film's step, s": step_seconds,
                "p95 alone, s": alone,
                "p95 amid films, s": amid,
                "median amid films, s": statistics.median(seconds),
                "longer by, s": amid - alone - ALLOWED_STEPS * step_seconds,
                "films": len(films),
                "pauses": sum(film.report().pauses for film in films),
            }
        )
    excess = statistics.median(row["longer by, s"] for row in rows)
    name = f"p95 of {sizes.num_clips} clips amid films, over p95 alone and {ALLOWED_STEPS} steps of a film"
    return Part(
        bars=[Bar(name=name, at_most=ALLOWED_SECONDS * 1e3, measured=excess * 1e3, unit="ms")],
        rows=rows,
        notes={"film": sizes.film, "clip": sizes.clip, "a clip every, s": sizes.every_seconds, "files": "latents"},
    )


def spaced_clips(site: Site, sizes: Sizes) -> list[Take]:
    """Clips, each asked for at its time whether or not the one before is there."""
    began, clips = time.perf_counter(), []
    for number in range(sizes.num_clips):
        time.sleep(max(0.0, began + (number + 1) * sizes.every_seconds - time.perf_counter()))
        clips.append(site.submit(PAUSING, sizes.clip, seed=number))
    return clips


@contextmanager
def films_back_to_back(site: Site, sizes: Sizes) -> Iterator[list[Take]]:
    """Films, one running and one waiting, until the block ends; at the end of all they are over."""
    films, ending = [site.submit(PAUSING, sizes.film, seed=0)], threading.Event()

    def go_on() -> None:
        while not ending.is_set():
            films.append(site.submit(PAUSING, sizes.film, seed=len(films)))
            films[-2].wait_for(lambda state: state.is_computed)

    feeding = threading.Thread(target=go_on, name="films")
    feeding.start()
    try:
        films[0].wait_for(lambda state: state.step > 0)
        yield films
    finally:
        ending.set()
        feeding.join()
        for film in films:
            film.report()
