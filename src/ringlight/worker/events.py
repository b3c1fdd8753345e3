"""Events of one job: rank 0 tells the engine, and at every boundary all ranks decide together whether to continue."""

from __future__ import annotations

from ringlight.core import messages
from ringlight.core.errors import ERRORS, Cancelled, InvalidRequest, RinglightError, WorkerError, from_code
from ringlight.core.warning import RequestWarning
from ringlight.parallel.collective import collective
from ringlight.parallel.group import RankGroup
from ringlight.parallel.link import LinkLost
from ringlight.worker.corridor import Corridor
from ringlight.worker.failures import as_failure

# Go on; go on, but make way between two steps; or also within one. Problems are positive.
FINE, LEAVE, LEAVE_NOW = 0, -1, -2
CODES = (InvalidRequest.code, *ERRORS, WorkerError.code)
OUT_OF_STEP = 100  # added to the status of a rank that failed between two boundaries
GRACE_SECONDS = 5.0


class Events:
    """Boundaries of one job.

    `left_together`: all ranks have raised at the same one, and are still in step. `turn_ends`: rank 0 said at the last
    one that it should be paused, and `ends_now` that it should not wait for the end of a step.
    """

    def __init__(self, corridor: Corridor, group: RankGroup, job: messages.RunJob, patience_seconds: float) -> None:
        self._corridor = corridor
        self._group = group
        self._job = job
        self._patience_seconds = patience_seconds
        self.left_together = False
        self.turn_ends = self.ends_now = False

    def stage_started(self, stage: str) -> None:
        self._tell(messages.StageStarted(job_id=self._job.job_id, stage=stage))

    def warned(self, warning: RequestWarning) -> None:
        self._tell(messages.Warned(job_id=self._job.job_id, warning=warning))

    def step_finished(self, step: int, num_steps: int, seconds: float) -> None:
        self._tell(messages.StepFinished(job_id=self._job.job_id, step=step, num_steps=num_steps, seconds=seconds))

    def frames_decoded(self, num_done: int, num_frames: int) -> None:
        self._tell(messages.FramesDecoded(job_id=self._job.job_id, num_done=num_done, num_frames=num_frames))

    def state_saved(self, step: int) -> None:
        self._tell(messages.StateSaved(job_id=self._job.job_id, step=step))

    def preview_made(self, step: int, picture: bytes) -> None:
        self._tell(messages.PreviewMade(job_id=self._job.job_id, step=step, picture=picture))

    @collective
    def boundary(self, problem: Exception | None = None) -> None:
        job_id = self._job.job_id
        wish = LEAVE if self._corridor.is_asked_to_leave(job_id) else FINE
        if self._corridor.is_asked_to_leave_now(job_id):
            wish = LEAVE_NOW
        is_cancelled = self._corridor.is_cancelled(job_id)
        told = self._decide(problem or (Cancelled("cancelled") if is_cancelled else None), wish)
        self.turn_ends, self.ends_now = min(told) < FINE, LEAVE_NOW in told

    @collective
    def check_problem(self, problem: Exception | None) -> None:
        self._decide(problem, FINE)

    @collective
    def _decide(self, problem: Exception | None, wish: int) -> list[int]:
        """Exchange what each rank has to say, its problem or else its wish. Raises the worst problem, on all ranks."""
        mine = None if problem is None else as_failure(problem, self._job)
        statuses = self._group.control.agree(wish if mine is None else status_of(mine))
        self._group.expect(self._patience_seconds)
        worst = max(statuses)
        if worst <= FINE:
            return statuses
        if worst >= OUT_OF_STEP:
            raise LinkLost("another rank failed")
        told = self._group.control.gather(b"" if mine is None else str(mine).encode())
        self.left_together = True
        raise mine or from_code(CODES[worst - 1], told[statuses.index(worst)].decode())

    @collective
    def require_alike(self, failure: RinglightError) -> None:
        """Return if all ranks have raised alike after an error between boundaries, else raise LinkLost."""
        status = OUT_OF_STEP + status_of(failure)
        statuses = self._group.control.agree(status, min(GRACE_SECONDS, self._group.watchdog_seconds))
        if set(statuses) != {status}:
            raise LinkLost("the other ranks did not fail alike")

    def _tell(self, message: messages.JobMessage) -> None:
        if self._group.place.rank == 0:
            self._corridor.send(message)


def status_of(failure: RinglightError) -> int:
    """An error as a number that all ranks understand."""
    return 1 + CODES.index(failure.code)
