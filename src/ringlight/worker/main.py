"""The process: load, then make one video after another, or by turns, until told to stop or left alone.

Started by `ringlight.worker.start` with the arguments FD SETUP, where FD is the number of an inherited socket and
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
from ringlight.core.errors import InvalidCheckpoint, RinglightError
from ringlight.core.numerics import NUMERICS
from ringlight.core.plan import Abilities
from ringlight.core.report import RankReport, workload_hash
from ringlight.families.lora_library import LoraLibrary
from ringlight.families.recipe import load_recipe
from ringlight.families.table import checkpoint_of, model_of, recognised
from ringlight.parallel.collective import collective
from ringlight.parallel.group import RankGroup
from ringlight.parallel.link import LinkLost
from ringlight.parallel.mesh import ParallelMesh
from ringlight.parallel.pulse import Loss
from ringlight.pipelines.resume import StateFile
from ringlight.pipelines.trace import Tracer
from ringlight.pipelines.turn import Left, Turns
from ringlight.worker import environment
from ringlight.worker.corridor import Corridor
from ringlight.worker.events import Events
from ringlight.worker.failures import as_failure, as_ringlight_error, is_device_fault
from ringlight.worker.finishing import Finishing, failed
from ringlight.worker.held import HeldJob
from ringlight.worker.memory import meter_for
from ringlight.worker.reporting import report_of
from ringlight.worker.terms import terms_of
from ringlight.worker.warming import warm_up

TOO_LARGE_TO_LOAD = "the model's weights do not fit into this device's memory"


class Worker:
    """One rank: a loaded model and the loop over jobs."""

    @collective
    def __init__(self, setup: messages.WorkerSetup, corridor: Corridor) -> None:
        start = time.perf_counter()
        self._corridor = corridor
        self._finishing = Finishing(corridor)
        self._held: dict[str, HeldJob] = {}  # jobs that have made way, by their names
        self._place = setup.place
        config = setup.config
        self._device = environment.choose_device(config, setup.place)
        environment.apply_settings(config, self._device, setup.place.num_local)
        dtype, vae_dtype = environment.choose_dtypes(config, self._device)
        environment.require_right_convolutions(config, self._device, vae_dtype)
        loras = LoraLibrary(config, model_of(checkpoint_of(config)))  # once: all files that are always on are hashed
        terms = terms_of(setup, self._device, dtype, vae_dtype, loras)
        if setup.checkpoint not in ("", terms["checkpoint"]):
            raise InvalidCheckpoint(
                f"{config.model_path} is not the checkpoint that this was started with: its digest is "
                f"{terms['checkpoint']} and was {setup.checkpoint}; start again, or put the old one back"
            )
        self._numerics = {name: terms[name] for name in ("checkpoint", "load-format", "dtype", "device")}
        self._numerics["numerics"] = str(NUMERICS)
        met = time.perf_counter()
        self._group = RankGroup.join(setup.place, self._device, terms, config, self._say_who_is_awaited, self._follow)
        start += time.perf_counter() - met  # to wait for other machines is no loading
        self._meter = meter_for(self._device, setup.place.rank, shares_weights=setup.place.shelf >= 0)
        try:
            described, abilities = self._load(setup, dtype, vae_dtype, loras)
            if config.warm_up:
                warm_up(self._pipeline, self._group, corridor, self._meter)
            self._group.control.agree(0)  # ready means that all are
        except LinkLost as lost:
            self._follow(self._loss(lost))
            raise
        except Exception as error:  # the other ranks wait for this one
            failure = as_ringlight_error(error, TOO_LARGE_TO_LOAD)
            self._group.confess(failure.code, str(failure))
            raise failure from error
        gc.collect()
        gc.freeze()  # what is loaded stays: to look through it again costs 0.2 s at the start of every job
        seconds = time.perf_counter() - start
        self._environment = described | {"load_seconds": seconds, "num_nodes": setup.place.num_nodes}
        corridor.send(
            messages.WorkerReady(
                environment=self._environment,
                load_seconds=seconds,
                checkpoint=terms["checkpoint"],
                abilities=abilities,
            )
        )

    @collective
    def _load(
        self, setup: messages.WorkerSetup, dtype: torch.dtype, vae_dtype: torch.dtype, loras: LoraLibrary
    ) -> tuple[dict[str, Any], Abilities]:
        """Load the model, together with the other ranks.

        Returns the conditions of all measurements, and what the ranks can do.
        """
        config, group = setup.config, self._group
        place = setup.place
        shelf = place.shelf if place.shelf >= 0 else None
        self._pipeline = load_recipe(
            config, setup.limits, self._device, dtype, vae_dtype, group.world, shelf, place.num_sharing, loras
        )
        described = environment.describe(config, self._device, dtype, vae_dtype, self._pipeline.kernel.name)
        described["files"] = recognised(self._pipeline.checkpoint)
        described["load_gigabytes_per_second"] = round(self._pipeline.loaded.gigabytes_per_second, 3)
        abilities = self._pipeline.measure(group.world, group.control)
        if abilities.speeds is not None:
            described |= msgspec.to_builtins(abilities.speeds)
        return described, abilities

    @collective
    def serve(self) -> None:
        """Give jobs their turns until told to stop."""
        while not isinstance(order := self._next_order(), messages.Shutdown):
            match order:
                case messages.RunJob():
                    self._give_turn(self._begin(order))
                case messages.ResumeJob(job_id=job_id):
                    self._give_turn(self._held.pop(job_id))
                case messages.DropJob(job_id=job_id):
                    if job_id in self._held:
                        self._held.pop(job_id).close()
                        self._release_memory()
                    self._corridor.dropped(job_id)
        for job in self._held.values():
            self._drop(job)
        self._group.leave()
        self._finishing.wait()

    def _begin(self, order: messages.RunJob) -> HeldJob:
        """Begin a new job. What one rank finds wrong with it all hear at its first boundary."""
        self._corridor.take_up(order)
        pipeline = self._pipeline
        events = Events(self._corridor, self._group, order, pipeline.patience_seconds(order.request))
        tracer = Tracer(self._device, self._meter, events)
        state: StateFile | None = None
        try:
            mesh = ParallelMesh.of(order.layout, self._place.rank, self._group.link)
            state = self._state_file(order, tracer)
            continues = Path(order.continues) if order.continues else None
            making = pipeline.make(
                order.request,
                Path(order.output),
                order.job_id,
                tracer,
                mesh,
                order.plan,
                state,
                order.preview_seconds,
                continues,
            )
        except Exception as error:  # whatever it is, the other ranks are on their way to that boundary
            making = refused(events, error)
        return HeldJob(order, events, tracer, state, making)

    @collective
    def _give_turn(self, job: HeldJob) -> None:
        """Compute a job until it is paused or over, and tell the engine how it failed, if it did."""
        failure = self._work(job)
        self._group.expect(None)
        if failure is not None:
            self._tell(job.order, failure)
            self._release_memory()

    def _drop(self, job: HeldJob) -> None:
        """Forget a job that will not be made here."""
        job.close()
        self._corridor.put_down(job.order)

    @collective
    def _tell(self, job: messages.RunJob, failure: RinglightError) -> None:
        """Tell the engine how a job failed, before any rank goes on: one that fails then takes them all with it."""
        if self._place.rank == 0:
            self._corridor.send(failed(job, failure))
        try:
            self._group.control.agree(0)
        except LinkLost as lost:
            self._follow(self._loss(lost))
            raise

    @collective
    def _next_order(self) -> messages.Order:
        """Receive the engine's next order on rank 0 and broadcast it to all ranks, which tidy up meanwhile."""
        self._meter.tidy()
        order = messages.encode(self._corridor.orders.get()) if self._place.rank == 0 else b""
        try:
            return messages.order_decoder.decode(self._group.control.broadcast(order))
        except LinkLost as lost:
            self._follow(self._loss(lost))
            raise

    @collective
    def _work(self, job: HeldJob) -> RinglightError | None:
        """Give a job its turn. Returns its failure, if any.

        No error outlives this: its traceback would keep the job's tensors.

        An error that all ranks raise alike ends this job alone. Any other ends the group, and so does a device that
        has failed: it would fail all later jobs too.
        """
        try:
            self._run(job)
            return None
        except LinkLost as lost:
            self._follow(self._loss(lost))
            raise
        except Exception as error:  # whatever it is, the worker lives on if the ranks are in step
            failure = as_failure(error, job.order)
            if is_device_fault(error):
                self._leave(failure)
            if not job.events.left_together:
                try:
                    job.events.require_alike(failure)
                except LinkLost:
                    self._leave(failure)
                self._group.renew(self._device)
            self._drop(job)
            return failure

    @collective
    def _run(self, job: HeldJob) -> None:
        """Run one turn: until the job is paused, or its video is made.

        What is left of its output then goes on beside the next one's turn.
        """
        group, pipeline = self._group, self._pipeline
        self._meter.start(sum(other.held_bytes for other in self._held.values()), job.held_bytes)
        group.link.reset()
        pipeline.forget_what_came()
        left = job.go_on(pipeline)
        computed_at, total_seconds = time.perf_counter(), job.tracer.clock.now()
        try:
            if job.output is not None:
                self._finishing.announce_now(job.order)  # the engine says what is next while the report is made
            measured = job.measured(
                RankReport(
                    rank=self._place.rank,
                    stages=job.tracer.stages,
                    memory=self._meter.report(),
                    link=group.link.report(),
                    weights=pipeline.weights_report(),
                )
            )
            if left is not None:
                self._hold(job, left)
                return
            report = report_of(job, measured, total_seconds, pipeline.spec, self._environment, group.control)
            group.expect(None)
            if job.output is None:
                self._corridor.put_down(job.order)
            else:
                self._finishing.begin(job.order, job.output, report, computed_at)
        except BaseException:
            if job.output is not None:
                job.output.abort()
            raise

    def _hold(self, job: HeldJob, left: Left) -> None:
        """Keep a paused job, on all ranks, and tell the engine that they are free."""
        job_id = job.order.job_id
        self._held[job_id] = job
        if self._place.rank == 0:
            self._corridor.send(messages.JobPaused(job_id=job_id, step=left.step, held_bytes=left.held_bytes))

    def _state_file(self, order: messages.RunJob, tracer: Tracer) -> StateFile | None:
        """State file that the job resumes from and saves to.

        A state is good for the same work on the same weights and ranks.
        """
        if not order.state_file:
            return None
        identity = workload_hash({"workload": order.request.workload(), "layout": order.layout.name} | self._numerics)
        control = self._group.control
        path, put_in_place = Path(order.state_file), self._corridor.putting_in_place(order)
        return StateFile(path, order.save_seconds, identity, order.job_id, control, tracer, put_in_place)

    def _release_memory(self) -> None:
        try:
            release_memory(self._device)
        except RuntimeError as error:  # of the device: nothing will work here any more
            self._leave(as_ringlight_error(error, TOO_LARGE_TO_LOAD))

    def _say_who_is_awaited(self, awaited: messages.NodesAwaited) -> None:
        if self._place.num_nodes > 1 and self._place.local_rank == 0:
            self._corridor.send(awaited)

    def _loss(self, lost: LinkLost) -> Loss:
        """Loss to report after another rank was lost. The link's own error goes to the log."""
        cause = self._group.hear_cause()
        print(f"rank {self._place.rank}: {cause.message} (the link: {lost})", file=sys.stderr, flush=True)
        return cause

    def _leave(self, failure: RinglightError) -> None:
        """End this process, for its group is out of step because of it."""
        self._group.confess(failure.code, str(failure))
        self._follow(Loss(self._place.rank, failure.code, str(failure)), is_cause=True)

    def _follow(self, loss: Loss, is_cause: bool = False) -> None:
        """End this process, for its group is out of step. Called from any thread."""
        rank = self._place.rank
        self._corridor.leave(messages.GroupBroken(rank=rank, code=loss.code, message=loss.message, is_cause=is_cause))


