"""Workload: which requests are sent to a server, and when, as a TOML file says it. Equal hashes mean equal work.

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
    num_inference_steps = 50
    guidance_scale = 5.0
    seed = 0                     # -1: another one for each request, the same for all who are measured
    lora = ["style:0.8"]         # names that the server offers

    [[variant]]                  # measured beside: every request with these fields (bench/variants.py)
    num_inference_steps = 25

Nothing is left to a server's defaults: what a file does not say has the value that stands here.
"""

from __future__ import annotations

import hashlib
import random
import re
import tomllib
from collections.abc import Collection, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any

import msgspec

from ringlight.bench.variants import RequestVariant, read_variant, unknown, unknown_names, wrong_names
from ringlight.core.asked_loras import written_out
from ringlight.core.errors import InvalidRequest, InvalidSetting
from ringlight.core.named_samplers import layered
from ringlight.core.request import RequestDefaults, RequestLimits, VideoRequest, steps_of, task_of, with_values
from ringlight.core.video_fields import DRAW, UnsizedFields
from ringlight.families.lora_library import LoraLibrary
from ringlight.families.model import ModelSpec

GIVEN = "given"
SIZE = re.compile(r"([0-9]{1,6})x([0-9]{1,6})")

Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=30 * 86400)]


class RequestKind(UnsizedFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Kind of request in a workload.

    `image` is a path, relative to the workload's file, or "given"; None makes T2V. So is `last_image`, of models that
    take one.
    """

    prompt: str
    size: str
    num_frames: int
    num_inference_steps: int
    guidance_scale: float
    flow_shift: float = 5.0
    seed: Annotated[int, msgspec.Meta(ge=DRAW)] = 0
    image: str | None = None
    last_image: str | None = None

    @property
    def width_height(self) -> tuple[int, int]:
        """Width and height in pixels. Raises ValueError for a malformed size."""
        match = SIZE.fullmatch(self.size)
        if match is None:
            raise ValueError(f"size {self.size!r} is not WIDTHxHEIGHT, such as 1280x704")
        return int(match[1]), int(match[2])

    @property
    def title(self) -> str:
        """Short title of the request."""
        task = task_of(self.image, self.last_image)
        loras = f", LoRA {', '.join(map(str, self.lora))}" if self.lora else ""
        frames = f"{self.size}, {self.num_frames} frames"
        return f"{task}, {frames}, {steps_of(self)}, guidance {self.guidance_scale:g}{loras}"


class WorkloadFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Contents of a workload file. `timeout_seconds` bounds each request from the moment it is sent.

    `fresh_prompts` ends every prompt with a number of its own, for servers remember the prompts that they encoded.
    """

    request: list[RequestKind]
    variant: list[RequestVariant] = []
    name: str = ""
    description: str = ""
    repeats: Count = 1
    warm_up: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 1
    concurrency: Count | None = None
    arrival_rate: Annotated[float, msgspec.Meta(gt=0, le=1e6)] | None = None
    arrival_seed: int | None = None
    timeout_seconds: Seconds = 3600.0
    fresh_prompts: bool = True


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """Request as it is sent: its kind in the workload, and its time in seconds from the round's begin."""

    kind: int
    fields: dict[str, Any]
    image: bytes | None = None
    last_image: bytes | None = None
    at_seconds: float = 0.0


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """Workload file with the bytes of its pictures, by kind of request."""

    said: WorkloadFile
    images: tuple[bytes | None, ...]
    last_images: tuple[bytes | None, ...] = ()

    @classmethod
    def usual(cls, defaults: RequestDefaults, spec: ModelSpec, image: Path | None = None) -> Workload:
        """Build the workload of a checkpoint's defaults: one request a round, with a picture or without.

        A video that needs a last picture too ends with the same. Raises InvalidSetting if the model needs a picture and
        none is given.
        """
        if spec.needs_picture and image is None:
            raise InvalidSetting(f"{spec.name} makes no video without a picture; name one with --image")
        prompt = "A paper boat sails through a rainy street at night, neon signs are mirrored in the water."
        request = msgspec.structs.asdict(msgspec.structs.replace(defaults, seed=0).complete(prompt, spec))
        width, height = request.pop("width"), request.pop("height")
        given = None if image is None else GIVEN
        pictures = {"image": given, "last_image": given if spec.needs_last_picture else None}
        kind = RequestKind(size=f"{width}x{height}", **request | pictures)
        said = WorkloadFile(request=[kind], name=f"defaults of {spec.name}")
        first, last = (_picture(each, Path(GIVEN), image) for each in pictures.values())
        return cls(said=said, images=(first,), last_images=(last,))

    @property
    def name(self) -> str:
        return self.said.name

    @property
    def kinds(self) -> list[RequestKind]:
        return self.said.request

    @property
    def variants(self) -> list[RequestVariant]:
        return self.said.variant

    def beside(self, variants: Sequence[RequestVariant]) -> Workload:
        """Workload with these variants added. Raises InvalidSetting with all that is wrong with them."""
        problems = [*wrong_names([*self.variants, *variants])]
        for variant in variants:
            try:
                same = self.varied(variant).kinds == self.kinds
                if same and not variant.server:
                    problems.append(f"variant {variant.name}: differs in nothing from the requests")
            except InvalidSetting as error:
                problems.append(str(error))
        if problems:
            raise InvalidSetting("; ".join(problems))
        said = msgspec.structs.replace(self.said, variant=[*self.variants, *variants])
        return msgspec.structs.replace(self, said=said)

    def varied(self, variant: RequestVariant) -> Workload:
        """Workload with a variant's changes applied to every request, and no variants. Raises InvalidSetting."""
        name = f"{self.name}, variant {variant.name}"
        try:
            tables = [layered(msgspec.to_builtins(kind), variant.fields) for kind in self.kinds]
            kinds = [msgspec.convert(table, RequestKind) for table in tables]
            for kind in kinds:
                _ = kind.width_height
        except ValueError as error:  # ValidationError is one
            raise InvalidSetting(f"variant {variant.name}: {error}") from None
        said = msgspec.structs.replace(self.said, request=kinds, variant=[], name=name)
        return msgspec.structs.replace(self, said=said)

    @property
    def concurrency(self) -> int | None:
        """Requests at a time in a closed loop; None where they arrive by a rate."""
        return None if self.said.arrival_rate else self.said.concurrency or 1

    def content(self) -> dict[str, Any]:
        """Everything that defines the work, as plain JSON; a picture is its SHA-256 and its size in bytes."""
        plain: dict[str, Any] = msgspec.to_builtins(self.said)
        for name in ("name", "description", "request", "variant"):
            del plain[name]
        if self.variants:  # what was written before there were any has the hash that it had
            plain["variants"] = [{"fields": each.fields, "server": each.server} for each in self.variants]
        plain["concurrency"] = self.concurrency
        kinds: list[dict[str, Any]] = [with_values(msgspec.to_builtins(kind)) for kind in self.kinds]
        for kind, image in zip(kinds, self.images, strict=True):
            if image is not None:
                kind["image"] = _told(image)
        for number, kind in enumerate(kinds):
            if (last := self.last_image(number)) is not None:
                kind["last_image"] = _told(last)
            else:
                del kind["last_image"]
        return {"requests": kinds, **plain}

    def last_image(self, kind: int) -> bytes | None:
        """The picture that a kind of request ends with."""
        return self.last_images[kind] if self.last_images else None

    @property
    def sha256(self) -> str:
        """Hash of the content; names, description and the paths of pictures do not count."""
        return hashlib.sha256(msgspec.json.encode(self.content(), order="deterministic")).hexdigest()

    def round(self, number: int) -> list[Order]:
        """Requests of a round, the same for all columns; rounds count from 1."""
        count = len(self.kinds) * self.said.repeats
        draw = random.Random(f"{self.said.arrival_seed or 0} {number}")
        rate = self.said.arrival_rate
        moments = accumulate(draw.expovariate(rate) for _ in range(count)) if rate else [0.0] * count
        first = (number - 1) * count + 1
        return [
            self._order(place % len(self.kinds), f"({first + place})", moment) for place, moment in enumerate(moments)
        ]

    def warm_up(self) -> list[Order]:
        """Requests that are sent before those that count."""
        return [self._order(place % len(self.kinds), f"(warm-up {place + 1})") for place in range(self.said.warm_up)]

    def video_request(self, kind: int) -> VideoRequest:
        """A kind as the engine has it; a seed that is drawn for each request stands as 0."""
        asked = self.kinds[kind]
        width, height = asked.width_height
        fields: dict[str, Any] = msgspec.structs.asdict(asked) | {"seed": max(asked.seed, 0)}
        del fields["size"]
        pictures = {"image": self.images[kind], "last_image": self.last_image(kind)}
        return VideoRequest(**fields | pictures | {"width": width, "height": height})

    def check(self, spec: ModelSpec, limits: RequestLimits, loras: LoraLibrary | None = None) -> None:
        """Raise InvalidSetting naming every request that the model cannot make, and all that is wrong with it.

        With `loras`, LoRAs that are not among these count too.
        """
        problems = []
        for kind in range(len(self.kinds)):
            request = self.video_request(kind)
            try:
                request.check(spec, limits)
                if loras is not None:
                    loras.resolve(request.lora)
            except InvalidRequest as error:
                problems.append(f"request {kind + 1}: {error}")
        if problems:
            raise InvalidSetting(f"workload {self.name}: {'; '.join(problems)}")

    def _order(self, kind: int, mark: str, moment: float = 0.0) -> Order:
        fields = with_values(msgspec.structs.asdict(self.kinds[kind]))
        del fields["image"], fields["last_image"]
        if fields["seed"] == DRAW:  # alike for all who are measured
            fields["seed"] = random.Random(f"{self.said.arrival_seed or 0} seed {mark}").randrange(2**32)
        if self.said.fresh_prompts:
            for name in ("prompt", "negative_prompt"):
                fields[name] = f"{fields[name]} {mark}" if fields[name] else ""
        pictures = {"image": self.images[kind], "last_image": self.last_image(kind)}
        return Order(kind=kind, fields=fields, **pictures, at_seconds=moment)


def read_workload(path: Path, image: Path | None = None) -> Workload:
    """The workload of a TOML file. `image` is what requests mean by image = "given".

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
        said = msgspec.convert(_with_what_is_brought(values), WorkloadFile)
        variants = _variants(tables)
    except (msgspec.ValidationError, InvalidRequest, InvalidSetting) as error:
        raise InvalidSetting(f"{path}: {error}") from None
    if not said.name:
        said = msgspec.structs.replace(said, name=path.stem)
    if problems := [*_contradictions(said)]:
        raise InvalidSetting(f"{path}: {'; '.join(problems)}")
    images = tuple(_picture(asked.image, path, image) for asked in said.request)
    last_images = tuple(_picture(asked.last_image, path, image) for asked in said.request)
    try:
        return Workload(said=said, images=images, last_images=last_images).beside(variants)
    except InvalidSetting as error:
        raise InvalidSetting(f"{path}: {error}") from None


def _with_what_is_brought(values: dict[str, Any]) -> dict[str, Any]:
    """Add the fields that a sampler or sigmas bring to their requests, and write LoRAs out. Raises InvalidRequest."""
    requests = values.get("request")
    if not isinstance(requests, list):
        return values
    found = [layered({}, written_out(table)) if isinstance(table, dict) else table for table in requests]
    return values | {"request": found}


def _variants(tables: Any) -> list[RequestVariant]:
    """Read the variants of a workload. Raises InvalidSetting, InvalidRequest for LoRAs, ValidationError."""
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
        found += [f"request {number}: {each}" for each in _strange(table, _names(RequestKind))]
    for number, table in _tables(values, "variant"):
        found += [f"variant {number}: {each}" for each in unknown_names(table)]
    return sorted(found)


def _names(kind: type[msgspec.Struct]) -> list[str]:
    return [field.name for field in msgspec.structs.fields(kind)]


def _strange(table: dict[str, Any], known: Collection[str]) -> Iterator[str]:
    return (unknown(name, known) for name in table.keys() - {*known})


def _tables(values: dict[str, Any], name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the tables of a name with their numbers, leaving out what is no table."""
    tables = values.get(name)
    found = enumerate(tables, 1) if isinstance(tables, list) else ()
    return ((number, table) for number, table in found if isinstance(table, dict))


def _contradictions(said: WorkloadFile) -> list[str]:
    """Problems of values that are each allowed but contradict each other."""
    problems = []
    if not said.request:
        problems.append("has no [[request]]")
    if said.arrival_rate is not None and said.concurrency is not None:
        problems.append("give concurrency (a closed loop) or arrival_rate, not both")
    if said.arrival_rate is None and said.arrival_seed is not None:
        problems.append("arrival_seed goes with arrival_rate")
    for number, asked in enumerate(said.request, 1):
        try:
            _ = asked.width_height
        except ValueError as error:
            problems.append(f"request {number}: {error}")
    return problems


def _told(picture: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(picture).hexdigest(), "bytes": len(picture)}


def _picture(asked: str | None, path: Path, given: Path | None) -> bytes | None:
    if asked is None:
        return None
    if asked == GIVEN and given is None:
        raise InvalidSetting(f"{path}: a request needs a first frame; name a picture with --image")
    source = given if asked == GIVEN and given is not None else path.parent / asked
    try:
        return source.read_bytes()
    except OSError as error:
        raise InvalidSetting(f"{source}: {error.strerror}") from None
