"""Whether two videos show the same."""

from __future__ import annotations

import math
from pathlib import Path

import av
import numpy as np
import pytest

from ringlight.bench.agreement import agree
from ringlight.bench.likeness import ssim


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
    assert (found.worst_psnr_db, found.ssim) == (None, pytest.approx(1.0))


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


def test_the_worst_frame_is_told_apart(tmp_path: Path, frames: np.ndarray) -> None:
    other = frames.copy()
    other[2, :, :, 0] += 6
    found = agree("u1r2", 0, write(tmp_path / "a.mp4", frames), write(tmp_path / "b.mp4", other))
    assert found.worst_psnr_db == pytest.approx(10 * math.log10(255**2 / 12))
    assert found.psnr_db == pytest.approx(10 * math.log10(255**2 / 4))
    assert found.ssim == pytest.approx((2 + ssim(frames[2], other[2])) / 3)


def test_ssim_is_as_it_is_defined(frames: np.ndarray) -> None:
    """Window by window, in float64, as the paper writes it."""
    one, noise = frames[0], np.random.default_rng(1).integers(-60, 60, frames[0].shape)
    other = np.clip(one + noise, 0, 255).astype(np.uint8)
    x, y = (picture @ np.array((0.299, 0.587, 0.114)) for picture in (one, other))
    far = np.arange(-5, 6)
    weights = np.exp(-(far[:, None] ** 2 + far**2) / (2 * 1.5**2))
    weights /= weights.sum()
    c1, c2, found = (0.01 * 255) ** 2, (0.03 * 255) ** 2, []
    for row in range(x.shape[0] - 10):
        for column in range(x.shape[1] - 10):
            place = np.s_[row : row + 11, column : column + 11]
            mean_x, mean_y = (weights * x[place]).sum(), (weights * y[place]).sum()
            to_x, to_y = x[place] - mean_x, y[place] - mean_y
            alike = (2 * mean_x * mean_y + c1) * (2 * (weights * to_x * to_y).sum() + c2)
            spread = (weights * to_x**2).sum() + (weights * to_y**2).sum()
            found.append(alike / ((mean_x**2 + mean_y**2 + c1) * (spread + c2)))
    assert ssim(one, other) == pytest.approx(np.mean(found), abs=1e-5) and np.mean(found) < 0.95
    assert ssim(one, one) == pytest.approx(1.0)
