"""The end of an output, in a thread: the ranks work on the next job while this one's file is written out."""

from __future__ import annotations

import threading
import time

import msgspec

from ringlight.core import messages
from ringlight.core.errors import InvalidRequest, RinglightError
from ringlight.core.report import RunReport
from ringlight.pipelines.output import Output, finish
from ringlight.worker.corridor import Corridor
from ringlight.worker.failures import as_failure, not_written


class Finishing:
    """Finisher of one output after another on rank 0, which reports to the engine how each of these jobs ended."""

    def __init__(self, corridor: Corridor) -> None:
        self._corridor = corridor
        self._thread: threading.Thread | None = None
        self._announced: messages.RunJob | None = None

    def announce_now(self, job: messages.RunJob) -> None:
        """Report that the ranks are free, before there is a report of the job.

        It is left to `begin` if an output is to be waited for first, lest the other ranks wait for this one in the
        middle of something.
        """
        if self._thread is None or not self._thread.is_alive():
            self._announce(job)

    def begin(self, job: messages.RunJob, output: Output, report: RunReport, computed_at: float) -> None:
        """Report that the ranks are free, and finish the output beside them, after the one before.

        The `report` ends with an Output stage of 0 seconds, at `computed_at` by `time.perf_counter`.
        """
        self.wait()
        self._announce(job)
        work = (job, output, report, computed_at)
        self._thread = threading.Thread(target=self._finish, args=work, name="finishing", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return once nothing is left to finish."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _announce(self, job: messages.RunJob) -> None:
        if self._announced is not job:
            self._announced = job
            self._corridor.send(messages.Computed(job_id=job.job_id))

    def _finish(self, job: messages.RunJob, output: Output, report: RunReport, computed_at: float) -> None:
        ending: messages.JobCompleted | messages.JobFailed
        try:
            outputs = self._corridor.hand_over(job, finish(output))
            whole = with_output(report, outputs, time.perf_counter() - computed_at)
            ending = messages.JobCompleted(job_id=job.job_id, report=whole)
        except OSError as error:
            ending = failed(job, not_written(error, job))
        except Exception as error:  # whatever it is, it is this job's alone
            ending = failed(job, as_failure(error, job))
        self._corridor.put_down(job)
        self._corridor.send(ending)


def with_output(report: RunReport, outputs: list[str], seconds: float) -> RunReport:
    """Complete a report with what was known last: the seconds of its Output stage, rank 0's, and the paths written."""
    change = msgspec.structs.replace
    stages = [*report.stages[:-1], change(report.stages[-1], seconds=seconds)]
    ranks = [change(report.ranks[0], stages=stages), *report.ranks[1:]]
    total = report.total_seconds + seconds
    return change(report, stages=stages, ranks=ranks, outputs=outputs, total_seconds=total)


def failed(job: messages.RunJob, failure: RinglightError) -> messages.JobFailed:
    """Build the `JobFailed` message of a job."""
    problems = list(failure.problems) if isinstance(failure, InvalidRequest) else []
    return messages.JobFailed(job_id=job.job_id, code=failure.code, message=str(failure), problems=problems)
