"""`ringlight plan`: what a request would take on every layout of some GPUs, without a GPU and without weights."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import typer

from ringlight.cli.flags import with_flags
from ringlight.cli.hardware_flags import USUAL_CARD, AskedHardware
from ringlight.cli.load_flags import AskedLoad, Mixed
from ringlight.cli.request_flags import parse_size
from ringlight.core.checkpoint import Checkpoint, find_checkpoint
from ringlight.core.config import EngineConfig, read_limits
from ringlight.core.errors import InvalidSetting
from ringlight.core.fields import VIDEO
from ringlight.core.named_samplers import layered
from ringlight.core.plain import counted, plain
from ringlight.core.request import RequestDefaults, VideoRequest, stand_ins, steps_of, task_of
from ringlight.core.video_fields import VIDEO_FIELDS, AskedFields
from ringlight.families.lora_library import LoraLibrary
from ringlight.families.model import ModelSpec
from ringlight.families.table import MODELS, checkpoint_at, known_model, model_defaults, model_of, recognised
from ringlight.families.work import Work
from ringlight.planner import catalogue
from ringlight.planner.costs import ORDINARY_PROMPT
from ringlight.planner.fleet import FleetPlan, Kind, plan_fleet
from ringlight.planner.hardware import Hardware
from ringlight.planner.machine import Machine
from ringlight.planner.planner import Objective, Plan
from ringlight.planner.planner import plan as plan_layouts
from ringlight.planner.simulate import Load
from ringlight.planner.sizing import START_SECONDS
from ringlight.planner.tables import fleet_table, plan_tables

RESULT = "Result"
USUAL_MODEL = next(iter(MODELS))
OF_ENGINE = (
    "model_family",
    "tf32",
    "decode_chunk",
    "memory_budget",
    "num_slices",
    "lora",
    "lora_dir",
)  # settings of the engine that predictions depend on
NO_CARD = (
    f"note: no card was named, so this is for {USUAL_CARD}; --gpu names another one (cpu-core: a core of a CPU), and "
    "--calibration takes the report of a run on one rank of yours"
)
SIZE = ("width", "height")  # which have one flag here
OF_REQUESTS = tuple(field.name for field in VIDEO_FIELDS if field.rules.in_plans and field.name not in SIZE)


@with_flags(
    only={"engine": OF_ENGINE, "video": OF_REQUESTS},
    usual={"model_path": ""},
    hardware=AskedHardware,
    engine=EngineConfig,
    video=AskedFields,
    load=AskedLoad,
)
def plan(
    *,
    model_path: Annotated[
        str | None, typer.Option(help="Checkpoint whose JSON is read; left out, --model.", show_default=False)
    ] = None,
    model: Annotated[
        str | None, typer.Option(help=f"Model without a checkpoint: {', '.join(MODELS)}.", show_default=USUAL_MODEL)
    ] = None,
    hardware: AskedHardware,
    engine: EngineConfig,
    size: Annotated[str | None, typer.Option(help="Of the video.", metavar="WxH", rich_help_panel=VIDEO)] = None,
    video: AskedFields,
    image: Annotated[bool, typer.Option("--image", help="With a first frame.", rich_help_panel=VIDEO)] = False,
    last_image: Annotated[
        bool, typer.Option("--last-image", help="With a last frame, of models that take one.", rich_help_panel=VIDEO)
    ] = False,
    objective: Annotated[
        Objective, typer.Option(help="What the best layout has least or most of.", rich_help_panel=RESULT)
    ] = "latency",
    load: AskedLoad,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.", rich_help_panel=RESULT)] = False,
) -> None:
    """Predict every layout of some GPUs: seconds by stage, link hidden and exposed, memory by rank; choose the best.

    Needs no GPU and no weights. With --rate it simulates the queue before replicas of every layout instead.

    Exit codes: 0, 2 usage, 3 invalid request, checkpoint or setting.
    """
    if model is not None and model_path is not None:
        raise InvalidSetting("give --model-path, whose checkpoint says which model it is, or --model")
    folder = None if model_path is None else find_checkpoint(model_path)
    checkpoint = None if folder is None else checkpoint_at(folder, engine.model_family)
    spec = known_model(model or USUAL_MODEL) if checkpoint is None else model_of(checkpoint, engine.model_family)
    defaults = model_defaults(spec, folder)
    width, height = parse_size(size, None, None)
    fields = {"width": width, "height": height} | {name: getattr(video, name) for name in OF_REQUESTS}
    pictures, loras = {"image": image, "last_image": last_image}, LoraLibrary(engine, spec)
    work = Work.of(spec, request_with(spec, defaults, fields, pictures, loras))
    machine = hardware.settle(spec, engine)
    if hardware.names_none:
        print(NO_CARD, file=sys.stderr)
    kinds = [_kind(mixed, spec, defaults, fields, pictures, loras) for mixed in load.kinds()] or [Kind(work)]
    arrivals, orders = load.arrivals(kinds), load.orders
    if arrivals is None:
        made = plan_layouts(work, machine, objective)
        print(_json(made).decode() if json_ else said(made, work, machine, checkpoint))
        return
    fleet = plan_fleet(
        kinds,
        machine,
        arrivals,
        orders=orders,
        p95_seconds=load.p95,
        gpu_price=load.gpu_price,
        num_replicas=load.replicas,
        start_seconds=START_SECONDS if load.start_seconds is None else load.start_seconds,
    )
    print(_json(fleet).decode() if json_ else said_of_fleet(fleet, arrivals, machine, load.p95))


def request_with(
    spec: ModelSpec, defaults: RequestDefaults, fields: dict[str, Any], pictures: Mapping[str, bool], loras: LoraLibrary
) -> VideoRequest:
    """Request of this size with stand-ins for its prompts and pictures, and with the files of its LoRAs.

    Raises InvalidRequest.
    """
    given = {"negative_prompt": ORDINARY_PROMPT.replace("prompt", "phrase"), "seed": 0} | stand_ins(spec, **pictures)
    request = defaults.complete(ORDINARY_PROMPT, spec, **given | fields)
    request.check(spec, read_limits())
    return msgspec.structs.replace(request, lora=loras.resolve(request.lora))


def said(plan: Plan, work: Work, machine: Machine, checkpoint: Checkpoint | None = None) -> str:
    """The tables of a plan, and what it was made for: with what is particular about a checkpoint's files."""
    request, settings = work.request, machine.settings
    task = task_of(request.image, request.last_image)
    chosen = "none fits" if plan.chosen is None else f"{plan.chosen.prediction.layout} for {plan.objective}"
    lines = [
        _for(machine),
        "",
        plan_tables(plan),
        "",
        f"{work.spec.name}: {request.width}x{request.height}, {request.num_frames} frames, "
        f"{steps_of(request)}, guidance {request.guidance_scale:g}, {task}{_loras(request)}; {work.num_tokens} tokens; "
        f"{settings.dtype}, VAE {settings.vae_dtype}",
        *(f"{name}: {told}" for name, told in (recognised(checkpoint) if checkpoint else {}).items()),
        _of(machine.hardware),
        f"{chosen}",
    ]
    return "\n".join(lines)


