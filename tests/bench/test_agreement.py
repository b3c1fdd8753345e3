"""Whether two videos show the same."""

from __future__ import annotations

import math
from pathlib import Path

import av
import numpy as np
import pytest

from ringlight.bench.agreement import agree


def write(path: Path, frames: np.ndarray) -> Path:
    """A lossless RGB video of uint8 frames [F, H, W, 3]."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", rate=24, options={"crf": "0"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "rgb24"
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(10, 240, (3, 32, 48, 3), dtype=np.uint8)


def test_the_same_video_is_identical(tmp_path: Path, frames: np.ndarray) -> None:
    path = write(tmp_path / "a.mp4", frames)
    found = agree("u1r2", 0, path, path)
    assert (found.num_frames, found.max_difference, found.psnr_db, found.problem) == (3, 0, None, "")


def test_difference_and_psnr_are_over_all_frames(tmp_path: Path, frames: np.ndarray) -> None:
    other = frames.copy()
    other[1, 5, 7, 2] += 9
    other[2, 0, 0, 0] -= 4
    found = agree("u1r2", 1, write(tmp_path / "a.mp4", frames), write(tmp_path / "b.mp4", other))
    assert found.max_difference == 9
    assert found.psnr_db == pytest.approx(10 * math.log10(255**2 * frames.size / (81 + 16)))


def test_videos_that_cannot_be_compared(tmp_path: Path, frames: np.ndarray) -> None:
    whole = write(tmp_path / "a.mp4", frames)
    shorter, smaller = write(tmp_path / "b.mp4", frames[:2]), write(tmp_path / "c.mp4", frames[:, :16])
    torn = tmp_path / "torn.mp4"
    torn.write_bytes(b"no video")
    for other in (shorter, smaller):
        assert "differ in number or in size" in agree("u1r2", 0, other, whole).problem
        assert "differ in number or in size" in agree("u1r2", 0, whole, other).problem
    assert "torn.mp4 cannot be read" in agree("u1r2", 0, torn, whole).problem
