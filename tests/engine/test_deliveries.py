"""Ranks that share no folder with their engine: the same files as ever in its own, and nothing left in theirs."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ringlight import Engine, RequestLimits
from ringlight.core.errors import Cancelled, InvalidInstallation, InvalidRequest, InvalidSetting, OutputError
from ringlight.engine import holding
from ringlight.engine.job_state import PAUSED
from ringlight.engine.jobs import Submission
from ringlight.engine.launch.local import LocalLauncher
from ringlight.engine.ranked import RankedReplica
from tests.engine.apart import Apart, config_of, ranks_apart
from tests.engine.processes import wait_until
from tests.engine.requests import small
from tests.server.disks import NoSmallDisk, fill, small_disk

pytestmark = pytest.mark.slow

FILM = {"num_inference_steps": 40}
KINDS = ["film.mp4", "film.webm", "film.gif", "film.npy", "film.safetensors"]


@pytest.fixture(scope="module")
def apart(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apart]:
    with ranks_apart(tiny, tmp_path_factory.mktemp("apart")) as apart:
        yield apart


@pytest.fixture(scope="module")
def two(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apart]:
    with ranks_apart(tiny, tmp_path_factory.mktemp("two"), num_ranks=2) as apart:
        yield apart


@pytest.fixture(scope="module")
def undisturbed(two: Apart) -> bytes:
    """A film that nobody disturbs."""
    return two.made(two.submit(**FILM))


def beside(engine: Engine, folder: Path, name: str = "film.safetensors", continues: str = "", **asked: Any) -> bytes:
    """The file that a rank makes which shares its engine's folder."""
    path = folder / name
    engine.submit(small(engine, "a cat", **asked), str(path), submission=Submission(continues=continues)).wait(60)
    return path.read_bytes()


@pytest.mark.parametrize("name", KINDS)
def test_a_file_of_every_kind_is_the_same_and_alone_in_its_place(
    apart: Apart, engine: Engine, tmp_path: Path, name: str
) -> None:
    job = apart.submit(name=name)
    assert apart.made(job) == beside(engine, tmp_path, name)
    assert apart.files_of(job) == [name, "state"]
    assert apart.left() == []


def test_numbered_frames_come_as_one(apart: Apart, engine: Engine, tmp_path: Path) -> None:
    job = apart.submit(name="frame %02d.png", keeps=False)
    names = [f"frame {number:02d}.png" for number in range(5)]
    assert job.wait(60).outputs == [str(Path(job.output).with_name(name)) for name in names]
    engine.submit(small(engine, "a cat"), str(tmp_path / "frame %02d.png")).wait(60)
    for name in names:
        assert Path(job.output).with_name(name).read_bytes() == (tmp_path / name).read_bytes()
    assert (apart.files_of(job), apart.left()) == (names, [])


def test_a_video_that_continues_another(apart: Apart, engine: Engine, tmp_path: Path) -> None:
    before = apart.submit(name="before.mp4")
    first = apart.made(before)
    after = apart.submit(name="after.mp4", continues=before.output, num_frames=9)
    whole = apart.made(after)
    (tmp_path / "before.mp4").write_bytes(first)
    assert whole == beside(engine, tmp_path, "after.mp4", str(tmp_path / "before.mp4"), num_frames=9)
    assert apart.left() == []
    with pytest.raises(InvalidRequest, match="is not a video that can be read"):
        apart.submit(name="after.mp4", continues=str(apart.home / "missing.mp4")).wait(60)
    assert apart.left() == []


@pytest.mark.parametrize("rank", [0, 1])
def test_after_a_kill_it_goes_on_to_the_same_video(two: Apart, undisturbed: bytes, rank: int) -> None:
    job = two.at(10, two.submit(**FILM))
    os.kill(two.pids[rank], signal.SIGKILL)
    assert two.made(job) == undisturbed
    assert job.state.report is not None and job.state.report.resumed_from_step >= 1
    assert job.state.deaths == 1
    assert (two.files_of(job), two.left()) == (["film.safetensors", "state"], [])
    assert len(list(two.scratch.iterdir())) == 1  # that of the rank that was killed is gone


@pytest.mark.parametrize("most_held", [1, 0], ids=["kept", "put back"])
def test_a_film_makes_way_and_goes_on(
    two: Apart, undisturbed: bytes, monkeypatch: pytest.MonkeyPatch, most_held: int
) -> None:
    clip = two.made(two.submit())
    monkeypatch.setattr(holding, "MOST_HELD", most_held)
    film = two.at(5, two.submit(**FILM))
    assert two.made(two.submit()) == clip
    assert not film.state.is_over
    assert two.made(film) == undisturbed
    assert film.state.report is not None
    assert film.pauses.pauses == 1
    assert (film.state.report.resumed_from_step >= 5) is (most_held == 0)
    assert two.left() == []


