"""Jobs that are on the disk although the database did not say so: their client was told to try again."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from ringlight.core.errors import StoreError
from ringlight.server.collection import retention
from ringlight.server.collection.store import Idempotency, StoredJob
from ringlight.server.collection.view import Draft
from tests.engine.processes import wait_until
from tests.server.bounds import ALICE, forked_videos, made

pytestmark = pytest.mark.slow  # ranks of its own


def test_a_job_whose_acceptance_got_lost_is_made_for_whoever_asks_again(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "UNANSWERED_SECONDS", 0.0)
    monkeypatch.setattr(retention, "SWEEP_SECONDS", 3600.0)  # sweeps are ours
    with forked_videos(tmp_path, tiny) as videos:
        draft = Draft(request=videos.complete("a paper boat", width=64, height=32, num_frames=9, num_inference_steps=2))
        keep = videos.store.add

        def add_and_break(stored: StoredJob, *about: Any) -> StoredJob:
            keep(stored, *about)
            raise StoreError("the connection broke in the commit")

        monkeypatch.setattr(videos.store, "add", add_and_break)
        key = Idempotency("once", "body")
        with pytest.raises(StoreError):
            videos.create(draft, ALICE, key)
        monkeypatch.setattr(videos.store, "add", keep)

        again = videos.create(draft, ALICE, key)
        assert again.status != "completed" and len(videos.store.unfinished()) == 1
        videos.retention.sweep()
        videos.retention.sweep()  # it is followed now
        wait_until(lambda: videos.get(again.stored.id, ALICE).status == "completed")
        assert videos.folder.of(again.stored.id).video.exists()
        assert videos.store.unfinished() == []


def test_what_was_on_its_way_to_a_store_that_is_not_named_any_more_stays_here(tmp_path: Path, tiny: Path) -> None:
    with forked_videos(tmp_path, tiny) as videos:
        kept, lost = (made(videos).stored.id for _ in range(2))
        files = {video_id: videos.folder.of(video_id).video for video_id in (kept, lost)}
        database = Path(str(videos.folder.store_url.database))
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:  # as a store that is away
        connection.execute(
            "UPDATE jobs SET status = 'in_progress', made_at = started_at, completed_at = NULL, has_report = 0"
        )
    written, content = files[kept].stat().st_mtime_ns, files[lost].read_bytes()
    files[lost].unlink()
    with forked_videos(tmp_path, tiny) as videos:
        for video_id in (kept, lost):
            wait_until(lambda: videos.get(video_id, ALICE).status == "completed")  # noqa: B023 (called here)
            assert videos.report(video_id, ALICE).total_seconds > 0
        assert files[kept].stat().st_mtime_ns == written
        assert files[lost].read_bytes() == content  # made again
