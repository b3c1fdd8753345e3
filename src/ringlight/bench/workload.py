"""Workload: which requests are sent to a server, and when. Equal hashes mean equal work.

A file may leave out what a checkpoint or a server has a default for; here nothing is left to it. What is sent is said
whole, is the same for all who are measured, and stands in results.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Self

import msgspec

from ringlight.bench.variants import RequestVariant, wrong_names
from ringlight.bench.workload_file import GIVEN, AskedKind, OpenFields, Seed, WorkloadFile, read_file, size_of
from ringlight.core.errors import InvalidRequest, InvalidSetting
from ringlight.core.request import (
    RequestDefaults,
    RequestLimits,
    VideoRequest,
    filled,
    steps_of,
    task_of,
    with_values,
)
from ringlight.core.video_fields import DRAW, VIDEO_FIELDS
from ringlight.families.lora_library import LoraLibrary
from ringlight.families.model import ModelSpec
from ringlight.wire.model import ModelCard

PROMPT = "A paper boat sails through a rainy street at night, neon signs are mirrored in the water."
FIRST_FIELDS = ("negative_prompt", "num_frames", "fps", "num_inference_steps", "guidance_scale")  # in every hash
LATER_DEFAULTS = {field.name: field.default for field in VIDEO_FIELDS if field.name not in FIRST_FIELDS}
"""Values that are no part of the work: a field that is added leaves the hashes of the workloads that do not use it."""


class RequestKind(OpenFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One kind of request, whole. What is None is left to the server, which has not said what it takes for it.

    `image` is a path, relative to the workload's file, or "given"; None makes T2V. So is `last_image`, of models that
    take one.
    """

    prompt: str
    size: str
    num_frames: int
    num_inference_steps: int
    guidance_scale: float
    seed: Seed = 0
    image: str | None = None
    last_image: str | None = None

    @property
    def width_height(self) -> tuple[int, int]:
        """Width and height in pixels. Raises ValueError for a size that is none."""
        return size_of(self.size)

    @property
    def title(self) -> str:
        """Short title of the request."""
        task = task_of(self.image, self.last_image)
        loras = f", LoRA {', '.join(map(str, self.lora))}" if self.lora else ""
        frames = f"{self.size}, {self.num_frames} frames"
        return f"{task}, {frames}, {steps_of(self)}, guidance {self.guidance_scale:g}{loras}"


