"""Videos that were kept beside a result, each known by its SHA-256: one that has been written over is another."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ringlight.bench.result import Result
from ringlight.bench.variants import file_stem
from ringlight.core.errors import OutputError
from ringlight.core.report import RunReport

FOLDER = "videos"


def video_name(column: str, kind: int) -> str:
    """Path of a column's first video of a kind of request, from the folder of its result."""
    return f"{FOLDER}/{file_stem(column)}_request{kind + 1}.mp4"


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_video(path: Path, found: Result | RunReport, column: str, kind: int) -> Path:
    """The video of a column beside a result's file, or of a report. Raises OutputError saying why there is none."""
    if isinstance(found, RunReport):
        return _of_report(path, found)
    name = video_name(column, kind)
    if name not in found.videos:
        raise OutputError(f"{path} says of no video that was kept of `{column}`, request {kind + 1}")
    video = path.parent / name
    if not video.is_file():
        raise OutputError(f"{video} is not there; keep it beside {path.name}")
    if digest(video) != found.videos[name]:
        raise OutputError(f"{video} is not the video that {path.name} was written of; give each result its own folder")
    return video


def _of_report(path: Path, report: RunReport) -> Path:
    """Video of a report: where it was written, else beside the report."""
    if len(report.outputs) != 1:
        raise OutputError(f"{path} is of {len(report.outputs)} files and not of one video")
    written = Path(report.outputs[0])
    for video in (written, path.parent / written.name):
        if video.is_file():
            return video
    raise OutputError(f"{written} is not there, nor beside {path}")
