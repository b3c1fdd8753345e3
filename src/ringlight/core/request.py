"""VideoRequest: one video to make, complete once through the door: no field means "decide later"."""

from __future__ import annotations

import difflib
import hashlib
import math
import secrets
from collections.abc import Container, Iterator, Mapping
from typing import Any

import msgspec

from ringlight.core.asked_loras import problems_of, read_loras, without_name
from ringlight.core.errors import InvalidRequest, Problem
from ringlight.core.geometry import Geometry
from ringlight.core.named_samplers import METHODS, SAMPLERS, brought_by, layered
from ringlight.core.plain import counted, plain
from ringlight.core.video_fields import DRAW, LEAST_SIGMA, VIDEO_FIELDS, UnsizedFields, VideoField, VideoFields

ROUNDING = 1e-9
BOTH_ENDS = "that begins with one picture and ends with another"


class VideoRequest(VideoFields, frozen=True, kw_only=True):
    """One video to make, with every field complete.

    `image` holds the bytes of an encoded picture: with it the request is image-to-video. So does `last_image`, with
    which the video ends.
    """

    flow_shift: float
    seed: int
    prompt: str
    image: bytes | None = None
    last_image: bytes | None = None

    def __repr__(self) -> str:
        """Text without the pictures' bytes: whoever logs a request would hold them several times over."""
        fields = msgspec.structs.asdict(self) | {name: f"<{len(each)} bytes>" for name, each in self.pictures.items()}
        return f"VideoRequest({', '.join(f'{name}={value!r}' for name, value in fields.items())})"

    @property
    def pictures(self) -> dict[str, bytes]:
        """Encoded pictures of the request, by their fields."""
        found = {"image": self.image, "last_image": self.last_image}
        return {name: picture for name, picture in found.items() if picture is not None}

    @property
    def uses_guidance(self) -> bool:
        """Whether a second, unconditional forward is run at each step (guidance_scale > 1)."""
        return self.guidance_scale > 1.0

    @property
    def guidance_scales(self) -> tuple[float, float]:
        """Guidance scales of the experts for high and for low noise; a model with one transformer uses the first."""
        low = self.guidance_scale_2
        return self.guidance_scale, self.guidance_scale if low is None else low

    @property
    def extent(self) -> str:
        """Size and length in words."""
        return f"{self.width}x{self.height} with {counted(self.num_frames, 'frame')}"

    def check(self, spec: Geometry, limits: RequestLimits, follow: Container[str] = ()) -> None:
        """Raise InvalidRequest naming every problem at once, each with the nearest valid value.

        Fields in `follow` are pictures that will be put in later.
        """
        problems = _check_types(self) or [
            *_check_prompts(self, limits),
            *_check_pictures(self, spec, follow),
            *_check_size(self, spec, limits),
            *_check_frames(self, spec, limits, follow),
            *_check_numbers(self, spec, limits),
            *_check_sigmas(self, limits),
            *_check_choices(self),
            *_check_sampler(self),
            *(Problem("lora", said) for said in problems_of(self.lora)),
        ]
        if problems:
            raise InvalidRequest(problems)

    def workload(self) -> dict[str, Any]:
        """Resolved fields as plain JSON, all that the work depends on.

        An image stands there as its SHA-256 and its size in bytes, a LoRA as the hash of its file, whatever the file is
        called.

        A field of a video that is None, or an empty list, is as if there were none, so that one that is new leaves
        hashes as they were.
        """
        fields = with_values(msgspec.structs.asdict(self))
        if self.lora:
            fields["lora"] = [without_name(lora) for lora in self.lora]
        if self.last_image is None:
            del fields["last_image"]
        for name, picture in self.pictures.items():
            fields[name] = {"sha256": hashlib.sha256(picture).hexdigest(), "bytes": len(picture)}
        return fields


class RequestLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Upper limits that an operator sets. Times and memory grow with all of these."""

    max_pixels: int = 4096 * 2304
    max_frames: int = 1025
    max_steps: int = 1000
    max_prompt_chars: int = 20_000
    max_image_bytes: int = 64 * 2**20
    max_image_pixels: int = 100_000_000


class RequestDefaults(VideoFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Values for fields that a request leaves out: the model card's, a ringlight.json's or the operator's."""

    def complete(self, prompt: str, spec: Geometry, **given: Any) -> VideoRequest:
        """Complete a request: `given` values (None counts as left out) with all that they bring, else these defaults.

        A seed that nobody gave, or that is -1, is drawn here, so that the request names the one it was made with.
        """
        fields = filled(msgspec.structs.asdict(self), given, spec.has_experts)
        fields["seed"] = drawn(fields["seed"])
        if isinstance(fields["sigmas"], list):
            fields["sigmas"] = tuple(fields["sigmas"])
        fields["lora"] = read_loras(fields["lora"])
        if fields["flow_shift"] is None:
            fields["flow_shift"] = spec.scheduler.flow_shift
        return VideoRequest(prompt=prompt, **fields)

    def settled(self, spec: Geometry) -> RequestDefaults:
        """The same with what follows from the model; a seed of None is drawn for each video."""
        shift = spec.scheduler.flow_shift if self.flow_shift is None else self.flow_shift
        return msgspec.structs.replace(self, flow_shift=shift)

    def typical(self, prompt: str, spec: Geometry) -> VideoRequest:
        """Request of all these defaults, with stand-ins for pictures: to be planned, not to be made."""
        return self.complete(prompt, spec, **stand_ins(spec))


def filled(base: Mapping[str, Any], given: Mapping[str, Any], has_experts: bool) -> dict[str, Any]:
    """Fields that are given (None counts as left out) with what they bring, over these of a request.

    Who gives one guidance means both experts, as diffusers has it, and so does a preset that brings one: the other one
    below goes with its first.
    """
    fields = layered(base, given)
    said = {name: value for name, value in given.items() if value is not None}
    if "guidance_scale" in brought_by(said) | said and "guidance_scale_2" not in said:
        fields["guidance_scale_2"] = None
    if has_experts and fields.get("guidance_scale_2") is None:
        fields["guidance_scale_2"] = fields.get("guidance_scale")
    return fields


def stand_ins(spec: Geometry, image: bool = False, last_image: bool = False) -> dict[str, bytes]:
    """Placeholders for pictures in a plan, which looks at none.

    They stand for the pictures that the model needs, and for those that it may begin and end with if asked for.
    """
    first = {"image": b"\0"} if image or spec.needs_picture else {}
    return first | ({"last_image": b"\0"} if last_image or spec.needs_last_picture else {})


def task_of(image: object | None, last_image: object | None) -> str:
    """Short name of the task, by the pictures that are given."""
    if last_image is not None:
        return "FLF2V"
    return "T2V" if image is None else "I2V"


def with_values(fields: dict[str, Any]) -> dict[str, Any]:
    """Drop the fields of a video that are None or an empty list."""
    left_out = {field.name for field in VIDEO_FIELDS if fields.get(field.name) in (None, (), [])}
    return {name: value for name, value in fields.items() if name not in left_out}


def steps_of(request: UnsizedFields) -> str:
    """The steps of a request in words, and whose they are where it says so."""
    whose = "" if request.sampler is None else f" of {request.sampler}"
    return f"{request.num_inference_steps} steps{whose}"


def drawn(seed: int | None) -> int:
    """Seed of a request, or a drawn one if none is given, or DRAW."""
    return secrets.randbelow(2**32) if seed is None or seed == DRAW else seed


def _check_types(request: VideoRequest) -> list[Problem]:
    """Problems of values that only Python can hold, and that could not travel to a worker."""
    problems = []
    for field in msgspec.structs.fields(VideoRequest):
        try:
            msgspec.convert(getattr(request, field.name), field.type, builtin_types=(bytes,))
        except msgspec.ValidationError as error:
            problems.append(Problem(field.name, str(error)))
    return problems


def grid(spec: Geometry) -> dict[str, tuple[int, int]]:
    """Fields of which the model makes only some values: the least of them, and how far they lie apart."""
    height, width = spec.size_multiple
    fewest = 1 + spec.frame_multiple if spec.needs_last_picture else 1  # a picture for each end
    return {"width": (width, width), "height": (height, height), "num_frames": (fewest, spec.frame_multiple)}


