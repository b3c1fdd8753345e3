"""The process: load, then make one video after another until told to stop or left alone.

Started by the engine as `python -m ringlight.worker.main FD SETUP`, where FD is the number of an inherited socket and
SETUP a WorkerSetup in JSON. If the engine dies, the socket closes and this process ends at once. Rank 0 hears of jobs
from the engine and tells the other ranks, on this machine or another.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
import torch

from ringlight.core import messages
from ringlight.core.errors import InvalidRequest, RinglightError, WorkerError, from_code
from ringlight.core.report import RankReport, RunReport, workload_hash
from ringlight.parallel.group import RankGroup
from ringlight.parallel.link import LinkLost
from ringlight.parallel.mesh import ParallelMesh
from ringlight.pipelines.trace import Tracer
from ringlight.pipelines.wan22_ti2v import Wan22TI2V
from ringlight.worker import environment
from ringlight.worker.corridor import Corridor
from ringlight.worker.events import Events
from ringlight.worker.failures import as_failure, as_ringlight_error
from ringlight.worker.memory import meter_for
from ringlight.worker.terms import terms_of

TOO_LARGE_TO_LOAD = "the model's weights do not fit into this device's memory"


class Worker:
    """One rank: a loaded model and the loop over jobs."""

    def __init__(self, setup: messages.WorkerSetup, corridor: Corridor) -> None:
        start = time.perf_counter()
        self._corridor = corridor
        self._place = setup.place
        config = setup.config
        self._device = environment.choose_device(config, setup.place)
        environment.apply_settings(config, self._device, setup.place.num_local)
        dtype, vae_dtype = environment.choose_dtypes(config, self._device)
        self._group = RankGroup.join(
            setup.place,
            self._device,
            terms_of(setup, self._device, dtype, vae_dtype),
            config.startup_timeout_seconds,
            config.watchdog_seconds,
            self._leave,
        )
        try:
            described = self._load(setup, dtype, vae_dtype)
            self._group.control.agree(0)  # ready means that all are
        except LinkLost as lost:
            raise self._loss(lost) from lost
        except Exception as error:  # the other ranks wait for this one
            failure = as_ringlight_error(error, TOO_LARGE_TO_LOAD)
            self._group.confess(failure.code, str(failure))
            raise failure from error
        self._meter = meter_for(self._device, setup.place.rank)
        gc.collect()
        gc.freeze()  # what is loaded stays: to look through it again costs 0.2 s at the start of every job
        seconds = time.perf_counter() - start
        self._environment = described | {"load_seconds": seconds, "num_nodes": config.nodes.num_nodes}
        corridor.send(messages.WorkerReady(environment=self._environment, load_seconds=seconds))

    def _load(self, setup: messages.WorkerSetup, dtype: torch.dtype, vae_dtype: torch.dtype) -> dict[str, Any]:
        """Load the model, together with the other ranks. Returns the conditions of all measurements."""
        config, group = setup.config, self._group
        self._pipeline = Wan22TI2V(config, setup.limits, self._device, dtype, vae_dtype, group.world)
        described = environment.describe(config, self._device, dtype, vae_dtype, self._pipeline.kernel.name)
        if setup.place.num_ranks > 1:
            described |= msgspec.to_builtins(self._pipeline.measure_speeds(group.world, group.control))
        return described

    def serve(self) -> None:
        """Run jobs until told to stop."""
        while isinstance(job := self._next_order(), messages.RunJob):
            ending = self._finish(job)
            self._group.expect(None)
            if isinstance(ending, messages.JobFailed):
                release_memory(self._device)
            if self._place.rank == 0:
                self._corridor.send(ending)
        self._group.leave()

    def _next_order(self) -> messages.ToWorker:
        """What the engine wants of rank 0, told to all ranks."""
        order = messages.encode(self._corridor.jobs.get()) if self._place.rank == 0 else b""
        try:
            decoded: messages.ToWorker = messages.to_worker_decoder.decode(self._group.control.broadcast(order))
            return decoded
        except LinkLost as lost:
            loss = self._loss(lost)
            self._leave(loss.code, str(loss), is_cause=False)
            raise

    def _finish(self, job: messages.RunJob) -> messages.JobCompleted | messages.JobFailed:
        """Run a job and say how it ended. No error outlives this: its traceback would keep the job's tensors.

        An error that all ranks raise alike ends this job alone. Any other ends the group.
        """
        self._corridor.running = job
        events = Events(self._corridor, self._group, job, self._pipeline.patience_seconds(job.request))
        try:
            return messages.JobCompleted(job_id=job.job_id, report=self._run(job, events))
        except LinkLost as lost:
            loss = self._loss(lost)
            self._leave(loss.code, str(loss), is_cause=False)
            raise
        except Exception as error:  # whatever it is, the worker lives on if the ranks are in step
            failure = as_failure(error, job)
            if not events.left_together:
                try:
                    events.require_alike(failure)
                except LinkLost:
                    self._leave(failure.code, str(failure), is_cause=True)
                self._group.renew(self._device)
            problems = list(failure.problems) if isinstance(failure, InvalidRequest) else []
            return messages.JobFailed(job_id=job.job_id, code=failure.code, message=str(failure), problems=problems)
        finally:
            self._corridor.running = None

    def _run(self, job: messages.RunJob, events: Events) -> RunReport:
        request, pipeline = job.request, self._pipeline
        self._meter.start()
        self._group.link.reset()
        mesh = ParallelMesh.of(job.layout, self._place.rank, self._group.link)
        tracer = Tracer(self._device, self._meter, events)
        start = time.perf_counter()
        outputs = pipeline.run(request, Path(job.output), job.job_id, tracer, mesh)
        total = time.perf_counter() - start
        mine = RankReport(
            rank=self._place.rank, stages=tracer.stages, memory=self._meter.report(), link=self._group.link.report()
        )
        ranks = [
            msgspec.msgpack.decode(part, type=RankReport)
            for part in self._group.control.gather(msgspec.msgpack.encode(mine))
        ]
        workload = request.workload() | {"model_sha256": pipeline.spec.fingerprint}
        return RunReport(
            workload=workload,
            workload_hash=workload_hash(workload),
            layout=job.layout.name,
            environment=self._environment | {"model": pipeline.spec.name},
            stages=tracer.stages,
            other_seconds=total - sum(stage.seconds for stage in tracer.stages),
            total_seconds=total,
            step_seconds=tracer.step_seconds,
            ranks=ranks,
            num_tokens=pipeline.spec.num_tokens(request.num_frames, request.height, request.width),
            outputs=outputs,
            num_slices=tracer.num_slices,
        )

    def _loss(self, lost: LinkLost) -> RinglightError:
        """What to report where another rank was lost: why that one left, if it said so."""
        confessed = self._group.hear_confession()
        return from_code(*confessed) if confessed else WorkerError(f"rank {self._place.rank} lost another rank: {lost}")

    def _leave(self, code: str, message: str, is_cause: bool) -> None:
        """End this process, for its group is out of step. Called from any thread."""
        if is_cause:
            self._group.confess(code, message)
        rank = self._place.rank
        self._corridor.leave(messages.GroupBroken(rank=rank, code=code, message=message, is_cause=is_cause))


def release_memory(device: torch.device) -> None:
    """Give back what a failed job held, so that the next one starts clean."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def main() -> None:
    """Entry point of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the engine's to answer
    corridor = Corridor(Connection(int(sys.argv[1])))
    setup = msgspec.json.decode(sys.argv[2], type=messages.WorkerSetup)
    try:
        worker = Worker(setup, corridor)
    except Exception as error:  # whatever it is, the engine must hear of it before this process ends
        failure = as_ringlight_error(error, TOO_LARGE_TO_LOAD)
        corridor.send(messages.WorkerFailed(code=failure.code, message=str(failure)))
        sys.exit(1)
    worker.serve()
    sys.stderr.flush()
    os._exit(0)  # the threads of process groups and stores do not always survive the interpreter's own end


if __name__ == "__main__":
    main()
