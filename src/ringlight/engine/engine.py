"""Engine: the public way to make videos from Python. Takes requests, one after another, and never imports torch."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from ringlight.core import messages
from ringlight.core.config import EngineConfig, read_defaults
from ringlight.core.errors import Cancelled, InvalidLayout, InvalidRequest, Problem, RinglightError, WorkerError
from ringlight.core.layout import ParallelLayout, decide, layout_for
from ringlight.core.output import check_output, remove_parts
from ringlight.core.picture import open_picture
from ringlight.core.request import RequestLimits, VideoRequest
from ringlight.core.spec import ModelSpec
from ringlight.engine.jobs import Job
from ringlight.engine.local import LocalReplica
from ringlight.engine.replica import Replica


class Engine:
    """A model held by worker processes, and a queue of jobs before it.

    Use it as a context manager: leaving it ends the workers. `submit` returns at once; the workers are started by the
    first call of `start` (or of `submit`), and load while jobs wait. If one dies, its job fails, all end, and the next
    job starts new ones.
    """

    def __init__(
        self,
        config: EngineConfig,
        limits: RequestLimits | None = None,
        replica: Replica | None = None,
        guidance: bool | None = None,
    ) -> None:
        """Read the checkpoint's JSON and choose the layout. Raises InvalidCheckpoint, InvalidLayout. No weight is read.

        `guidance`: whether requests will use it, which decides what is left open of the layout; None goes by the
        checkpoint's default. `choice` holds the layout and the reason for it.
        """
        self.config = config
        self.limits = limits or RequestLimits()
        self.spec = ModelSpec.read(Path(config.model_path))
        self.defaults = read_defaults(Path(config.model_path))
        self.choice = decide(
            config.asked_layout,
            num_heads=self.spec.transformer.num_attention_heads,
            guidance=self.defaults.guidance_scale > 1 if guidance is None else guidance,
            num_nodes=config.nodes.num_nodes,
        )
        self._replica: Replica = replica or LocalReplica(config, self.limits, self.choice.layout.num_ranks)
        self._jobs: queue.Queue[Job | None] = queue.Queue()
        self._running: Job | None = None
        self._cancelled: set[str] = set()
        self._lock = threading.Lock()
        self._ready = threading.Event()
        self._worker: messages.WorkerReady | None = None
        self._failure: RinglightError | None = None
        self._closed = False
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self, wait: bool = True) -> messages.WorkerReady | None:
        """Start the worker if it is not, and with `wait` return when it is ready. Raises what kept it from it."""
        with self._lock:
            if self._closed:
                raise WorkerError("the engine is closed")
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="replica", daemon=True)
                self._thread.start()
        if wait:
            self._ready.wait()
            if self._failure is not None:
                raise self._failure
        return self._worker

    def request(self, prompt: str, **fields: Any) -> VideoRequest:
        """A complete request: what is given, else the checkpoint's defaults, else the model card's."""
        return self.defaults.complete(prompt, self.spec, **fields)

    def check(self, request: VideoRequest, output: str) -> None:
        """Raise InvalidRequest for all that can be told without the worker: fields, picture, output."""
        problems: list[Problem] = []
        for check in (
            lambda: request.check(self.spec, self.limits),
            lambda: request.image is None or open_picture(request.image, self.limits),
            lambda: check_output(output, request.num_frames),
        ):
            try:
                check()
            except InvalidRequest as error:
                problems += error.problems
        if problems:
            raise InvalidRequest(problems)

    def layout_of(self, request: VideoRequest) -> ParallelLayout:
        """The layout that a request uses: the engine's, its branches shared out where there is no guidance."""
        layout = self.choice.layout
        per_node = layout.num_ranks // self.config.nodes.num_nodes
        return layout_for(layout, request.uses_guidance, self.spec.transformer.num_attention_heads, per_node)

    def follow(self) -> None:
        """Host this machine's ranks for an engine on another machine, until that one closes. Raises WorkerError."""
        self._replica.start()
        self._replica.follow()

    def submit(
        self,
        request: VideoRequest,
        output: str,
        on_change: Callable[[Job], None] | None = None,
        layout: ParallelLayout | None = None,
    ) -> Job:
        """Queue a video to be written to `output`. Raises InvalidRequest; all later errors come from `Job.wait`.

        `on_change` is called from a thread of the engine whenever the job's state changes. `layout` may be any layout
        of the engine's number of ranks (InvalidLayout for others); left out it is `layout_of` the request.
        """
        self.check(request, output)
        layout = layout or self.layout_of(request)
        self._check_layout(layout, request)
        self.start(wait=False)
        job = Job(f"video_{uuid4().hex}", request, layout, str(Path(output).absolute()), on_change)
        with self._lock:  # once it is closed, nothing takes jobs any more
            if self._closed:
                raise WorkerError("the engine is closed")
            self._jobs.put(job)
        return job

    def _check_layout(self, layout: ParallelLayout, request: VideoRequest) -> None:
        if layout.num_ranks != self.choice.layout.num_ranks:
            raise InvalidLayout(
                f"{layout.name} has {layout.num_ranks} ranks and the engine {self.choice.layout.num_ranks}; "
                "every request uses all of them"
            )
        if layout.cfg > 1 and not request.uses_guidance:
            raise InvalidLayout(f"{layout.name} has two guidance branches and the request none; use guidance_scale > 1")

    def cancel(self, job: Job) -> None:
        """Stop a job: one that runs at its next step, one that waits before it starts. No effect on a finished one."""
        with self._lock:
            if job.state.is_over:
                return
            self._cancelled.add(job.id)
            running = self._running is job
        if not running:
            job.fail(Cancelled("cancelled"))
            return
        with contextlib.suppress(WorkerError):  # a dead worker's job fails by itself
            self._replica.cancel(job.id)

    def close(self) -> None:
        """End the worker. Jobs that are not over fail as cancelled."""
        with self._lock:
            self._closed = True
            thread, running = self._thread, self._running
        if running is not None:
            self.cancel(running)
        self._jobs.put(None)
        self._replica.close()
        if thread is not None:
            thread.join()

    def _serve(self) -> None:
        """The replica's thread: start the worker, then run one job after another."""
        try:
            self._worker = self._replica.start()
        except BaseException as error:  # whatever it is: nobody may wait for a worker that never comes
            self._failure = as_ringlight_error(error)
        self._ready.set()
        while (job := self._jobs.get()) is not None:
            if self._begin(job):
                self._run(job)

    def _begin(self, job: Job) -> bool:
        """Make a job the running one, unless it was cancelled while it waited or there is no worker."""
        with self._lock:
            if self._closed or job.id in self._cancelled:
                error: RinglightError = Cancelled("cancelled")
            elif self._failure is not None:
                error = self._failure
            else:
                self._running = job
                return True
        job.fail(error)
        return False

    def _run(self, job: Job) -> None:
        order = messages.RunJob(job_id=job.id, request=job.request, output=job.output, layout=job.layout)
        try:
            if not self._replica.is_ready():
                self._worker = self._replica.start()
            if job.id in self._cancelled:  # meanwhile; those that are started now have not heard of it
                raise Cancelled("cancelled")
            self._replica.run(order, job.receive)
        except BaseException as error:  # whatever it is: the next job finds ranks that are ready, or starts them
            remove_parts(Path(job.output), job.id)
            job.fail(Cancelled("the engine was closed") if self._closed else as_ringlight_error(error))
        finally:
            with self._lock:
                self._running = None


def as_ringlight_error(error: BaseException) -> RinglightError:
    """An error of ours as it is; any other as a worker's failure."""
    return error if isinstance(error, RinglightError) else WorkerError(f"{type(error).__name__}: {error}")
