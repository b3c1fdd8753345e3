"""The fields of a video: each is declared once, here, with its default, its bounds and its help.

Every door is made of them: flags, the API's calls and answers, the client, workloads, the form of the page, the docs.
A new field goes into `UnsizedFields`, and is read where it takes effect. Its default has to leave videos as they were
before it: jobs that were stored and workloads that were written without it are read with it.
"""

from __future__ import annotations

from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Union, get_args, get_origin

import msgspec
from msgspec import Meta

from ringlight.core.asked_loras import FORM
from ringlight.core.fields import SAMPLING, VIDEO, Field, opened, setting, settings_of
from ringlight.core.lora import Lora
from ringlight.core.named_samplers import METHODS, PRESETS, SAMPLERS

MAX_SEED = 2**63 - 1
DRAW = -1  # as a seed: draw one, as Wan's own scripts and ComfyUI have it
LEAST_SIGMA = 0.001  # networks tell times apart in thousandths
OF_SAMPLERS = (
    f"How steps are made: {', '.join(METHODS)}; or a preset of distilled models, which fixes the grid too, and without "
    f"guidance unless that is asked for: {', '.join(PRESETS)}."
)
FIELD_TYPES: tuple[Any, ...] = (int, float, str, tuple[float, ...], tuple[Lora, ...])  # types that every door reads
SIDE = "Pixels, a multiple of 32 (Wan2.1: of 16). Where one side is left out, it follows from the picture."


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """Rules of a video's field beside its help.

    `limit` names the operator's limit that is its maximum. `open_value` leaves the field open, as None does, and
    `default_rule` says in words what it then is. `choices` are all its values. `always`: a video that is made has a
    value of it; left out, if the default is one. `in_extensions`: an extension may have another value than its source.
    `in_plans`: predictions depend on it. `needs` names what a model must have to take it
    (of core/geometry), and `lacking` says in words what a model is that has not.
    """

    label: str
    minimum: float | None = None
    maximum: float | None = None
    limit: str = ""
    open_value: int | None = None
    default_rule: str = ""
    choices: tuple[str, ...] = ()
    always: bool | None = None
    in_extensions: bool = True
    in_plans: bool = True
    needs: str = ""
    lacking: str = ""


class VideoField(NamedTuple):
    """Field of a video, for flags and schemas. `type` is that of a value; a default of None follows from others."""

    name: str
    type: type
    default: Any
    help: str
    group: str
    rules: Rules

    @property
    def is_text(self) -> bool:
        """Whether it is free text."""
        return self.type is str and not self.rules.choices

    @property
    def is_number(self) -> bool:
        return self.type in (int, float)

    @property
    def json_schema(self) -> dict[str, Any]:
        """The bounds of what may be asked, as JSON Schema has them. An operator's limit is not among them."""
        if self.rules.choices:
            return {"enum": [*self.rules.choices, None]}
        if not self.is_number:
            return {}
        least, most, open_value = self.rules.minimum, self.rules.maximum, self.rules.open_value
        if open_value is not None and least is not None:
            least = min(least, open_value)
        return {name: bound for name, bound in (("minimum", least), ("maximum", most)) if bound is not None}


def _field(
    help: str,  # noqa: A002 (as `setting`)
    group: str,
    label: str,
    *,
    metavar: str = "",
    splits: bool = True,
    **rules: Any,
) -> Meta:
    """Declare a field of a video. `rules` are those of Rules, and the others as in `setting`."""
    meta = setting(help, group, metavar=metavar, splits=splits)
    return Meta(description=help, extra={**(meta.extra or {}), "rules": Rules(label=label, **rules)})


