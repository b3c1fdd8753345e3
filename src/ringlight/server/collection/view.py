"""Drafts that go into the collection of videos, and views of one video at a moment."""

from __future__ import annotations

import msgspec

from ringlight.core.layout import ParallelLayout
from ringlight.core.report import RunReport
from ringlight.core.request import VideoRequest
from ringlight.core.sizes import AskedSize
from ringlight.core.warning import Warnings
from ringlight.engine.job_state import JobState, Pauses, Status
from ringlight.server.collection.store import StoredJob

UPLOADING = "Uploading"  # the stage of a video that is made, and on its way to the object store


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """Content of a call to create a video, once it has been read and completed.

    `continues` is the video that it goes on from, of which `frames_before` frames come before the new ones.
    `asked_size` and `seconds` are what was asked, as far as it was; the request is what will be made of it.
    """

    request: VideoRequest
    user: str | None = None
    priority: int = 0
    timeout_seconds: float | None = None
    webhook_url: str | None = None
    remixed_from: str | None = None
    continues: str | None = None
    frames_before: int = 0
    layout: ParallelLayout | None = None
    asked_size: AskedSize = (None, None)
    seconds: str | None = None


class View(msgspec.Struct, frozen=True, kw_only=True):
    """Snapshot of a job.

    `state`, `live_pauses` and `planned_reason` (for its layout) are there while the engine has it, `report` once it is
    completed, and `run_seconds`, which it took from its start to its end, at the moment of that.
    """

    stored: StoredJob
    state: JobState | None = None
    live_pauses: Pauses | None = None
    planned_reason: str = ""
    queue_position: int | None = None
    eta_seconds: float | None = None
    report: RunReport | None = None
    run_seconds: float = 0.0

    @property
    def status(self) -> Status:
        """Status as clients see it: an end counts once it is written down."""
        return self.stored.status if self.state is None or self.state.is_over else self.state.status

    @property
    def progress(self) -> int:
        """Percentage from 0 to 100; it never falls, and is 100 only when completed."""
        if self.status == "completed":
            return 100
        return max(self.stored.progress, 0 if self.state is None else min(99, self.state.progress))

    @property
    def pauses(self) -> Pauses:
        """Pauses of the video so far."""
        stored = Pauses(pauses=self.stored.pauses, paused_seconds=self.stored.paused_seconds)
        return stored if self.live_pauses is None else self.live_pauses

    @property
    def layout_reason(self) -> str:
        """Reason for the layout, as it was planned or as the report has it; "" where neither is at hand."""
        report = self.report if self.state is None else self.state.report
        return self.planned_reason if report is None else report.layout_reason

    @property
    def warnings(self) -> Warnings:
        """Differences between the video and what was asked, as far as they are known."""
        return self.stored.warnings if self.state is None else self.state.warnings
