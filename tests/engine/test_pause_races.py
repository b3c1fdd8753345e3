"""Pauses that race with all that may come between, before replicas that dawdle at random."""

from __future__ import annotations

import contextlib
import random
import time
from pathlib import Path
from typing import Any

import pytest

from ringlight.core.errors import Cancelled
from ringlight.engine.jobs import Job, Keep, Submission
from tests.engine.processes import wait_until
from tests.engine.replicas import TurningReplica
from tests.engine.requests import small
from tests.engine.scene import CLIP, PATIENCE, Scene


class Erratic(TurningReplica):
    """Answers and dawdles at random."""

    def __init__(self, dice: random.Random) -> None:
        super().__init__()
        self._dice = dice

    def pause(self, job_id: str, now: bool = False) -> None:
        time.sleep(self._dice.choice((0, 0, 0.001)))
        super().pause(job_id, now)

    def cancel(self, job_id: str) -> None:
        time.sleep(self._dice.choice((0, 0, 0.001)))
        super().cancel(job_id)

    def _may_go_on(self, kept: Any) -> bool:
        time.sleep(self._dice.choice((0, 0, 0.0005)))
        return super()._may_go_on(kept)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_pauses_cancels_and_deaths_race_and_every_job_ends_in_one_way(tiny: Path, tmp_path: Path, seed: int) -> None:
    """Fifty times each: a film is asked to make way, while it or the newcomer is cancelled, or the workers die."""
    dice = random.Random(seed)
    scene = Scene(tiny, tmp_path, Erratic(dice), Erratic(dice))
    ends: dict[str, list[str]] = {}

    def note(job: Job) -> None:
        if job.state.is_over:
            ends.setdefault(job.id, []).append(job.state.status)

    def submit(prompt: str, kind: dict[str, int]) -> Job:
        asked = Submission(keep=Keep(state_file=str(tmp_path / "state"), max_repeats=1000))
        output = str(tmp_path / f"{prompt}.mp4")
        return scene.engine.submit(small(scene.engine, prompt, **kind), output, note, submission=asked)

    with scene.engine:
        jobs, cancelled = [], []
        for _ in range(50):
            pair = [submit("film", {"num_inference_steps": 30}), submit("clip", CLIP)]
            jobs += pair
            time.sleep(dice.choice((0, 0.001, 0.004)))
            match dice.randrange(6):
                case 0 | 1:
                    cancelled.append(pair[dice.randrange(2)])
                    scene.engine.cancel(cancelled[-1])
                case 2:
                    scene.replicas[dice.randrange(2)].die()
        for job in jobs:
            with contextlib.suppress(Cancelled) if job in cancelled else contextlib.nullcontext():
                job.wait(60)
        wait_until(lambda: not any(each.kept for each in scene.replicas), PATIENCE)
        assert not scene.engine.queue.ids()
        assert scene.engine.num_paused == 0
    assert scene.engine.pauses.pauses > 10
    assert {job.id: 1 for job in jobs} == {name: len(each) for name, each in ends.items()}
    assert not any(each.holding.turn for each in scene.engine._runners)
