"""Prediction: all that is expected of a request on a layout."""

from __future__ import annotations

from collections import Counter
from typing import Literal

import msgspec

from ringlight.core.layout import ParallelLayout, layout_for
from ringlight.core.plan import JobPlan, Placement, PredictedReport
from ringlight.core.portions import split_runs
from ringlight.families.traffic import Traffic, denoising_bytes, text_bytes
from ringlight.families.work import Work
from ringlight.planner.costs import prompt_tokens, stage_costs
from ringlight.planner.deciding import job_plan
from ringlight.planner.hardware import RunSettings
from ringlight.planner.host_room import host_copy_bytes, in_files
from ringlight.planner.machine import Machine
from ringlight.planner.measured import as_measured
from ringlight.planner.memory import RankMemory, memory_by_rank, usable_bytes
from ringlight.planner.stage import StageCost

Bound = Literal["compute", "link", "bus", "memory"]
WAITING_SHARE = 0.2  # of the total, from which seconds of waiting for link or bus are what bounds a layout


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """Prediction of one request on one layout.

    `layout` is what it runs on, which without guidance may differ from what was asked.

    `stages` sum to `total_seconds`. `sent_bytes` are by rank and by kind, as in a report. `usable_bytes` is what a rank
    may take. With a `placement`, `host_copy_bytes` are the weights that a machine has once for all its ranks;
    networks `in_files` are not among them.
    """

    layout: str
    num_ranks: int
    stages: list[StageCost]
    memory: list[RankMemory]
    sent_bytes: list[Traffic]
    usable_bytes: int
    num_slices: int
    take_turns: bool
    decode_chunk: int
    blocks_per_agreement: int = 0
    placement: Placement | None = None
    host_copy_bytes: int = 0
    in_files: list[str] = []

    @property
    def plan(self) -> JobPlan:
        """Plan by which the request runs."""
        return JobPlan(
            num_slices=self.num_slices,
            take_turns=self.take_turns,
            decode_chunk=self.decode_chunk,
            blocks_per_agreement=self.blocks_per_agreement,
            placement=self.placement,
        )

    @property
    def total_seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)

    @property
    def exposed_seconds(self) -> float:
        """Seconds of the link that add to the total."""
        return sum(stage.exposed_seconds for stage in self.stages)

    @property
    def hidden_seconds(self) -> float:
        """Seconds of the link under computation."""
        return sum(stage.hidden_seconds for stage in self.stages)

    @property
    def bus_exposed_seconds(self) -> float:
        """Seconds of waiting for what comes from the host."""
        return sum(stage.bus_exposed_seconds for stage in self.stages)

    @property
    def worst_memory(self) -> RankMemory:
        """Memory of the rank that needs most."""
        return max(self.memory, key=lambda memory: memory.peak_bytes)

    @property
    def memory_bytes(self) -> list[int]:
        """Peak bytes of each rank."""
        return [memory.peak_bytes for memory in self.memory]

    @property
    def fits(self) -> bool:
        return self.worst_memory.peak_bytes <= self.usable_bytes

    @property
    def bound(self) -> Bound:
        """Bottleneck of the request.

        It is memory if the request does not fit, the link or the bus if a fifth of the time or more goes to waiting for
        it, else computation.
        """
        if not self.fits:
            return "memory"
        waited: dict[Bound, float] = {"link": self.exposed_seconds, "bus": self.bus_exposed_seconds}
        most = max(waited, key=lambda lane: waited[lane])
        return most if waited[most] >= WAITING_SHARE * self.total_seconds else "compute"

    def report(self, basis: str) -> PredictedReport:
        """Prediction as it stands in the report of the run."""
        return PredictedReport(
            basis=basis,
            stages={stage.name: stage.seconds for stage in self.stages},
            total_seconds=self.total_seconds,
            peak_bytes=self.worst_memory.peak_bytes,
        )

    def seconds(self, stage: str) -> float | None:
        """Seconds of a stage by its name in the report; None for one that is not run."""
        return next((found.seconds for found in self.stages if found.name == stage), None)


def predict(work: Work, layout: ParallelLayout, machine: Machine) -> Prediction:
    """Predict a request on ranks laid out as `layout`. Arithmetic alone: about a millisecond."""
    heads = work.spec.transformer.num_attention_heads
    layout = layout_for(layout, work.request.uses_guidance, heads, layout.num_ranks)
    machine = as_measured(work, layout, machine)
    plan = job_plan(work, layout, machine)
    return Prediction(
        layout=layout.name,
        num_ranks=layout.num_ranks,
        stages=stage_costs(work, layout, machine, plan),
        memory=memory_by_rank(work, layout, machine, plan),
        sent_bytes=[sent_by(rank, work, layout, plan.num_slices, machine.settings) for rank in range(layout.num_ranks)],
        usable_bytes=usable_bytes(machine),
        num_slices=plan.num_slices,
        take_turns=plan.take_turns,
        decode_chunk=plan.decode_chunk,
        blocks_per_agreement=plan.blocks_per_agreement,
        placement=plan.placement,
        in_files=[] if plan.placement is None else in_files(work.spec, machine),
        host_copy_bytes=0 if plan.placement is None else host_copy_bytes(work.spec, machine),
    )


def sent_by(rank: int, work: Work, layout: ParallelLayout, num_slices: int, settings: RunSettings) -> Traffic:
    """Bytes that a rank sends for a request, by kind: families/traffic's formulas for every stage, summed.

    Frames go as bytes, for a video; those of prompts follow from their length in characters, so they are about right.
    """
    spec, ranks = work.spec, layout.num_ranks
    if ranks == 1:
        return {}
    _, frames, rows, columns = work.latent_shape
    sent = Counter(denoising_bytes(work, layout, rank, num_slices, settings.itemsize))
    sent.update(spec.vae.decoder.sent_bytes(ranks, rank, (frames, rows, columns), 1, settings.vae_itemsize))
    if count := work.encoded_latents:
        sent.update(spec.vae.encoder.sent_bytes(ranks, rank, (rows, columns), settings.vae_itemsize, count))
    values = sum(prompt_tokens(prompt, spec) for prompt in work.prompts) * spec.text_encoder.d_model
    holders = sum(map(bool, split_runs(spec.text_encoder.layers.parts, ranks)))
    sent["text"] = text_bytes(holders, ranks, rank, values, settings.itemsize)
    return {kind: count for kind, count in sent.items() if count}
