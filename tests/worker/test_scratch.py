"""The folder in which a rank works where its machine has none of the engine's files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ringlight.core import messages
from ringlight.core.errors import InvalidInstallation
from ringlight.core.messages import Carried
from ringlight.worker.scratch import Scratch
from tests.worker.test_between_jobs import LONG
from tests.worker.test_process import REQUEST
from tests.worker.wires import started, until


def nowhere(message: Carried) -> None:
    raise AssertionError("nothing is sent here")


def die(scratch: Scratch) -> None:
    """What the end of its process does, however it comes."""
    os.close(scratch._lock)


def test_what_dead_processes_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "somebody's").mkdir()
    dead, living = Scratch(str(tmp_path), nowhere), Scratch(str(tmp_path), nowhere)
    for scratch in (dead, living):
        (scratch.path / "job-1").mkdir()
        (scratch.path / "job-1" / "state").write_bytes(bytes(100))
    die(dead)
    mine = Scratch(str(tmp_path), nowhere)
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "somebody's", living.path, mine.path])
    assert (living.path / "job-1" / "state").exists()
    mine.remove()
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "somebody's", living.path])
    die(mine)
    die(living)


def test_a_place_that_is_not_there_is_made_and_one_that_cannot_be_is_said_with_its_machine(tmp_path: Path) -> None:
    scratch = Scratch(str(tmp_path / "a" / "b"), nowhere)
    assert scratch.path.parent == tmp_path / "a" / "b"
    die(scratch)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InvalidInstallation, match=rf"{tmp_path}/file on {os.uname().nodename} cannot be used"):
        Scratch(str(tmp_path / "file"), nowhere)


@pytest.mark.parametrize("job_id", ["video_1", "..", "../../elsewhere", "a b/c", "é"])
def test_all_paths_of_a_job_are_in_it_and_go_with_the_job(tmp_path: Path, job_id: str) -> None:
    scratch = Scratch(str(tmp_path / "scratch"), nowhere)
    asked = messages.RunJob(
        job_id=job_id,
        request=REQUEST,
        output="/engine/films/%04d.png",
        state_file="/engine/state.safetensors",
        continues="/engine/source.mp4",
    )
    here = scratch.here(asked)
    paths = [Path(path).resolve() for path in (here.output, here.state_file, here.continues)]
    assert len(set(paths)) == 3 and paths[0].name == "%04d.png"
    assert all(path.is_relative_to(scratch.path.resolve()) for path in paths)
    assert (here.job_id, here.request) == (asked.job_id, asked.request)
    for path in paths:
        path.write_bytes(bytes(10))
    scratch.clear(job_id)
    assert list(scratch.path.iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["scratch"]
    die(scratch)


def test_what_a_job_does_not_have_it_does_not_get(tmp_path: Path) -> None:
    scratch = Scratch(str(tmp_path), nowhere)
    here = scratch.here(messages.RunJob(job_id="video_1", request=REQUEST, output="/engine/film.mp4"))
    assert (here.state_file, here.continues) == ("", "")
    die(scratch)


@pytest.mark.slow
def test_without_its_engine_a_rank_leaves_nothing_behind(tiny: Path, tmp_path: Path) -> None:
    with started(tiny, scratch=str(tmp_path / "scratch")) as (process, wire):
        job = messages.RunJob(job_id="video_1", request=LONG, output="/nowhere/film.npy", state_file="/nowhere/state")
        wire.send(job)
        until(wire, lambda message: isinstance(message, messages.FilePart))
        (mine,) = (tmp_path / "scratch").iterdir()
        assert [path.name for path in mine.iterdir()] == ["job-video_1"]
        wire.close()
        assert process.wait(30) != 0
    assert list((tmp_path / "scratch").iterdir()) == []
