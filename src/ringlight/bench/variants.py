"""Variants of requests: fields that take the place of every request's, and settings of a server of their own.

    [[variant]]
    name = "half the steps"
    num_inference_steps = 10

    [[variant]]
    name = "bfloat16"
    [variant.server]
    dtype = "bfloat16"

Each is measured beside what is exact: the same requests, seeds and layout without it. A request's prompt and pictures
stay its own.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from ringlight.core.asked_loras import written_out
from ringlight.core.config import EngineConfig
from ringlight.core.errors import InvalidSetting
from ringlight.core.lora import Lora
from ringlight.core.video_fields import AskedFields, UnsizedFields

OF_SERVERS = (  # settings that the servers of a benchmark are started with
    "device",
    "dtype",
    "vae_dtype",
    "attention",
    "load_format",
    "num_threads",
    "tf32",
    "decode_chunk",
    "num_slices",
    "memory_budget",
    "lora",
    "lora_dir",
)
SETTINGS = ("model_path", *OF_SERVERS)
SERVER, SIZE = "server", "size"
FIELDS = (*(field.name for field in msgspec.structs.fields(UnsizedFields)), SIZE)
KNOWN = ("name", *FIELDS, SERVER)
OWN = ("prompt", "image", "last_image")  # of a request, whatever its variant
MOST_CHARS = 80  # of a name


class RequestVariant(msgspec.Struct, frozen=True, kw_only=True):
    """Change from exact requests: `fields` of every request, and settings of a `server` of its own.

    A variant without a name is called by its changes.
    """

    name: str
    fields: dict[str, Any] = {}
    server: dict[str, Any] = {}

    @property
    def said(self) -> str:
        """Changes of the variant, in one line."""
        return said({**self.fields, **{f"{SERVER}.{name}": value for name, value in self.server.items()}})


def read_variant(table: Mapping[str, Any], strict: bool = True) -> RequestVariant:
    """Read the variant of a file's table, or unless `strict` of one whose values are texts.

    Raises InvalidSetting, InvalidRequest for LoRAs, ValidationError.
    """
    asked = table.get(SERVER, {})
    if not isinstance(asked, Mapping):
        raise InvalidSetting(f"{SERVER} is a table of settings, below [variant.{SERVER}]")
    given = {name: value for name, value in table.items() if name in FIELDS}
    fields = msgspec.convert(written_out(given), AskedFields, strict=strict)
    found = {name: msgspec.to_builtins(getattr(fields, name)) for name in given if name != SIZE}
    if SIZE in given:
        found[SIZE] = msgspec.convert(given[SIZE], str)
    config = msgspec.convert({"model_path": "", **asked}, EngineConfig, strict=strict)
    server = {name: msgspec.to_builtins(getattr(config, name)) for name in SETTINGS if name in asked}
    if not found and not server:
        raise InvalidSetting("says nothing that is other than in the requests")
    unnamed = RequestVariant(name="", fields=found, server=server)
    name = msgspec.convert(table.get("name", ""), str).strip() or unnamed.said
    return msgspec.structs.replace(unnamed, name=name)


def read_flag(text: str) -> dict[str, Any]:
    """Parse NAME=VALUE,NAME=VALUE, where a server's settings are called server.NAME; values are texts.

    Raises InvalidSetting.
    """
    table: dict[str, Any] = {}
    for part in filter(str.strip, text.split(",")):
        name, sign, value = (each.strip() for each in part.partition("="))
        if not sign or not name or not value:
            raise InvalidSetting(
                f"{part.strip()!r} is not NAME=VALUE; what has commas of its own is said in a workload"
            )
        place, dot, setting = name.partition(".")
        whole = table.setdefault(SERVER, {}) if place == SERVER and dot else table
        key = setting if whole is not table else name
        if key in whole:
            raise InvalidSetting(f"{name} is said twice")
        whole[key] = (value,) if whole is not table and key in ("lora", "lora_dir") else value
    return table


def unknown_names(table: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with each name that no variant has."""
    for name in table.keys() - {*KNOWN}:
        if name in OWN:
            yield f"{name} stays that of each request; write another [[request]] for another one"
        elif name in SETTINGS:
            yield f"{name} is a setting of the server; say it below [variant.server]"
        else:
            yield unknown(name, KNOWN)
    server = table.get(SERVER)
    if isinstance(server, Mapping):
        yield from (f"{SERVER}: {unknown(name, SETTINGS)}" for name in server.keys() - {*SETTINGS})


def unknown(name: str, known: Collection[str]) -> str:
    """Message that a name is unknown, with the nearest known one."""
    nearest = difflib.get_close_matches(name, known, 1, cutoff=0.5)
    hint = f"nearest: {nearest[0]}" if nearest else f"there are {', '.join(known)}"
    return f"there is no {name} ({hint})"


def wrong_names(variants: Sequence[RequestVariant]) -> Iterator[str]:
    """Yield what is wrong with the names of variants, which tables and files are called by."""
    counts = Counter(file_stem(variant.name) for variant in variants)
    for variant in variants:
        if len(variant.name) > MOST_CHARS or not variant.name.isprintable() or set("`|") & {*variant.name}:
            yield f"the name {variant.name[:MOST_CHARS]!r} is not of at most {MOST_CHARS} printable characters but ` |"
    for stem, count in counts.items():
        if count > 1:
            yield f"{count} variants are called {stem}, or alike; give each a `name` that letters tell from others"


def file_stem(name: str) -> str:
    """A name as part of a file's."""
    return re.sub(r"[^\w.+=-]+", "_", name)


def said(values: Mapping[str, Any]) -> str:
    """NAME=VALUE, separated by commas; LoRAs as people write them."""
    return ",".join(f"{name}={_shown(value)}" for name, value in values.items())


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "+".join(map(_shown, value))
    if isinstance(value, Mapping):  # a LoRA
        return str(msgspec.convert(value, Lora))
    return f"{value:g}" if isinstance(value, float) else str(value)