class UnsizedFields(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a video but for its size, which some doors have one word for."""

    negative_prompt: Annotated[
        str, _field("What the video should not show; used with guidance.", VIDEO, "Negative prompt", in_plans=False)
    ] = ""
    num_frames: Annotated[
        int,
        _field("Frames, a multiple of 4 and one; 1 makes a picture.", VIDEO, "Frames", minimum=1, limit="max_frames"),
    ] = 121
    fps: Annotated[
        int,
        _field(
            "Frames in a second of the video; Wan2.2 was trained with 24, Wan2.1 with 16.",
            VIDEO,
            "Frames a second",
            minimum=1,
            maximum=240,
            in_extensions=False,
            in_plans=False,
        ),
    ] = 24
    num_inference_steps: Annotated[
        int, _field("Denoising steps; time grows with them.", SAMPLING, "Steps", minimum=1, limit="max_steps")
    ] = 50
    guidance_scale: Annotated[
        float,
        _field(
            "How closely the prompt is followed. Up to 1 there is no guidance, and half the work.",
            SAMPLING,
            "Guidance",
            minimum=0,
            maximum=100,
        ),
    ] = 5.0
    guidance_scale_2: Annotated[
        float | None,
        _field(
            "Guidance of the expert for low noise, of models that have two experts; by default the other one's.",
            SAMPLING,
            "Guidance, low noise",
            minimum=0,
            maximum=100,
            default_rule="as guidance_scale",
            in_plans=False,
            needs="has_experts",
            lacking="has one transformer, not an expert for high noise and one for low",
        ),
    ] = None
    flow_shift: Annotated[
        float | None,
        _field(
            "Shift of the noise schedule, by default the scheduler's own; larger spends more steps on structure.",
            SAMPLING,
            "Flow shift",
            minimum=0.01,
            maximum=100,
            default_rule="the model's",
            always=True,
            in_plans=False,
        ),
    ] = None
    sampler: Annotated[
        str | None,
        _field(
            OF_SAMPLERS,
            SAMPLING,
            "Sampler",
            choices=tuple(SAMPLERS),
            default_rule="the model's",
        ),
    ] = None
    sigmas: Annotated[
        tuple[float, ...] | None,
        _field(
            "Share of noise before each step, falling from at most 1, without the 0 at the end; as many as there are "
            "steps. Taken as they are, unless a flow shift is given beside them.",
            SAMPLING,
            "Sigmas",
            minimum=LEAST_SIGMA,
            maximum=1,
            default_rule="the sampler's",
        ),
    ] = None
    seed: Annotated[
        int | None,
        _field(
            "The same request with the same seed gives the same pixels. One that nobody gave, or -1, is drawn.",
            SAMPLING,
            "Seed",
            minimum=0,
            maximum=MAX_SEED,
            open_value=DRAW,
            default_rule="drawn",
            always=True,
            in_plans=False,
        ),
    ] = None
    lora: Annotated[
        tuple[Lora, ...],
        _field(
            f"LoRAs that the operator offers, as {FORM}: how strongly (1), and on which of two experts (both, high, "
            "low; left out: as its name says).",
            SAMPLING,
            "LoRA",
            metavar=FORM,
            splits=False,
            default_rule="none",
            in_plans=False,
        ),
    ] = ()


class VideoFields(UnsizedFields, frozen=True, kw_only=True):
    """Fields that a request may leave out. Defaults are the model card's; None follows from the model, or is drawn."""

    width: Annotated[int, _field(SIDE, VIDEO, "Width", minimum=1, in_extensions=False)] = 1280
    height: Annotated[int, _field(SIDE, VIDEO, "Height", minimum=1, in_extensions=False)] = 704


if TYPE_CHECKING:
    AskedFields = VideoFields  # the same attributes, of which each may be None
else:
    AskedFields = opened("AskedFields", VideoFields)
    """The fields of VideoFields, of which None is left out."""


def _video_field(field: Field) -> VideoField:
    kinds = get_args(field.type) if get_origin(field.type) in (Union, UnionType) else (field.type,)
    (kind,) = {*kinds} - {NoneType}
    if kind not in FIELD_TYPES:
        known = ", ".join(map(str, (each.__name__ if isinstance(each, type) else each for each in FIELD_TYPES)))
        raise TypeError(f"{field.name}: a field of a video is one of {known}, not {kind}; for yes and no take choices")
    how = field.meta.extra or {}
    return VideoField(field.name, kind, field.default, field.meta.description or "", how["panel"], how["rules"])


VIDEO_FIELDS: tuple[VideoField, ...] = tuple(map(_video_field, settings_of(VideoFields)))
ALWAYS_THERE = frozenset(
    field.name
    for field in VIDEO_FIELDS
    if (field.default is not None if field.rules.always is None else field.rules.always)
)
"""Fields of which every answer about a video has a value."""
IN_EXTENSIONS = frozenset(field.name for field in VIDEO_FIELDS if field.rules.in_extensions)
"""Fields that an extension may have another value of than its source."""