def nearest_multiple(value: int, multiple: int) -> int:
    """Nearest multiple, in whole numbers because a value from outside may be too large for a float; halves go down."""
    return (value + (multiple - 1) // 2) // multiple * multiple


def _check_prompts(request: VideoRequest, limits: RequestLimits) -> list[Problem]:
    problems = []
    if not request.prompt.strip():
        problems.append(Problem("prompt", "must not be empty"))
    for field in ("prompt", *(field.name for field in VIDEO_FIELDS if field.is_text)):
        text: str = getattr(request, field)
        if len(text) > limits.max_prompt_chars:
            problems.append(Problem(field, f"has {len(text)} characters; the limit is {limits.max_prompt_chars}"))
        if any("\ud800" <= char <= "\udfff" for char in text) or "\0" in text:
            problems.append(Problem(field, "holds a NUL or half of a surrogate pair; send plain Unicode text"))
    return problems


def _check_pictures(request: VideoRequest, spec: Geometry, follow: Container[str]) -> list[Problem]:
    problems, given = [], request.pictures
    has_first, has_last = ("image" in given or "image" in follow, "last_image" in given or "last_image" in follow)
    if spec.needs_picture and not has_first:
        how = "give one (--image-path, or input_reference over HTTP)"
        problems.append(Problem("image", f"{spec.name} makes no video without the picture that it begins with; {how}"))
    if spec.needs_last_picture and not has_last:
        how = "give one (--last-image-path, or last_image over HTTP)"
        problems.append(
            Problem("last_image", f"{spec.name} makes no video without the picture that it ends with; {how}")
        )
    if "image" in given and not spec.takes_picture:
        problems.append(Problem("image", f"{spec.name} makes videos of text alone; leave the picture out"))
    if has_last and not spec.takes_last_picture:
        problems.append(Problem("last_image", f"{spec.name} knows no picture that a video ends with; leave it out"))
    elif has_last and not has_first:
        problems.append(Problem("last_image", "goes with the picture that the video begins with; give that too"))
    return problems


def _check_size(request: VideoRequest, spec: Geometry, limits: RequestLimits) -> list[Problem]:
    problems = []
    for field, multiple in zip(("height", "width"), spec.size_multiple, strict=True):
        size: int = getattr(request, field)
        longest = spec.max_positions * multiple
        if size < multiple or size % multiple:
            nearest = max(multiple, nearest_multiple(size, multiple))
            problems.append(
                Problem(field, f"{size} is not a positive multiple of {multiple}", str(min(nearest, longest)))
            )
        elif size > longest:
            problems.append(Problem(field, f"{size} is more than the model's positions reach", str(longest)))
    pixels, most = request.height * request.width, min(limits.max_pixels, spec.most_pixels)
    if not problems and pixels > most:
        problems.append(
            Problem(
                "size",
                f"{request.width}x{request.height} has {pixels} pixels; the limit is {most}",
                _largest_size(request, spec, most),
            )
        )
    return problems


def _largest_size(request: VideoRequest, spec: Geometry, most: int) -> str:
    """The size of about the same shape that has at most so many pixels, as WxH."""
    shrink = math.sqrt(most / (request.width * request.height))
    high, wide = spec.size_multiple
    width, height = (max(m, int(n * shrink) // m * m) for n, m in ((request.width, wide), (request.height, high)))
    return f"{width}x{height}"


def _check_frames(
    request: VideoRequest, spec: Geometry, limits: RequestLimits, follow: Container[str]
) -> list[Problem]:
    frames, multiple = request.num_frames, spec.frame_multiple
    longest = min(limits.max_frames, (spec.max_positions - 1) * multiple + 1)
    longest = (longest - 1) // multiple * multiple + 1
    has_both = spec.takes_last_picture and (request.last_image is not None or "last_image" in follow)
    fewest, what = (1 + multiple, f"a video {BOTH_ENDS}") if has_both else (grid(spec)["num_frames"][0], "a video")
    if longest < fewest:
        return [Problem("num_frames", f"{what} has {fewest} frames or more, and the limit is {limits.max_frames}")]
    if frames > longest:
        return [Problem("num_frames", f"{frames} is over the limit of {longest}", str(longest))]
    a_latent = spec.num_tokens(1, request.height, request.width)
    reach = (spec.most_tokens // max(1, a_latent) - 1) * multiple + 1
    if frames > reach >= 1:
        said = f"{frames} frames of {request.width}x{request.height} are a longer sequence than GPU kernels can count"
        return [Problem("num_frames", f"{said}; the limit at this size is {reach}", str(reach))]
    if frames == 1 < fewest:
        return [Problem("num_frames", f"1 frame is no video {BOTH_ENDS}", str(fewest))]
    if frames < 1 or (frames - 1) % multiple:
        nearest = max(fewest, nearest_multiple(frames - 1, multiple) + 1)
        return [Problem("num_frames", f"{frames} is not {multiple}k+1 (1, 5, 9 ...)", str(min(nearest, longest)))]
    return []


def is_taken(field: VideoField, spec: Geometry) -> bool:
    """Whether a model has a field."""
    return not field.rules.needs or bool(getattr(spec, field.rules.needs))


def bounds(field: VideoField, limits: RequestLimits) -> tuple[float | None, float | None]:
    """The least and the most that a field of a request may be; None where nothing bounds it but the model."""
    most = getattr(limits, field.rules.limit) if field.rules.limit else field.rules.maximum
    return field.rules.minimum, most


def _check_numbers(request: VideoRequest, spec: Geometry, limits: RequestLimits) -> list[Problem]:
    """Problems of all numbers but those of the model's grid, which have checks of their own."""
    problems = []
    for field in VIDEO_FIELDS:
        value: float | None = getattr(request, field.name)
        if not field.is_number or field.name in grid(spec) or value is None:
            continue
        if not is_taken(field, spec):
            problems.append(Problem(field.name, f"{spec.name} {field.rules.lacking}; leave it out"))
            continue
        if field.type is float and not math.isfinite(value):
            problems.append(Problem(field.name, f"{value} is not a finite number"))
            continue
        least, most = bounds(field, limits)
        nearest = value if least is None else max(value, least)
        nearest = nearest if most is None else min(nearest, most)
        if nearest != value:
            problems.append(Problem(field.name, f"{_shown(value)} is {_outside(least, most)}", _shown(nearest)))
    return problems


def _check_sigmas(request: VideoRequest, limits: RequestLimits) -> list[Problem]:
    """Problems of sigmas: their number, and that they fall by no less than a network tells apart."""
    sigmas, most = request.sigmas, limits.max_steps
    if sigmas is None:
        return []
    if not 1 <= len(sigmas) <= most:
        return [Problem("sigmas", f"has {len(sigmas)} numbers; give 1 to {most}, one for each step")]
    problems = [Problem("sigmas", said) for said in filter(None, map(_wrong_sigma, (None, *sigmas), sigmas))][:1]
    if request.num_inference_steps != len(sigmas):
        said = f"{request.num_inference_steps} is not the number of sigmas, {len(sigmas)}; leave it out beside them"
        problems.append(Problem("num_inference_steps", said, str(len(sigmas))))
    return problems


def _wrong_sigma(before: float | None, sigma: float) -> str:
    """Problem with a sigma that follows another one; empty if it is right."""
    if not LEAST_SIGMA <= sigma <= 1:
        hint = "; leave out the 0 at the end" if sigma == 0 and before is not None else ""
        return f"{plain(sigma)} is not between {LEAST_SIGMA} and 1{hint}"
    if before is not None and sigma > before - LEAST_SIGMA + ROUNDING:
        return f"{plain(sigma)} after {plain(before)} does not fall by at least {LEAST_SIGMA}"
    return ""


def _check_choices(request: VideoRequest) -> Iterator[Problem]:
    """Check that fields of which all values are known have one of them."""
    for field in VIDEO_FIELDS:
        value, choices = getattr(request, field.name), field.rules.choices
        if choices and value is not None and value not in choices:
            nearest = difflib.get_close_matches(value, choices, 1)
            yield Problem(field.name, f"there is none of this name, but {', '.join(choices)}", *nearest)


def _check_sampler(request: VideoRequest) -> list[Problem]:
    """Check that nothing contradicts the grid that a preset fixes."""
    sampler = None if request.sampler is None else SAMPLERS.get(request.sampler)
    if sampler is None or not sampler.sigmas or request.sigmas is not None:
        return []
    others = ", ".join(METHODS)
    fixed = {"num_inference_steps": len(sampler.sigmas), "flow_shift": sampler.flow_shift}
    return [
        Problem(
            name,
            f"{_shown(getattr(request, name))} contradicts sampler {request.sampler}, whose grid is fixed; leave it "
            f"out, or give sigmas, or a sampler of any grid ({others})",
            _shown(value),
        )
        for name, value in fixed.items()
        if getattr(request, name) != value
    ]


def _shown(value: float) -> str:
    return str(value) if isinstance(value, int) else plain(value)


def _outside(least: float | None, most: float | None) -> str:
    if least is None or most is None:
        return f"more than {_shown(most)}" if most is not None else f"less than {_shown(least or 0)}"
    return f"not between {_shown(least)} and {_shown(most)}"
