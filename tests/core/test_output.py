"""Where a video goes: what can be written, and what is refused before any work is done."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from uuid import uuid4

import pytest

from ringlight.core.errors import InvalidRequest
from ringlight.core.output import KINDS, check_folder, check_output, part_path, remove_parts


@pytest.mark.parametrize("suffix", KINDS)
@pytest.mark.parametrize("change", [str.lower, str.upper])
def test_every_kind_is_accepted_in_either_case(tmp_path: Path, suffix: str, change: type[str]) -> None:
    output = str(tmp_path / f"film{change(suffix)}")
    assert check_output(output, num_frames=1) == Path(output)


@pytest.mark.parametrize("name", ["film", "film.avi", "film.mp4.txt", "film.jpg", ".mp4", ""])
def test_an_unknown_kind_names_the_known_ones(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_output(str(tmp_path / name), num_frames=1)
    assert caught.value.problems[0].field == "output"
    assert all(suffix in str(caught.value) for suffix in KINDS)


@pytest.mark.parametrize("name", ["f_%04d.png", "%d.png", "%3d.png", "f%06d-end.png", "100%_%02d.png"])
def test_pictures_of_many_frames_need_a_pattern(tmp_path: Path, name: str) -> None:
    check_output(str(tmp_path / name), num_frames=5)
    with pytest.raises(InvalidRequest) as caught:
        check_output(str(tmp_path / "film.png"), num_frames=5)
    (problem,) = caught.value.problems
    assert problem.nearest == str(tmp_path / "film_%04d.png")
    check_output(problem.nearest, num_frames=5)


@pytest.mark.parametrize("name", ["%s.png", "film%.png", "%f.png"])
def test_what_is_no_pattern_of_numbers_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidRequest, match="pattern"):
        check_output(str(tmp_path / name), num_frames=5)


def test_two_numbers_in_a_pattern_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="pattern"):
        check_output(str(tmp_path / "%d_of_%d.png"), num_frames=5)


def test_a_folder_must_be_there_and_writable(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no folder"):
        check_output(str(tmp_path / "missing" / "film.mp4"), num_frames=1)
    (tmp_path / "file").touch()
    with pytest.raises(InvalidRequest, match="no folder"):
        check_output(str(tmp_path / "file" / "film.mp4"), num_frames=1)
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(InvalidRequest, match="is a folder"):
        check_output(str(tmp_path / "folder.mp4"), num_frames=1)
    with pytest.raises(InvalidRequest, match="report: there is no folder"):
        check_folder(tmp_path / "missing" / "report.json", "report")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InvalidRequest, match="cannot be written"):
        check_output(str(tmp_path / "film.mp4"), num_frames=1)


@pytest.mark.parametrize("name", ["a" * 300 + ".mp4", "\udcff.mp4", "a\0b.mp4"])
def test_a_name_that_cannot_be_written_is_refused(tmp_path: Path, name: str) -> None:
    """Too long for any file system, or not text that can be sent to a worker."""
    with pytest.raises(InvalidRequest, match="output"):
        check_output(str(tmp_path / name), num_frames=1)


def test_the_longest_names_leave_room_for_their_part_files(tmp_path: Path) -> None:
    """A name that is accepted must not turn out too long after all frames are made."""
    path = tmp_path / ("a" * 251 + ".mp4")
    path.touch()  # such a name can be written
    with contextlib.suppress(InvalidRequest):
        check_output(str(path), num_frames=1)
        part_path(path, f"video_{uuid4().hex}").touch()


def test_part_files_are_hidden_beside_the_output_and_of_its_kind(tmp_path: Path) -> None:
    part = part_path(tmp_path / "film.mp4", "video_1")
    assert part.parent == tmp_path
    assert part.name.startswith(".")
    assert part.suffix == ".mp4"
    assert part != part_path(tmp_path / "film.mp4", "video_2")


def test_only_a_jobs_own_parts_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "film.png"
    for number in range(3):
        part_path(tmp_path / f"film_{number}.png", "video_1").touch()
    kept = {path, part_path(path, "video_2"), tmp_path / ".hidden.png"}
    for file in kept:
        file.touch()
    remove_parts(path, "video_1")
    assert set(tmp_path.iterdir()) == kept
