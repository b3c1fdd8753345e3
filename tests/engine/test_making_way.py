"""Clips amid a film, on two real ranks: they are there before it, and all of them are as they are alone."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ringlight import Engine, EngineConfig, RequestLimits
from ringlight.core.layout import AskedLayout, ParallelLayout
from ringlight.engine import process
from ringlight.engine.job_state import PAUSED
from ringlight.engine.jobs import Job, Keep, Submission
from ringlight.engine.launch.local import LocalLauncher
from ringlight.engine.ranked import RankedReplica
from tests.engine.processes import wait_until
from tests.engine.requests import small
from tests.forking import fork_rank

pytestmark = pytest.mark.slow

FILM: dict[str, Any] = {"width": 64, "num_inference_steps": 50, "seed": 1}
LONG_CLIP: dict[str, Any] = {"num_inference_steps": 40}
NUM_CLIPS = 5
PATIENCE = 60.0


class Pair:
    """Two ranks, and what they make."""

    def __init__(self, tiny: Path, folder: Path) -> None:
        layout = AskedLayout(num_gpus=2)
        config = EngineConfig(model_path=str(tiny), device="cpu", num_threads=1, asked_layout=layout)
        self.replica = RankedReplica(config, LocalLauncher(config, RequestLimits(), num_ranks=2))
        self.engine = Engine(config, replica=self.replica, supervised=True)
        self.ended: list[str] = []
        self._folder = folder
        self._number = 0

    def submit(self, kind: str = ".safetensors", layout: str | None = None, **changes: Any) -> Job:
        """A job whose state is kept, and whose id is told in `ended` when it is over."""
        self._number += 1
        output = self._folder / f"{self._number}{kind}"
        return self.engine.submit(
            small(self.engine, **changes),
            str(output),
            self._hear,
            None if layout is None else ParallelLayout.parse(layout),
            Submission(keep=Keep(state_file=str(output.with_suffix(".state")))),
        )

    def made(self, *arguments: Any, **changes: Any) -> bytes:
        """The file of a job that nothing disturbs."""
        return self.file_of(self.submit(*arguments, **changes))

    def file_of(self, job: Job) -> bytes:
        job.wait(PATIENCE)
        return Path(job.output).read_bytes()

    def _hear(self, job: Job) -> None:
        if job.state.is_over:
            self.ended.append(job.id)


@pytest.fixture(scope="module")
def pair(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    ranks = Pair(tiny, tmp_path_factory.mktemp("pair"))
    with pytest.MonkeyPatch.context() as patch, ranks.engine:
        patch.setattr(process, "launch", fork_rank)
        ranks.engine.start()
        yield ranks


def has_gone_on(film: Job, step: int) -> bool:
    """Whether it has its turn, and more steps are done."""
    assert not film.state.is_over, film.state
    return film.state.step > step and film.state.stage != PAUSED


@pytest.mark.parametrize(
    ("layout", "task", "kind"),
    [("c2u1r1", "I2V", ".mp4"), ("u2r1", "I2V", ".safetensors"), ("u1r2", "T2V", ".mp4")],
)
def test_clips_amid_a_film_are_there_before_it_and_all_are_as_alone(
    pair: Pair, photograph: Path, layout: str, task: str, kind: str
) -> None:
    fields = FILM | {"image": photograph.read_bytes() if task == "I2V" else None}
    alone, clip_alone = pair.made(kind, layout, **fields), pair.made()
    film, clips, step = pair.submit(kind, layout, **fields), [], 0
    for _ in range(NUM_CLIPS):
        wait_until(lambda step=step: has_gone_on(film, step), PATIENCE, 0.002)  # type: ignore[misc]
        clips.append(pair.submit())
        assert pair.file_of(clips[-1]) == clip_alone
        step = film.state.step
    report = film.wait(PATIENCE)
    assert pair.ended[-NUM_CLIPS - 1 :] == [*(clip.id for clip in clips), film.id]
    assert Path(film.output).read_bytes() == alone
    assert report.pauses == NUM_CLIPS and report.paused_seconds > 0
    assert report.layout == layout and len(report.step_seconds) == FILM["num_inference_steps"]


def test_a_film_goes_on_where_it_was_paused_after_a_rank_has_died(pair: Pair) -> None:
    """The death is held against the clip that had the turn, not against the film."""
    alone, clip_alone = pair.made(**FILM), pair.made(**LONG_CLIP)
    film = pair.submit(**FILM)
    wait_until(lambda: has_gone_on(film, 1), PATIENCE, 0.002)
    clip = pair.submit(**LONG_CLIP)
    wait_until(lambda: clip.state.step > 0 and film.state.saved_step == film.state.step, PATIENCE, 0.002)
    assert film.state.stage == PAUSED
    step = film.state.step
    os.kill(pair.replica.pids[1], signal.SIGKILL)
    assert (pair.file_of(clip), pair.file_of(film)) == (clip_alone, alone)
    assert (clip.state.deaths, film.state.deaths) == (1, 0)
    report = film.wait(PATIENCE)
    assert report.resumed_from_step == step > 1
