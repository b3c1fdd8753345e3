"""A workload's file: its grammar, and what is wrong with one.

    name = "portrait"
    repeats = 2                  # the list of requests, so many times in a round
    concurrency = 1              # a closed loop: so many at a time. Or, at random moments drawn from a seed:
    # arrival_rate = 0.5         # requests a second
    # arrival_seed = 0

    [[request]]
    prompt = "a whale rises above the clouds"
    image = "whale.jpg"          # first frame, beside this file; "given": the one of --image
    size = "1280x704"
    num_frames = 25
    seed = 0                     # -1: another one for each request, the same for all who are measured
    lora = ["style:0.8"]         # names that the server offers

    [[variant]]                  # measured beside: every request with these fields (bench/variants.py)
    num_inference_steps = 25

What a request leaves out is as the checkpoint's defaults are, or the first server's.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from ringlight.bench.variants import RequestVariant, read_variant, unknown, unknown_names
from ringlight.core.asked_loras import written_out
from ringlight.core.errors import InvalidRequest, InvalidSetting
from ringlight.core.fields import opened, setting
from ringlight.core.video_fields import DRAW, UnsizedFields

SIZE = re.compile(r"([0-9]{1,6})x([0-9]{1,6})")
GIVEN = "given"
PICTURE = f'a path, from the file\'s folder, or "{GIVEN}" for the one of --image'

Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Rate = Annotated[float, msgspec.Meta(gt=0, le=1e6)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=30 * 86400)]
Seed = Annotated[int, msgspec.Meta(ge=DRAW)]

if TYPE_CHECKING:
    OpenFields = UnsizedFields  # the same attributes, of which each may be None
else:
    OpenFields = opened("OpenFields", UnsizedFields)
    """The fields of UnsizedFields, of which None is left out."""


class AskedKind(OpenFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One kind of request, as a file has it: what is None is left out."""

    prompt: Annotated[str, setting("What the video shows.")]
    size: Annotated[str | None, setting("WIDTHxHEIGHT in pixels.")] = None
    seed: Annotated[
        Seed | None,
        setting(f"0 where it is left out; {DRAW}: one drawn for each request, the same for all who are measured."),
    ] = None
    image: Annotated[str | None, setting(f"First frame: {PICTURE}.")] = None
    last_image: Annotated[str | None, setting(f"Last frame, of models that take one: {PICTURE}.")] = None


class WorkloadFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Content of a file."""

    request: list[AskedKind]
    variant: list[RequestVariant] = []
    name: Annotated[str, setting("What it is called; else as its file.")] = ""
    description: Annotated[str, setting("A line for the page.")] = ""
    repeats: Annotated[Count, setting("So many times a round the list of requests is sent.")] = 1
    warm_up: Annotated[int, setting("Requests before each round that do not count.", ge=0, le=1000)] = 1
    concurrency: Annotated[
        Count | None, setting("Requests at a time, each after the end of one before; 1 where it is left out.")
    ] = None
    arrival_rate: Annotated[Rate | None, setting("Instead: requests a second, at random moments.")] = None
    arrival_seed: Annotated[int | None, setting("Of these moments; 0 where it is left out.")] = None
    timeout_seconds: Annotated[Seconds, setting("For each request, from the moment that it is sent.")] = 3600.0
    fresh_prompts: Annotated[
        bool,
        setting("End every prompt with a number of its own, for servers remember the prompts that they encoded."),
    ] = True


def size_of(text: str) -> tuple[int, int]:
    """Width and height in pixels. Raises ValueError for a size that is none."""
    match = SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"size {text!r} is not WIDTHxHEIGHT, such as 1280x704")
    return int(match[1]), int(match[2])


def read_file(path: Path) -> WorkloadFile:
    """Read a TOML file.

    Raises InvalidSetting naming the file, and every name in it that is not known with the nearest that is.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidSetting(f"{path}: {error.strerror}") from None
    except ValueError as error:  # no UTF-8, no TOML
        raise InvalidSetting(f"{path}: {error}") from None
    if problems := _unknown(values):
        raise InvalidSetting(f"{path}: {'; '.join(problems)}")
    tables = values.pop("variant", [])
    try:
        said = msgspec.convert(_with_loras(values), WorkloadFile)
        variants = _variants(tables)
    except (msgspec.ValidationError, InvalidRequest, InvalidSetting) as error:
        raise InvalidSetting(f"{path}: {error}") from None
    if problems := [*_contradictions(said)]:
        raise InvalidSetting(f"{path}: {'; '.join(problems)}")
    return msgspec.structs.replace(said, name=said.name or path.stem, variant=variants)


def _with_loras(values: dict[str, Any]) -> dict[str, Any]:
    """Write LoRAs out. Raises InvalidRequest."""
    requests = values.get("request")
    return values | {"request": [*map(written_out, requests)]} if isinstance(requests, list) else values


def _variants(tables: Any) -> list[RequestVariant]:
    """Raises InvalidSetting, InvalidRequest for LoRAs, ValidationError."""
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise InvalidSetting("variants are tables, each below [[variant]]")
    found = []
    for number, table in enumerate(tables, 1):
        try:
            found.append(read_variant(table))
        except (msgspec.ValidationError, InvalidRequest, InvalidSetting) as error:
            raise InvalidSetting(f"variant {number}: {error}") from None
    return found


def _unknown(values: dict[str, Any]) -> list[str]:
    """Names that no workload has."""
    found = [*_strange(values, _names(WorkloadFile))]
    for number, table in _tables(values, "request"):
        found += [f"request {number}: {each}" for each in _strange(table, _names(AskedKind))]
    for number, table in _tables(values, "variant"):
        found += [f"variant {number}: {each}" for each in unknown_names(table)]
    return sorted(found)


def _names(kind: type[msgspec.Struct]) -> list[str]:
    return [field.name for field in msgspec.structs.fields(kind)]


def _strange(table: dict[str, Any], known: Collection[str]) -> Iterator[str]:
    return (unknown(name, known) for name in table.keys() - {*known})


def _tables(values: dict[str, Any], name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The tables of a name, by number, as far as they are some."""
    tables = values.get(name)
    found = enumerate(tables, 1) if isinstance(tables, list) else ()
    return ((number, table) for number, table in found if isinstance(table, dict))


def _contradictions(said: WorkloadFile) -> Iterator[str]:
    """Yield problems of values that are each allowed but contradict each other."""
    if not said.request:
        yield "has no [[request]]"
    if said.arrival_rate is not None and said.concurrency is not None:
        yield "give concurrency (a closed loop) or arrival_rate, not both"
    if said.arrival_rate is None and said.arrival_seed is not None:
        yield "arrival_seed goes with arrival_rate"
    for number, asked in enumerate(said.request, 1):
        try:
            _ = None if asked.size is None else size_of(asked.size)
        except ValueError as error:
            yield f"request {number}: {error}"
