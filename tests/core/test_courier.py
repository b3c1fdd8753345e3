"""Files that travel beside other messages: whole or not at all, few parts at a time, whatever becomes of either end."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from ringlight.core import courier
from ringlight.core.courier import MOST_ON_THEIR_WAY, Courier, NotTaken
from ringlight.core.messages import Carried, FileKind, FilePart, PartTaken

PART_BYTES = 1000
SIZES = [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 20 * PART_BYTES + 7]


class Ends:
    """Two ends of a connection that loses nothing, unless `between` changes what passes it, or holds it up.

    What the near end sends is noted in order.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.passed: list[Carried] = []
        self.between: Callable[[Carried], Carried | None] = lambda message: message
        self.near = Courier(self._there, self.place)
        self.far = Courier(self._back, self.place)

    def place(self, job_id: str, kind: FileKind, number: int) -> Path:
        if job_id == "stranger":
            raise FileNotFoundError(errno.ENOENT, "nobody waits for it")
        return self.folder / f"{job_id}.{kind}.{number}"

    def _there(self, message: Carried) -> None:
        self.passed.append(message)
        if (passes := self.between(message)) is not None:
            self.far.take(passes)

    def _back(self, message: Carried) -> None:
        self.near.take(message)


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courier, "PART_BYTES", PART_BYTES)


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[Ends]:
    (tmp_path / "there").mkdir()
    ends = Ends(tmp_path / "there")
    yield ends
    ends.near.close()
    ends.far.close()


@pytest.fixture
def aside() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


def written(folder: Path, *sizes: int) -> list[Path]:
    paths = [folder / f"file {number}" for number in range(len(sizes))]
    for path, size in zip(paths, sizes, strict=True):
        path.write_bytes(os.urandom(size))
    return paths


def names(ends: Ends) -> list[str]:
    return sorted(path.name for path in ends.folder.iterdir())


def test_files_of_all_sizes_come_as_they_were(ends: Ends, tmp_path: Path) -> None:
    files = written(tmp_path, *SIZES)
    assert ends.near.carry("job", "output", files)
    assert names(ends) == [f"job.output.{number}" for number in range(len(SIZES))]
    for number, path in enumerate(files):
        assert (ends.folder / f"job.output.{number}").read_bytes() == path.read_bytes()
        assert ends.near.carry("job", "state", [path])  # in the place of the one before
        assert (ends.folder / "job.state.0").read_bytes() == path.read_bytes()
    assert max(len(message.content) for message in ends.passed if isinstance(message, FilePart)) == PART_BYTES


def test_nothing_is_in_its_place_before_all_is(ends: Ends, tmp_path: Path) -> None:
    seen: list[list[str]] = []

    def look(message: Carried) -> Carried:
        seen.append([name for name in names(ends) if not name.startswith(".")])
        return message

    ends.between = look
    ends.near.carry("job", "output", written(tmp_path, 5, 3 * PART_BYTES))
    assert seen == [[]] * len(seen)
    assert names(ends) == ["job.output.0", "job.output.1"]


def changed(number: int, **changes: object) -> Callable[[Carried], Carried]:
    """What changes one of the messages that pass, by its number."""
    passed = iter(range(10**6))

    def change(message: Carried) -> Carried:
        return msgspec.structs.replace(message, **changes) if next(passed) == number else message

    return change


