"""Jobs that make way for others on real ranks: the bytes are those that each has alone, whatever happens in between.

The ranks are forked (`faults`).
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ringlight import Engine, EngineConfig
from ringlight.core.errors import Cancelled
from ringlight.core.layout import AskedLayout
from ringlight.engine import holding, process
from ringlight.engine.job_state import PAUSED
from ringlight.engine.jobs import Job, Keep, Submission
from ringlight.engine.ranked import RankedReplica
from tests.engine.faults import fork_rank
from tests.engine.processes import wait_until
from tests.engine.requests import small

FILM, CLIP = {"num_inference_steps": 200}, {"num_inference_steps": 2}
NUM_PAUSES = 5


class Pair:
    """An engine of two ranks whose jobs are kept, and the bytes that jobs have which nobody disturbs."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine = engine
        self._folder = folder
        self._number = 0
        engine.start()
        self.alone = {kind: self.bytes_of(self.submit(kind)) for kind in ("film", "clip", "longer")}

    @property
    def pids(self) -> list[int]:
        """Of the ranks of the only replica."""
        (runner,) = self.engine._runners
        assert isinstance(runner.replica, RankedReplica)
        return runner.replica.pids

    def submit(self, kind: str, **asked: Any) -> Job:
        """A film, or a clip, or one between the two; its latents are written."""
        self._number += 1
        steps = {"film": FILM, "clip": CLIP, "longer": {"num_inference_steps": 60}}[kind]
        keep = Keep(state_file=str(self._folder / f"{self._number}.state"), max_repeats=99)
        request, output = small(self.engine, kind, **steps), str(self._folder / f"{self._number}.safetensors")
        return self.engine.submit(request, output, submission=Submission(keep=keep, **asked))

    def film_at(self, step: int) -> Job:
        """A film that is so far."""
        film = self.submit("film")
        wait_until(lambda: film.state.step >= step)
        return film

    def bytes_of(self, job: Job) -> bytes:
        """Waits for it."""
        job.wait(60)
        return Path(job.output).read_bytes()

    def are_as_alone(self, **jobs: Job) -> bool:
        """Whether each of these, by kind, has its bytes."""
        return all(self.bytes_of(job) == self.alone[kind] for kind, job in jobs.items())


