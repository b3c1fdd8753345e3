"""Flags of a benchmark: servers, layouts and requests, all checked before anything is sent."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec

from ringlight.bench.variants import OF_SERVERS, RequestVariant, read_flag, read_variant, unknown_names, wrong_names
from ringlight.cli.flags import as_flags
from ringlight.core.checkpoint import find_checkpoint
from ringlight.core.config import EngineConfig, read_limits
from ringlight.core.errors import InvalidRequest, InvalidSetting, RinglightError
from ringlight.core.fields import setting
from ringlight.core.layout import AskedLayout, ParallelLayout, candidates
from ringlight.engine.site import check_installed
from ringlight.families.lora_library import LoraLibrary
from ringlight.families.model import ModelSpec
from ringlight.families.table import model_defaults, read_model

if TYPE_CHECKING:
    from ringlight.bench.runner import RunningServer
    from ringlight.bench.servers import Launch
    from ringlight.bench.workload import Usual, Workload

MEASURED = "What is measured"
ASKING_RETRIES = 2  # whoever sits before a terminal would rather know


class AskedBenchmark(msgspec.Struct, frozen=True, kw_only=True):
    """Flags for what is measured."""

    layouts: Annotated[
        tuple[str, ...], setting("Names such as u1r1 u1r2 c2u1r1, one after another.", MEASURED, splits=False)
    ] = ()
    model_path: Annotated[
        Path | None, setting("Checkpoint that a server is started with for each layout.", MEASURED)
    ] = None
    url: Annotated[
        tuple[str, ...],
        setting(
            "Measure a server that runs already instead. May be repeated, as --url before=http://... --url "
            "after=http://...: each has its turn in every round, and is held to the first.",
            MEASURED,
            metavar="[NAME=]URL",
            splits=False,
        ),
    ] = ()
    workload: Annotated[
        Path | None,
        setting(
            "TOML file of requests; what it leaves out, or all, is as the checkpoint's defaults are, or the first "
            "server's.",
            MEASURED,
        ),
    ] = None
    image: Annotated[
        Path | None,
        setting(
            "First frame of the defaults, also the last one of models that need both; or of requests that say image = "
            '"given".',
            MEASURED,
        ),
    ] = None
    variant: Annotated[
        tuple[str, ...],
        setting(
            "Measure beside each layout what differs so: fields of every request, and as server.NAME settings of a "
            "server of its own. May be repeated; a workload's [[variant]] says the same.",
            MEASURED,
            metavar="NAME=VALUE,...",
            splits=False,
        ),
    ] = ()
    rounds: Annotated[
        int,
        setting(
            "How often each layout has its turn. Fewer than four cannot tell a difference from chance.", MEASURED, ge=1
        ),
    ] = 5


def read_servers(urls: Sequence[str]) -> dict[str, str]:
    """The servers of --url: their URLs by name. Raises InvalidSetting."""
    found = dict[str, str]()
    for place, text in enumerate(urls, 1):
        name, sign, rest = text.partition("=")
        is_named = bool(sign) and "://" not in name
        usual = "server" if len(urls) == 1 else f"server{place}"
        name, url = (name.strip(), rest.strip()) if is_named else (usual, text.strip())
        if not url.startswith(("http://", "https://")):
            raise InvalidSetting(f"url {text!r} is not [NAME=]URL, such as after=http://127.0.0.1:8898")
        if name in found:
            raise InvalidSetting(f"2 servers are called {name}; give each a name of its own, as NAME=URL")
        found[name] = url
    if problems := [*wrong_names("server", [*found])]:
        raise InvalidSetting("; ".join(problems))
    return found


def read_keys(keys: Sequence[str], names: Collection[str]) -> dict[str, str]:
    """Keys of --api-key by the names of servers. Raises InvalidSetting.

    One without NAME= is for all servers that have none of their own, and stands below the empty name.
    """
    found = dict[str, str]()
    for key in keys:
        name, sign, rest = key.partition("=")
        name, rest = (name, rest) if sign and name in names else ("", key)
        if name in found:
            raise InvalidSetting(f"2 keys are for {name or 'all servers'}; say NAME=KEY, with a NAME of --url")
        found[name] = rest
    return found


def read_workload(
    asked: AskedBenchmark, engine: EngineConfig, spec: ModelSpec | None, servers: Sequence[RunningServer]
) -> Workload:
    """Workload of a file, else of the defaults.

    Raises InvalidSetting, and Unreachable or ApiError for a server that is to tell its defaults.
    """
    from ringlight.bench.workload import Workload
    from ringlight.bench.workload_file import read_file

    said = None if asked.workload is None else read_file(asked.workload)
    variants = [_variant(text) for text in asked.variant]
    whole = [*variants, *([] if said is None else said.variant)]
    if servers and (own := [variant.name for variant in whole if variant.server]):
        raise InvalidSetting(f"variants with a server of their own ({', '.join(own)}) need --model-path, not --url")
    usual = _usual(asked, spec, servers)
    if said is not None and asked.workload is not None:
        workload = Workload.of(said, asked.workload, usual, asked.image)
    else:
        workload = Workload.usual(usual, asked.image)
    workload = workload.beside(variants)
    if spec is not None:
        exact = [variant for variant in workload.variants if not variant.server]
        for each in (workload, *map(workload.varied, exact)):
            each.check(spec, read_limits(), None if servers else LoraLibrary(engine, spec))
    return workload


def _usual(asked: AskedBenchmark, spec: ModelSpec | None, servers: Sequence[RunningServer]) -> Usual:
    """Defaults for what is left out: of the first server, which is asked, else of the checkpoint."""
    from ringlight.bench.workload import Usual
    from ringlight.client import ApiError, Client

    if not servers:
        assert spec is not None, "there is a checkpoint, or a server"
        return Usual.of_checkpoint(model_defaults(spec, find_checkpoint(str(asked.model_path))), spec)
    with Client(servers[0].url, servers[0].api_key, max_retries=ASKING_RETRIES) as client:
        try:
            return Usual.of_server(client.card())
        except ApiError as error:
            if error.status not in (200, 404, 405, 501):
                raise
            return Usual(name=servers[0].name, fields={})  # a server that is none of ours


def _variant(text: str) -> RequestVariant:
    """Parse the value of --variant. Raises InvalidSetting."""
    try:
        table = read_flag(text)
        if problems := [*unknown_names(table)]:
            raise InvalidSetting("; ".join(problems))
        return read_variant(table, strict=False)
    except (InvalidSetting, InvalidRequest, msgspec.ValidationError) as error:
        raise InvalidSetting(f"variant {text!r}: {error}") from None


def read_launches(
    asked: AskedBenchmark, names: list[str], engine: EngineConfig, workload: Workload, logs: Path
) -> tuple[Launch, dict[str, Launch]]:
    """Launch of the exact servers, and those of variants that have their own, by name.

    Raises InvalidSetting for variants that these servers cannot make, or that change nothing.
    """
    from ringlight.bench.servers import Launch

    assert asked.model_path is not None, "or there is a URL"
    check_installed(engine)
    exact = Launch(model_path=asked.model_path, flags=tuple(as_flags(engine, OF_SERVERS)), logs=logs)
    own = {}
    for variant in workload.variants:
        if not variant.server:
            continue
        settings = {name: tuple(value) if isinstance(value, list) else value for name, value in variant.server.items()}
        place = Path(str(settings.pop("model_path", asked.model_path)))
        try:
            changed = msgspec.structs.replace(engine, **settings)
            spec = read_model(find_checkpoint(str(place)))
            check_asked(names, asked, spec)
            varied = workload.varied(variant)
            varied.check(spec, read_limits(), LoraLibrary(changed, spec))
        except RinglightError as error:
            raise InvalidSetting(f"variant {variant.name}: {error}") from None
        launch = Launch(model_path=place, flags=tuple(as_flags(changed, OF_SERVERS)), logs=logs)
        if launch == exact and varied.kinds == workload.kinds:
            raise InvalidSetting(f"variant {variant.name}: differs in nothing from what it is measured beside")
        own[variant.name] = msgspec.structs.replace(launch, variant=variant.name)
    return exact, own


def check_asked(names: list[str], asked: AskedBenchmark, spec: ModelSpec | None) -> None:
    """Raise InvalidSetting where it is not clear what is to be measured, InvalidLayout for more ranks than heads."""
    if not asked.url and asked.model_path is None:
        raise InvalidSetting("name a checkpoint with --model-path, or a running server with --url")
    if not asked.url and not names:
        raise InvalidSetting("name --layouts, such as --layouts u1r1 u1r2")
    if spec is not None:
        for name in names:
            candidates(AskedLayout.of(ParallelLayout.parse(name)), num_heads=spec.transformer.num_attention_heads)
