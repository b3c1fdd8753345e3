"""RankedReplica: the ranks of one replica, wherever they run. They live or die as one."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import wait

from ringlight.core import messages
from ringlight.core.config import EngineConfig
from ringlight.core.errors import OutputError, RinglightError, WorkerError, from_code
from ringlight.core.plain import plain
from ringlight.engine.causes import Sign, is_cause, likeliest_cause
from ringlight.engine.deliveries import Deliveries
from ringlight.engine.launch.launcher import Launcher, Start, TooLate
from ringlight.engine.rank import RankDeath, RankHandle, end_all, let_end
from ringlight.engine.replica import Lost, Receive
from ringlight.engine.waiting import Awaited, Waiting

logger = logging.getLogger(__name__)

CAUSE_SECONDS = 1.0
FINISHING_SECONDS = 0.05  # between two looks at outputs that are being written
PINGS_PER_WATCHDOG = 5


class RankedReplica:
    """Replica of the ranks that a launcher starts. Rank 0, if it is one of them, gives their messages on jobs.

    Once they are ready a thread listens to them, and asks each now and then whether it still runs: also ranks that are
    stopped all at once are found.
    """

    def __init__(self, config: EngineConfig, launcher: Launcher) -> None:
        self._config = config
        self._launcher = launcher
        self._ranks: list[RankHandle] = []
        self._checkpoint = ""
        self._waiting = Waiting()
        self._start_lock = threading.Lock()
        self._starting = threading.RLock()  # held by the thread that starts ranks and listens until they are ready
        self._closed = threading.Event()
        self._ready = False
        self._listener: threading.Thread | None = None
        self._jobs_lock = threading.Lock()
        self._jobs: dict[str, tuple[Receive, Lost]] = {}
        self._kept: set[str] = set()  # of the jobs those that have made way
        self._computing = ""
        self._free = threading.Event()
        self._free.set()
        self._has_place = True
        self._loss: RinglightError | None = None
        self._deliveries = Deliveries(messages.RankPlace(), self._tell)

    @property
    def loss(self) -> RinglightError | None:
        return self._loss

    @property
    def awaited(self) -> Awaited | None:
        return self._waiting.now

    @property
    def pids(self) -> list[int]:
        """The process ids of the ranks, each on its machine, once started."""
        return [rank.pid for rank in self._ranks]

    def start(self) -> messages.WorkerReady:
        self._let_finish()
        deadline = time.monotonic() + self._config.startup_timeout
        with self._start_lock:
            self._kill()
        try:
            with self._starting:
                with self._start_lock:
                    start = Start(self._checkpoint, deadline, self._closed, self._waiting)
                    start.require_open()
                    self._ranks = []
                    self._ranks = self._launcher.launch(start)
                ready = self._await_ready(deadline)
        except TooLate:
            raise self._too_late() from None
        finally:
            self._waiting.end()
        self._checkpoint = ready.checkpoint
        self._deliveries = Deliveries(self._ranks[0].place, self._ranks[0].send)
        with self._jobs_lock:
            self._ready, self._has_place, self._loss = True, True, None
        self._listener = threading.Thread(target=self._listen, name="listener", daemon=True)
        self._listener.start()
        return ready

    def is_ready(self) -> bool:
        return self._ready and (self._has_place or not self._free.is_set())

    def run(self, job: messages.RunJob, receive: Receive, lost: Lost) -> None:
        with self._jobs_lock:
            if self._ready:
                self._jobs[job.job_id] = (receive, lost)
                self._computing = job.job_id
                self._free.clear()
            loss = None if self._ready else self._loss or WorkerError("the workers are not there")
        if loss is not None:
            return lost(loss)
        try:
            self._deliveries.bring(job)
        except OutputError as error:
            self._hand_on(messages.JobFailed(job_id=job.job_id, code=error.code, message=str(error)))
            return self.drop(job.job_id)
        self._send_and_wait(job)

    def resume(self, job_id: str) -> None:
        with self._jobs_lock:
            is_kept = job_id in self._jobs
            if is_kept:
                self._computing = job_id
                self._kept.discard(job_id)
                self._free.clear()
        if is_kept:
            return self._send_and_wait(messages.ResumeJob(job_id=job_id))
        self._free.wait()  # until its `lost` has heard of it

    def _send_and_wait(self, order: messages.RunJob | messages.ResumeJob) -> None:
        """Begin a turn, and return when the workers are free again."""
        with contextlib.suppress(WorkerError):  # the listener hears of it too, and knows why
            self._ranks[0].send(order)
        self._free.wait()

    def pause(self, job_id: str, now: bool = False) -> None:
        self._tell(messages.PauseJob(job_id=job_id, now=now))

    def drop(self, job_id: str) -> None:
        with self._jobs_lock:
            self._jobs.pop(job_id, None)
            self._kept.discard(job_id)
        self._deliveries.drop(job_id)
        self._tell(messages.DropJob(job_id=job_id))

    def cancel(self, job_id: str) -> None:
        self._tell(messages.CancelJob(job_id=job_id))
        self._deliveries.give_up(job_id)

    def _tell(self, message: messages.ToWorker) -> None:
        if self._ready:
            self._ranks[0].send(message)

    def follow(self) -> None:
        """Host ranks of a replica whose rank 0 is on another machine, until that one ends them.

        Raises WorkerError when they end otherwise.
        """
        assert self._listener is not None, "they have been started"
        self._listener.join()
        if self._loss is not None:
            raise self._loss

    def close(self, at_once: bool = False) -> None:
        self._closed.set()
        with self._start_lock:  # from here on no rank is started
            pass
        may_end_well = self._ready and not (at_once and self._jobs)
        if may_end_well and self._ranks[0].place.rank == 0:  # the others hear only of rank 0
            with contextlib.suppress(WorkerError):
                self._ranks[0].send(messages.Shutdown())  # it tells the others, on every machine
            let_end(self._ranks)
        self._kill()

    def _await_ready(self, deadline: float) -> messages.WorkerReady:
        """Wait until all ranks are ready; return what the first rank here reports."""
        ready: dict[int, messages.WorkerReady] = {}
        for rank, message in self._messages(deadline):
            match message:
                case messages.NodesAwaited():
                    self._say_who_is_awaited(message)
                case messages.WorkerFailed():
                    raise self._end(rank, message)
                case messages.WorkerReady():
                    ready[rank.place.rank] = message
            if len(ready) == len(self._ranks):
                return ready[self._ranks[0].place.rank]
        raise TooLate

    def _say_who_is_awaited(self, awaited: messages.NodesAwaited) -> None:
        if not awaited.nodes:
            return self._waiting.end()
        place = self._ranks[0].place
        *first, last = map(str, awaited.nodes)
        named = f"nodes {', '.join(first)} and {last}" if first else f"node {last}"
        self._waiting.say(f"{named} of {place.num_nodes} at {place.meeting}", awaited.remark)

    def _too_late(self) -> WorkerError:
        """End all ranks, which did not start in time. Returns an error with what there was to wait for."""
        awaited = self._waiting.now
        self._kill()
        patience = f"{plain(self._config.startup_timeout)} s"
        if awaited is None:
            return WorkerError(f"the worker was not ready after {patience}; --startup-timeout gives it longer")
        return WorkerError(f"not all nodes were there after {patience}: {awaited}; --startup-timeout gives them longer")

    def _let_finish(self) -> None:
        """Wait until ranks that are alive and are to end write no output any more."""
        while self._ready and not self._closed.is_set():
            with self._jobs_lock:
                if self._jobs.keys() <= self._kept:
                    return
            self._closed.wait(FINISHING_SECONDS)

    def _listen(self) -> None:
        """Run the listener's thread: pass on what the ranks say, until they are gone."""
        loss: RinglightError | None = None
        try:
            for _, message in self._messages():
                self._hear(message)
        except RinglightError as error:
            loss = error
        except Exception as error:  # a message that cannot be understood, say: nobody may wait for ranks unheard
            self._loss = loss = WorkerError(f"{type(error).__name__}: {error}")
            self._kill()
        self._deliveries.close()
        with self._jobs_lock:
            self._loss, self._ready = loss, False
            left, self._jobs = self._jobs, {}
            self._kept.clear()
            self._free.clear()  # whoever waits for a turn waits until all have heard of it
        for _, lost in left.values():
            lost(loss or WorkerError("the workers have ended"))
        self._free.set()

    def _hear(self, message: messages.FromWorker) -> None:
        if isinstance(message, messages.JobMessage):
            self._hand_on(message)
        elif isinstance(message, messages.Carried | messages.JobDropped):
            self._deliveries.take(message)
        elif isinstance(message, messages.PlaceLost):
            logger.warning("rank %d makes way once it has nothing in hand: %s", message.rank, message.message)
            self._has_place = False

    def _hand_on(self, message: messages.JobMessage) -> None:
        is_last = isinstance(message, (messages.JobCompleted, messages.JobFailed))
        if is_last:
            self._deliveries.end(message.job_id)
        with self._jobs_lock:
            job = self._jobs.pop(message.job_id, None) if is_last else self._jobs.get(message.job_id)
            if isinstance(message, messages.JobPaused) and job is not None:
                self._kept.add(message.job_id)
        if job is not None:
            receive, _ = job
            receive(message)
        is_free = is_last or isinstance(message, messages.Computed | messages.JobPaused)
        if is_free and message.job_id == self._computing:
            self._free.set()

    def _messages(self, deadline: float | None = None) -> Iterator[tuple[RankHandle, messages.FromWorker]]:
        """Yield the messages of all ranks here as they come; ends at the deadline, or when all ranks end as ordered.

        Without a deadline the ranks are asked whether they still run. Raises, with all ranks ended, when one dies, is
        silent for the watchdog's time, or says that it is out of step.
        """
        beat_seconds = self._config.watchdog_timeout / PINGS_PER_WATCHDOG
        next_beat = time.monotonic() + beat_seconds
        by_connection = {rank.connection: rank for rank in self._ranks}
        while by_connection:
            now = time.monotonic()
            if deadline is None and now >= next_beat:
                self._ping(list(by_connection.values()))
                next_beat = now + beat_seconds
            remaining = (next_beat if deadline is None else deadline) - now
            speaking = wait(list(by_connection), max(0.0, remaining))
            if not speaking and deadline is not None:
                return
            for connection in speaking:
                rank = by_connection[connection]  # type: ignore[index]
                try:
                    message = rank.receive()
                except RankDeath as death:
                    if not death.ending.is_well:
                        raise self._end(rank, death) from None
                    del by_connection[rank.connection]
                    continue
                if isinstance(message, messages.GroupBroken):
                    raise self._end(rank, message)
                yield rank, message

    def _ping(self, ranks: list[RankHandle]) -> None:
        """Ask all whether they still run. Raises when one has left as many questions unanswered as the watchdog allows.

        Questions are counted, not seconds: where this process slept, the ranks have had no chance to answer.
        """
        for rank in ranks:
            if rank.unanswered >= PINGS_PER_WATCHDOG:
                silence = f"has not been heard of for {plain(self._config.watchdog_timeout)} s"
                raise self._end(rank, WorkerError(f"rank {rank.place.rank} {silence}"))
            rank.ping()

    def _end(self, rank: RankHandle, sign: Sign) -> RinglightError:
        """End all ranks after a sign that they are out of step. Returns the error that caused it.

        The first sign need not be the cause: ranks notice that another is gone before we hear why. What the others have
        said of their job by then is handed on. What keeps another machine's rank from starting is for that machine to
        mend, where this one goes on waiting for it.
        """
        signs = [sign]
        others = {other.connection: other for other in self._ranks if other is not rank}
        deadline = time.monotonic() + CAUSE_SECONDS
        while others and (remaining := deadline - time.monotonic()) > 0:
            speaking = wait(list(others), 0.0 if any(map(is_cause, signs)) else remaining)
            if not speaking:
                break
            for connection in speaking:
                other = others[connection]  # type: ignore[index]
                try:
                    message = other.receive()
                except WorkerError as death:
                    signs.append(death)
                    del others[other.connection]
                    continue
                if isinstance(message, messages.GroupBroken | messages.WorkerFailed):
                    signs.append(message)
                    del others[other.connection]
                else:
                    self._hear(message)
        is_starting = not self._ready
        error = self._error_of(likeliest_cause(signs), is_starting)
        if not is_starting:
            self._loss = error  # before anybody sees that they are not ready any more
        self._kill()
        return error

    def _error_of(self, cause: Sign, is_starting: bool) -> RinglightError:
        """Error that a cause is to whoever waits for the ranks."""
        if isinstance(cause, WorkerError):
            return cause
        is_elsewhere = isinstance(cause, messages.GroupBroken) and not cause.is_cause
        if is_starting and is_elsewhere and self._config.nodes.refuses_alone:
            return WorkerError(cause.message)
        return from_code(cause.code, cause.message)

    def _kill(self) -> None:
        """End the ranks; their connections are closed once nobody listens to them any more."""
        self._ready = False
        end_all(self._ranks)
        for rank in self._ranks:
            rank.hang_up()
        if self._listener is not None and self._listener is not threading.current_thread():
            self._listener.join()
        with self._starting:
            for rank in self._ranks:
                rank.close()
            self._launcher.end()