def _loras(request: VideoRequest) -> str:
    """The LoRAs of a request, in words."""
    return f", LoRA {', '.join(map(str, request.lora))}" if request.lora else ""


def said_of_fleet(fleet: FleetPlan, load: Load, machine: Machine, p95_seconds: float | None) -> str:
    """The table of fleets, and which one is best, or why none is."""
    asked = f"{plain(load.rate)} requests a second (Poisson, seed {load.seed}, {load.num_requests} simulated)"
    basis = _of(machine.hardware)
    return "\n".join([_for(machine), "", fleet_table(fleet), "", asked, basis, _verdict(fleet, p95_seconds)])


def _verdict(fleet: FleetPlan, p95_seconds: float | None) -> str:
    """The best fleet, or what keeps all of them from being one."""
    if fleet.chosen is not None:
        return f"{fleet.chosen.name} on {fleet.chosen.num_gpus} GPUs, order: {fleet.chosen.order}"
    if not fleet.choices:
        return "none fits"
    steady = [choice for choice in fleet.choices if choice.queue.keeps_up]
    if not steady:
        least = min(fleet.choices, key=lambda choice: choice.least_gpus)
        enough = f"{least.queue.needed_replicas} x {least.layout} on {counted(least.least_gpus, 'GPU')}"
        return f"none keeps up; it takes at least {enough} for that"
    assert p95_seconds is not None, "else one that keeps up is chosen"
    closest = min(steady, key=lambda choice: choice.queue.p95_seconds)
    return (
        f"none keeps the promise of {plain(p95_seconds)} s; the closest that keeps up is {closest.name} on "
        f"{closest.num_gpus} GPUs, with a p95 of {closest.queue.p95_seconds:.1f} s"
    )


