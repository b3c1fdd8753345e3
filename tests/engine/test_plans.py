"""Plans of jobs: made when they are taken in, final when ranks that are ready take them up."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from ringlight import Engine, EngineConfig
from ringlight.core import messages
from ringlight.core.errors import WorkerError
from ringlight.core.layout import AskedLayout, ParallelLayout
from ringlight.core.plan import Abilities, Speeds
from ringlight.engine import foresight
from ringlight.engine.jobs import Keep, Submission
from ringlight.engine.replica import Lost, Receive
from ringlight.families.work import Work
from ringlight.planner.machine import Machine
from ringlight.planner.prediction import Prediction, predict
from tests.engine.replicas import FakeReplica
from tests.engine.requests import small

PATIENCE = 10.0
SLOW, FAST = (Speeds(link_bytes_per_second=rate, flops_per_second=1e12) for rate in (1e6, 1e15))


class Measured(FakeReplica):
    """Workers that find the next of these speeds at each start, and die under their first `deaths` jobs."""

    def __init__(self, *speeds: Speeds, device_type: str = "cpu", deaths: int = 0) -> None:
        super().__init__()
        self.orders: list[messages.RunJob] = []
        self._speeds = list(speeds)
        self._device_type = device_type
        self._deaths = deaths

    def start(self) -> messages.WorkerReady:
        speeds = self._speeds.pop(0) if len(self._speeds) > 1 else self._speeds[0]
        environment = {"device_type": self._device_type, "memory_bytes": 2**36}
        abilities = Abilities(spare_bytes=2**35 if self._device_type == "cuda" else 0, speeds=speeds)
        return msgspec.structs.replace(super().start(), environment=environment, abilities=abilities)

    def run(self, job: messages.RunJob, receive: Receive, lost: Lost) -> None:
        self.orders.append(job)
        if len(self.orders) <= self._deaths:
            self.ready = False
            return lost(WorkerError("the worker process died (signal 9)"))
        super().run(job, receive, lost)


def engine_on(tiny: Path, replica: Measured, **settings: object) -> Engine:
    config = EngineConfig(model_path=str(tiny), asked_layout=AskedLayout(num_gpus=2, ring_degree=2, cfg_degree=1))
    return Engine(msgspec.structs.replace(config, **settings), None, replica, supervised=True)


def film(engine: Engine) -> messages.VideoRequest:
    return small(engine, width=224, height=224, num_frames=17, guidance_scale=1.0)


@pytest.mark.parametrize("device_type", ["cpu", "cuda"])
@pytest.mark.parametrize(("speeds", "num_slices"), [(SLOW, 4), (FAST, 1)], ids=["slow", "fast"])
def test_the_very_first_job_runs_as_its_ranks_have_measured(
    tiny: Path, tmp_path: Path, speeds: Speeds, num_slices: int, device_type: str
) -> None:
    """Also on cards that nobody knew of before the workers told of them."""
    replica = Measured(speeds, device_type=device_type)
    with engine_on(tiny, replica) as engine:
        job = engine.submit(film(engine), str(tmp_path / "a.mp4"))
        report = job.wait(PATIENCE)
    (order,) = replica.orders
    assert order.plan == job.plan
    assert (report.num_slices, report.predicted) == (num_slices, job.plan.predicted)
    assert (report.predicted is None) == (device_type == "cuda")
    if report.predicted is not None:
        assert report.predicted.basis.endswith("TCP over loopback, as fast as its ranks measured")
    assert report.decode_chunk == (8 if device_type == "cuda" else 1)
    assert report.layout_reason.startswith("u1r2")


def test_what_is_asked_for_is_what_workers_are_told(tiny: Path, tmp_path: Path) -> None:
    replica = Measured(SLOW)
    with engine_on(tiny, replica, num_slices=3, decode_chunk=2) as engine:
        engine.submit(film(engine), str(tmp_path / "a.mp4")).wait(PATIENCE)
    assert [(order.plan.num_slices, order.plan.decode_chunk) for order in replica.orders] == [(3, 2)]


def test_a_job_that_has_begun_keeps_its_plan_whatever_the_next_workers_measure(tiny: Path, tmp_path: Path) -> None:
    replica = Measured(SLOW, FAST, deaths=1)
    with engine_on(tiny, replica) as engine:
        keep = Keep(state_file=str(tmp_path / "state.safetensors"))
        begun = engine.submit(film(engine), str(tmp_path / "a.mp4"), submission=Submission(keep=keep))
        begun.wait(PATIENCE)
        later = engine.submit(film(engine), str(tmp_path / "b.mp4"))
        later.wait(PATIENCE)
    first, again, other = replica.orders
    assert first.plan == again.plan == begun.plan
    assert (begun.plan.num_slices, other.plan.num_slices) == (4, 1)
    assert later.plan == other.plan


def test_jobs_that_are_taken_in_later_are_planned_by_what_was_measured(tiny: Path, tmp_path: Path) -> None:
    replica = Measured(SLOW)
    with engine_on(tiny, replica) as engine:
        engine.start()
        replica.go_on.clear()
        engine.submit(film(engine), str(tmp_path / "a.mp4"))
        assert replica.in_the_middle.wait(PATIENCE)
        waiting = engine.submit(film(engine), str(tmp_path / "b.mp4"))
        assert waiting.state.status == "queued" and waiting.plan.num_slices == 4
        replica.go_on.set()
        waiting.wait(PATIENCE)


def test_a_job_is_planned_once_for_what_it_runs_on(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the turns of others nothing is reckoned again that is known."""
    planned: list[Machine] = []

    def predict_and_note(work: Work, layout: ParallelLayout, machine: Machine) -> Prediction:
        planned.append(machine)
        return predict(work, layout, machine)

    monkeypatch.setattr(foresight, "predict", predict_and_note)
    with engine_on(tiny, Measured(FAST)) as engine:
        for number in range(2):  # the first one before its ranks have measured anything
            engine.submit(film(engine), str(tmp_path / f"{number}.npy")).wait(PATIENCE)
    *_, before, after, once = planned
    assert before != after is once
