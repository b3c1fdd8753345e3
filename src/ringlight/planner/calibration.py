"""Calibration: what one measured run says of the assumptions, kept as JSON to plan others by."""

from __future__ import annotations

from pathlib import Path

import msgspec

from ringlight.core.errors import InvalidSetting
from ringlight.core.layout import ParallelLayout
from ringlight.core.plan import JobPlan
from ringlight.core.report import RunReport
from ringlight.core.request import VideoRequest
from ringlight.families.model import ModelSpec
from ringlight.families.work import Work
from ringlight.planner import catalogue
from ringlight.planner.costs import stage_costs
from ringlight.planner.deciding import job_plan
from ringlight.planner.hardware import Card, Correction, Hardware, LinkRates, RunSettings
from ringlight.planner.machine import Machine
from ringlight.planner.memory import decoding_bytes, denoising_bytes, weights_by_rank

ALONE = ParallelLayout()


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """Calibration by one run on one rank. Predictions start from `card`, and `correction` makes them fit the run.

    `flops_per_second` are what the run reached over whole stages, by network: for people, and beside a data sheet.
    """

    device: str
    model: str
    workload_hash: str
    num_tokens: int
    settings: RunSettings
    card: Card
    correction: Correction
    flops_per_second: dict[str, float]

    @classmethod
    def of(cls, report: RunReport, spec: ModelSpec, card: Card | None = None) -> Calibration:
        """Calibrate from a report of a whole run on one rank. `card`: None takes cores of the table for a CPU.

        Raises InvalidSetting for a run that tells too little: of several ranks, resumed, or of a card not named.
        """
        _require_telling(report)
        card = card or _card_of(report)
        settings, work = settings_of(report), Work.of(spec, request_of(report))
        machine = Machine(hardware=Hardware(card=card, link=catalogue.link("loopback")), settings=settings)
        plan = job_plan(work, ALONE, machine)
        predicted = {stage.name: stage.seconds for stage in stage_costs(work, ALONE, machine, plan)}
        measured = {stage.name: stage.seconds for stage in report.stages}
        by_stage = {
            name: measured[name] / seconds for name, seconds in predicted.items() if seconds and name in measured
        }
        known = sum(seconds for name, seconds in measured.items() if name in predicted)
        base, growth = _memory(report, work, machine, plan)
        return cls(
            device=str(report.environment.get("device", "")),
            model=spec.fingerprint,
            workload_hash=report.workload_hash,
            num_tokens=report.num_tokens,
            settings=settings,
            card=card,
            correction=Correction(
                by_stage=by_stage,
                other_seconds=max(0.0, report.total_seconds - known),
                base_bytes=base,
                growth=growth,
            ),
            flops_per_second=_rates(work, measured, machine),
        )

    @classmethod
    def read(cls, path: Path, spec: ModelSpec, card: Card | None = None) -> Calibration:
        """Read a file: a calibration, a report as `generate --report` writes it, or the result of `bench`.

        Raises InvalidSetting.
        """
        try:
            content = path.read_bytes()
            fields = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
            if "samples" in fields:
                return cls.of(_telling_report(path, fields["samples"]), spec, card)
            if "stages" in fields:
                return cls.of(msgspec.json.decode(content, type=RunReport), spec, card)
            return msgspec.json.decode(content, type=cls)
        except OSError as error:
            raise InvalidSetting(f"{path}: {error.strerror}") from None
        except msgspec.DecodeError as error:
            raise InvalidSetting(f"{path}: no calibration, report or benchmark's result: {error}") from None

    def machine(self, link: LinkRates) -> Machine:
        """Machine of this run, with a link."""
        hardware = Hardware(card=self.card, link=link, correction=self.correction)
        return Machine(hardware=hardware, settings=self.settings)

    def to_json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


class _Sample(msgspec.Struct, frozen=True):
    """Part of a benchmark's sample that is read here."""

    report: RunReport | None = None


