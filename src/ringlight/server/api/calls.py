"""Calls as pydantic models: the fields of each with their descriptions, and how they are read.

Here types are checked and strings of a form become numbers. Whether the numbers can be made is VideoRequest's to say,
which knows the model and the operator's limits, and names the nearest values that can.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Container, Mapping
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    create_model,
    field_validator,
)

from ringlight.core.asked_loras import read_loras
from ringlight.core.errors import InvalidRequest, Problem
from ringlight.core.lora import MAX_STRENGTH, Lora, Target
from ringlight.core.order_fields import HELP
from ringlight.core.settings import LEAST_PRIORITY, MOST_PRIORITY
from ringlight.core.video_fields import IN_EXTENSIONS, MAX_SEED, VIDEO_FIELDS, VideoField
from ringlight.server.http.body import Body, parse_inner
from ringlight.server.http.http_error import HttpError, invalid

SIZE = re.compile(r"\s*([0-9]{1,6})\s*[xX×*]\s*([0-9]{1,6})\s*")
MAX_NUMBERS = 10_000  # in a list; what a video can have of them is less
SHOWN_CHARS = 80  # of what a client sent, in a message

PEER_NAMES = {
    "cfg_scale": "guidance_scale",
    "duration": "seconds",
    "first_frame": "input_reference",
    "frame_rate": "fps",
    "frames": "num_frames",
    "image": "input_reference",
    "image_url": "input_reference",
    "last_frame": "last_image",
    "length": "num_frames",
    "lora_name": "lora",
    "lora_path": "lora",
    "loras": "lora",
    "reference_image": "input_reference",
    "resolution": "size",
    "sample_solver": "sampler",
    "sampler_name": "sampler",
    "scheduler": "sampler",
    "shift": "flow_shift",
    "solver": "sampler",
    "steps": "num_inference_steps",
    "video_id": "video",
}
"""What the same things are called elsewhere, to suggest ours; they are not accepted."""


def _number(value: Any) -> Any:
    """Parse a number: forms send an empty string for what is left out; true and false would pass as 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("is true or false; send a number")
    return None if isinstance(value, str) and not value.strip() else value


def _numbers(value: Any) -> Any:
    """Parse numbers of a form: a text with commas between them, as a list of JSON or without its brackets."""
    if not isinstance(value, str):
        return value
    return [
        each for part in value.strip().removeprefix("[").removesuffix("]").split(",") if (each := part.strip())
    ] or None


def _loras(value: Any) -> Any:
    """Parse LoRAs of a form: JSON texts, or texts in the form of the flag."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        return read_loras([_inner(each) for each in value] if isinstance(value, list) else _inner(value))
    except HttpError as error:
        raise ValueError(str(error)) from None
    except InvalidRequest as error:
        raise ValueError("; ".join(str(problem).partition(": ")[2] for problem in error.problems)) from None


def _inner(value: Any) -> Any:
    return parse_inner(value) if isinstance(value, str) and value.lstrip().startswith(("{", "[")) else value


def _left_out_if_empty(value: Any) -> Any:
    return None if value == "" else value


def _image_reference(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: each for name, each in value.items() if each is not None}
    return {"image_url": value} if isinstance(value, str) and value else _left_out_if_empty(value)


def _video_reference(value: Any) -> Any:
    return {"id": value} if isinstance(value, str) else value


INTEGER, NUMBER = WithJsonSchema({"type": "integer"}), WithJsonSchema({"type": "number"})
Whole = Annotated[Annotated[int, Field(ge=-MAX_SEED, le=MAX_SEED), INTEGER] | None, BeforeValidator(_number)]
Real = Annotated[Annotated[float, Field(allow_inf_nan=False), NUMBER] | None, BeforeValidator(_number)]
Positive = Annotated[Annotated[float, Field(gt=0, le=30 * 86400)] | None, BeforeValidator(_number)]
Length = Annotated[
    Annotated[float, Field(gt=0, le=3600)] | None,
    BeforeValidator(_number, json_schema_input_type=str | Annotated[float, Field(gt=0, le=3600)] | None),
]
Several = Annotated[
    Annotated[tuple[Annotated[float, Field(allow_inf_nan=False)], ...], Field(max_length=MAX_NUMBERS)] | None,
    BeforeValidator(_numbers),
]
IdText = Annotated[str, Field(min_length=1, max_length=256)]
Name = Annotated[Annotated[str, Field(max_length=512)] | None, BeforeValidator(_left_out_if_empty)]


class LoraReference(BaseModel):
    """A LoRA of this server."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="One that /v1/models offers, such as `style`.")
    strength: Annotated[float, Field(ge=-MAX_STRENGTH, le=MAX_STRENGTH)] = Field(
        1.0, description="How strongly it is applied; not 0. May be called `scale` or `lora_scale`."
    )
    target: Target | None = Field(
        None, description="On which of two experts: that for high noise, for low, or both. Left out: as its name says."
    )
    sha256: str = Field("", description="Of its file, as answers have it: that file, or the call is refused.")


