"""Progress of one job on stderr: a bar with step, stage and ETA on a terminal, plain lines otherwise."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from ringlight.core.warning import Warnings
from ringlight.engine.job_state import JobState
from ringlight.engine.jobs import Job
from ringlight.engine.waiting import Awaited

PLAIN_EVERY_SECONDS = 10.0


class Listener(Console):
    """Console that falls silent when nobody reads it any more: the video is still wanted."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        # What is still buffered would fail once more at exit, and with it the exit code.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


class JobProgress:
    """Shows the state of a job whenever it changes.

    `quiet` shows nothing. With `log` there is no bar, and it takes the lines.
    """

    def __init__(self, quiet: bool, log: Callable[[str], None] | None = None) -> None:
        self._log = log
        self._console = Listener(stderr=True, quiet=quiet)
        self._bar = Progress(
            TextColumn("{task.fields[stage]:>20}"),
            BarColumn(),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=quiet or log is not None or not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task("", total=100, stage="loading", detail="")
        self._lock = threading.Lock()
        self._num_warned = 0
        self._last_stage = ""
        self._last_kind = ("loading", "")
        self._start = self._last_print = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, line: str) -> None:
        """Print a line of its own."""
        if self._log is not None:
            self._log(line.strip())
        else:
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def warn(self, warnings: Warnings) -> None:
        """Print each warning that has not been printed yet. Called from any thread."""
        with self._lock:
            told, self._num_warned = self._num_warned, max(self._num_warned, len(warnings))
        for warning in warnings[told:]:
            self.say(f"note: {warning.message}")

    def still_loading(self, awaited: Awaited | None) -> None:
        """Report that loading goes on: off a terminal every few seconds, and at once when something new is awaited."""
        now = time.monotonic()
        kind = ("loading", "") if awaited is None else (awaited.what, awaited.remark)
        is_news, self._last_kind = awaited is not None and kind != self._last_kind, kind
        said = f"loading, {now - self._start:.0f} s" if awaited is None else str(awaited)
        self._bar.update(self._task, stage="loading", detail="" if awaited is None else said)
        if self._bar.disable and (is_news or now - self._last_print >= PLAIN_EVERY_SECONDS):
            self.say(f"  0%  {said}")
            self._last_print = now

    def __call__(self, job: Job) -> None:
        state = job.state
        self.warn(state.warnings)
        self.show(state.progress, state.stage or state.status, describe(state), state.is_over)

    def show(self, percent: int, stage: str, detail: str, is_over: bool) -> None:
        """Show how far a job is, and what it is doing."""
        self._bar.update(self._task, completed=percent, stage=stage, detail=detail)
        if self._bar.disable and not is_over and self._is_due(stage):
            self.say(f"{percent:3d}%  {stage}  {detail}".rstrip())

    def _is_due(self, stage: str) -> bool:
        """Return whether a plain line is due: each stage as it starts, and one every few seconds within it."""
        now = time.monotonic()
        if stage == self._last_stage and now - self._last_print < PLAIN_EVERY_SECONDS:
            return False
        self._last_stage, self._last_print = stage, now
        return True


def describe(state: JobState) -> str:
    """Step and ETA while denoising, frames while decoding."""
    if state.stage == "Denoising" and state.step:
        remaining = state.eta_seconds or 0.0
        return f"step {state.step}/{state.num_steps}, {state.step_seconds:.2f} s/step, {remaining:.0f} s left"
    if state.stage == "Decoding" and state.num_frames:
        return f"{state.frames_done}/{state.num_frames} frames"
    return ""