@collective
def refused(events: Events, problem: Exception) -> Turns[None]:
    """Stand in for a computation that could not be set up on this rank."""
    events.boundary(problem)
    yield from ()


def release_memory(device: torch.device) -> None:
    """Give back what a failed job held, so that the next one starts clean."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def work(setup: messages.WorkerSetup, corridor: Corridor) -> None:
    """Load, and serve until told to stop; the engine hears what keeps this from it, and the process ends."""
    try:
        if setup.place.scratch:
            corridor.work_in(setup.place.scratch)
        worker = Worker(setup, corridor)
    except Exception as error:  # whatever it is, the engine must hear of it before this process ends
        corridor.close()
        failure = as_ringlight_error(error, TOO_LARGE_TO_LOAD)
        corridor.send(messages.WorkerFailed(code=failure.code, message=str(failure)))
        sys.exit(1)
    worker.serve()
    corridor.close()
    sys.stderr.flush()


def main() -> None:
    """Run the worker's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the engine's to answer
    corridor = Corridor(Connection(int(sys.argv[1])))
    work(msgspec.json.decode(sys.argv[2], type=messages.WorkerSetup), corridor)
    os._exit(0)  # the threads of process groups and stores do not always survive the interpreter's own end


if __name__ == "__main__":
    main()
