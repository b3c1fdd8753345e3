"""What clients see of a job: every key at every time, and truthful ones."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from openai.types import Video as ClientVideo

from ringlight.core.errors import Cancelled
from ringlight.core.messages import PreviewMade, StageStarted, StepFinished
from ringlight.core.report import MemoryReport, RankReport, RunReport, StageReport
from ringlight.core.request import VideoRequest
from ringlight.engine.job_state import JobEvent, JobState, WorkersLost, fold
from ringlight.server.api.schemas import as_model, poll_after_ms, tidy_seconds, to_list, to_video
from ringlight.server.api.watchers import Teller
from ringlight.server.collection.ledger import as_stored
from ringlight.server.collection.store import StoredJob
from ringlight.server.collection.view import View
from ringlight.wire.video import Video, VideoList

OPENAI_KEYS = set(ClientVideo.model_fields)
ID = "video_" + "0" * 32


def stored(**changes: Any) -> StoredJob:
    request = VideoRequest(
        prompt="a boat",
        negative_prompt="",
        width=1280,
        height=704,
        num_frames=121,
        fps=24,
        num_inference_steps=50,
        guidance_scale=5.0,
        flow_shift=5.0,
        seed=2**63 - 1,
    )
    return StoredJob(
        **{"id": ID, "owner": "", "request": request, "model": "m", "layout": "u1r2", "created_at": 1000.9} | changes
    )


def after(*events: JobEvent) -> JobState:
    state = JobState()
    for event in events:
        state = fold(state, event)
    return state


def answered(answer: Video | VideoList) -> dict[str, Any]:
    """The JSON of an answer."""
    return as_model(type(answer)).model_validate(answer, from_attributes=True).model_dump(mode="json")


STARTED = StageStarted(job_id=ID, stage="Denoising")
STEP = StepFinished(job_id=ID, step=5, num_steps=50, seconds=2.0)
REPORT = RunReport(
    workload={},
    workload_hash="",
    layout="u1r2",
    layout_reason="u1r2: as asked",
    environment={},
    stages=[StageReport(name="Denoising", seconds=9.0, peak_bytes=7)],
    other_seconds=1.0,
    total_seconds=10.0,
    step_seconds=[],
    ranks=[
        RankReport(rank=rank, stages=[], memory=MemoryReport(rank=rank, device="cpu", peak_resident_bytes=5), link={})
        for rank in (0, 1)
    ],
    num_tokens=1,
    outputs=[],
)

QUEUED = View(stored=stored(), state=JobState(), queue_position=3)
RUNNING = View(
    stored=stored(status="in_progress", started_at=1001.5),
    state=after(STARTED, STEP),
    queue_position=0,
    eta_seconds=90.0,
    planned_reason="u1r2: as planned",
)
COMPLETED = View(
    stored=stored(
        status="completed", started_at=1001.5, completed_at=1011.5, expires_at=2011.5, progress=100, has_report=True
    ),
    report=REPORT,
)
FAILED = View(stored=stored(status="failed", completed_at=1011.5, error=as_stored(Cancelled("cancelled")), progress=9))


@pytest.mark.parametrize("view", [QUEUED, RUNNING, COMPLETED, FAILED], ids=lambda view: view.status)
def test_every_key_is_there_at_every_time(view: View) -> None:
    plain = answered(to_video(view))
    assert plain == msgspec.json.decode(msgspec.json.encode(to_video(view))), "events and webhooks tell the same"
    assert plain.keys() == as_model(Video).model_fields.keys() >= OPENAI_KEYS
    known = ClientVideo.construct(**plain)
    assert (known.id, known.object, known.created_at) == (ID, "video", 1000)
    assert (known.seconds, known.size, known.prompt) == ("5.04", "1280x704", "a boat")


def test_one_that_waits() -> None:
    video = to_video(QUEUED)
    assert (video.status, video.progress, video.queue_position) == ("queued", 0, 3)
    assert (video.stage, video.step, video.started_at, video.error, video.memory) == (None, None, None, None, None)
    assert video.seed == 2**63 - 1


def test_one_that_runs() -> None:
    video = to_video(RUNNING)
    assert (video.status, video.progress, video.stage, video.step) == ("in_progress", 9, "Denoising", 5)
    assert (video.started_at, video.eta_seconds, video.queue_position) == (1001, 90.0, 0)
    assert video.layout_reason == "u1r2: as planned"


def test_one_that_is_completed() -> None:
    video = to_video(COMPLETED)
    assert (video.status, video.progress, video.completed_at, video.expires_at) == ("completed", 100, 1011, 2011)
    assert (video.inference_time_s, video.queue_position, video.step) == (10.0, None, None)
    assert video.layout_reason == "u1r2: as asked"
    assert video.stages is not None
    assert [stage.name for stage in video.stages] == ["Denoising"]
    assert video.memory is not None
    assert [(memory.rank, memory.peak_resident_bytes) for memory in video.memory] == [(0, 5), (1, 5)]


def test_one_that_was_cancelled_has_failed_with_that_code() -> None:
    video = to_video(FAILED)
    assert (video.status, video.progress) == ("failed", 9)
    assert video.error is not None
    assert msgspec.to_builtins(video.error) == {
        "code": "cancelled",
        "message": "cancelled",
        "param": None,
        "type": "cancelled",
    }


def test_an_end_counts_once_it_is_written() -> None:
    over = msgspec.structs.replace(RUNNING.state or JobState(), status="completed", report=REPORT)
    video = to_video(msgspec.structs.replace(RUNNING, state=over))
    assert video.status == "in_progress"
    assert video.progress < 100


def test_progress_survives_the_death_of_workers() -> None:
    lost = after(STARTED, STEP, WorkersLost(job_id=ID))
    video = to_video(msgspec.structs.replace(RUNNING, state=lost))
    assert (video.progress, video.restarts, video.step, video.stage) == (9, 1, 0, "Recovering")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(97 / 24, "4.04"), (121 / 24, "5.04"), (4.0, "4"), (1 / 24, "0.04"), (10.0, "10"), (2.5, "2.5")],
)
def test_seconds_are_tidy_text(seconds: float, text: str) -> None:
    assert tidy_seconds(seconds) == text


@pytest.mark.parametrize(
    ("eta_seconds", "milliseconds"),
    [(None, 1000), (0.0, 500), (10.0, 500), (90.0, 1800), (500.0, 10_000), (9e9, 10_000)],
)
def test_when_to_ask_again(eta_seconds: float | None, milliseconds: int) -> None:
    assert poll_after_ms(msgspec.structs.replace(RUNNING, eta_seconds=eta_seconds)) == milliseconds


def test_there_is_nothing_to_ask_of_one_that_is_over() -> None:
    assert (poll_after_ms(COMPLETED), poll_after_ms(FAILED)) == (None, None)


def test_a_page_names_its_ends() -> None:
    other = msgspec.structs.replace(QUEUED, stored=stored(id="video_" + "1" * 32))
    page = to_list([QUEUED, other], True)
    assert (page.object, page.first_id, page.last_id, page.has_more) == ("list", ID, "video_" + "1" * 32, True)
    assert answered(to_list([], False)) == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }


def names(events: list[bytes]) -> list[str]:
    return [event.split(b"\n", 1)[0].removeprefix(b"event: ").decode() for event in events]


def test_events_tell_what_is_new() -> None:
    teller = Teller()
    assert names(teller.tell(QUEUED)) == ["status", "progress"]
    assert names(teller.tell(QUEUED)) == []
    assert names(teller.tell(msgspec.structs.replace(QUEUED, queue_position=2))) == ["status", "progress"]
    assert names(teller.tell(RUNNING)) == ["status", "progress"]
    seen = after(STARTED, STEP, PreviewMade(job_id=ID, step=5, picture=b"\xff\xd8"))
    (preview,) = teller.tell(msgspec.structs.replace(RUNNING, state=seen))
    assert b'data: {"step":5,"image":"data:image/jpeg;base64,/9g="}\n' in preview
    assert names(teller.tell(msgspec.structs.replace(RUNNING, state=seen))) == []
    (done,) = teller.tell(COMPLETED)
    assert done.startswith(b"event: done\ndata: {")
    assert done.count(b"\n") == 4


def test_a_prompt_of_many_lines_stays_in_one_event() -> None:
    request = msgspec.structs.replace(stored().request, prompt="one\n\nevent: done\r\ndata: two")
    events = Teller().tell(msgspec.structs.replace(QUEUED, stored=stored(request=request)))
    assert names(events) == ["status", "progress"]
    assert all(event.count(b"\n") == 4 and b"\r" not in event for event in events)
