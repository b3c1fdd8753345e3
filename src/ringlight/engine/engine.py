"""Engine: the public way to make videos from Python. Takes requests and never imports torch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from ringlight.core import messages
from ringlight.core.checkpoint import find_checkpoint
from ringlight.core.clock import Clock
from ringlight.core.config import EngineConfig
from ringlight.core.errors import Cancelled, QueueFull, RinglightError, WorkerError
from ringlight.core.layout import ParallelLayout
from ringlight.core.plain import counted
from ringlight.core.replicas import ReplicaRange
from ringlight.core.request import RequestDefaults, RequestLimits, VideoRequest
from ringlight.core.settings import Scheduling
from ringlight.engine.door import Door
from ringlight.engine.foresight import Foresight
from ringlight.engine.job_state import JobState, Pauses
from ringlight.engine.jobs import Deadline, Job, Submission
from ringlight.engine.layouts import Layouts
from ringlight.engine.open_jobs import OpenJobs
from ringlight.engine.order import JobOrder
from ringlight.engine.outlook import Outlook
from ringlight.engine.pace import Pace
from ringlight.engine.queue import JobQueue
from ringlight.engine.replica import Replica
from ringlight.engine.replicas import GivenReplicas, ReplicaSource, sized
from ringlight.engine.runner import ReplicaState, Runner
from ringlight.engine.runners import Runners
from ringlight.engine.scaling import Scaling
from ringlight.engine.site import Site, check_installed, site_of
from ringlight.engine.waiting import Awaited
from ringlight.families.lora_library import LoraLibrary
from ringlight.families.table import checkpoint_at, model_defaults, model_of
from ringlight.planner.machine import Machine
from ringlight.planner.prediction import Prediction
from ringlight.planner.scheduling import Policy

TICK_SECONDS = 0.25  # how late a deadline may be noticed


class Engine:
    """Engine of a model: worker processes hold it, once or several times, and a queue of jobs is before it.

    Use it as a context manager: leaving it ends the workers. `submit` returns at once; the workers are started by the
    first call of `start` (or of `submit`), and load while jobs wait. If one dies, its job fails or is repeated (Keep),
    all of its replica end, and new ones are started: for the next job, or if the engine is `supervised` at once.
    """

    def __init__(
        self,
        config: EngineConfig,
        limits: RequestLimits | None = None,
        replica: Replica | None = None,
        typical: VideoRequest | None = None,
        *,
        num_replicas: int | ReplicaRange | None = 1,
        source: ReplicaSource | None = None,
        queue_size: int | None = None,
        scheduling: Scheduling = "shortest",
        max_slowdown: float = 0.0,
        supervised: bool = False,
        defaults: RequestDefaults | None = None,
        clock: Clock | None = None,
        loras: LoraLibrary | None = None,
    ) -> None:
        """Read the checkpoint's JSON and choose the layout. No weight is read.

        Raises InvalidCheckpoint, InvalidSetting, InvalidInstallation, and InvalidLayout, also where a typical request,
        or without one whatever video, is predicted not to fit into this machine's memory.

        `typical` is a request like those that will come, which decides what is left open of the layout; None is one of
        all defaults. `choice` holds the layout and the reason for it, `checkpoint` is where the model is, `files` its
        parts, and requests come through `door`. `num_replicas` None is as many as there is room for now; they come from
        a `source` of somebody's, else from where the config has ranks run; or there is one `replica`, made already.
        `queue_size` is how many jobs may wait beside one for each replica, None for any number; `scheduling` and
        `max_slowdown` are as in ServeSettings. `defaults` replace the checkpoint's. `clock` measures the time that jobs
        are given. `loras` are those of the `config`, if their files have been looked at already.
        """
        given = source if replica is None else GivenReplicas(replica)
        if given is None:
            check_installed(config)
        self.config = config
        self.limits = limits or RequestLimits()
        self.checkpoint = find_checkpoint(config.model_path)
        self.files = checkpoint_at(self.checkpoint, config.model_family)
        self.spec = model_of(self.files, config.model_family)
        self.defaults = defaults or model_defaults(self.spec, self.checkpoint)
        self.door = Door(self.spec, self.defaults, self.limits, loras or LoraLibrary(config, self.spec))
        self.door.require_possible()
        site = site_of(config)
        self.size = sized(num_replicas, site.room)
        self._foresight = Foresight(config, self.spec, self.limits, self.size.most, site)
        self.choice = self._foresight.choose(typical, self.door.typical())
        self.layouts = Layouts(self.choice, self.spec.transformer.num_attention_heads, site.num_nodes)
        self._clock = clock or Clock()
        self.pace = Pace()
        self.policy = Policy(scheduling=scheduling, max_slowdown=max_slowdown)
        self.queue = JobQueue(JobOrder(self.policy, self.pace, self._clock))
        self._outlook = Outlook(self.queue, self.pace)
        self._queue_size = queue_size
        self._changed = threading.Condition()  # guards what follows; notified when a job is over or a replica starts
        self._open = OpenJobs(self._changed)
        self._closing = threading.Event()
        self._runners = Runners(given or self._source(site), partial(self._runner, supervised), self.size.least)
        self._scaling = Scaling(self.size, self.queue, self._runners, self._clock, self._wait_until_written)
        self._watch = threading.Thread(target=self._watch_deadlines, name="deadlines", daemon=True)

    def _runner(self, supervised: bool, name: str, replica: Replica) -> Runner:
        return Runner(
            name,
            replica,
            self.queue,
            supervised,
            on_settled=self._notify,
            look=self._look,
            advise=self._advise,
            settle=self._settle,
            loras=self.door.loras.always,
        )

    def _source(self, site: Site) -> ReplicaSource:
        return site.source(self.limits, self.files, self.choice.layout, self.size.most, self.has_weights_on_host)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self, wait: bool = True) -> messages.WorkerReady | None:
        """Start the workers if they are not, and with `wait` return when a replica is ready.

        Raises what kept all of them from it.
        """
        with self._changed:
            if self._closing.is_set():
                raise WorkerError("the engine is closed")
            if not self._watch.is_alive():
                self._watch.start()
                self._runners.start()
                self._scaling.start()
            if wait:
                self._changed.wait_for(lambda: self._runners.ready or self._runners.have_settled)
                if (failure := self.failure) is not None:
                    raise failure
        return self._runners.ready

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    @property
    def has_weights_on_host(self) -> bool:
        """Whether the host has one copy of the weights for all ranks of a machine, else each rank has its own."""
        return self._foresight.is_placed

    @property
    def failure(self) -> RinglightError | None:
        """Error by which every replica was lost or does not start; None if one is well, or none is wanted."""
        return self._runners.failure

    @property
    def replicas(self) -> list[ReplicaState]:
        """The replicas as they are now."""
        return self._runners.states

    @property
    def num_wanted(self) -> int:
        """Number of replicas that the engine aims for."""
        return self._scaling.wanted

    @property
    def start_seconds(self) -> float | None:
        """Seconds that the last replica took to start; None before the first."""
        return self.queue.start_seconds

    def request(self, prompt: str, **fields: Any) -> VideoRequest:
        """Complete a request from the given fields (as in Door.complete), with the files of its LoRAs.

        LoRAs that every video has are among them. Raises InvalidRequest for LoRAs that do not exist or do not fit the
        model.
        """
        return self.door.with_loras(self.door.complete(prompt, **fields))

    @property
    def awaited(self) -> Awaited | None:
        """Condition that a replica's start waits for before it can load; None if there is none."""
        return self._runners.awaited

    def follow(self, watch: Callable[[], None] = lambda: None) -> None:
        """Host this machine's ranks for an engine on another machine, until that one closes.

        `watch` is called now and then until they have started, and once after that. Raises what kept them from it, or
        ended them.
        """
        (runner,) = self._runners
        self.start(wait=False)
        while not runner.settled.wait(TICK_SECONDS):
            watch()
        if runner.failure is not None:
            raise runner.failure
        watch()
        runner.replica.follow()

    def submit(
        self,
        request: VideoRequest,
        output: str,
        on_change: Callable[[Job], None] | None = None,
        layout: ParallelLayout | None = None,
        submission: Submission | None = None,
        *,
        accept: Callable[[Job], None] | None = None,
    ) -> Job:
        """Queue a video to be written to `output`. Raises InvalidRequest, also for what is predicted not to fit.

        All later errors come from `Job.wait`.

        `on_change` is called from a thread of the engine whenever the job's state changes. `layout` may be any layout
        of the engine's number of ranks (InvalidLayout for others); left out it is the one of `layouts`. `accept` is
        called once there is a place in the queue (else QueueFull) and before the job can start; what it raises is
        raised, and the job is not queued.
        """
        asked = submission or Submission()
        layout, prediction, machine = self.check(request, output, layout, must_fit=asked.state is None)
        self.start(wait=False)
        warnings = self.door.warnings(request, asked.asked_size)
        job = Job(
            asked.job_id or f"video_{uuid4().hex}",
            request,
            layout,
            str(Path(output).absolute()),
            partial(self._tell, on_change),
            asked,
            came_at=self._clock.monotonic() - asked.spent_seconds,
            deadline=Deadline.of(asked, self._clock),
            state=asked.state or JobState(warnings=warnings),
            plan=self._foresight.job_plan(prediction, self.layouts.reason(layout, request)),
            prediction=prediction,
            planned_for=machine,
        )
        if (estimate := self.pace.estimate(prediction, job.is_planned_here)) is not None:
            job.expect(estimate.denoising_seconds / estimate.total_seconds)
        self._admit(job, is_bounded=asked.state is None)
        try:
            if accept is not None:
                accept(job)
        except BaseException:
            self._open.forget(job)
            raise
        self._enqueue(job)
        return job

    def check(
        self, request: VideoRequest, output: str, layout: ParallelLayout | None = None, must_fit: bool = True
    ) -> tuple[ParallelLayout, Prediction, Machine]:
        """Layout, prediction and machine with which `submit` would run a video.

        Raises InvalidLayout and InvalidRequest, with `must_fit` also for a request that is predicted not to fit.
        """
        self.door.check(request, output)
        self.layouts.check(layout := layout or self.layouts.of(request), request)
        return layout, *self._foresight.expect(request, layout, self._runners.ready, must_fit)

    def _admit(self, job: Job, is_bounded: bool) -> None:
        """Reserve a place in the queue for a job, beside one for each replica."""
        with self._changed:
            if self._closing.is_set():
                raise WorkerError("the engine is closed")
            held = self._open.num_counted
            if is_bounded and self._queue_size is not None and held >= self._queue_size + len(self._runners):
                problem = f"{counted(held, 'video')} on the way already; try again later"
                raise QueueFull(problem, self._outlook.seconds_until_free())
            self._open.admit(job)

    def _enqueue(self, job: Job) -> None:
        with self._changed:
            self._open.note_queued(job)
            is_closed = self._closing.is_set()
            if not is_closed:
                self.queue.put(job)
        if is_closed:
            return job.fail(Cancelled("the engine was closed"))
        self._scaling.wake()
        self._look()

    def _look(self) -> None:
        """Act on a new or changed job: pause jobs whose turn is over, and let free replicas resume kept jobs."""
        for ticket in self.queue.ways():
            self._runners.pause(ticket)
        for ticket in self.queue.idle_elsewhere():
            self._runners.put_back(ticket, "another replica is free")
        self._notify()  # whoever waits until none runs

    @property
    def pauses(self) -> Pauses:
        """Pauses of all jobs together."""
        return self._open.pauses

    @property
    def num_paused(self) -> int:
        """Number of jobs that are paused and wait for their next turn."""
        return self._open.num_paused

    def _tell(self, on_change: Callable[[Job], None] | None, job: Job) -> None:
        """Report a changed job; called from any thread."""
        if (state := job.state).report is not None and job.prediction is not None:
            self.pace.learn(job.prediction, state.report)
        elif job.prediction is not None:
            self.pace.hear(job.prediction, state)
        try:
            if on_change is not None:
                on_change(job)
        finally:
            if job.state.is_over:
                self._open.forget(job)

    def cancel(self, job: Job, reason: RinglightError | None = None) -> None:
        """Stop a job: one that runs at its next step, others at once. No effect on a finished one.

        It fails with the `reason`, by default Cancelled.
        """
        if job.state.is_over:
            return
        job.ask_to_stop(reason or Cancelled("cancelled"))
        ticket = self.queue.remove(job)
        if ticket is None:
            return self._runners.cancel(job)
        self._runners.drop(ticket)
        if job.stop_reason is not None:
            job.fail(job.stop_reason)

    def _settle(self, job: Job, ready: messages.WorkerReady) -> float:
        """Settle the plan of a job by what the workers that will run it have measured.

        Returns how many bytes of theirs other jobs may have meanwhile.
        """
        machine, prediction = self._foresight.meet(ready), job.prediction
        if prediction is None or not (job.has_begun or job.planned_for is machine):
            prediction = self._foresight.plan(job.request, job.layout, machine)
            job.settle(self._foresight.job_plan(prediction, job.plan.layout_reason), prediction, machine)
        return self._foresight.room_beside(prediction)

    def _advise(self, job: Job, environment: Mapping[str, object]) -> str | None:
        return self._foresight.remedy(job.request, job.layout, environment)

    def position(self, job: Job) -> int | None:
        """Position of a job among those that wait, counted from 1; 0 once it runs, None when it is over."""
        return self._outlook.position(job)

    def eta_seconds(self, job: Job) -> float | None:
        """Seconds until it is expected to be over, as planned and as measured here; None where nothing is known."""
        return self._outlook.eta_seconds(job)

    def drain(self, timeout_seconds: float) -> bool:
        """Stop giving turns to jobs, and wait for those that have one; paused ones are left as they are.

        False if some are not over in that time.
        """
        self._scaling.stop()
        self.queue.stop()
        with self._changed:
            return self._changed.wait_for(lambda: not self._open.any_beside(self.queue.ids()), timeout_seconds)

    def close(self, abandon: bool = False) -> None:
        """End the workers. Jobs that are not over fail as cancelled, or with `abandon` are left as they stand."""
        with self._changed:
            if abandon:  # before anybody sees that the engine closes, and fails them for it
                self._open.abandon()
            left = [] if abandon else self._open.jobs()
            self._closing.set()
            self._changed.notify_all()
        self.queue.close()
        for job in left:
            self.cancel(job)
        self._scaling.close()
        self._runners.close(at_once=abandon)
        for job in left:  # those that no worker could be asked to stop
            job.fail(Cancelled("the engine was closed"))

    def _wait_until_written(self, runner: Runner) -> None:
        """Wait until a replica has no job in hand, or the engine is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing.is_set() or not self._open.any_written_by(runner.name))

    def _watch_deadlines(self) -> None:
        while not self._closing.wait(TICK_SECONDS):
            for job in self._open.jobs():
                if job.deadline is not None and job.deadline.is_past(self._clock) and job.stop_reason is None:
                    self.cancel(job, job.deadline.error())