OneLora = str | LoraReference
Loras = Annotated[Any, BeforeValidator(_loras, json_schema_input_type=OneLora | list[OneLora] | None)]
KINDS: dict[Any, Any] = {
    int: Whole,
    float: Real,
    str: str | None,
    tuple[float, ...]: Several,
    tuple[Lora, ...]: Loras,
}
"""How each type of a video's fields is read."""


class Call(BaseModel):
    """Fields that every call has that makes a video."""

    model_config = ConfigDict(extra="forbid")

    picture_fields: ClassVar[Mapping[str, str]] = {}
    """Fields that hold pictures, also as files, by the fields of a request."""

    prompt: str = Field(
        json_schema_extra={"minLength": 1},
        examples=["A paper boat sails through a rainy street"],
        description="What the video shows.",
    )
    user: Name = Field(None, description=HELP["user"])
    priority: Annotated[Annotated[int, Field(ge=LEAST_PRIORITY, le=MOST_PRIORITY)] | None, BeforeValidator(_number)] = (
        Field(None, description=HELP["priority"])
    )
    timeout_seconds: Positive = Field(None, description=HELP["timeout_seconds"])
    webhook_url: Annotated[Annotated[str, Field(max_length=2048)] | None, BeforeValidator(_left_out_if_empty)] = Field(
        None, description=HELP["webhook_url"]
    )

    def asked(self) -> dict[str, Any]:
        """The fields of a video that this call has; None is left out."""
        return {
            field.name: getattr(self, field.name) for field in VIDEO_FIELDS if field.name in type(self).model_fields
        }

    def pictures(self, files: Container[str]) -> dict[str, str]:
        """Fields of pictures that hold one or are among these files, by the fields of a request."""
        return {
            name: field
            for name, field in self.picture_fields.items()
            if field in files or getattr(self, field) is not None
        }


AnyCall = TypeVar("AnyCall", bound=Call)


def _kind(field: VideoField) -> Any:
    return Name if field.rules.choices else KINDS[field.type]


def with_video_fields(is_taken: Callable[[VideoField], bool]) -> Callable[[type[AnyCall]], type[AnyCall]]:
    """Give a call those fields of a video that are taken, as they are declared.

    Their bounds stand in the schema alone: what lies beyond is refused later, with the nearest value that can be made.
    """

    def decorate(call: type[AnyCall]) -> type[AnyCall]:
        fields: dict[str, Any] = {
            field.name: (_kind(field), Field(None, description=field.help, json_schema_extra=field.json_schema))
            for field in VIDEO_FIELDS
            if is_taken(field)
        }
        return create_model(call.__name__, __base__=call, __doc__=call.__doc__, __module__=call.__module__, **fields)

    return decorate


class Lengthed(Call):
    """Fields of calls that say how long the new part is."""

    seconds: Length = Field(
        None,
        examples=["5"],
        description="Length, as a string or a number. At 24 fps 4 seconds are 97 frames: the fewest that are not "
        "shorter. Where `num_frames` is given too, that wins.",
    )


class ImageReference(BaseModel):
    """A picture by reference."""

    model_config = ConfigDict(extra="forbid")

    image_url: Annotated[str | None, BeforeValidator(_left_out_if_empty)] = Field(
        None, description="A data URL, or its base64 alone, or http(s) for hosts that the operator allows."
    )
    file_id: Annotated[str | None, BeforeValidator(_left_out_if_empty)] = Field(
        None, description="Files are not kept by this server: always refused."
    )


class VideoReference(BaseModel):
    """A video of this server."""

    model_config = ConfigDict(extra="forbid")

    id: IdText = Field(description="Such as `video_0c6a...`; it must be completed.")


ReferenceOrText = BeforeValidator(_image_reference, json_schema_input_type=str | ImageReference | None)
LastImage = Annotated[
    ImageReference | None,
    ReferenceOrText,
    Field(description="The last frame, as `input_reference` is the first: of models that /v1/models says take one."),
]


