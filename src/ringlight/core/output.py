"""Output: where a video goes, and its kinds by extension, checked before any work is done."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ringlight.core.errors import InvalidRequest

KINDS = {
    ".mp4": "H.264 video",
    ".webm": "VP9 video",
    ".gif": "animated picture",
    ".png": "one frame, or a folder pattern such as frames/%04d.png",
    ".npy": "float32 frames [F, H, W, 3] in 0..1, before any codec",
    ".safetensors": "the final latents, not decoded",
}
FRAME_NUMBER = re.compile(r"%0?\d*d")
MAX_NAME_BYTES = 200  # of the 255 that file systems take: a part file's name is longer


def check_output(output: str, num_frames: int) -> Path:
    """The path of an output that can be written. Raises InvalidRequest with the remedy."""
    path = Path(output)
    if "\0" in output or not _is_text(output) or len(path.name.encode()) > MAX_NAME_BYTES:
        raise InvalidRequest.of("output", f"needs a name in Unicode of at most {MAX_NAME_BYTES} bytes")
    if path.suffix.lower() not in KINDS:
        raise InvalidRequest.of("output", f"{output!r} must end in one of {', '.join(KINDS)}")
    if path.suffix.lower() == ".png" and num_frames > 1 and len(FRAME_NUMBER.findall(path.name)) != 1:
        pattern = path.with_name(f"{FRAME_NUMBER.sub('', path.stem)}_%04d{path.suffix}")
        raise InvalidRequest.of("output", f"{num_frames} frames need one pattern for their numbers", str(pattern))
    check_folder(path, "output")
    return path


def check_folder(path: Path, field: str) -> None:
    """Raise InvalidRequest unless `path` can be a file in a folder that exists and can be written to."""
    folder = path.parent
    if os.path.isdir(path):
        raise InvalidRequest.of(field, f"{path} is a folder; name a file in it")
    if not os.path.isdir(folder):
        raise InvalidRequest.of(field, f"there is no folder {folder}; make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InvalidRequest.of(field, f"the folder {folder} cannot be written to")


def _is_text(name: str) -> bool:
    """Whether a name can be sent to a worker: file names that are not Unicode reach Python as half surrogates."""
    return not any("\ud800" <= char <= "\udfff" for char in name)


def make_readable(path: Path) -> None:
    """Give a file the permissions that new files have here: safetensors writes for the owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def frame_path(path: Path, number: int) -> Path:
    """The file of the frame of this number, where a name is a pattern; another name as it is."""
    pattern = FRAME_NUMBER.search(path.name)
    return path if pattern is None else path.with_name(path.name.replace(pattern[0], pattern[0] % number))


def part_path(path: Path, job_id: str) -> Path:
    """The name that a file has while a job writes it: hidden, beside the output, with the same extension."""
    return path.with_name(f".{path.stem}.{job_id}.part{path.suffix}")


def remove_parts(path: Path, job_id: str) -> None:
    """Remove what a job that died left beside its output."""
    for part in path.parent.glob(f".*.{job_id}.part*"):
        part.unlink(missing_ok=True)