DAMAGES = {
    "a bit": changed(1, content=bytes(PART_BYTES)),
    "a part twice": changed(2, offset=PART_BYTES),
    "a part of another file": changed(2, file=1),
    "a file left out": changed(3, file=2),
    "the checksum": changed(5, checksum="00000000"),
    "the first part": changed(0, offset=PART_BYTES),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_or_cut_is_never_taken(ends: Ends, tmp_path: Path, damage: str) -> None:
    (ends.folder / "job.output.0").write_bytes(b"from before")
    ends.between = DAMAGES[damage]
    with pytest.raises(NotTaken):
        ends.near.carry("job", "output", written(tmp_path, 3 * PART_BYTES, 2 * PART_BYTES))
    assert (ends.folder / "job.output.0").read_bytes() == b"from before"
    assert names(ends) == ["job.output.0"]
    ends.between = lambda message: message
    assert ends.near.carry("job", "output", written(tmp_path, 20 * PART_BYTES))  # and all goes on


def test_a_file_that_cannot_be_written_there_is_said_here(ends: Ends, tmp_path: Path) -> None:
    (ends.folder / "job.state.0").mkdir()
    (file,) = written(tmp_path, 20 * PART_BYTES)
    with pytest.raises(NotTaken) as caught:
        ends.near.carry("job", "state", [file])
    assert (caught.value.errno, caught.value.strerror) == (errno.EISDIR, os.strerror(errno.EISDIR))
    with pytest.raises(NotTaken, match="nobody waits"):
        ends.near.carry("stranger", "state", [file])
    assert names(ends) == ["job.state.0"]


def test_a_file_that_cannot_be_read_here_is_no_fault_of_the_other_end(ends: Ends, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ends.near.carry("job", "state", [tmp_path / "missing"])
    assert ends.passed == [] and names(ends) == []


def held(ends: Ends, aside: ThreadPoolExecutor, files: list[Path], kind: FileKind = "state") -> Future[bool]:
    """Files that have come to a stop on their way, for no part is answered any more."""
    full = threading.Event()

    def hold(message: Carried) -> None:
        if len(ends.passed) == MOST_ON_THEIR_WAY:
            full.set()

    ends.between = hold
    carrying = aside.submit(ends.near.carry, "job", kind, files)
    assert full.wait(30)
    return carrying


def test_only_so_many_parts_are_on_their_way(ends: Ends, aside: ThreadPoolExecutor, tmp_path: Path) -> None:
    """Of all files together, and one more for each that is answered."""
    files = written(tmp_path, 20 * PART_BYTES)
    carrying = held(ends, aside, files)
    another = aside.submit(ends.near.carry, "another", "state", files)
    answered = 0
    for _ in range(5):
        assert len(ends.passed) == MOST_ON_THEIR_WAY + answered
        ends.near.take(PartTaken(parcel=0))
        answered += 1
        while len(ends.passed) < MOST_ON_THEIR_WAY + answered:
            assert not carrying.done()
    ends.near.close()
    assert (carrying.result(30), another.result(30)) == (False, False)
    assert len(ends.passed) == MOST_ON_THEIR_WAY + answered


def test_what_a_job_goes_on_from_is_given_up_on_its_way(ends: Ends, aside: ThreadPoolExecutor, tmp_path: Path) -> None:
    carrying = held(ends, aside, written(tmp_path, 20 * PART_BYTES))
    ends.near.give_up("another")
    assert not carrying.done()
    ends.near.give_up("job")
    assert carrying.result(30) is False
    assert ends.near.carry("job", "state", written(tmp_path, 1)) is False  # nor is what follows
    assert len(ends.passed) == MOST_ON_THEIR_WAY
    ends.near.forget("job")
    for message in list(ends.passed):
        ends.far.take(message)
    ends.between = lambda message: message
    assert ends.near.carry("job", "state", written(tmp_path, 1)) is True  # of a later job of this name


def test_an_output_is_not_given_up(ends: Ends, aside: ThreadPoolExecutor, tmp_path: Path) -> None:
    files = written(tmp_path, 20 * PART_BYTES)
    carrying = held(ends, aside, files, "output")
    ends.near.give_up("job")
    ends.between = lambda message: message
    for message in list(ends.passed):
        ends.far.take(message)
    assert carrying.result(30) is True
    assert (ends.folder / "job.output.0").read_bytes() == files[0].read_bytes()


def half_come(ends: Ends, aside: ThreadPoolExecutor, folder: Path) -> Future[bool]:
    """A file of which half has come, and lies beside its place."""
    come = threading.Event()

    def stop(message: Carried) -> Carried | None:
        if len(ends.passed) <= 10:
            return message
        return come.set()

    ends.between = stop
    carrying = aside.submit(ends.near.carry, "job", "state", written(folder, 20 * PART_BYTES))
    assert come.wait(30)
    assert [name.startswith(".") for name in names(ends)] == [True]
    return carrying


@pytest.mark.parametrize("how", ["forget", "close"])
def test_nothing_is_left_of_what_has_not_come_whole(
    ends: Ends, aside: ThreadPoolExecutor, tmp_path: Path, how: str
) -> None:
    carrying = half_come(ends, aside, tmp_path)
    getattr(ends.far, how)(*["job"] if how == "forget" else [])
    assert names(ends) == []
    ends.between = lambda message: message
    if how == "forget":  # and what comes later is refused
        ends.far.take(FilePart(parcel=0, job_id="job", kind="state", file=0, offset=10 * PART_BYTES, content=b"late"))
        with pytest.raises(NotTaken, match="nobody waits"):
            carrying.result(30)
        assert names(ends) == []
    ends.near.close()


def test_once_it_is_closed_nothing_is_carried(ends: Ends, tmp_path: Path) -> None:
    ends.near.close()
    assert ends.near.carry("job", "state", written(tmp_path, 1)) is False
    assert ends.passed == []