@with_video_fields(lambda field: True)
class CreateVideo(Lengthed):
    """POST /v1/videos. What is left out comes from the defaults of the server and the checkpoint."""

    picture_fields: ClassVar[Mapping[str, str]] = {"image": "input_reference", "last_image": "last_image"}

    input_reference: Annotated[ImageReference | None, ReferenceOrText] = Field(
        None,
        description="The first frame: a file (multipart), a URL, base64, or an object with one. PNG, JPEG, WebP, AVIF, "
        "BMP, GIF or TIFF; HEIC where the server has its reader. Without a size the video takes its shape; with one "
        "its middle is used.",
    )
    last_image: LastImage = None
    model: Name = Field(None, description="A name from /v1/models.")
    size: Name = Field(
        None,
        examples=["1280x704"],
        description="Width x height in pixels, each a multiple of what /v1/models says (32 for Wan2.2), or `width` and "
        "`height`. What is left out follows from the picture, else it is the default.",
    )
    n: Whole = Field(
        None, json_schema_extra={"enum": [1, None]}, description="Only 1: each video is a call of its own."
    )
    layout: Name = Field(
        None,
        examples=["u1r2"],
        description="How the server's ranks share this video, such as u1r2 or c2u1r1; all are used in any case.",
    )

    @field_validator("size")
    @classmethod
    def _size(cls, value: str | None) -> str | None:
        if value is None:
            return None
        match = SIZE.fullmatch(value)
        if match is None:
            raise ValueError(f"{shown(value)!r} is not WIDTHxHEIGHT, such as 1280x704")
        return f"{int(match[1])}x{int(match[2])}"

    @field_validator("n")
    @classmethod
    def _one(cls, value: int | None) -> int | None:
        if value not in (None, 1):
            raise ValueError("must be 1; send a call for each video")
        return value

    @property
    def width_height(self) -> tuple[int | None, int | None]:
        """Width and height in pixels, from `size`, or from `width` and `height`."""
        if self.size is None:
            asked = self.asked()
            return asked["width"], asked["height"]
        width, height = map(int, self.size.split("x"))
        return width, height


@with_video_fields(lambda field: field.name == "seed")
class RemixVideo(Call):
    """POST /v1/videos/{id}/remix: everything as in that video but for the prompt, the seed too unless it is given."""


@with_video_fields(lambda field: field.name in IN_EXTENSIONS)
class ExtendVideo(Lengthed):
    """POST /v1/videos/extensions: goes on from the last frame of a video, joined to it.

    What is left out is as in that video, except for the seed.
    """

    picture_fields: ClassVar[Mapping[str, str]] = {"last_image": "last_image"}

    last_image: LastImage = None
    video: Annotated[
        VideoReference,
        BeforeValidator(_video_reference, json_schema_input_type=IdText | VideoReference),
    ] = Field(description="The video to go on from: its id, or an object with it.")


def parse(model: type[AnyCall], body: Body) -> AnyCall:
    """Parse the call of a body. Raises HttpError 400 that names every field that is wrong, missing or unknown."""
    files = model.picture_fields.values()
    problems = [Problem(shown(name), _why_no_file(name, model)) for name in body.files if name not in files]
    call = None
    try:
        call = model.model_validate(_without_nulls(body.fields, model))
    except ValidationError as error:
        told = {problem.field for problem in problems}  # a file in the place of a field is not missing too
        found = [problem_of(dict(item), model) for item in error.errors(include_url=False, include_input=False)]
        problems = [problem for problem in found if problem.field not in told] + problems
    if isinstance(call, CreateVideo):
        problems += _contradictions(call)
    if call is None or problems:
        raise invalid(problems)
    return call


def _without_nulls(fields: Mapping[str, Any], model: type[Call]) -> dict[str, Any]:
    """Drop nulls: clients send them for what they leave out, also for fields that we do not have."""
    return {name: value for name, value in fields.items() if value is not None or name in model.model_fields}


def _contradictions(call: CreateVideo) -> list[Problem]:
    """Check that a size that is said twice is the same."""
    if call.size is None:
        return []
    asked = call.asked()
    told = zip(("width", "height"), (asked["width"], asked["height"]), call.width_height, strict=True)
    return [
        Problem(name, f"{said} contradicts size {call.size}; send one of them", str(meant))
        for name, said, meant in told
        if said is not None and said != meant
    ]


def problem_of(item: Mapping[str, Any], model: type[BaseModel]) -> Problem:
    """Convert one of pydantic's findings to our words."""
    path = [shown(str(part)) for part in item["loc"]]
    field = ".".join(path)
    match item["type"]:
        case "extra_forbidden":
            known = model.model_fields if len(path) == 1 else {}
            nearest = PEER_NAMES.get(field) or next(iter(difflib.get_close_matches(field, known, 1)), None)
            return Problem(field, "is not a field of this call", nearest if nearest in known else None)
        case "missing":
            return Problem(field, "is missing")
        case "value_error":
            return Problem(field, str(item["ctx"]["error"]))
    message = str(item["msg"]).replace("Input should", "should")
    return Problem(field, message[:1].lower() + message[1:])


def _why_no_file(name: str, model: type[Call]) -> str:
    if name == "video" and name in model.model_fields:
        return 'cannot be uploaded; name a video of this server, as {"id": "video_..."}'
    return "is sent as a file and is not one of this call's files"


def shown(name: str) -> str:
    """A name that a client sent, cut to what fits into a message."""
    return name if len(name) <= SHOWN_CHARS else f"{name[:SHOWN_CHARS]}..."
