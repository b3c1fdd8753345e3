"""Parser of LoRAs as people write them, everywhere: NAME[:STRENGTH[:TARGET]], an object, or a list of these."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from ringlight.core.errors import InvalidRequest
from ringlight.core.lora import FIELD, TARGETS, Lora, parse_lora, wrong_strength

FORM = "NAME[:STRENGTH[:TARGET]]"
MOST_LORAS = 32
ALIASES = {"scale": "strength", "lora_scale": "strength"}  # as vLLM-Omni calls it
FIELDS = ("name", "strength", "target", "sha256", "num_bytes")  # the last is in answers, and nobody asks for it
READ = {"strength": (float, "number, such as 0.8"), "sha256": (str, "text")}
PATHS = ("path", "lora_path", "file", "url")
NO_PATHS = "no request names a path on the server; give the name of one that is offered (GET /v1/models, --lora-dir)"
ELSEWHERE = {"all": "both", "transformer": "high", "transformer_2": "low", "high_noise": "high", "low_noise": "low"}
"""What targets are called elsewhere."""


def read_loras(said: Any) -> tuple[Lora, ...]:
    """Read LoRAs from a text, an object, or a list of texts and objects; nothing, and an empty text, are none.

    An object has `name`, and may have `strength`, `target` and, to have that very file or none, `sha256`. Raises
    InvalidRequest.
    """
    if said is None or (isinstance(said, str) and not said.strip()):
        return ()
    several = said if isinstance(said, (list, tuple)) else [said]
    return tuple(map(_read, several))


def written_out(fields: Any) -> Any:
    """Write the LoRAs of a request's fields out as lists of objects; other values stay as they are.

    Raises InvalidRequest.
    """
    if not isinstance(fields, Mapping) or FIELD not in fields:
        return fields
    return {**fields, FIELD: msgspec.to_builtins(read_loras(fields[FIELD]))}


def without_name(lora: Lora) -> dict[str, Any]:
    """A LoRA as plain JSON by its file's SHA-256, and not by what the file happens to be called."""
    return {name: value for name, value in msgspec.to_builtins(lora).items() if name != "name"}


def problems_of(loras: Sequence[Lora]) -> Iterator[str]:
    """Yield the problems of a request's LoRAs that can be told without their files."""
    if len(loras) > MOST_LORAS:
        yield f"has {len(loras)} of them; the limit is {MOST_LORAS}"
    for lora in loras:
        if wrong := wrong_strength(lora.strength):
            yield f"{lora.name}: {wrong}"


def _read(said: Any) -> Lora:
    if isinstance(said, Lora):
        return said
    if isinstance(said, str):
        asked = parse_lora(said)
        return Lora(name=asked.place, strength=asked.strength, target=asked.target)
    if isinstance(said, Mapping):
        return _of_object(said)
    raise InvalidRequest.of(FIELD, f"{said!r:.80} is not {FORM}, nor an object with a name")


def _of_object(said: Mapping[str, Any]) -> Lora:
    fields: dict[str, Any] = {}
    for key, value in said.items():
        name = ALIASES.get(key, key)
        if value is None:
            continue
        if name in PATHS:
            raise InvalidRequest.of(FIELD, f"{name}: {NO_PATHS}")
        if name not in FIELDS:
            raise InvalidRequest.of(FIELD, f"{key!r:.80} is not one of {', '.join(FIELDS[:-1])}", *_near(key, FIELDS))
        if name in fields:
            raise InvalidRequest.of(FIELD, f"{key}: the {name} stands there twice; say it once")
        fields[name] = value
    if (target := fields.get("target")) is not None and target not in TARGETS:
        nearest = [ELSEWHERE[str(target)]] if str(target) in ELSEWHERE else _near(str(target), TARGETS)
        raise InvalidRequest.of(FIELD, f"target {target!r:.80} is not one of {', '.join(TARGETS)}", *nearest)
    fields.pop("num_bytes", None)
    if not isinstance(fields.get("name"), str):
        raise InvalidRequest.of(FIELD, 'an object of a LoRA has a name, such as {"name": "style"}')
    for name in fields.keys() & READ.keys():
        kind, what = READ[name]
        try:
            fields[name] = msgspec.convert(fields[name], kind, strict=False)  # in a form numbers are texts
        except msgspec.ValidationError:
            raise InvalidRequest.of(FIELD, f"{fields['name']:.80}: {name} {fields[name]!r:.80} is no {what}") from None
    return Lora(**fields)


def _near(name: str, known: Sequence[str]) -> list[str]:
    return difflib.get_close_matches(name, known, 1)
