"""A film that has made way is the same file, whatever its layout, also where a rank was killed while it was paused."""

from __future__ import annotations

import itertools
import os
import signal
from typing import Any

from gpu.picture import picture
from ringlight.engine.job_state import PAUSED

from .bars import Bar, Part
from .orders import PAUSING
from .sizes import DASH, Sizes
from .takes import Site, Take, interrupt

MIN_PAUSES = 5


def same_bytes(site: Site, sizes: Sizes) -> Part:
    """Films without a pause, with pauses, and with a death in one, compared byte by byte."""
    rows = []
    for layout, task in itertools.product(sizes.layouts, sizes.tasks):
        pictures = {"image": picture()} if task == "I2V" else {}
        for kind in sizes.kinds:
            alone = film(site, sizes, layout, kind, pictures)
            alone.report()
            paused = film(site, sizes, layout, kind, pictures)
            interrupt(paused, sizes.brief_steps, lambda number: site.submit(PAUSING, DASH, seed=number))
            rows.append(compared(layout, task, kind, "", alone, paused))
        struck = film(site, sizes, layout, kind, pictures)
        kill_while_paused(site, sizes, struck, victim=len(rows) % 2)
        rows.append(compared(layout, task, kind, "killed while paused", alone, struck))
    undisturbed = [row for row in rows if not row["death"]]
    killed = [row for row in rows if row["death"]]
    return Part(
        bars=[
            Bar(name="files that differ", at_most=0, measured=sum(not row["same"] for row in rows), is_timed=False),
            Bar(
                name=f"films paused fewer than {MIN_PAUSES} times",
                at_most=0,
                measured=sum(row["pauses"] < MIN_PAUSES for row in undisturbed),
                is_timed=False,
            ),
            Bar(
                name="killed while paused, and begun anew or charged with it",
                at_most=0,
                measured=sum(not row["resumed from step"] or row["deaths"] for row in killed),
                is_timed=False,
            ),
        ],
        rows=rows,
        notes={"film": sizes.brief_film, "clips": DASH},
    )


def film(site: Site, sizes: Sizes, layout: str, kind: str, pictures: dict[str, bytes]) -> Take:
    """Ask for the film whose bytes are compared."""
    return site.submit(PAUSING, sizes.brief_film, kind, layout, seed=7, **pictures)


def kill_while_paused(site: Site, sizes: Sizes, struck: Take, victim: int) -> None:
    """Kill a rank while a film is paused, and what it goes on from is written, which the ranks do beside the clip;
    returns once it is made all the same."""
    struck.wait_for(lambda state: state.step >= sizes.brief_steps[1])
    clip = site.submit(PAUSING, sizes.long_clip, seed=0)
    struck.wait_for(lambda state: state.stage == PAUSED and state.saved_step == state.step)
    os.kill(site.pids(PAUSING)[victim], signal.SIGKILL)
    clip.report()
    struck.report()


def compared(layout: str, task: str, kind: str, death: str, alone: Take, other: Take) -> dict[str, Any]:
    """A row: whether two files are the same."""
    report = other.report()
    return {
        "layout": layout,
        "task": task,
        "file": kind,
        "death": death,
        "pauses": report.pauses,
        "resumed from step": report.resumed_from_step,
        "deaths": other.job.state.deaths,
        "same": other.output.read_bytes() == alone.output.read_bytes(),
    }
