"""Pictures made from finished videos, compared with the frames that the videos were encoded from."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from ringlight.core.errors import OutputError
from ringlight.core.request import VideoRequest
from ringlight.pipelines.output import open_writer
from ringlight.server.collection.derived import last_frame, make_spritesheet, make_thumbnail, spread

CLOSE = 12.0  # mean difference of 0..255 that a lossy codec and a smaller size may make


def plain_frames(num_frames: int, height: int, width: int) -> NDArray[np.uint8]:
    """Frames that tell which one they are: each of one colour."""
    rng = np.random.default_rng(0)
    colours = rng.integers(40, 215, (num_frames, 1, 1, 3), dtype=np.uint8)
    return np.broadcast_to(colours, (num_frames, height, width, 3))


def write_video(path: Path, frames: NDArray[np.uint8]) -> Path:
    num_frames, height, width, _ = frames.shape
    request = VideoRequest(
        prompt="",
        negative_prompt="",
        width=width,
        height=height,
        num_frames=num_frames,
        fps=24,
        num_inference_steps=1,
        guidance_scale=1.0,
        flow_shift=1.0,
        seed=0,
    )
    writer = open_writer(path, request, "test")
    writer.write(torch.from_numpy(np.array(frames)))
    writer.finish()
    return path


def difference(picture: Image.Image, frame: NDArray[np.uint8]) -> float:
    small = Image.fromarray(np.ascontiguousarray(frame)).resize(picture.size)
    return float(np.abs(np.asarray(picture.convert("RGB"), float) - np.asarray(small, float)).mean())


@pytest.mark.parametrize("num_frames", [1, 2, 5, 13])
def test_the_thumbnail_is_the_frame_in_the_middle(tmp_path: Path, num_frames: int) -> None:
    frames = plain_frames(num_frames, 96, 480)
    make_thumbnail(write_video(tmp_path / "video.mp4", frames), tmp_path / "thumbnail.webp")
    picture = Image.open(tmp_path / "thumbnail.webp")
    assert (picture.format, picture.size) == ("WEBP", (320, 64))
    differences = [difference(picture, frame) for frame in frames]
    assert differences[num_frames // 2] == min(differences) < CLOSE


def test_a_small_video_is_not_made_larger(tmp_path: Path) -> None:
    make_thumbnail(write_video(tmp_path / "video.mp4", plain_frames(1, 32, 64)), tmp_path / "thumbnail.webp")
    assert Image.open(tmp_path / "thumbnail.webp").size == (64, 32)


@pytest.mark.parametrize(
    ("num_frames", "columns", "rows"), [(1, 1, 1), (3, 3, 1), (5, 4, 2), (16, 4, 4), (17, 4, 4), (61, 4, 4)]
)
def test_the_sheet_shows_frames_in_their_order(tmp_path: Path, num_frames: int, columns: int, rows: int) -> None:
    frames = plain_frames(num_frames, 60, 120)
    make_spritesheet(write_video(tmp_path / "video.mp4", frames), tmp_path / "sheet.jpg")
    sheet = Image.open(tmp_path / "sheet.jpg")
    assert (sheet.format, sheet.size) == ("JPEG", (columns * 120, rows * 60))
    for place, number in enumerate(spread(num_frames, 16)):
        left, top = place % 4 * 120, place // 4 * 60
        assert difference(sheet.crop((left, top, left + 120, top + 60)), frames[number]) < CLOSE


@pytest.mark.parametrize("num_frames", [1, 2, 3, 15, 16, 17, 121, 1025])
def test_what_is_spread_begins_at_the_first_and_ends_at_the_last(num_frames: int) -> None:
    chosen = spread(num_frames, 16)
    assert len(chosen) == min(16, num_frames) == len(set(chosen))
    assert (chosen[0], chosen[-1]) == (0, num_frames - 1)
    gaps = np.diff(chosen)
    assert gaps.size == 0 or gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize("num_frames", [1, 5, 260])  # an encoder writes a key frame at least every 250
def test_the_last_frame_is_the_last(tmp_path: Path, num_frames: int, photograph: Path) -> None:
    frames = np.array(plain_frames(num_frames, 64, 96))
    frames[-1] = np.asarray(Image.open(photograph).convert("RGB").resize((96, 64)))
    picture = Image.open(io.BytesIO(last_frame(write_video(tmp_path / "video.mp4", frames))))
    assert (picture.format, picture.size, picture.mode) == ("PNG", (96, 64), "RGB")
    assert difference(picture, frames[-1]) < CLOSE
    assert num_frames == 1 or difference(picture, frames[-2]) > 2 * CLOSE


def test_colours_survive(tmp_path: Path) -> None:
    """Read as BT.601, or in the full range, these would be off by 10 and more."""
    colours = np.array([[230, 30, 30], [30, 200, 30], [30, 30, 230], [128, 128, 128], [250, 250, 250]], np.uint8)
    for colour in colours:
        frame = np.broadcast_to(colour, (1, 64, 64, 3)).copy()
        picture = Image.open(io.BytesIO(last_frame(write_video(tmp_path / "video.mp4", frame))))
        assert np.abs(np.asarray(picture, int).mean(axis=(0, 1)) - colour).max() < 5


def test_what_is_no_video_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "video.mp4").write_bytes(b"\0" * 1000)
    with pytest.raises(OutputError, match=r"no picture can be made of video\.mp4"):
        make_thumbnail(tmp_path / "video.mp4", tmp_path / "thumbnail.webp")
    with pytest.raises(OutputError):
        last_frame(tmp_path / "not there.mp4")


def test_a_picture_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    video = write_video(tmp_path / "video.mp4", plain_frames(1, 32, 32))
    (tmp_path / "thumbnail.webp").mkdir()
    with pytest.raises(OutputError):
        make_thumbnail(video, tmp_path / "thumbnail.webp")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thumbnail.webp", "video.mp4"]


def test_two_calls_at_once_make_one_picture(tmp_path: Path) -> None:
    video, picture = write_video(tmp_path / "video.mp4", plain_frames(13, 64, 64)), tmp_path / "sheet.jpg"
    threads = [threading.Thread(target=make_spritesheet, args=(video, picture)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sheet.jpg", "video.mp4"]
    assert Image.open(picture).size == (960 // 240 * 64, 4 * 64)
