"""Jobs that make way for others, over the wire: the same bytes as at one go, whatever happens in between."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ringlight.core import messages
from ringlight.core.config import EngineConfig
from ringlight.core.layout import ParallelLayout
from ringlight.core.lora import Lora
from ringlight.core.plan import JobPlan, Placement
from ringlight.engine.host_memory import HostMemory
from ringlight.families.lora_library import LoraLibrary
from ringlight.families.table import read_model
from tests.loras import write_lora
from tests.pipelines.test_resume import request_for
from tests.worker.test_between_jobs import is_of
from tests.worker.wires import Wire, started, until

pytestmark = pytest.mark.slow

NUM_STEPS = 11
PAUSES = (1, 3, 5, 7, 9)  # after the steps that follow these
ASKED = "; ".join(f"asked 0 step {step}" for step in PAUSES)
STYLE = "style"


def job_of(
    model: Path, output: Path, prompt: str = "a cat", photograph: Path | None = None, **changes: Any
) -> messages.RunJob:
    """A job that is called as its output, and keeps no state; of one step, if its prompt says nothing of steps."""
    num_steps = NUM_STEPS if "step" in prompt else 1
    request = request_for(read_model(model), photograph, num_inference_steps=num_steps)
    request = msgspec.structs.replace(request, prompt=prompt)
    return messages.RunJob(job_id=output.name, request=request, output=str(output), **changes)


def keeping(job: messages.RunJob, folder: Path) -> messages.RunJob:
    """The same job, whose state is kept, at ends of turns alone; so it waits where it should be asked to make way."""
    state, output = folder / f"{job.job_id}.state", folder / job.job_id
    return msgspec.structs.replace(job, output=str(output), state_file=str(state), save_seconds=1e9)


def made(wire: Wire, job: messages.RunJob) -> bytes:
    """The output of a job that is made at one go."""
    wire.send(job)
    (*_, ending) = wire.receive_job(job.job_id)
    assert isinstance(ending, messages.JobCompleted), ending
    return Path(job.output).read_bytes()


def leave(wire: Wire, job: messages.RunJob, asked_after: int) -> list[messages.FromWorker]:
    """Have the running job make way, asked after this step; all that was heard of it until its state was saved."""
    received = until(wire, lambda message: is_of(messages.StepFinished, job)(message) and message.step == asked_after)
    wire.send(messages.PauseJob(job_id=job.job_id))
    received += until(wire, is_of(messages.JobPaused, job))
    paused, step = received[-1], asked_after + 1
    assert paused.step == step
    assert paused.held_bytes > 0
    saved = messages.StateSaved(job_id=job.job_id, step=step)
    if saved not in received:
        received += until(wire, lambda message: message == saved)
    return received


def made_in_turns(wire: Wire, job: messages.RunJob, between: messages.RunJob) -> messages.JobCompleted:
    """The end of a job that made way five times, each time for another one."""
    order: messages.ToWorker = job
    for step in PAUSES:
        wire.send(order)
        received = leave(wire, job, step)
        if step != PAUSES[0]:
            assert messages.StageStarted(job_id=job.job_id, stage="Denoising") in received[:2]
        made(wire, between)
        order = messages.ResumeJob(job_id=job.job_id)
    wire.send(order)
    (*_, completed) = wire.receive_job(job.job_id)
    assert isinstance(completed, messages.JobCompleted), completed
    return completed


def require_whole(completed: messages.JobCompleted) -> None:
    """The report of a job that made way five times is that of all its turns, and of nothing else."""
    report = completed.report
    assert report.pauses == len(PAUSES)
    assert report.paused_seconds > 0
    assert len(report.step_seconds) == NUM_STEPS
    assert [stage.name for stage in report.stages].count("Denoising") == 1
    assert sum(stage.seconds for stage in report.stages) + report.other_seconds == pytest.approx(report.total_seconds)
    assert report.resumed_from_step == 0


@pytest.fixture(scope="module")
def pair(tiny: Path) -> Iterator[Wire]:
    """Two ranks."""
    with started(tiny, num_ranks=2) as (_, wire):
        yield wire


def require_the_same_bytes(wire: Wire, jobs: list[messages.RunJob], between: messages.RunJob, folder: Path) -> None:
    """Each of them made at one go, and with five pauses."""
    for job in jobs:
        expected, slowly = made(wire, job), keeping(job, folder)
        require_whole(made_in_turns(wire, slowly, between))
        assert Path(slowly.output).read_bytes() == expected


@pytest.mark.parametrize("layout", ["u2r1", "u1r2", "c2u1r1"])
def test_five_pauses_change_no_byte_in_any_layout(
    pair: Wire, tiny: Path, tmp_path: Path, photograph: Path, layout: str
) -> None:
    (tmp_path / "turns").mkdir()
    laid_out = ParallelLayout.parse(layout)
    film = job_of(tiny, tmp_path / "film.mp4", ASKED, layout=laid_out)
    shown = job_of(tiny, tmp_path / "shown.safetensors", ASKED, photograph, layout=laid_out)
    between = job_of(tiny, tmp_path / "between.safetensors", photograph=photograph, layout=laid_out)
    require_the_same_bytes(pair, [film, shown], between, tmp_path / "turns")


def test_nor_do_they_within_a_budget(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "turns").mkdir()
    placed = JobPlan(placement=Placement(streamed_blocks=2, streams_decoder=True), take_turns=True)
    how: dict[str, Any] = {"layout": ParallelLayout.parse("u1r2"), "plan": placed}
    film = job_of(tiny, tmp_path / "film.mp4", ASKED, **how)
    memory = HostMemory(num_ranks=2)
    with started(tiny, num_ranks=2, memory=memory) as (_, wire):
        require_the_same_bytes(wire, [film], job_of(tiny, tmp_path / "between.safetensors", **how), tmp_path / "turns")
    memory.close()


def test_ranks_that_get_a_new_link_go_on_with_what_they_keep(pair: Wire, tiny: Path, tmp_path: Path) -> None:
    """After an error in the middle of a step, of another job."""
    ring = ParallelLayout.parse("u1r2")
    one = job_of(tiny, tmp_path / "film.mp4", "asked 0 step 4", layout=ring)
    (tmp_path / "turns").mkdir()
    expected, job = made(pair, one), keeping(one, tmp_path / "turns")
    pair.send(job)
    leave(pair, job, 4)
    failing = job_of(tiny, tmp_path / "failing.mp4", "memory 0 transfer 8; memory 1 transfer 7", layout=ring)
    pair.send(failing, messages.ResumeJob(job_id=job.job_id))
    assert until(pair, is_of(messages.JobFailed, failing))[-1].code == "out_of_memory"
    pair.receive_job(job.job_id)
    assert Path(job.output).read_bytes() == expected


@pytest.fixture(scope="module")
def loras(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loras")
    write_lora(folder / f"{STYLE}.safetensors", tiny / "transformer", rank=4, alpha=2.0)
    return folder


@pytest.fixture(scope="module")
def wire(tiny: Path, loras: Path) -> Iterator[Wire]:
    """One rank, which takes LoRAs. It lives through all tests that have it."""
    with started(tiny, lora_dir=(str(loras),)) as (_, wire):
        yield wire
        wire.send(messages.Shutdown())


@pytest.fixture
def held(wire: Wire, tiny: Path, tmp_path: Path) -> Iterator[messages.RunJob]:
    """A job that has made way once; whatever a test does to others, it ends with the bytes that it has at one go."""
    one = job_of(tiny, tmp_path / "held.mp4", "asked 0 step 2")
    expected = made(wire, one)
    (tmp_path / "turns").mkdir()
    job = keeping(one, tmp_path / "turns")
    wire.send(job)
    leave(wire, job, 2)
    yield job
    wire.send(messages.ResumeJob(job_id=job.job_id))
    (*_, completed) = wire.receive_job(job.job_id)
    assert isinstance(completed, messages.JobCompleted), completed
    assert Path(job.output).read_bytes() == expected
    assert sorted(path.name for path in (tmp_path / "turns").iterdir()) == ["held.mp4", "held.mp4.state"]


def test_who_is_asked_too_late_goes_on_to_its_end(wire: Wire, tiny: Path, tmp_path: Path) -> None:
    job = job_of(tiny, tmp_path / "film.mp4")
    wire.send(job)
    until(wire, lambda message: message == messages.StageStarted(job_id=job.job_id, stage="Decoding"))
    wire.send(messages.PauseJob(job_id=job.job_id))
    (*_, completed) = wire.receive_job(job.job_id)
    assert isinstance(completed, messages.JobCompleted)
    assert completed.report.pauses == 0


def test_who_has_not_the_turn_is_not_asked(wire: Wire, tiny: Path, tmp_path: Path, held: messages.RunJob) -> None:
    """Neither then nor, once it has the turn again, after."""
    other = job_of(tiny, tmp_path / "other.safetensors")
    wire.send(messages.PauseJob(job_id=held.job_id), messages.PauseJob(job_id=other.job_id))
    made(wire, other)


def test_who_is_asked_before_its_first_step_and_after_its_last(wire: Wire, tiny: Path, tmp_path: Path) -> None:
    one = job_of(tiny, tmp_path / "film.mp4", f"asked 0 TextEncoding; asked 0 step {NUM_STEPS - 1}")
    expected = made(wire, one)
    (tmp_path / "turns").mkdir()
    job = keeping(one, tmp_path / "turns")
    wire.send(job)
    until(wire, lambda message: message == messages.StageStarted(job_id=job.job_id, stage="TextEncoding"))
    wire.send(messages.PauseJob(job_id=job.job_id))
    assert until(wire, is_of(messages.JobPaused, job))[-1].step == 0
    wire.send(messages.ResumeJob(job_id=job.job_id))
    leave(wire, job, NUM_STEPS - 1)
    wire.send(messages.ResumeJob(job_id=job.job_id))
    (first, second, *_, completed) = wire.receive_job(job.job_id)
    assert [first.stage, second.stage] == ["Denoising", "Decoding"]
    assert completed.report.pauses == 2
    assert Path(job.output).read_bytes() == expected


FAILURES = {
    "nan all step 1": "numerical_error",
    "memory all step 3": "out_of_memory",
    "error all TextEncoding": "worker_error",
    "asked 0 step 4": "cancelled",
}


def test_who_cannot_save_its_state_makes_way_all_the_same(wire: Wire, tiny: Path, tmp_path: Path) -> None:
    one = job_of(tiny, tmp_path / "film.mp4", "full 0 step 1; asked 0 step 2; room 0 step 4")
    expected = made(wire, one)
    (tmp_path / "turns").mkdir()
    job = keeping(one, tmp_path / "turns")
    wire.send(job)
    until(wire, lambda message: is_of(messages.StepFinished, job)(message) and message.step == 2)
    wire.send(messages.PauseJob(job_id=job.job_id))
    assert [type(message) for message in until(wire, is_of(messages.JobPaused, job))] == [
        messages.StepFinished,
        messages.JobPaused,
    ]
    wire.send(messages.ResumeJob(job_id=job.job_id))
    wire.receive_job(job.job_id)
    assert Path(job.output).read_bytes() == expected


@pytest.mark.parametrize("fault", FAILURES)
def test_others_do_not_suffer_from_one_that_fails(
    wire: Wire, tiny: Path, tmp_path: Path, held: messages.RunJob, fault: str
) -> None:
    """Or that is cancelled, once it has been taken up again."""
    failing = keeping(job_of(tiny, tmp_path / "failing.mp4", fault), tmp_path)
    wire.send(failing)
    if FAILURES[fault] == "cancelled":
        leave(wire, failing, 4)
        wire.send(messages.ResumeJob(job_id=failing.job_id), messages.CancelJob(job_id=failing.job_id))
    (*_, failed) = until(wire, is_of(messages.JobFailed, failing))
    assert failed.code == FAILURES[fault]
    made(wire, job_of(tiny, tmp_path / "other.safetensors"))


def test_nothing_more_is_heard_of_one_that_is_dropped(
    wire: Wire, tiny: Path, tmp_path: Path, held: messages.RunJob
) -> None:
    """It can be made anew, from its state."""
    dropped = keeping(job_of(tiny, tmp_path / "dropped.mp4", "asked 0 step 4"), tmp_path)
    wire.send(dropped)
    leave(wire, dropped, 4)
    wire.send(messages.DropJob(job_id=dropped.job_id), messages.DropJob(job_id="nobody's"))
    made(wire, job_of(tiny, tmp_path / "other.safetensors"))
    wire.send(dropped)
    (*_, completed) = wire.receive_job(dropped.job_id)
    assert (completed.report.resumed_from_step, completed.report.pauses) == (5, 0)


def test_each_goes_on_with_its_own_loras(
    wire: Wire, tiny: Path, loras: Path, tmp_path: Path, held: messages.RunJob
) -> None:
    """The seconds that it took to have them again are in the report, and none of the steps'."""
    config = EngineConfig(model_path=str(tiny), device="cpu", lora_dir=(str(loras),))
    asked = LoraLibrary(config, read_model(tiny)).resolve((Lora(name=STYLE, strength=1.0),))
    one = job_of(tiny, tmp_path / "styled.mp4", "asked 0 step 4")
    one = msgspec.structs.replace(one, request=msgspec.structs.replace(one.request, lora=asked))
    plain = job_of(tiny, tmp_path / "plain.mp4", "asked 0 step 4")
    expected = made(wire, one)
    assert expected != made(wire, plain)
    (tmp_path / "styled").mkdir()
    job = keeping(one, tmp_path / "styled")
    wire.send(job)
    leave(wire, job, 4)
    made(wire, plain)
    wire.send(messages.ResumeJob(job_id=job.job_id))
    (*_, completed) = wire.receive_job(job.job_id)
    assert Path(job.output).read_bytes() == expected
    report = completed.report
    assert report.stages[0].name == "LoraSwitch"  # of both times
    assert sum(stage.seconds for stage in report.stages) + report.other_seconds == pytest.approx(report.total_seconds)
    assert 0 < report.adapted.seconds < report.total_seconds


def test_killed_while_it_keeps_a_job_the_job_goes_on_from_its_state(tiny: Path, tmp_path: Path) -> None:
    one = job_of(tiny, tmp_path / "film.mp4", "asked 0 step 4")
    (tmp_path / "turns").mkdir()
    job = keeping(one, tmp_path / "turns")
    with started(tiny) as (process, wire):
        expected = made(wire, one)
        wire.send(job)
        leave(wire, job, 4)
        process.send_signal(signal.SIGKILL)
        process.wait()
    with started(tiny) as (process, wire):
        wire.send(job)
        (*_, completed) = wire.receive_job(job.job_id)
        assert completed.report.resumed_from_step == 5
        assert Path(job.output).read_bytes() == expected
        again = keeping(job_of(tiny, tmp_path / "again.mp4", "asked 0 step 1"), tmp_path)
        wire.send(again)
        leave(wire, again, 1)
        wire.send(messages.Shutdown())
        assert process.wait(30) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.mp4.state", "film.mp4", "turns"]
