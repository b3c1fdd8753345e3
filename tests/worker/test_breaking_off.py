"""Jobs that make way within a step, spoken to over the socket as the engine does."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from safetensors.torch import load_file

from ringlight.core import messages
from ringlight.core.layout import ParallelLayout
from ringlight.core.plan import JobPlan
from ringlight.core.report import RunReport
from tests.worker.test_between_jobs import is_of, job_of
from tests.worker.test_process import REQUEST
from tests.worker.wires import Wire, started, until

pytestmark = pytest.mark.slow

BROKEN = msgspec.structs.replace(REQUEST, prompt="asked 0 block 1")


def leave(wire: Wire, job: messages.RunJob, *said: messages.ToWorker) -> messages.JobPaused:
    """Have a job begun, and tell it so when it denoises; returns where it was left."""
    wire.send(job)
    until(wire, lambda message: message == messages.StageStarted(job_id=job.job_id, stage="Denoising"))
    wire.send(*said)
    left = until(wire, is_of(messages.JobPaused, job))[-1]
    assert isinstance(left, messages.JobPaused)
    return left


def take_up(wire: Wire, job: messages.RunJob) -> RunReport:
    wire.send(messages.ResumeJob(job_id=job.job_id))
    completed = until(wire, is_of(messages.JobCompleted, job))[-1]
    assert isinstance(completed, messages.JobCompleted)
    return completed.report


@pytest.mark.parametrize("name", ["u1r1", "u1r2"])
def test_a_step_that_is_broken_off_is_made_again(tiny: Path, tmp_path: Path, name: str) -> None:
    """Where ranks agree within it, another one is made before that; else the job makes way at its end."""
    layout = ParallelLayout.parse(name)
    within, whole = (
        messages.RunJob(
            job_id=job_id,
            request=BROKEN,
            output=str(tmp_path / f"{job_id}.safetensors"),
            layout=layout,
            plan=plan,
            state_file=str(tmp_path / job_id),
        )
        for job_id, plan in (("within", JobPlan(blocks_per_agreement=1)), ("whole", JobPlan()))
    )
    other = job_of(tmp_path / "other.safetensors", layout=layout)
    now, later = (messages.PauseJob(job_id="within", now=now) for now in (True, False))
    with started(tiny, num_ranks=layout.num_ranks) as (_, wire):
        assert leave(wire, within, now, later).step == 0  # what was urgent stays so
        wire.send(other, now)
        until(wire, is_of(messages.JobCompleted, other))
        report = take_up(wire, within)
        assert report.pauses == 1 and report.repeated_seconds > 0 and len(report.step_seconds) == 3
        assert not report.is_whole and "s of Denoising went into steps that were made again." in report.table()
        assert leave(wire, whole, messages.PauseJob(job_id="whole", now=True)).step == 1
        report = take_up(wire, whole)
        assert report.pauses == 1 and report.is_whole
    made, expected = (load_file(job.output)["latents"] for job in (within, whole))
    assert made.equal(expected)
