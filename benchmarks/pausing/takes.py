"""Videos on their way, with their moments, and the engines that make them on two cores."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ringlight import AskedLayout, Engine, EngineConfig, ParallelLayout, RequestLimits
from ringlight.core.report import RunReport
from ringlight.engine.job_state import OUTPUT, PAUSED, JobState
from ringlight.engine.jobs import Job, Keep, Submission
from ringlight.engine.launch.local import LocalLauncher
from ringlight.engine.ranked import RankedReplica

from .orders import SHORTEST, Order
from .sizes import Fields

PATIENCE_SECONDS = 120.0  # generous: what takes longer hangs
PROMPT = "a paper boat on a pond"


class Steadfast(RankedReplica):
    """Goes on with a video that is asked to make way, as is allowed to one that is asked too late."""

    def pause(self, job_id: str, now: bool = False) -> None:
        """Do nothing."""


class Take:
    """One video, submitted as this is made. Moments are those of `time.perf_counter`."""

    def __init__(self, engine: Engine, fields: Fields, output: Path, layout: str | None = None, **changes: Any) -> None:
        self._changed = threading.Condition()
        self.begun = self.computed = self.over = 0.0
        self.output = output
        request = engine.request(PROMPT, **fields | changes)
        parsed = None if layout is None else ParallelLayout.parse(layout)
        keep = Keep(state_file=str(output.with_suffix(".state")))  # as a server has it
        self.submitted = time.perf_counter()
        self.job = engine.submit(request, str(output), self._hear, parsed, Submission(keep=keep))

    def _hear(self, job: Job) -> None:
        now = time.perf_counter()
        with self._changed:
            self.begun = self.begun or (now if job.state.stage == "InputValidation" else 0.0)
            self.computed = self.computed or (now if job.state.is_computed else 0.0)
            self.over = self.over or (now if job.state.is_over else 0.0)
            self._changed.notify_all()

    def wait_for(self, is_so: Callable[[JobState], bool]) -> None:
        """Return when its state is so, or it is over. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.over or is_so(self.job.state), PATIENCE_SECONDS):
                raise TimeoutError(f"{self.output.name} hangs: {self.job.state}")

    def report(self) -> RunReport:
        """Its report, once it is over. Raises what it failed with."""
        return self.job.wait(PATIENCE_SECONDS)

    @property
    def seconds(self) -> float:
        """From being asked for to being there, once it is."""
        self.wait_for(lambda state: state.is_over)
        return self.over - self.submitted

    @property
    def wall_seconds(self) -> float:
        """From its begin until the ranks were done with it, its pauses included, once they are."""
        self.wait_for(lambda state: state.is_computed)
        return self.computed - self.begun

    @property
    def busy_seconds(self) -> float:
        """In which the ranks worked on it: neither its pauses nor its file, which is written while they go on."""
        report = self.report()
        return report.total_seconds - sum(stage.seconds for stage in report.stages if stage.name == OUTPUT)


def interrupt(film: Take, steps: Sequence[int], clip: Callable[[int], Take]) -> list[Take]:
    """Let clips come, each when the film has done so many steps; returns them, and the film is over by then."""
    clips = []
    for number, step in enumerate(steps):
        film.wait_for(lambda state, step=step: state.step >= step and state.stage != PAUSED)  # type: ignore[misc]
        clips.append(clip(number))
        clips[-1].report()
    film.report()
    return clips


@dataclass
class Site:
    """A checkpoint, a folder for what is made, and an engine for each order, started when it is first asked for."""

    checkpoint: Path
    folder: Path
    _running: ExitStack = field(default_factory=ExitStack)
    _engines: dict[str, Engine] = field(default_factory=dict)
    _replicas: dict[str, RankedReplica] = field(default_factory=dict)
    _num_takes: int = 0

    def __enter__(self) -> Site:
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def engine(self, order: Order) -> Engine:
        """The engine of an order, with its ranks ready. They have a thread each."""
        if order.name not in self._engines:
            self._engines[order.name] = self._running.enter_context(self._made(order))
            self._engines[order.name].start()
        engine = self._engines[order.name]
        while any(replica.status == "starting" for replica in engine.replicas):
            time.sleep(0.05)
        return engine

    def _made(self, order: Order) -> Engine:
        num_ranks = 2 // order.num_replicas
        config = EngineConfig(
            model_path=str(self.checkpoint),
            device="cpu",
            num_threads=1,
            warm_up=True,
            asked_layout=AskedLayout(num_gpus=num_ranks),
        )
        replica = None
        if order.num_replicas == 1:
            kind = Steadfast if order is SHORTEST else RankedReplica
            replica = self._replicas[order.name] = kind(config, LocalLauncher(config, RequestLimits(), num_ranks))
        return Engine(
            config,
            replica=replica,
            num_replicas=order.num_replicas,
            supervised=True,
            scheduling=order.scheduling,
        )

    def pids(self, order: Order) -> list[int]:
        """The processes of an order's ranks, where they are one replica."""
        return self._replicas[order.name].pids

    def submit(
        self, order: Order, fields: Fields, kind: str = ".safetensors", layout: str | None = None, **changes: Any
    ) -> Take:
        """Ask for a video."""
        self._num_takes += 1
        return Take(self.engine(order), fields, self.folder / f"{self._num_takes}{kind}", layout, **changes)