def _for(machine: Machine) -> str:
    """The hardware that is planned for, in a line."""
    card, ranks = machine.hardware.card.name, machine.most_ranks
    return (
        f"For 1 rank: {card}."
        if ranks == 1
        else f"For {ranks} ranks, each: {card}; link: {machine.hardware.link.name}."
    )


def _of(hardware: Hardware) -> str:
    """The hardware, and whether its figures were measured."""
    basis = "calibrated by a run" if hardware.correction.by_stage else f"assumed from: {hardware.card.source}"
    bus = catalogue.bus_of(hardware.card)
    return (
        f"{hardware.card.name}, {hardware.link.name}; {basis}; link: {hardware.link.source}; "
        f"bus: {bus.name}, {bus.bytes_per_second / 1e9:g} GB/s ({bus.source})"
    )


def _kind(
    mixed: Mixed,
    spec: ModelSpec,
    defaults: RequestDefaults,
    fields: dict[str, Any],
    pictures: Mapping[str, bool],
    loras: LoraLibrary,
) -> Kind:
    """A kind of a mix's file, with all that it leaves out. Raises InvalidRequest for what cannot be made."""
    own = msgspec.structs.asdict(mixed)
    in_line = {name: own.pop(name) for name in ("weight", "client", "priority", "timeout_seconds")}
    has = {name: own.pop(name) for name in pictures}
    pictures = {name: given if has[name] is None else has[name] for name, given in pictures.items()}
    request = request_with(spec, defaults, layered(fields, own), pictures, loras)
    return Kind(Work.of(spec, request), **in_line)


def _json(made: Plan | FleetPlan) -> bytes:
    """Indented JSON with the figures that are derived."""
    plain: dict[str, Any] = msgspec.to_builtins(made)
    if isinstance(made, FleetPlan):
        for fleet, shown in zip(made.choices, plain["choices"], strict=True):
            derived = ("keeps_up", "utilisation", "needed_replicas")
            shown["queue"] |= {name: getattr(fleet.queue, name) for name in derived}
    if isinstance(made, Plan):
        for choice, shown in zip(made.choices, plain["choices"], strict=True):
            shown["prediction"] |= _derived(choice.prediction)
        if made.chosen is not None:
            plain["chosen"]["prediction"] |= _derived(made.chosen.prediction)
    return msgspec.json.format(msgspec.json.encode(plain), indent=2)


def _derived(prediction: Any) -> dict[str, Any]:
    names = (
        "total_seconds",
        "exposed_seconds",
        "hidden_seconds",
        "bus_exposed_seconds",
        "memory_bytes",
        "fits",
        "bound",
    )
    return {name: getattr(prediction, name) for name in names}
