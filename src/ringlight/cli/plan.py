"""`ringlight plan`: what a request would take on every layout of some GPUs, without a GPU and without weights."""

from __future__ import annotations

import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from ringlight.cli.flags import with_flags
from ringlight.cli.request_flags import parse_size
from ringlight.core.checkpoint import find_checkpoint
from ringlight.core.config import EngineConfig, VaeDtypeName, read_limits
from ringlight.core.errors import InvalidSetting
from ringlight.core.fields import VIDEO
from ringlight.core.plain import plain
from ringlight.core.request import AskedVideo, RequestDefaults, VideoRequest
from ringlight.families.model import ModelSpec
from ringlight.families.table import MODELS, known_model, model_defaults, read_model
from ringlight.families.work import Work
from ringlight.planner import catalogue
from ringlight.planner.calibration import Calibration
from ringlight.planner.costs import ORDINARY_PROMPT
from ringlight.planner.fleet import FleetPlan, Kind, plan_fleet
from ringlight.planner.hardware import Card, Hardware, Link, RunSettings, read_toml
from ringlight.planner.machine import Machine
from ringlight.planner.planner import Plan
from ringlight.planner.planner import plan as plan_layouts
from ringlight.planner.simulate import Load
from ringlight.planner.tables import fleet_table, plan_tables

HARDWARE, LOAD, RESULT = "Hardware", "Load", "Result"


class ObjectiveChoice(StrEnum):
    latency = "latency"
    throughput = "throughput"
    memory = "memory"


# Settings of the engine and fields of a request that predictions depend on.
OF_ENGINE = ("tf32", "decode_chunk", "num_slices")
OF_REQUESTS = ("num_frames", "num_inference_steps", "guidance_scale")


class MixedRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A kind of request in a mix's file: what is left out is as on the command line."""

    weight: float = 1.0
    width: int | None = None
    height: int | None = None
    num_frames: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    image: bool | None = None


