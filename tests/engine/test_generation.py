"""Real jobs through a real worker: reports, cancelling, and that no job touches another."""

from __future__ import annotations

import io
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from ringlight import Engine
from ringlight.core.errors import Cancelled, InvalidRequest, OutputError
from ringlight.core.report import RunReport
from ringlight.core.request import VideoRequest
from ringlight.engine.jobs import Job
from tests.engine.requests import endless, small

STAGES = [
    "InputValidation",
    "TextEncoding",
    "LatentPreparation",
    "TimestepPreparation",
    "Denoising",
    "Decoding",
    "Output",
]


def make(engine: Engine, request: VideoRequest, output: Path) -> bytes:
    """The bytes of a finished output."""
    engine.submit(request, str(output)).wait(60)
    return output.read_bytes()


def at_step(number: int) -> tuple[Callable[[Job], None], threading.Event]:
    """A listener, and the event that it sets when its job has done so many steps."""
    reached = threading.Event()

    def listen(job: Job) -> None:
        if job.state.step >= number:
            reached.set()

    return listen, reached


def test_a_job_gives_a_file_and_a_report_that_adds_up(engine: Engine, tmp_path: Path) -> None:
    output = tmp_path / "film.npy"
    report = engine.submit(small(engine), str(output)).wait(60)
    assert [stage.name for stage in report.stages] == STAGES
    assert all(stage.seconds >= 0 and stage.peak_bytes > 0 for stage in report.stages)
    assert report.other_seconds >= 0
    parts = sum(stage.seconds for stage in report.stages) + report.other_seconds
    assert parts == pytest.approx(report.total_seconds, rel=1e-9)
    assert len(report.step_seconds) == 2
    denoising = next(stage.seconds for stage in report.stages if stage.name == "Denoising")
    assert sum(report.step_seconds) <= denoising
    assert report.num_tokens == engine.spec.num_tokens(5, 64, 32) == 4
    assert report.outputs == [str(output)]
    assert report.workload["seed"] == 7
    assert report.environment["device_type"] in ("cpu", "cuda")
    assert report.environment["num_threads"] == 1
    assert report.worst_memory.peak_bytes >= max(stage.peak_bytes for stage in report.stages)
    assert msgspec.json.decode(report.to_json(), type=RunReport) == report
    frames = np.load(output)
    assert (frames.shape, frames.dtype) == ((5, 64, 32, 3), np.float32)
    assert 0 <= frames.min() < frames.max() <= 1


def test_progress_is_told_step_by_step_and_never_falls(engine: Engine, tmp_path: Path) -> None:
    heard: list[tuple[str, int, int, int]] = []

    def listen(job: Job) -> None:
        state = job.state
        heard.append((state.stage, state.step, state.frames_done, state.progress))

    engine.submit(small(engine, num_inference_steps=4), str(tmp_path / "film.npy"), listen).wait(60)
    assert list(dict.fromkeys(stage for stage, *_ in heard)) == ["", *STAGES]  # "": taken, not begun
    assert list(dict.fromkeys(step for _, step, _, _ in heard)) == [0, 1, 2, 3, 4]
    assert list(dict.fromkeys(done for _, _, done, _ in heard)) == [0, 1, 5]
    progress = [whole for *_, whole in heard]
    assert progress == sorted(progress)
    assert progress[-1] == 100


def test_a_seed_stands_for_a_video(engine: Engine, tmp_path: Path) -> None:
    one, again, other = (
        make(engine, small(engine, seed=seed), tmp_path / f"{i}.npy") for i, seed in enumerate((7, 7, 8))
    )
    assert one == again
    assert one != other


def test_every_field_counts(engine: Engine, tmp_path: Path) -> None:
    before = small(engine)
    changes: list[dict[str, object]] = [
        {},
        {"prompt": "a harbour"},
        {"negative_prompt": "sharp"},
        {"guidance_scale": 4.0},
        {"flow_shift": 3.0},
        {"num_inference_steps": 3},
    ]
    requests = [msgspec.structs.replace(before, **change) for change in changes]
    assert len({make(engine, request, tmp_path / "film.npy") for request in requests}) == len(changes)


def test_a_first_frame_makes_its_own_stage_and_another_video(engine: Engine, tmp_path: Path, photograph: Path) -> None:
    request = small(engine, image=photograph.read_bytes())
    report = engine.submit(request, str(tmp_path / "a.npy")).wait(60)
    assert [stage.name for stage in report.stages] == [*STAGES[:2], "ImageEncoding", *STAGES[2:]]
    assert report.workload["image"]["bytes"] == photograph.stat().st_size
    assert (tmp_path / "a.npy").read_bytes() != make(engine, small(engine), tmp_path / "b.npy")


def test_prompts_that_were_seen_before_give_the_same_video(engine: Engine, tmp_path: Path) -> None:
    """The embeddings of a prompt are kept: neither the kept ones nor the order in which they came may show."""
    first = make(engine, small(engine, "a harbour", negative_prompt="dull"), tmp_path / "1.npy")
    shared = make(engine, small(engine, "a mountain", negative_prompt="dull"), tmp_path / "2.npy")
    swapped = make(engine, small(engine, "dull", negative_prompt="a harbour"), tmp_path / "3.npy")
    assert make(engine, small(engine, "a harbour", negative_prompt="dull"), tmp_path / "4.npy") == first
    assert make(engine, small(engine, "a mountain", negative_prompt="dull"), tmp_path / "5.npy") == shared
    assert len({first, shared, swapped}) == 3


