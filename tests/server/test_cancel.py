"""A cancel holds once it is answered, also where the ranks have not come to the end of their step."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringlight.core.errors import Cancelled
from ringlight.engine.job_state import JobState
from ringlight.server.collection import videos as module
from ringlight.server.collection.view import Draft
from tests.engine.processes import wait_until
from tests.server.bounds import ALICE, forked_videos, made

pytestmark = pytest.mark.slow  # ranks of its own


def test_an_end_is_written_before_the_answer(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CANCEL_SECONDS", 0.0)  # a step that takes longer than we wait
    with forked_videos(tmp_path, tiny) as videos:
        request = videos.complete("a paper boat", width=256, height=160, num_frames=17, num_inference_steps=900)
        video_id = videos.create(Draft(request=request), ALICE).stored.id
        wait_until(lambda: videos.get(video_id, ALICE).status == "in_progress")
        cancelled = videos.cancel(video_id, ALICE)
        assert (cancelled.status, cancelled.queue_position, cancelled.eta_seconds) == ("failed", None, None)
        stored = videos.store.get(video_id)  # what another server would go by
        assert stored.error is not None and stored.error.code == "cancelled" and stored.completed_at is not None
        assert videos.store.unfinished() == []
        assert made(videos).status == "completed"  # the ranks go on with others
        assert videos.store.get(video_id) == stored  # their own end of it changes nothing
        assert videos.cancel(video_id, ALICE).status == "failed"


def test_a_video_that_is_completed_in_that_moment_stays_cancelled(tmp_path: Path, tiny: Path) -> None:
    """Its file is gone when the ranks' own end of it is to be written. So may be one that nobody cancelled."""
    with forked_videos(tmp_path, tiny) as videos:
        done = made(videos)
        state = JobState(status="completed", report=videos.report(done.stored.id, None))
        video_id = videos.store.add(videos.new(Draft(request=done.stored.request), ALICE)).id
        videos.ledger.write_end(video_id, JobState(status="failed", error=Cancelled("cancelled")))
        videos.ledger.write_end(video_id, state)
        assert (error := videos.store.get(video_id).error) is not None and error.code == "cancelled"
        video_id = videos.store.add(videos.new(Draft(request=done.stored.request), ALICE)).id
        videos.ledger.write_end(video_id, state)
        assert (error := videos.store.get(video_id).error) is not None and error.code == "output_error"
