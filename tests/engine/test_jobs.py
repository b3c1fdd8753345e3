"""Jobs: a pure fold over a worker's messages, and a handle that any thread can wait on."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from itertools import pairwise

import pytest

from ringlight.core import messages
from ringlight.core.errors import Cancelled, InvalidRequest, OutOfMemory, Problem, WorkerError
from ringlight.core.layout import ParallelLayout
from ringlight.core.request import VideoRequest
from ringlight.engine.job_state import JobState, fold
from ringlight.engine.jobs import Job
from tests.engine.replicas import report_of

REQUEST = VideoRequest(
    prompt="a cat",
    negative_prompt="",
    width=64,
    height=64,
    num_frames=5,
    fps=24,
    num_inference_steps=4,
    guidance_scale=5.0,
    flow_shift=5.0,
    seed=1,
)
COMPLETED = messages.JobCompleted(
    job_id="a", report=report_of(messages.RunJob(job_id="a", request=REQUEST, output="a.mp4"))
)
FAILED = messages.JobFailed(job_id="a", code="out_of_memory", message="does not fit")


def run_of_a_worker(num_steps: int, num_frames: int, chunk: int) -> Iterator[messages.JobMessage]:
    """All messages of one job, as a worker sends them."""
    for stage in ("InputValidation", "TextEncoding", "Denoising"):
        yield messages.StageStarted(job_id="a", stage=stage)
    for step in range(1, num_steps + 1):
        yield messages.StepFinished(job_id="a", step=step, num_steps=num_steps, seconds=0.1 * step)
    yield messages.StageStarted(job_id="a", stage="Decoding")
    for done in range(1, num_frames + 1, chunk):
        yield messages.FramesDecoded(job_id="a", num_done=done, num_frames=num_frames)
    yield messages.FramesDecoded(job_id="a", num_done=num_frames, num_frames=num_frames)
    yield messages.StageStarted(job_id="a", stage="Output")
    yield COMPLETED


def states(run: Iterator[messages.JobMessage]) -> list[JobState]:
    folded = [JobState()]
    for message in run:
        folded.append(fold(folded[-1], message))
    return folded


@pytest.mark.parametrize(("num_steps", "num_frames", "chunk"), [(1, 1, 4), (8, 17, 4), (50, 121, 8), (1000, 1025, 1)])
def test_progress_never_falls_and_is_whole_only_when_completed(num_steps: int, num_frames: int, chunk: int) -> None:
    *before, last = states(run_of_a_worker(num_steps, num_frames, chunk))
    progress = [state.progress for state in before]
    assert progress == sorted(progress)
    assert progress[0] == 0
    assert progress[-1] == 99
    assert last.progress == 100
    assert last.status == "completed"


def test_a_job_that_fails_keeps_its_progress() -> None:
    *_, state = states(iter([*list(run_of_a_worker(4, 5, 4))[:5], FAILED]))
    assert (state.status, state.step, state.progress) == ("failed", 2, 45)
    assert isinstance(state.error, OutOfMemory)
    assert str(state.error) == "does not fit"


def test_all_steps_and_frames_are_not_yet_a_video() -> None:
    *almost, _ = run_of_a_worker(2, 5, 4)
    (*_, last) = states(iter([*almost, FAILED]))
    assert last.progress < 100


def test_a_job_that_is_over_stays_as_it_is() -> None:
    messages_of_a_run = list(run_of_a_worker(4, 5, 4))
    for end in (COMPLETED, FAILED):
        over = fold(fold(JobState(), messages_of_a_run[0]), end)
        assert over.is_over
        assert all(fold(over, late) is over for late in [*messages_of_a_run, FAILED])


def test_folding_changes_nothing_that_was_there() -> None:
    before = JobState()
    fold(before, FAILED)
    assert before == JobState()


def test_eta_follows_the_last_step() -> None:
    begun = fold(JobState(), messages.StageStarted(job_id="a", stage="Denoising"))
    assert begun.eta_seconds is None
    stepped = fold(begun, messages.StepFinished(job_id="a", step=1, num_steps=4, seconds=2.0))
    assert stepped.eta_seconds == pytest.approx(3 * 2.0 + 4 * 2.0 / 9)  # and a tenth of the whole for what follows
    only_steps = fold(
        JobState(denoising_share=1.0), messages.StepFinished(job_id="a", step=1, num_steps=4, seconds=2.0)
    )
    assert only_steps.eta_seconds == 6.0
    assert fold(only_steps, messages.StepFinished(job_id="a", step=4, num_steps=4, seconds=1.0)).eta_seconds == 0.0


def test_problems_come_through_a_failure() -> None:
    failed = messages.JobFailed(job_id="a", code="invalid_request", message="", problems=[Problem("image", "is torn")])
    state = fold(JobState(), failed)
    assert isinstance(state.error, InvalidRequest)
    assert state.error.problems == (Problem("image", "is torn"),)


def test_any_order_of_messages_folds_to_a_sound_state() -> None:
    """Whatever a worker sends, progress stays within 0 and 100, and only one end is ever seen."""
    shuffler = random.Random(0)
    for _ in range(200):
        run = [*run_of_a_worker(5, 9, 4), FAILED]
        shuffler.shuffle(run)
        for before, after in pairwise(states(iter(run))):
            assert 0 <= after.progress <= 100
            assert (after.progress == 100) == (after.status == "completed")
            assert not before.is_over or after is before


def new_job() -> Job:
    return Job("video_1", REQUEST, ParallelLayout(), "/tmp/a.mp4", None)


def test_waiting_gives_the_report_to_everyone_who_waits() -> None:
    job = new_job()
    reports = []
    waiting = [threading.Thread(target=lambda: reports.append(job.wait(60))) for _ in range(3)]
    for thread in waiting:
        thread.start()
    job.receive(COMPLETED)
    for thread in waiting:
        thread.join()
    assert reports == [COMPLETED.report] * 3
    assert job.wait(0) == COMPLETED.report


def test_waiting_raises_the_error_each_time() -> None:
    job = new_job()
    job.fail(WorkerError("died"))
    for _ in range(2):
        with pytest.raises(WorkerError, match="died"):
            job.wait()


def test_waiting_ends_after_its_timeout() -> None:
    job = new_job()
    with pytest.raises(TimeoutError, match="video_1"):
        job.wait(0.01)
    assert not job.state.is_over


def test_whoever_listens_hears_of_every_change_once() -> None:
    heard: list[str] = []
    job = Job("video_1", REQUEST, ParallelLayout(), "/tmp/a.mp4", lambda changed: heard.append(changed.state.status))
    job.receive(messages.StageStarted(job_id="video_1", stage="Denoising"))
    job.fail(Cancelled("cancelled"))
    job.fail(WorkerError("too late"))
    assert heard == ["in_progress", "failed"]
    assert isinstance(job.state.error, Cancelled)