def test_a_running_job_is_cancelled_at_a_step(engine: Engine, tmp_path: Path) -> None:
    listen, reached = at_step(2)
    job = engine.submit(endless(engine), str(tmp_path / "film.npy"), listen)
    assert reached.wait(60)
    engine.cancel(job)
    with pytest.raises(Cancelled):
        job.wait(60)
    assert 2 <= job.state.step < 1000
    assert job.state.progress < 100
    assert list(tmp_path.iterdir()) == []


def test_a_job_that_waits_is_cancelled_before_the_one_that_runs_ends(engine: Engine, tmp_path: Path) -> None:
    listen, reached = at_step(1)
    running = engine.submit(endless(engine), str(tmp_path / "running.npy"), listen)
    waiting = engine.submit(endless(engine), str(tmp_path / "waiting.npy"))
    assert reached.wait(60)
    engine.cancel(waiting)
    try:
        with pytest.raises(Cancelled):
            waiting.wait(5)
        assert not running.state.is_over
    finally:
        engine.cancel(running)
        with pytest.raises(Cancelled):
            running.wait(60)
    assert waiting.state.stage == ""
    assert list(tmp_path.iterdir()) == []


def test_a_cancelled_job_leaves_an_older_file_as_it_was(engine: Engine, tmp_path: Path) -> None:
    output = tmp_path / "film.npy"
    before = make(engine, small(engine), output)
    listen, reached = at_step(1)
    job = engine.submit(endless(engine), str(output), listen)
    assert reached.wait(60)
    engine.cancel(job)
    with pytest.raises(Cancelled):
        job.wait(60)
    assert output.read_bytes() == before
    assert list(tmp_path.iterdir()) == [output]
    assert make(engine, small(engine, seed=8), output) != before


def torn(photograph: Path) -> bytes:
    """A picture whose header is whole, but not its pixels: only the worker can find out."""
    picture = io.BytesIO()
    with Image.open(photograph) as whole:
        whole.save(picture, "PNG")
    return picture.getvalue()[:20_000]


def test_a_failing_job_does_not_touch_the_next_one(engine: Engine, tmp_path: Path, photograph: Path) -> None:
    fresh = make(engine, small(engine), tmp_path / "fresh.npy")
    failing = engine.submit(small(engine, image=torn(photograph)), str(tmp_path / "failing.npy"))
    next_one = engine.submit(small(engine), str(tmp_path / "next.npy"))
    with pytest.raises(InvalidRequest) as caught:
        failing.wait(60)
    assert [problem.field for problem in caught.value.problems] == ["image"]
    next_one.wait(60)
    assert (tmp_path / "next.npy").read_bytes() == fresh
    assert {path.name for path in tmp_path.iterdir()} == {"fresh.npy", "next.npy"}


def test_an_output_that_becomes_impossible_fails_its_job_alone(engine: Engine, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    listen, reached = at_step(1)
    job = engine.submit(small(engine, num_inference_steps=50), str(folder / "film.mp4"), listen)
    assert reached.wait(60)
    shutil.rmtree(folder)
    with pytest.raises(OutputError, match="No such file"):
        job.wait(60)
    make(engine, small(engine), tmp_path / "film.npy")


@pytest.mark.parametrize("name", ["film.MP4", "film.WebM", "film.GIF", "film_%02d.PNG", "film.NPY", "film.SAFETENSORS"])
def test_the_case_of_an_extension_does_not_matter(engine: Engine, tmp_path: Path, name: str) -> None:
    report = engine.submit(small(engine), str(tmp_path / name)).wait(60)
    written = sorted(str(path) for path in tmp_path.iterdir())
    assert report.outputs == written
    assert len(written) == (5 if "%" in name else 1)
    assert all(Path(path).suffix == Path(name).suffix for path in written)


@pytest.mark.parametrize("name", ["100%.png", "50%_%03d.png", "100% d.mp4"])
def test_a_percent_sign_in_a_name(engine: Engine, tmp_path: Path, name: str) -> None:
    """Only a number's pattern is one: any other percent sign stands for itself."""
    report = engine.submit(small(engine, num_frames=1), str(tmp_path / name)).wait(60)
    expected = name.replace("%03d", "000")
    assert report.outputs == [str(tmp_path / expected)]
    assert [path.name for path in tmp_path.iterdir()] == [expected]


def test_latents_can_be_had_instead_of_frames(engine: Engine, tmp_path: Path) -> None:
    report = engine.submit(small(engine), str(tmp_path / "film.safetensors")).wait(60)
    assert [stage.name for stage in report.stages] == [*STAGES[:5], "Output"]
    (latents,) = safetensors.numpy.load_file(tmp_path / "film.safetensors").values()
    assert latents.shape == (1, *engine.spec.latent_shape(5, 64, 32))
