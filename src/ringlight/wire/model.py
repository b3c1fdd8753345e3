"""Models on the wire: what is served, and what a request to it may say."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from ringlight.core.lora import Lora, Target
from ringlight.wire.described import described

FieldType = Literal["integer", "number", "string", "numbers", "loras"]


class FieldChoice(msgspec.Struct, frozen=True, kw_only=True):
    """A value that a field may have."""

    value: str
    help: str = ""
    brings: Annotated[dict[str, Any], described("Other fields that come with it, unless they are given too.")] = {}


class FieldCard(msgspec.Struct, frozen=True, kw_only=True):
    """A field of a video that a request may leave out."""

    name: str
    type: FieldType
    title: str
    help: str
    group: Annotated[str, described("What it is shown with.")]
    minimum: int | float | None = None
    maximum: Annotated[int | float | None, described("With the operator's limits.")] = None
    step: Annotated[int | None, described("How far the values that the model makes lie apart, from the least.")] = None
    default: int | float | str | list[float | Lora] | None = None
    default_rule: Annotated[str, described("What it is where that is null.")] = ""
    choices: Annotated[list[FieldChoice], described("All its values, where these are few.")] = []


class OfferedLora(msgspec.Struct, frozen=True, kw_only=True):
    """A LoRA that requests may name, or that every video has."""

    name: str
    strength: Annotated[float, described("How strongly it is applied where nothing is said of that.")] = 1.0
    target: Annotated[Target, described("On which of two experts, where nothing is said of that.")] = "both"
    is_always_on: Annotated[bool, described("Whether every video has it; it is then not to be named.")] = False
    problem: Annotated[
        str | None, described("Why it cannot be used: its file is broken, or of another model. Else null.")
    ] = None


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """A model that is served, with what a request may leave out and what bounds it."""

    id: str
    object: Literal["model"] = "model"
    created: Annotated[int, described("When the server was started.")] = 0
    owned_by: str = "ringlight"
    fields: Annotated[list[FieldCard], described("The fields of a video, as a form can show them.")] = []
    defaults: Annotated[
        dict[str, Any],
        described("What is taken for fields that a request leaves out; a seed of null is drawn for each video."),
    ] = {}
    examples: Annotated[list[str], described("Prompts that the model is good at, where its checkpoint says some.")] = []
    limits: Annotated[dict[str, int], described("The most that the operator allows.")] = {}
    loras: Annotated[list[OfferedLora], described("What `lora` may name, as it lies there at this moment.")] = []
    width_multiple: int = 1
    height_multiple: int = 1
    frame_multiple: Annotated[int, described("num_frames is a multiple of this, and one.")] = 1
    takes_picture: Annotated[bool, described("Whether a video may begin with a given picture.")] = True
    needs_picture: Annotated[bool, described("Whether every video has to.")] = False
    takes_last_picture: Annotated[bool, described("Whether it may then end with a given picture too.")] = False
    needs_last_picture: Annotated[bool, described("Whether every video has to.")] = False
    has_experts: Annotated[bool, described("Whether it has two transformers, one for high noise and one for low.")] = (
        False
    )


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """The models that are served."""

    object: Literal["list"] = "list"
    data: list[ModelCard]
