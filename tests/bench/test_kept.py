"""Videos beside results: frames of two files are compared, and what is missing, or was written over, is said."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest

from ringlight.bench.comparison import compare
from ringlight.bench.gates import Gate
from ringlight.bench.kept import digest, video_name
from ringlight.bench.result import Result
from ringlight.core.errors import InvalidSetting
from ringlight.core.report import RunReport
from tests.bench.reports import result, run, workload
from tests.bench.test_agreement import write

FRAMES = np.random.default_rng(0).integers(10, 240, (3, 32, 48, 3), dtype=np.uint8)
GATES = [Gate.parse(text) for text in ("PSNR < 40dB", "Worst PSNR < 40dB", "SSIM < 0.99")]


def save(folder: Path, frames: np.ndarray, **fields: object) -> Path:
    """A result with its video in a folder of its own."""
    video = folder / video_name("u1r1", 0)
    video.parent.mkdir(parents=True)
    write(video, frames)
    found: Result = result({"u1r1": [run("u1r1", 4.0)]}, workload(**fields))
    kept = msgspec.structs.replace(found, videos={video_name("u1r1", 0): digest(video)})
    (folder / "result.json").write_bytes(kept.to_json())
    return folder / "result.json"


def test_frames_of_a_later_file_are_held_to_those_of_the_first(tmp_path: Path) -> None:
    other = FRAMES.copy()
    other[2] = 255 - other[2]
    paths = [save(tmp_path / name, frames) for name, frames in (("a", FRAMES), ("same", FRAMES), ("other", other))]
    found = compare(paths, force=False)
    verdicts = found.verdicts(GATES)
    assert {verdict.column for verdict in verdicts if verdict.has_failed} == {"other/result u1r1"}
    assert len(verdicts) == 6 and sum(verdict.has_failed for verdict in verdicts) == 3
    page = found.to_markdown()
    assert "| PSNR | identical | " in page and "| Worst PSNR | identical | " in page and "| SSIM | 1.0000 | " in page
    assert "measured at different times" in page and "not compared" not in page


def test_videos_that_are_not_the_results_own_pass_no_gate(tmp_path: Path) -> None:
    """Missing, written over by a later run into the same folder, never kept, or of another request."""
    first = save(tmp_path / "a", FRAMES)
    lost, reseeded = save(tmp_path / "lost", FRAMES), save(tmp_path / "reseeded", FRAMES, seed=9)
    (lost.parent / video_name("u1r1", 0)).unlink()
    copied = tmp_path / "a" / "before.json"
    shutil.copy(first, copied)
    over = save(tmp_path / "over", FRAMES)
    write(over.parent / video_name("u1r1", 0), FRAMES[:, ::-1])
    for path, force, says in (
        (lost, False, "request1.mp4 is not there"),
        (reseeded, True, "their requests differ"),
        (copied, False, "both files name the same video"),
        (over, False, "is not the video that result.json was written of"),
    ):
        found = compare([first, path], force)
        assert f"were not compared: {found.parts[0].columns[1].unlike}." in found.to_markdown()
        with pytest.raises(InvalidSetting, match=f"PSNR of .* is not known: .*{says}"):
            found.verdicts(GATES)
        assert not found.verdicts([Gate.parse("Total > 1.05x")])[0].has_failed


def test_reports_name_their_videos(tmp_path: Path) -> None:
    reports: list[Path] = []
    for name, frames in (("a", FRAMES), ("b", FRAMES[:, ::-1])):
        video = write(tmp_path / f"{name}.mp4", frames)
        report: RunReport = msgspec.structs.replace(run("u1r1", 4.0), outputs=[str(video)])
        reports.append(tmp_path / f"{name}.json")
        reports[-1].write_bytes(report.to_json())
    assert [verdict.has_failed for verdict in compare(reports, force=False).verdicts(GATES)] == [True] * 3
