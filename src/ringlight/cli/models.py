"""`ringlight models`: what can be run, and what a video of each model's defaults takes on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import msgspec
import typer

from ringlight.cli.flags import with_flags
from ringlight.cli.hardware_flags import AskedHardware
from ringlight.core.checkpoint import find_checkpoint
from ringlight.core.config import EngineConfig
from ringlight.core.errors import InvalidSetting
from ringlight.core.report import GIB
from ringlight.core.request import RequestDefaults
from ringlight.engine.machine import this_machine, usable_cards
from ringlight.families.lora_library import LoraLibrary
from ringlight.families.model import ModelSpec
from ringlight.families.table import MODELS, family_of, model_defaults, read_model
from ringlight.families.work import Work
from ringlight.planner.costs import ORDINARY_PROMPT
from ringlight.planner.host_room import host_copy_bytes
from ringlight.planner.machine import Machine
from ringlight.planner.planner import plan


class KnownModel(msgspec.Struct, frozen=True, kw_only=True):
    """Model, and a video of its defaults on a machine.

    `begins_with` says what a request has. `seconds`, `peak_bytes` of a rank and `layout` are predicted, and None if no
    layout fits: `reason` then says what would. `loras` are the fitting ones of the given folders, by name, with their
    contents.
    """

    name: str
    family: str
    begins_with: str
    video: str
    num_inference_steps: int
    weights_bytes: int
    machine: str
    layout: str | None
    seconds: float | None
    peak_bytes: int | None
    reason: str
    loras: dict[str, str] = {}


@with_flags(only=("model_family", "memory_budget", "lora_dir"), usual={"model_path": ""}, engine=EngineConfig)
def models(
    *,
    model_path: Annotated[
        str | None, typer.Option(help="Checkpoint that is listed before those that are published.")
    ] = None,
    gpu: Annotated[
        str | None, typer.Option(help="Card, as `ringlight plan` has them; left out, this machine's.")
    ] = None,
    num_gpus: Annotated[int, typer.Option(min=1, help="How many of them, with --gpu.")] = 1,
    engine: EngineConfig,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the models that can be run: what they make by default, and its seconds and memory on this machine.

    With --gpu on another one. Nothing is loaded: `ringlight plan --model NAME` says more of each. With --lora-dir also
    which of the LoRAs there fit which model: of a checkpoint of your own, name it with --model-path.

    Exit codes: 0, 2 usage, 3 invalid setting or checkpoint, or cards that are not in the table.
    """
    hardware = None if gpu is None else AskedHardware(gpu=gpu, num_gpus=num_gpus)
    listed = [(spec, model_defaults(spec)) for spec in MODELS.values()]
    if model_path is not None:
        folder = find_checkpoint(model_path)
        spec = read_model(folder, engine.model_family)
        listed.insert(0, (spec, model_defaults(spec, folder)))
    known = []
    for spec, defaults in listed:
        on_machine = known_on(spec, defaults, machine_for(spec, hardware, engine))
        known.append(msgspec.structs.replace(on_machine, loras=fitting_loras(spec, engine)))
    if json_:
        print(msgspec.json.format(msgspec.json.encode(known), indent=2).decode())
    else:
        print("\n".join(table(known)))
        print("\n".join(lora_lines(known, engine)), end="\n" if engine.lora_dir else "")


def machine_for(spec: ModelSpec, hardware: AskedHardware | None, engine: EngineConfig) -> Machine:
    """The machine that is asked for, else this one, with all its cards. Raises InvalidSetting where nobody knows it."""
    if hardware is not None:
        return hardware.settle(spec, engine)
    machine = this_machine(engine, spec, len(usable_cards(engine) or ()) or 1, 1)
    if machine is None:
        raise InvalidSetting("the cards of this machine are not in the table; name one that is like them with --gpu")
    return machine


def known_on(spec: ModelSpec, defaults: RequestDefaults, machine: Machine) -> KnownModel:
    """A model on a machine, by a video of all these defaults."""
    request = defaults.typical(ORDINARY_PROMPT, spec)
    made = plan(Work.of(spec, request), machine, "latency")
    found = None if made.chosen is None else made.chosen.prediction
    return KnownModel(
        name=spec.name,
        family=family_of(spec).name,
        begins_with=begins_with(spec),
        video=f"{request.width}x{request.height}x{request.num_frames}",
        num_inference_steps=request.num_inference_steps,
        weights_bytes=host_copy_bytes(spec, machine),
        machine=machine.hardware.card.name,
        layout=None if found is None else found.layout,
        seconds=None if found is None else found.total_seconds,
        peak_bytes=None if found is None else found.worst_memory.peak_bytes,
        reason=(made.chosen or made.choices[0]).reason,
    )


def fitting_loras(spec: ModelSpec, engine: EngineConfig) -> dict[str, str]:
    """The LoRAs of the folders that fit a model, with what was found in each file."""
    return {lora.name: file.told for lora, file, _ in LoraLibrary(engine, spec).offered() if file is not None}


def begins_with(spec: ModelSpec) -> str:
    """Inputs of a request beside its settings, in words."""
    if spec.needs_last_picture:
        return "text, a first and a last picture"
    if spec.needs_picture:
        return "text and a first picture, or a last one too" if spec.takes_last_picture else "text and a picture"
    return "text, or text and a picture" if spec.takes_picture else "text"


def table(known: list[KnownModel]) -> Iterator[str]:
    """Yield the Markdown table of models, and below it why some do not fit."""
    yield "| Model | Begins with | Video | Steps | Weights (GiB) | Layout | Seconds | Peak of a rank (GiB) |"
    yield "|---|---|---|---:|---:|---|---:|---:|"
    for each in known:
        fits = (each.layout or "-", _shown(each.seconds, 1), _shown(each.peak_bytes, GIB))
        cells = (each.name, each.begins_with, each.video, str(each.num_inference_steps))
        yield f"| {' | '.join((*cells, _shown(each.weights_bytes, GIB), *fits))} |"
    yield ""
    for each in known:
        if each.layout is None:
            yield f"- {each.name}: {each.reason}"
    yield f"Videos of all defaults on {known[0].machine}, as predicted."


def lora_lines(known: list[KnownModel], engine: EngineConfig) -> Iterator[str]:
    """Yield a line for each LoRA of the folders: its contents, and the models that it fits."""
    names = LoraLibrary(engine, next(iter(MODELS.values()))).names() if engine.lora_dir else []
    for name in names:
        fits = [each for each in known if name in each.loras]
        told = f"{fits[0].loras[name]}; fits {', '.join(each.name for each in fits)}" if fits else "fits none of them"
        yield f"- LoRA {name}: {told}"


def _shown(value: float | None, unit: int) -> str:
    return "-" if value is None else f"{value / unit:.1f}"
