"""Videos that go on where another one ended: one file with the frames of both."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ringlight.core.errors import InvalidRequest
from ringlight.core.request import RequestDefaults, VideoRequest
from ringlight.families.model import ModelSpec
from ringlight.pipelines.continued import require_continuable
from ringlight.pipelines.output import Output, finish, open_writer
from ringlight.pipelines.turn import uninterrupted
from tests.ours import load_pipeline, new_tracer

WIDTH, HEIGHT, FPS = 64, 32, 12


def request_of(spec: ModelSpec, num_frames: int) -> VideoRequest:
    return RequestDefaults(seed=1, num_inference_steps=1).complete(
        "a cat", spec, width=WIDTH, height=HEIGHT, num_frames=num_frames, fps=FPS
    )


def greys(*levels: int) -> torch.Tensor:
    """A plain frame of each level, as a writer takes them."""
    return torch.tensor(levels, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, HEIGHT, WIDTH, 3).contiguous()


def write(path: Path, request: VideoRequest, frames: torch.Tensor, continues: Path | None = None) -> None:
    writer = open_writer(path, request, "job", continues)
    for part in frames.split(2):
        writer.write(part)
    assert finish(writer) == [str(path)]


def read(path: Path) -> tuple[list[float], list[Fraction], NDArray[np.uint8]]:
    """Mean levels of the frames, the seconds at which they are shown, and the last frame."""
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate == FPS
        frames = list(container.decode(video=0))
    pictures = [frame.to_ndarray(format="rgb24") for frame in frames]
    assert all(frame.pts is not None and frame.time_base is not None for frame in frames)
    return [float(p.mean()) for p in pictures], [f.pts * f.time_base for f in frames], pictures[-1]  # type: ignore[operator]


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_the_new_frames_follow_the_old_ones_without_the_first(spec: ModelSpec, tmp_path: Path, suffix: str) -> None:
    old, new = tmp_path / f"old{suffix}", tmp_path / f"new{suffix}"
    write(old, request_of(spec, 5), greys(10, 40, 70, 100, 130))
    write(new, request_of(spec, 5), greys(0, 160, 190, 220, 250), continues=old)
    levels, times, _ = read(new)
    assert levels == pytest.approx([10, 40, 70, 100, 130, 160, 190, 220, 250], abs=4)
    assert times == pytest.approx([number / FPS for number in range(9)], abs=1e-3)
    write(tmp_path / f"newest{suffix}", request_of(spec, 1), greys(255), continues=new)
    assert len(read(tmp_path / f"newest{suffix}")[0]) == 9


def test_encoding_again_does_not_shift_the_colours(spec: ModelSpec, tmp_path: Path) -> None:
    frames = torch.empty(5, HEIGHT, WIDTH, 3, dtype=torch.uint8)
    frames[..., 0], frames[..., 1], frames[..., 2] = 200, 60, 30
    path = tmp_path / "0.mp4"
    write(path, request_of(spec, 5), frames)
    for number in range(1, 4):
        continued = tmp_path / f"{number}.mp4"
        write(continued, request_of(spec, 1), frames[:1], continues=path)
        path = continued
    _, _, last = read(path)
    assert np.abs(last.reshape(-1, 3).mean(0) - [200, 60, 30]).max() < 4


@pytest.mark.parametrize(
    ("change", "field", "says"),
    [
        ({"width": 96}, "continues", "64x32 at 12 frames a second, not 96x32 at 12"),
        ({"fps": 24}, "continues", "not 64x32 at 24"),
    ],
    ids=["size", "fps"],
)
def test_frames_that_do_not_fit_are_refused(
    spec: ModelSpec, tmp_path: Path, change: dict[str, int], field: str, says: str
) -> None:
    old = tmp_path / "old.mp4"
    write(old, request_of(spec, 5), greys(10, 40, 70, 100, 130))
    require_continuable(old, tmp_path / "new.mp4", request_of(spec, 5))
    with pytest.raises(InvalidRequest, match=says) as caught:
        require_continuable(old, tmp_path / "new.mp4", msgspec.structs.replace(request_of(spec, 5), **change))
    assert [problem.field for problem in caught.value.problems] == [field]


def test_what_is_no_video_is_refused_before_any_work(spec: ModelSpec, tiny: Path, tmp_path: Path) -> None:
    nonsense = tmp_path / "old.mp4"
    nonsense.write_bytes(b"nonsense" * 100)
    for video, output in ((nonsense, "new.mp4"), (tmp_path / "missing.mp4", "new.mp4"), (nonsense, "new.gif")):
        tracer = new_tracer()
        with pytest.raises(InvalidRequest):
            uninterrupted(
                load_pipeline(tiny).make(request_of(spec, 5), tmp_path / output, "job", tracer, continues=video)
            )
        assert [stage.name for stage in tracer.stages] == ["InputValidation"]


def test_a_whole_generation(spec: ModelSpec, tiny: Path, tmp_path: Path) -> None:
    pipeline = load_pipeline(tiny)
    pipeline.run(request_of(spec, 5), tmp_path / "old.mp4", "job", new_tracer())
    tracer = new_tracer()
    made: Output | None = uninterrupted(
        pipeline.make(request_of(spec, 9), tmp_path / "new.mp4", "job", tracer, continues=tmp_path / "old.mp4")
    )
    assert made is not None
    finish(made)
    assert len(read(tmp_path / "new.mp4")[0]) == 5 + 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.mp4", "old.mp4"]