class Usual(msgspec.Struct, frozen=True, kw_only=True):
    """Defaults for the `fields` that a workload leaves out, of the checkpoint or the server `name`.

    A server that is none of ours tells no fields.
    """

    name: str
    fields: dict[str, Any]
    has_experts: bool = False
    needs_picture: bool = False
    needs_last_picture: bool = False

    @classmethod
    def of_checkpoint(cls, defaults: RequestDefaults, spec: ModelSpec) -> Self:
        """Defaults of a checkpoint that is here."""
        return cls(
            name=spec.name,
            fields=msgspec.to_builtins(defaults.settled(spec)),
            has_experts=spec.has_experts,
            needs_picture=spec.needs_picture,
            needs_last_picture=spec.needs_last_picture,
        )

    @classmethod
    def of_server(cls, card: ModelCard) -> Self:
        """Defaults that a server tells. Fields that we do not know are left to it."""
        known = {field.name for field in VIDEO_FIELDS}
        return cls(
            name=card.id,
            fields={name: value for name, value in card.defaults.items() if name in known},
            has_experts=card.has_experts,
            needs_picture=card.needs_picture,
            needs_last_picture=card.needs_last_picture,
        )

    def whole(self, asked: AskedKind) -> RequestKind:
        """A kind of request with what it leaves out. Raises InvalidSetting naming what nobody says."""
        given = {name: value for name, value in msgspec.to_builtins(asked).items() if value is not None}
        base = {name: value for name, value in self.fields.items() if name not in ("width", "height", "seed")}
        if {"width", "height"} <= self.fields.keys():
            base["size"] = f"{self.fields['width']}x{self.fields['height']}"
        fields = filled(base, given, self.has_experts)
        needed = [field.name for field in msgspec.structs.fields(RequestKind) if field.required]
        if missing := [name for name in needed if fields.get(name) is None]:
            raise InvalidSetting(f"{self.name} tells no default of {', '.join(missing)}: say it in the workload")
        return msgspec.convert(fields, RequestKind)


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """Request as it is sent: its kind in the workload, and its time in seconds from the round's begin."""

    kind: int
    fields: dict[str, Any]
    image: bytes | None = None
    last_image: bytes | None = None
    at_seconds: float = 0.0


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """Workload as it was said, its kinds of requests, and the bytes of their pictures."""

    said: WorkloadFile
    kinds: list[RequestKind]
    images: tuple[bytes | None, ...]
    last_images: tuple[bytes | None, ...] = ()

    @classmethod
    def of(cls, said: WorkloadFile, path: Path, usual: Usual, image: Path | None = None) -> Workload:
        """Workload of a file, with what it leaves out. `image` is what requests mean by image = "given".

        Raises InvalidSetting naming the file.
        """
        try:
            kinds = []
            for number, asked in enumerate(said.request, 1):
                try:
                    kinds.append(usual.whole(asked))
                except (InvalidSetting, msgspec.ValidationError) as error:
                    raise InvalidSetting(f"request {number}: {error}") from None
            images = tuple(_picture(asked.image, path, image) for asked in kinds)
            last_images = tuple(_picture(asked.last_image, path, image) for asked in kinds)
            plain = msgspec.structs.replace(said, variant=[])
            return cls(said=plain, kinds=kinds, images=images, last_images=last_images).beside(said.variant)
        except InvalidSetting as error:
            raise InvalidSetting(f"{path}: {error}") from None

    @classmethod
    def usual(cls, usual: Usual, image: Path | None = None) -> Workload:
        """Workload of one request with all defaults, or with these and a picture, once a round.

        A video that needs a last picture too ends with the same. Raises InvalidSetting if the model needs a picture
        and there is none.
        """
        if usual.needs_picture and image is None:
            raise InvalidSetting(f"{usual.name} makes no video without a picture; name one with --image")
        given = None if image is None else GIVEN
        asked = AskedKind(prompt=PROMPT, image=given, last_image=given if usual.needs_last_picture else None)
        said = WorkloadFile(request=[asked], name=f"defaults of {usual.name}")
        return cls.of(said, Path(said.name), usual, image)

    @property
    def name(self) -> str:
        return self.said.name

    @property
    def variants(self) -> list[RequestVariant]:
        return self.said.variant

    def beside(self, variants: Sequence[RequestVariant]) -> Workload:
        """The same with these variants too. Raises InvalidSetting with all that is wrong with them."""
        problems = [*wrong_names("variant", [each.name for each in (*self.variants, *variants)])]
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
            tables = [
                filled(msgspec.to_builtins(kind), variant.fields, kind.guidance_scale_2 is not None)
                for kind in self.kinds
            ]
            kinds = [msgspec.convert(table, RequestKind) for table in tables]
            for kind in kinds:
                _ = kind.width_height
        except ValueError as error:  # ValidationError is one
            raise InvalidSetting(f"variant {variant.name}: {error}") from None
        said = msgspec.structs.replace(self.said, variant=[], name=name)
        return msgspec.structs.replace(self, said=said, kinds=kinds)

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
        kinds: list[dict[str, Any]] = [_counted(kind) for kind in self.kinds]
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

    def video_request(self, kind: int, spec: ModelSpec) -> VideoRequest:
        """A kind as the engine has it; a seed that is drawn for each request stands as 0."""
        asked = self.kinds[kind]
        width, height = asked.width_height
        fields = with_values(msgspec.structs.asdict(asked)) | {"seed": max(asked.seed, 0)}
        del fields["size"]
        pictures = {"image": self.images[kind], "last_image": self.last_image(kind)}
        shift = {"flow_shift": spec.scheduler.flow_shift}
        return VideoRequest(**shift | fields | pictures | {"width": width, "height": height})

    def check(self, spec: ModelSpec, limits: RequestLimits, loras: LoraLibrary | None = None) -> None:
        """Raise InvalidSetting naming every request that the model cannot make, and all that is wrong with it.

        With `loras`, LoRAs that are not among these count too.
        """
        problems = []
        for kind in range(len(self.kinds)):
            request = self.video_request(kind, spec)
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
            fields |= {name: f"{fields[name]} {mark}" for name in ("prompt", "negative_prompt") if fields.get(name)}
        pictures = {"image": self.images[kind], "last_image": self.last_image(kind)}
        return Order(kind=kind, fields=fields, **pictures, at_seconds=moment)


def read_workload(path: Path, usual: Usual, image: Path | None = None) -> Workload:
    """The workload of a TOML file. Raises InvalidSetting naming the file."""
    return Workload.of(read_file(path), path, usual, image)


def _counted(kind: RequestKind) -> dict[str, Any]:
    """Values of a request that are part of the work."""
    values = with_values(msgspec.to_builtins(kind))
    return {
        name: value for name, value in values.items() if name not in LATER_DEFAULTS or value != LATER_DEFAULTS[name]
    }


def _told(picture: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(picture).hexdigest(), "bytes": len(picture)}


def _picture(asked: str | None, path: Path, given: Path | None) -> bytes | None:
    if asked is None:
        return None
    if asked == GIVEN and given is None:
        raise InvalidSetting("a request needs a first frame; name a picture with --image")
    source = given if asked == GIVEN and given is not None else path.parent / asked
    try:
        return source.read_bytes()
    except OSError as error:
        raise InvalidSetting(f"{source}: {error.strerror}") from None