@pytest.fixture(scope="module")
def pair(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with pytest.MonkeyPatch.context() as patch, Engine(config_of(tiny, num_ranks=2), supervised=True) as engine:
        patch.setattr(process, "launch", fork_rank)
        yield Pair(engine, tmp_path_factory.mktemp("turns"))


def config_of(checkpoint: Path, num_ranks: int) -> EngineConfig:
    return EngineConfig(
        model_path=str(checkpoint), device="cpu", num_threads=1, asked_layout=AskedLayout(num_gpus=num_ranks)
    )


def test_a_clip_amid_a_film_is_made_first_and_both_are_as_alone(engine: Engine, tmp_path: Path) -> None:
    """Without files of their states, on one rank that is started."""

    def submit(name: str, kind: dict[str, int]) -> Job:
        return engine.submit(small(engine, **kind), str(tmp_path / f"{name}.safetensors"))

    submit("alone", kind := {"num_inference_steps": 40}).wait(60)
    film = submit("film", kind)
    wait_until(lambda: film.state.step >= 5)
    submit("clip", CLIP).wait(60)
    assert not film.state.is_over
    report = film.wait(60)
    assert (report.pauses, report.paused_seconds > 0) == (1, True)
    assert (tmp_path / "film.safetensors").read_bytes() == (tmp_path / "alone.safetensors").read_bytes()


@pytest.mark.slow
def test_five_clips_amid_a_film(pair: Pair) -> None:
    film, clips = pair.film_at(5), []
    for _ in range(NUM_PAUSES):
        clips.append(clip := pair.submit("clip"))
        clip.wait(60)
        step = film.state.step
        wait_until(lambda step=step: film.state.step > step)  # type: ignore[misc]
    assert pair.are_as_alone(film=film)
    assert all(pair.are_as_alone(clip=clip) for clip in clips)
    assert film.state.report is not None
    assert film.state.report.pauses == NUM_PAUSES
    assert len(film.state.report.step_seconds) == FILM["num_inference_steps"]


@pytest.mark.slow
def test_a_job_within_a_job_within_a_job(pair: Pair) -> None:
    film = pair.film_at(5)
    longer = pair.submit("longer")
    wait_until(lambda: longer.state.step >= 2)
    clip = pair.submit("clip")
    clip.wait(60)
    assert [job.state.is_over for job in (longer, film)] == [False, False]
    longer.wait(60)
    assert not film.state.is_over
    assert pair.are_as_alone(film=film, longer=longer, clip=clip)


@pytest.mark.slow
def test_beyond_the_bound_a_film_goes_on_from_its_file(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "MOST_HELD", 0)
    film = pair.film_at(5)
    clip = pair.submit("clip")
    clip.wait(60)
    assert pair.are_as_alone(film=film, clip=clip)
    assert film.state.report is not None
    assert film.state.report.resumed_from_step >= 5
    assert film.state.deaths == 0


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_while_a_film_is_paused(pair: Pair, rank: int) -> None:
    film = pair.film_at(5)
    longer = pair.submit("longer")
    wait_until(lambda: longer.state.step >= 2)
    assert film.state.stage == PAUSED
    os.kill(pair.pids[rank], signal.SIGKILL)
    assert pair.are_as_alone(film=film, longer=longer)
    assert (longer.state.deaths, film.state.deaths) == (1, 0)


@pytest.mark.slow
def test_what_a_busy_replica_keeps_goes_on_with_the_other_one(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "launch", fork_rank)
    with Engine(config_of(tiny, num_ranks=1), num_replicas=2, supervised=True) as engine:
        two = Pair(engine, tmp_path)
        wait_until(lambda: [each.status for each in engine.replicas] == ["ready", "ready"])
        film, longer = two.film_at(2), two.submit("longer")
        wait_until(lambda: longer.state.step >= 1)
        began, urgent = film.state.replica, two.submit("film", priority=1)
        wait_until(lambda: film.state.stage == PAUSED)
        assert two.are_as_alone(longer=longer, film=urgent)
        assert two.are_as_alone(film=film)
    assert (urgent.state.replica, film.state.replica) == (began, longer.state.replica)
    assert film.state.report is not None
    assert (film.state.report.resumed_from_step > 0, film.state.deaths) == (True, 0)


@pytest.mark.slow
def test_a_paused_film_is_cancelled_and_the_next_one_is_as_ever(pair: Pair) -> None:
    film = pair.film_at(5)
    longer = pair.submit("longer")
    wait_until(lambda: film.state.stage == PAUSED)
    pair.engine.cancel(film)
    with pytest.raises(Cancelled):
        film.wait(0)
    assert pair.are_as_alone(longer=longer, clip=pair.submit("clip"))


@pytest.mark.slow
def test_pauses_race_with_cancels_and_the_next_one_is_as_ever(pair: Pair) -> None:
    """Whichever comes first, and whomever it is of."""
    dice, began = random.Random(7), pair.engine.pauses.pauses
    for _ in range(12):
        film = pair.film_at(1 + dice.randrange(4))
        jobs = [film, pair.submit("clip")]
        time.sleep(dice.choice((0, 0.002, 0.01, 0.05)))
        cancelled = jobs if dice.random() < 0.2 else [film]
        for job in cancelled:
            pair.engine.cancel(job)
        for job in jobs:
            with contextlib.suppress(Cancelled) if job in cancelled else contextlib.nullcontext():
                job.wait(60)
    assert pair.engine.pauses.pauses > began
    assert not pair.engine.queue.ids()
    assert pair.are_as_alone(film=pair.submit("film"))
    assert pair.engine.replicas[0].restarts <= 2  # those that were killed above