def _telling_report(path: Path, samples: msgspec.Raw) -> RunReport:
    """Median report of a benchmark's whole runs on one rank, of its largest request, by their totals.

    Raises InvalidSetting where it has none.
    """
    reports = [sample.report for sample in msgspec.json.decode(samples, type=list[_Sample])]
    telling = [each for each in reports if each is not None and len(each.ranks) == 1 and each.is_whole]
    if not telling:
        raise InvalidSetting(f"{path}: a calibration needs a run on one rank; name u1r1 among the layouts of bench")
    largest = max(telling, key=lambda report: (report.num_tokens, report.total_seconds)).workload_hash
    found = sorted((r for r in telling if r.workload_hash == largest), key=lambda report: report.total_seconds)
    return found[len(found) // 2]


def request_of(report: RunReport) -> VideoRequest:
    """Request of a report. A picture stands there as a single byte, and a LoRA is called by its file's SHA-256."""
    fields = dict(report.workload)
    fields |= {name: b"\0" for name in ("image", "last_image") if fields.get(name)}
    fields["lora"] = [{"name": lora["sha256"]} | lora for lora in fields.get("lora", ())]
    return msgspec.convert(fields, VideoRequest, builtin_types=(bytes,))


def settings_of(report: RunReport) -> RunSettings:
    """Settings that a report names."""
    said = report.environment
    return RunSettings(
        dtype=said.get("dtype", "bfloat16"),
        vae_dtype=said.get("vae_dtype", "float32"),
        tf32=bool(said.get("tf32", True)),
        memory_budget_bytes=int(said.get("memory_budget_bytes") or 0),
    )


def _require_telling(report: RunReport) -> None:
    if len(report.ranks) != 1:
        raise InvalidSetting(
            f"a calibration needs a run on one rank, and this one is of {report.layout}; `ringlight generate ... "
            "--num-gpus 1 --report FILE` makes one"
        )
    if report.resumed_from_step:
        raise InvalidSetting(f"a calibration needs a whole run; this one went on from step {report.resumed_from_step}")
    if not report.is_whole:
        raise InvalidSetting("a calibration needs a run without steps that were broken off for others, and made again")
    if report.placement is not None:
        raise InvalidSetting(
            "a calibration needs a run with all weights on the device, and this one had them on the host; calibrate by "
            "one without --memory-budget, which plans for any budget follow from"
        )


def _card_of(report: RunReport) -> Card:
    if report.environment.get("device_type") == "cpu":
        cores = catalogue.cores(int(report.environment.get("num_threads") or 1))
        memory_bytes = int(report.environment.get("memory_bytes") or cores.memory_bytes)
        return msgspec.structs.replace(cores, memory_bytes=memory_bytes)
    device = report.environment.get("device")
    raise InvalidSetting(
        f"the calibration is of {device!r}: name its card by --gpu or --gpu-file, or run on such a one"
    )


def _memory(report: RunReport, work: Work, machine: Machine, plan: JobPlan) -> tuple[int, dict[str, float]]:
    """(bytes of the idle process beside its weights, measured per predicted byte of activations by stage)."""
    weights, memory = weights_by_rank(work.spec, 1, machine.settings)[0], report.worst_memory
    idle = memory.idle_resident_bytes if memory.idle_resident_bytes is not None else weights
    predicted = {
        "Denoising": denoising_bytes(work, ALONE, machine, plan),
        "Decoding": decoding_bytes(work, ALONE, machine, plan),
    }
    growth = {
        stage.name: (stage.peak_bytes - idle) / predicted[stage.name]
        for stage in report.stages
        if stage.name in predicted and stage.peak_bytes > idle
    }
    return max(0, idle - weights), growth


def _rates(work: Work, measured: dict[str, float], machine: Machine) -> dict[str, float]:
    """Achieved operations a second over whole stages."""
    _, frames, rows, columns = work.latent_shape
    forwards = work.num_calls * work.num_forwards(ALONE)
    decoder = work.spec.vae.decoder
    first, later = (decoder.flops(rows, rows, columns, is_first, machine.uses_winograd) for is_first in (True, False))
    done = {
        "Denoising": forwards * work.spec.transformer.forward_flops(work.num_tokens),
        "Decoding": first + (frames - 1) * later,
    }
    return {name: flops / measured[name] for name, flops in done.items() if measured.get(name)}