class Mix(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of `[[request]]` tables."""

    request: list[MixedRequest]


MIX_FIELDS = ", ".join(MixedRequest.__struct_fields__)


def _positive(value: float | None) -> float | None:
    if value is not None and not 0 < value < math.inf:
        raise typer.BadParameter("must be more than 0")
    return value


@with_flags(only=(*OF_ENGINE, *OF_REQUESTS), usual={"model_path": ""}, engine=EngineConfig, video=AskedVideo)
def plan(
    *,
    model_path: Annotated[
        str | None, typer.Option(help="Checkpoint whose JSON is read; left out, --model.", show_default=False)
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help=f"Model without a checkpoint: {', '.join(MODELS)}.", show_default=next(iter(MODELS))),
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(help=f"Card: {', '.join(catalogue.CARDS)}.", show_default="rtx4090", rich_help_panel=HARDWARE),
    ] = None,
    gpu_file: Annotated[Path | None, typer.Option(help="Card from a TOML file.", rich_help_panel=HARDWARE)] = None,
    num_gpus: Annotated[int, typer.Option(min=1, help="Cards in all.", rich_help_panel=HARDWARE)] = 1,
    link: Annotated[
        str | None,
        typer.Option(
            help=f"Between all of them: {', '.join(catalogue.LINKS)}.",
            show_default="pcie4, or loopback with a CPU's calibration",
            rich_help_panel=HARDWARE,
        ),
    ] = None,
    link_file: Annotated[Path | None, typer.Option(help="Link from a TOML file.", rich_help_panel=HARDWARE)] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="Report or bench result of u1r1 runs, or what --save-calibration wrote; its dtypes are planned.",
            rich_help_panel=HARDWARE,
        ),
    ] = None,
    save_calibration: Annotated[
        Path | None, typer.Option(help="Keep what --calibration says as JSON.", rich_help_panel=HARDWARE)
    ] = None,
    dtype: Annotated[
        VaeDtypeName | None, typer.Option(help="Of the products.", show_default="bfloat16", rich_help_panel=HARDWARE)
    ] = None,
    vae_dtype: Annotated[
        VaeDtypeName | None,
        typer.Option(help="Of the decoder.", show_default="float32", rich_help_panel=HARDWARE),
    ] = None,
    engine: EngineConfig,
    size: Annotated[str | None, typer.Option(help="Of the video.", metavar="WxH", rich_help_panel=VIDEO)] = None,
    video: msgspec.Struct,
    image: Annotated[bool, typer.Option("--image", help="With a first frame.", rich_help_panel=VIDEO)] = False,
    objective: Annotated[
        ObjectiveChoice, typer.Option(help="What the best layout has least or most of.", rich_help_panel=RESULT)
    ] = ObjectiveChoice.latency,
    rate: Annotated[
        float | None,
        typer.Option(help="Requests a second, at random moments.", callback=_positive, rich_help_panel=LOAD),
    ] = None,
    mix: Annotated[
        Path | None,  # the backslash: else Rich takes the word for a style
        typer.Option(help=rf"TOML of [\[request]] tables, each with any of {MIX_FIELDS}.", rich_help_panel=LOAD),
    ] = None,
    num_requests: Annotated[
        int | None, typer.Option(min=100, help="To simulate.", show_default="20000", rich_help_panel=LOAD)
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the arrivals.", show_default="0", rich_help_panel=LOAD)] = None,
    p95: Annotated[
        float | None, typer.Option(help="Promise in seconds: the fewest GPUs that keep it.", rich_help_panel=LOAD)
    ] = None,
    gpu_price: Annotated[float | None, typer.Option(help="Of a GPU hour.", rich_help_panel=LOAD)] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.", rich_help_panel=RESULT)] = False,
) -> None:
    """Predict every layout of some GPUs: seconds by stage, link hidden and exposed, memory by rank; choose the best.

    Needs no GPU and no weights. With --rate it simulates the queue before replicas of every layout instead.

    Exit codes: 0, 2 usage, 3 invalid request, checkpoint or setting.
    """
    arrivals = {"num_requests": num_requests, "seed": seed}
    if rate is None:
        _require_no_load({"mix": mix, **arrivals, "p95": p95, "gpu_price": gpu_price})
    if model is not None and model_path is not None:
        raise InvalidSetting("give --model-path, whose checkpoint says which model it is, or --model")
    folder = None if model_path is None else find_checkpoint(model_path)
    spec = known_model(model or next(iter(MODELS))) if folder is None else read_model(folder)
    defaults = model_defaults(spec, folder)
    width, height = parse_size(size, None, None)
    fields = {
        "width": width,
        "height": height,
        **{name: getattr(video, name) for name in OF_REQUESTS},
    }
    work = Work.of(spec, request_with(spec, defaults, fields, image))
    chosen_card = _card(gpu, gpu_file)
    if calibration is None:
        hardware = Hardware(card=chosen_card or catalogue.card("rtx4090"), link=_link(link, link_file, "pcie4"))
        settings = RunSettings(
            dtype=dtype or "bfloat16",
            vae_dtype=vae_dtype or "float32",
            tf32=engine.tf32,
            decode_chunk=engine.decode_chunk,
            num_slices=engine.num_slices,
        )
    else:
        known = _calibration(calibration, spec, chosen_card)
        calibrated = known.machine(_link(link, link_file, "loopback" if known.card.is_cpu else "pcie4"))
        hardware, settings = calibrated.hardware, calibrated.settings
        _require_same("--dtype", dtype, settings.dtype)
        _require_same("--vae-dtype", vae_dtype, settings.vae_dtype)
        if save_calibration is not None:
            save_calibration.write_bytes(known.to_json())
    machine = Machine(hardware=hardware, settings=settings, most_ranks=num_gpus)
    if rate is None:
        made = plan_layouts(work, machine, objective.value)
        print(_json(made).decode() if json_ else said(made, work, machine))
    else:
        kinds = [Kind(work)] if mix is None else _kinds(mix, spec, defaults, fields, image)
        load = Load(rate=rate, **{name: value for name, value in arrivals.items() if value is not None})
        fleet = plan_fleet(kinds, machine, load, p95_seconds=p95, gpu_price=gpu_price)
        print(_json(fleet).decode() if json_ else said_of_fleet(fleet, load, hardware, p95))


def request_with(spec: ModelSpec, defaults: RequestDefaults, fields: dict[str, Any], image: bool) -> VideoRequest:
    """A request of this size with stand-ins for its prompts and its picture. Raises InvalidRequest."""
    given = {
        "negative_prompt": ORDINARY_PROMPT.replace("prompt", "phrase"),
        "seed": 0,
        "image": b"\0" if image else None,
    }
    request = defaults.complete(ORDINARY_PROMPT, spec, **given | fields)
    request.check(spec, read_limits())
    return request


def said(plan: Plan, work: Work, machine: Machine) -> str:
    """The tables of a plan, and what it was made for."""
    request, settings = work.request, machine.settings
    kind = "I2V" if request.image else "T2V"
    chosen = "none fits" if plan.chosen is None else f"{plan.chosen.prediction.layout} for {plan.objective}"
    lines = [
        plan_tables(plan),
        "",
        f"{work.spec.name}: {request.width}x{request.height}, {request.num_frames} frames, "
        f"{request.num_inference_steps} steps, guidance {request.guidance_scale:g}, {kind}; {work.num_tokens} tokens; "
        f"{settings.dtype}, VAE {settings.vae_dtype}",
        _of(machine.hardware),
        f"{chosen}",
    ]
    return "\n".join(lines)


def said_of_fleet(fleet: FleetPlan, load: Load, hardware: Hardware, p95_seconds: float | None) -> str:
    """The table of fleets, and which one is best, or why none is."""
    asked = f"{plain(load.rate)} requests a second (Poisson, seed {load.seed}, {load.num_requests} simulated)"
    return "\n".join([fleet_table(fleet), "", asked, _of(hardware), _verdict(fleet, p95_seconds)])


def _verdict(fleet: FleetPlan, p95_seconds: float | None) -> str:
    """The best fleet, or what keeps all of them from being one."""
    if fleet.chosen is not None:
        return f"{fleet.chosen.name} on {fleet.chosen.num_gpus} GPUs"
    if not fleet.choices:
        return "none fits"
    steady = [choice for choice in fleet.choices if choice.queue.keeps_up]
    if not steady or p95_seconds is None:
        return "none keeps up"
    closest = min(steady, key=lambda choice: choice.queue.p95_seconds)
    return (
        f"none keeps the promise of {plain(p95_seconds)} s; the closest that keeps up is {closest.name} on "
        f"{closest.num_gpus} GPUs, with a p95 of {closest.queue.p95_seconds:.1f} s"
    )


def _of(hardware: Hardware) -> str:
    """The hardware, and whether its figures were measured."""
    basis = "calibrated by a run" if hardware.correction.by_stage else f"assumed from: {hardware.card.source}"
    return f"{hardware.card.name}, {hardware.link.name}; {basis}; link: {hardware.link.source}"


def _card(key: str | None, path: Path | None) -> Card | None:
    if key is not None and path is not None:
        raise InvalidSetting("give --gpu or --gpu-file, not both")
    if path is not None:
        return Card.read(path)
    return None if key is None else catalogue.card(key)


def _link(key: str | None, path: Path | None, usual: str) -> Link:
    if key is not None and path is not None:
        raise InvalidSetting("give --link or --link-file, not both")
    return read_toml(path, Link) if path is not None else catalogue.link(key or usual)


def _calibration(path: Path, spec: ModelSpec, card: Card | None) -> Calibration:
    """What a file says of its own card, else of this one. Raises InvalidSetting where both are named."""
    try:
        known = Calibration.read(path, spec)
    except InvalidSetting:
        if card is None:
            raise
        return Calibration.read(path, spec, card)
    if card is not None:
        raise InvalidSetting(f"{path} is of {known.card.name}, not of {card.name}; leave --gpu and --gpu-file out")
    return known


def _require_same(flag: str, asked: str | None, measured: str) -> None:
    if asked not in (None, measured):
        raise InvalidSetting(f"{flag} {asked}: the calibration is of a run in {measured}; leave {flag} out")


def _require_no_load(flags: dict[str, Any]) -> None:
    given = [f"--{name.replace('_', '-')}" for name, value in flags.items() if value is not None]
    if given:
        raise InvalidSetting(f"{', '.join(given)} can only be given with --rate")


def _kinds(path: Path, spec: ModelSpec, defaults: RequestDefaults, fields: dict[str, Any], image: bool) -> list[Kind]:
    """The kinds of requests of a mix's file. Raises InvalidSetting, and InvalidRequest for what cannot be made."""
    try:
        requests = read_toml(path, Mix).request
    except InvalidSetting as error:
        hint = f"; a mix has [[request]] tables, each with any of {MIX_FIELDS}" if " field `" in str(error) else ""
        raise InvalidSetting(f"{error}{hint}") from None
    kinds = []
    for mixed in requests:
        own = msgspec.structs.asdict(mixed)
        weight, has_image = own.pop("weight"), own.pop("image")
        changed = fields | {name: value for name, value in own.items() if value is not None}
        request = request_with(spec, defaults, changed, image if has_image is None else has_image)
        kinds.append(Kind(Work.of(spec, request), weight))
    if not kinds:
        raise InvalidSetting(f"{path}: has no [[request]]")
    return kinds


def _json(made: Plan | FleetPlan) -> bytes:
    """Indented JSON with the figures that are derived."""
    plain: dict[str, Any] = msgspec.to_builtins(made)
    if isinstance(made, FleetPlan):
        for fleet, shown in zip(made.choices, plain["choices"], strict=True):
            shown["queue"] |= {"keeps_up": fleet.queue.keeps_up, "utilisation": fleet.queue.utilisation}
    if isinstance(made, Plan):
        for choice, shown in zip(made.choices, plain["choices"], strict=True):
            shown["prediction"] |= _derived(choice.prediction)
        if made.chosen is not None:
            plain["chosen"]["prediction"] |= _derived(made.chosen.prediction)
    return msgspec.json.format(msgspec.json.encode(plain), indent=2)


def _derived(prediction: Any) -> dict[str, Any]:
    names = ("total_seconds", "exposed_seconds", "hidden_seconds", "memory_bytes", "fits", "bound")
    return {name: getattr(prediction, name) for name in names}