def test_the_state_of_a_paused_film_is_there_when_ranks_die(two: Apart, undisturbed: bytes) -> None:
    film = two.at(5, two.submit(**FILM))
    urgent = two.submit(priority=1, num_inference_steps=1000)
    wait_until(lambda: film.state.stage == PAUSED and urgent.state.step >= 2)
    step = film.state.step
    wait_until(lambda: film.state.saved_step == step)  # it comes beside the turn of the other
    os.kill(two.pids[0], signal.SIGKILL)
    two.engine.cancel(urgent)
    with pytest.raises(Cancelled):
        urgent.wait(60)
    assert two.made(film) == undisturbed
    assert film.state.report is not None and film.state.report.resumed_from_step == step


def test_a_film_goes_on_with_a_replica_on_another_machine(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It makes way on one, and that one forgets it: its state is brought back first, and then to the other."""
    monkeypatch.setattr(holding, "MOST_HELD", 0)
    with ranks_apart(tiny, tmp_path, num_replicas=2) as apart:
        expected = apart.made(apart.submit(**FILM))
        film, longer = apart.at(3, apart.submit(**FILM)), apart.submit(num_inference_steps=20)
        wait_until(lambda: longer.state.step >= 1)
        began, urgent = film.state.replica, apart.submit(priority=1, num_inference_steps=1000)
        assert apart.made(film) == expected
        assert (urgent.state.replica, film.state.replica) == (began, longer.state.replica)
        assert film.state.report is not None and film.state.report.resumed_from_step >= 3
        apart.engine.cancel(urgent)
        with pytest.raises(Cancelled):
            urgent.wait(60)
        wait_until(lambda: apart.left() == [])


def test_a_cancel_in_the_middle_leaves_nothing(apart: Apart) -> None:
    for step in (1, 20):
        job = apart.submit(num_inference_steps=1000, keeps=step > 1, name="film.mp4")
        wait_until(lambda job=job, step=step: job.state.step >= step)  # type: ignore[misc]
        apart.engine.cancel(job)
        with pytest.raises(Cancelled):
            job.wait(60)
        wait_until(lambda: apart.engine.replicas[0].status == "ready")
        assert apart.files_of(job) == ["state"] * (step > 1)
        assert apart.left() == []


def test_a_place_that_is_gone_is_the_jobs_error_and_named_as_the_engine_knows_it(apart: Apart) -> None:
    pids = apart.pids
    job = apart.submit("asked 0 step 1", name="film.mp4")  # it waits there until it is cancelled or makes way
    wait_until(lambda: job.state.step >= 1)
    shutil.rmtree(Path(job.output).parent)
    apart.submit(priority=1).wait(60)
    with pytest.raises(OutputError, match=rf"{job.output}: No such file or directory; make room"):
        job.wait(60)
    assert apart.left() == []
    assert apart.pids == pids


def test_the_engines_full_disk_is_the_jobs_error(tiny: Path, tmp_path: Path) -> None:
    try:
        with small_disk(tmp_path) as disk, ranks_apart(tiny, tmp_path, home=disk) as apart:
            pids, job = apart.pids, apart.submit(name="film.npy", num_inference_steps=30)
            apart.at(1, job)
            filler = fill(disk)
            with pytest.raises(OutputError, match=rf"{job.output}: No space left on device; make room"):
                job.wait(60)
            assert apart.files_of(job) == ["state"]  # the last one that was whole
            assert apart.left() == []
            filler.unlink()
            assert apart.made(apart.submit(name="film.npy"))
            assert apart.pids == pids
    except NoSmallDisk as reason:
        pytest.skip(str(reason))


def test_a_full_scratch_folder_is_the_jobs_error(tiny: Path, tmp_path: Path) -> None:
    """In what it writes, and in what it is brought."""
    with ranks_apart(tiny, tmp_path) as apart:
        before = apart.submit(name="before.mp4")
        before.wait(60)
        with pytest.raises(OutputError, match=r"job-video_\w+/output/film\.npy: File too large; make room"):
            apart.submit("full 0 Decoding", name="film.npy").wait(60)
        with pytest.raises(
            OutputError, match=rf"scratch folder {apart.scratch} on \S+: File too large; make room there"
        ):
            apart.submit(name="after.mp4", continues=before.output).wait(60)
        wait_until(lambda: apart.left() == [])  # once the rank hears that nothing comes of it
        apart.submit("room 0 TextEncoding").wait(60)
        assert apart.made(apart.submit(name="before.mp4")) == Path(before.output).read_bytes()


def test_a_scratch_folder_that_cannot_be_used_is_said_before_anything_is_loaded(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    config = config_of(tiny, 1)
    replica = RankedReplica(config, LocalLauncher(config, RequestLimits(), scratch=str(tmp_path / "file")))
    with pytest.raises(InvalidInstallation, match=r"scratch folder \S+/file on \S+ cannot be used: File exists"):
        replica.start()


def test_a_start_that_fails_leaves_nothing(tiny: Path, tmp_path: Path) -> None:
    config = msgspec.structs.replace(config_of(tiny, 1), device="cuda")
    replica = RankedReplica(config, LocalLauncher(config, RequestLimits(), scratch=str(tmp_path / "scratch")))
    with pytest.raises(InvalidSetting):
        replica.start()
    assert list((tmp_path / "scratch").iterdir()) == []
