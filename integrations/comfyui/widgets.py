"""Widgets of a node, made of the one declaration of a video's fields.

ComfyUI has no empty number: each widget has a value that leaves its field out, and begins with it, so that a field
nobody touched is as the server's model has it. Of a number that is 0, or -1 where 0 means something.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ringlight.core.fields import settings_of
from ringlight.core.lora import Lora
from ringlight.core.video_fields import DRAW, VIDEO_FIELDS, UnsizedFields, VideoField

Widget = tuple[Any, dict[str, Any]]

_UNSIZED = {field.name for field in settings_of(UnsizedFields)}
_SIZED_FIRST = sorted(VIDEO_FIELDS, key=lambda field: field.name in _UNSIZED)
"""ComfyUI saves widgets by their place, and new fields are declared among those that are no size."""

FIELDS = {field.name: field for field in _SIZED_FIRST if field.type != tuple[Lora, ...]}
"""The fields that are widgets; LoRAs come from nodes of their own."""


def widgets() -> dict[str, Widget]:
    """The widgets of all fields, in the order in which a node shows them."""
    return {name: _widget(field) for name, field in FIELDS.items()}


def asked(values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the values of widgets that ask for nothing."""
    return {name: value for name, value in values.items() if value != left_out(FIELDS[name])}


def left_out(field: VideoField) -> Any:
    """The value of a widget that leaves its field out."""
    if field.rules.choices:
        return _rule(field)
    if not field.is_number:
        return ""
    if field.rules.open_value is not None:
        return field.rules.open_value
    least = field.rules.minimum
    return field.type(0 if least is not None and least > 0 else -1)


def _widget(field: VideoField) -> Widget:
    value = left_out(field)
    options: dict[str, Any] = {"default": value, "tooltip": field.help}
    if field.rules.choices:
        return [value, *field.rules.choices], options
    if not field.is_number:
        return "STRING", options | {"multiline": field.is_text}
    options |= {"tooltip": f"{field.help} {value}: {_rule(field)}.", "min": value}
    if field.rules.maximum is not None:
        options["max"] = field.type(field.rules.maximum)
    if field.type is float:
        return "FLOAT", options | {"step": 0.1, "round": False}
    return "INT", options | ({"control_after_generate": True} if value == DRAW else {})


def _rule(field: VideoField) -> str:
    return field.rules.default_rule or "the model's"
