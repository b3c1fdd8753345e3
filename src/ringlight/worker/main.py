"""The process: load, then make one video after another until told to stop or left alone.

Started by the engine as `python -m ringlight.worker.main FD SETUP`, where FD is the number of an inherited socket and
SETUP a WorkerSetup in JSON. If the engine dies, the socket closes and this process ends at once.
"""

from __future__ import annotations

import errno
import gc
import os
import queue
import signal
import sys
import threading
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec
import torch

from ringlight.core import messages
from ringlight.core.errors import Cancelled, InvalidRequest, OutOfMemory, RinglightError, WorkerError
from ringlight.core.layout import ParallelLayout
from ringlight.core.output import remove_parts
from ringlight.core.report import RunReport, workload_hash
from ringlight.core.request import VideoRequest
from ringlight.pipelines.trace import Tracer
from ringlight.pipelines.wan22_ti2v import Wan22TI2V
from ringlight.worker import environment
from ringlight.worker.memory import meter_for

OUT_OF_MEMORY_WORDS = (
    "can't allocate memory",  # torch's CPU allocator
    "unable to find an engine to execute this computation",  # cuDNN without room for a workspace
    "STATUS_ALLOC_FAILED",  # cuBLAS and cuDNN
)
OUTPUT_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG, errno.ENOENT)


class Corridor:
    """The socket to the engine: sends messages from any thread, and sorts what comes in on one of its own."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._send_lock = threading.Lock()
        self._cancelled: set[str] = set()
        self.running: messages.RunJob | None = None
        self.jobs: queue.Queue[messages.RunJob | None] = queue.Queue()
        threading.Thread(target=self._receive, name="corridor", daemon=True).start()

    def send(self, message: messages.FromWorker) -> None:
        with self._send_lock:
            self._connection.send_bytes(messages.encode(message))

    def is_cancelled(self, job_id: str) -> bool:
        return job_id in self._cancelled

    def _receive(self) -> None:
        try:
            while True:
                message = messages.to_worker_decoder.decode(self._connection.recv_bytes())
                match message:
                    case messages.RunJob():
                        self.jobs.put(message)
                    case messages.CancelJob(job_id=job_id):
                        self._cancelled.add(job_id)
                    case messages.Shutdown():
                        self.jobs.put(None)
        except (EOFError, OSError, msgspec.DecodeError):
            if (job := self.running) is not None:
                remove_parts(Path(job.output), job.job_id)
            os._exit(1)  # the engine is gone, or cannot be understood; nobody waits for what we do


class Events:
    """Tells the engine how one job goes."""

    def __init__(self, corridor: Corridor, job_id: str) -> None:
        self._corridor = corridor
        self._job_id = job_id

    def stage_started(self, stage: str) -> None:
        self._corridor.send(messages.StageStarted(job_id=self._job_id, stage=stage))

    def step_finished(self, step: int, num_steps: int, seconds: float) -> None:
        self._corridor.send(messages.StepFinished(job_id=self._job_id, step=step, num_steps=num_steps, seconds=seconds))

    def frames_decoded(self, num_done: int, num_frames: int) -> None:
        self._corridor.send(messages.FramesDecoded(job_id=self._job_id, num_done=num_done, num_frames=num_frames))

    def check_cancelled(self) -> None:
        if self._corridor.is_cancelled(self._job_id):
            raise Cancelled("cancelled")


class Worker:
    """One rank: a loaded model and the loop over jobs."""

    def __init__(self, setup: messages.WorkerSetup, corridor: Corridor) -> None:
        start = time.perf_counter()
        self._corridor = corridor
        environment.apply_settings(setup.config)
        self._device = environment.choose_device(setup.config)
        dtype, vae_dtype = environment.choose_dtypes(setup.config, self._device)
        self._pipeline = Wan22TI2V(setup.config, setup.limits, self._device, dtype, vae_dtype)
        described = environment.describe(setup.config, self._device, dtype, vae_dtype, self._pipeline.kernel.name)
        self._meter = meter_for(self._device)
        gc.collect()
        gc.freeze()  # what is loaded stays: to look through it again costs 0.2 s at the start of every job
        seconds = time.perf_counter() - start
        self._environment = described | {"load_seconds": seconds}
        corridor.send(messages.WorkerReady(environment=self._environment, load_seconds=seconds))

    def serve(self) -> None:
        """Run jobs until told to stop."""
        while (job := self._corridor.jobs.get()) is not None:
            ending = self._finish(job)
            if isinstance(ending, messages.JobFailed):
                release_memory(self._device)
            self._corridor.send(ending)

    def _finish(self, job: messages.RunJob) -> messages.JobCompleted | messages.JobFailed:
        """Run a job and say how it ended. No error outlives this: its traceback would keep the job's tensors."""
        self._corridor.running = job
        try:
            return messages.JobCompleted(job_id=job.job_id, report=self._run(job))
        except Exception as error:  # whatever it is ends this job alone; the worker lives on
            failure = output_error(error, job) or as_ringlight_error(error, too_large_message(job.request))
            problems = list(failure.problems) if isinstance(failure, InvalidRequest) else []
            return messages.JobFailed(job_id=job.job_id, code=failure.code, message=str(failure), problems=problems)
        finally:
            self._corridor.running = None

    def _run(self, job: messages.RunJob) -> RunReport:
        request = job.request
        self._meter.start()
        tracer = Tracer(self._device, self._meter, Events(self._corridor, job.job_id))
        start = time.perf_counter()
        outputs = self._pipeline.run(request, Path(job.output), job.job_id, tracer)
        total = time.perf_counter() - start
        workload = request.workload() | {"model_sha256": self._pipeline.spec.fingerprint}
        return RunReport(
            workload=workload,
            workload_hash=workload_hash(workload),
            layout=ParallelLayout().name,
            environment=self._environment | {"model": self._pipeline.spec.name},
            stages=tracer.stages,
            other_seconds=total - sum(stage.seconds for stage in tracer.stages),
            total_seconds=total,
            step_seconds=tracer.step_seconds,
            memory=[self._meter.report()],
            num_tokens=self._pipeline.spec.num_tokens(request.num_frames, request.height, request.width),
            outputs=outputs,
        )


def output_error(error: Exception, job: messages.RunJob) -> WorkerError | None:
    """What to report where the output cannot be written, else None."""
    if isinstance(error, OSError) and error.errno in OUTPUT_ERRNOS:
        return WorkerError(f"{job.output}: {error.strerror}; make room or choose another place, and ask again")
    return None


def too_large_message(request: VideoRequest) -> str:
    return (
        f"{request.width}x{request.height} with {request.num_frames} frames does not fit into this device's memory; "
        "ask for a smaller size or fewer frames, or use --vae-dtype bfloat16"
    )


def as_ringlight_error(error: Exception, too_large: str) -> RinglightError:
    """The error to report: ours as it is, `too_large` for running out of memory, all else with a traceback logged."""
    if isinstance(error, RinglightError):
        return error
    if is_out_of_memory(error):
        return OutOfMemory(too_large)
    traceback.print_exception(error)
    return WorkerError(f"{type(error).__name__}: {error}")


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out. Libraries below torch say so in words of their own."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY_WORDS)


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
        failure = as_ringlight_error(error, "the model's weights do not fit into this device's memory")
        corridor.send(messages.WorkerFailed(code=failure.code, message=str(failure)))
        sys.exit(1)
    worker.serve()


if __name__ == "__main__":
    main()
