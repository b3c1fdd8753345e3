"""Settings of a command from flags, environment and a YAML file, each with its source.

A flag wins over RINGLIGHT_<FLAG>, that over the file, and that over the default; all know the same names. Typer reads
the flags. What the other two say is checked by the flags' own rules and becomes their defaults before it does so.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import typer
from typer.core import TyperCommand, TyperOption

from ringlight.core.asked_loras import written_out
from ringlight.core.config import DEFAULTS_FILE, EngineConfig, read_environment, read_settings_file
from ringlight.core.errors import InvalidRequest, InvalidSetting
from ringlight.core.fields import holds_several, texts_of
from ringlight.core.named_samplers import brought_by
from ringlight.core.request import RequestDefaults, RequestLimits
from ringlight.core.settings import ServeSettings

FLAG, DEFAULT, MODEL_CARD = "flag", "default", "model card"
OF_CHECKPOINT = (DEFAULTS_FILE, MODEL_CARD)
ONLY_FLAGS = ("config", "dry_run", "help", "default")  # `default` has rules of its own: its values add up
SECTIONS = ("defaults", "limits")
TEXTS = texts_of(EngineConfig, ServeSettings, RequestDefaults)
READ_ELSEWHERE = ("config", "default", "url")  # the last by `ringlight jobs`
KINDS = {str: "text", bool: "true or false", int: "a whole number", float: "a number", list: "a list of texts"}


class Said(NamedTuple):
    """A value and who said it."""

    value: Any
    source: str


class Layer(NamedTuple):
    """Values of fields from one source. Without types all of them are text, as in the environment."""

    source: str
    fields: Mapping[str, Any]
    has_types: bool


class Stated:
    """Values from environment and file: of a command's options, and of limits and defaults of requests."""

    def __init__(self, ctx: typer.Context, path: str | None) -> None:
        """Read environment and file. Raises InvalidSetting that names every problem."""
        self._path = path or ""
        self._environment = read_environment()
        self._known = {name: option for name, option in options_of(ctx).items() if name not in ONLY_FLAGS}
        self.options: dict[str, Said] = {}
        content = read_settings_file(Path(path), TEXTS) if path else {}
        self._sections = {name: _section(content.pop(name, None), f"{path}: {name}") for name in SECTIONS}
        problems = [*self._take_file(ctx, content), *_take_environment(ctx, self._known, self.options)]
        if problems:
            raise InvalidSetting("; ".join(problems))

    def _take_file(self, ctx: typer.Context, content: Mapping[str, Any]) -> Iterator[str]:
        """Take what the file says; yields problems."""
        for key, value in content.items():
            name = key.replace("-", "_")
            if name not in self._known:
                known = [*(known.replace("_", "-") for known in self._known), *SECTIONS]
                yield f"{self._path}: {key} is not a setting{_did_you_mean(key, known)}"
            elif value is not None:  # a name whose value is left out is as if it were not there
                option = self._known[name]
                try:
                    if option.multiple != isinstance(value, list):
                        raise typer.BadParameter(f"must be {KINDS[list]}" if option.multiple else "must not be a list")
                    taken = option.process_value(ctx, value)
                    if wanted := _other_kind(value, taken):
                        raise typer.BadParameter(f"must be {wanted}, not {value!r}")
                    self.options[name] = Said(taken, self._path)
                except typer.BadParameter as error:
                    yield f"{self._path}: {key}: {error.message}"

    def unknown(self) -> Iterator[str]:
        """A line for every RINGLIGHT_ variable that nothing reads."""
        known = [*self._known, *_names(RequestLimits), *READ_ELSEWHERE]
        for name in sorted(self._environment):
            if name not in known:
                yield f"{variable(name)} is not a setting{_did_you_mean(variable(name), map(variable, known))}"

    def limits(self) -> dict[str, Said]:
        """Each field of RequestLimits: RINGLIGHT_MAX_..., else the file, else the default. Raises InvalidSetting."""
        layers = [
            Layer(variable(name), {name: self._environment[name]}, has_types=False)
            for name in _names(RequestLimits)
            if name in self._environment
        ]
        return _first([*layers, Layer(self._path, self._sections["limits"], has_types=True)], RequestLimits(), DEFAULT)

    def defaults(self, pairs: Iterable[str], of_checkpoint: RequestDefaults, usual: RequestDefaults) -> dict[str, Said]:
        """Value and source of each default of requests: `--default`, RINGLIGHT_DEFAULT, the file, else the checkpoint.

        The checkpoint counts for values that are not the usual ones of its family.

        Raises InvalidSetting.
        """
        # A comma parts two pairs only where a name follows: a negative prompt may have commas of its own.
        listed = filter(None, re.split(r",(?=\s*[\w-]+=)", self._environment.get("default", "")))
        layers = [
            Layer("--default", _parse_pairs(pairs, "--default"), has_types=False),
            Layer(variable("default"), _parse_pairs(listed, variable("default")), has_types=False),
            Layer(self._path, self._sections["defaults"], has_types=True),
            Layer(DEFAULTS_FILE, _changed(of_checkpoint, usual), has_types=True),
        ]
        return _first(layers, usual, MODEL_CARD)


class EngineCommand(TyperCommand):
    """Command with an engine's settings (its parameter `engine`).

    They come from their flags, else from the same variables as those of a server.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read flags over the environment. Raises InvalidSetting that names every variable that is wrong."""
        names = self.callback.settings["engine"]  # type: ignore[union-attr]
        said: dict[str, Said] = {}
        known = {name: option for name, option in options_of(ctx).items() if name in names}
        problems = [*_take_environment(ctx, known, said)]
        ctx.default_map = {name: each.value for name, each in said.items()}
        rest = super().parse_args(ctx, args)
        if problems:  # said now: help is to be had without the environment
            raise InvalidSetting("; ".join(problems))
        return rest


def _take_environment(ctx: typer.Context, known: Mapping[str, TyperOption], said: dict[str, Said]) -> Iterator[str]:
    """Take what the environment says of these options, over what was said before; yields problems."""
    for name, text in read_environment().items():
        if option := known.get(name):
            try:
                taken = option.process_value(ctx, list(split_lists([text])) if option.multiple else text)
                said[name] = Said(taken, variable(name))
            except typer.BadParameter as error:
                yield f"{variable(name)}: {error.message}"


def state(ctx: typer.Context, path: str | None) -> str | None:
    """The callback of --config, which is read before all other options: environment and file become their defaults.

    `ctx.obj` is a Stated from then on. Warns on stderr of RINGLIGHT_ variables that nothing reads. Raises
    InvalidSetting.
    """
    stated = ctx.obj = Stated(ctx, path)
    for line in stated.unknown():
        print(f"ringlight: {line}", file=sys.stderr)
    ctx.default_map = {name: said.value for name, said in stated.options.items()}
    return path


def options_of(ctx: typer.Context) -> dict[str, TyperOption]:
    """The options of the command that is being read, by name."""
    return {option.name: option for option in ctx.command.params if isinstance(option, TyperOption)}


def source_of(ctx: typer.Context, name: str) -> str:
    """Source of an option's value."""
    stated: Stated = ctx.obj
    source = ctx.get_parameter_source(name)
    if source is not None and source.name == "COMMANDLINE":
        return FLAG
    return stated.options[name].source if name in stated.options else DEFAULT


def variable(name: str) -> str:
    """The environment's name of a setting."""
    return f"RINGLIGHT_{name.upper()}"


def split_lists(texts: Iterable[str]) -> tuple[str, ...]:
    """A flag that may be repeated may also hold several values with commas between them."""
    return tuple(part for text in texts for each in text.split(",") if (part := each.strip()))


def values(said: Mapping[str, Said]) -> dict[str, Any]:
    """Values without their sources."""
    return {name: each.value for name, each in said.items()}


def _first(layers: list[Layer], base: msgspec.Struct, base_source: str) -> dict[str, Said]:
    """Value of each field from the first layer that has it, else from `base`. Raises InvalidSetting."""
    kinds = {field.name: field.type for field in msgspec.structs.fields(base)}
    said = {name: Said(getattr(base, name), base_source) for name in kinds}
    for layer in reversed(layers):
        fields = _converted(layer, kinds)
        said |= {name: Said(value, layer.source) for name, value in (brought_by(fields) | fields).items()}
    return said


def _converted(layer: Layer, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a layer's values to the types of these fields. Raises InvalidSetting."""
    source, fields, has_types = layer
    found = {}
    for key, value in fields.items():
        name = key.replace("-", "_")
        if name not in kinds:
            raise InvalidSetting(f"{source}: {key} is not one of {', '.join(kinds)}{_did_you_mean(name, kinds)}")
        if not has_types and holds_several(kinds[name]):
            value = split_lists([value])
        try:
            found[name] = msgspec.convert(written_out({name: value})[name], kinds[name], strict=has_types)
        except (msgspec.ValidationError, InvalidRequest) as error:
            raise InvalidSetting(f"{source}: {key}: {error}") from None
    return found


def _parse_pairs(pairs: Iterable[str], source: str) -> dict[str, str]:
    """Parse KEY=VALUE pairs. Raises InvalidSetting."""
    fields = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise InvalidSetting(f"{source}: {pair!r} is not KEY=VALUE, such as num_frames=81")
        fields[key.strip()] = value
    return fields


def _changed(defaults: RequestDefaults, usual: RequestDefaults) -> dict[str, Any]:
    """Defaults that differ from the model card."""
    return {name: value for name, value in msgspec.structs.asdict(defaults).items() if value != getattr(usual, name)}


def _section(value: object, place: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise InvalidSetting(f"{place}: must map names to values")
    return value


def _other_kind(value: object, taken: object) -> str | None:
    """Type that a value should have had, if the option took it only by converting it."""
    if isinstance(taken, Enum):
        return None
    if isinstance(taken, list):
        is_right = isinstance(value, list) and all(isinstance(each, str) for each in value)
    else:
        is_right = type(value) in ((int, float) if isinstance(taken, float) else (type(taken),))
    return None if is_right else KINDS[type(taken)]


def _names(kind: type[msgspec.Struct]) -> list[str]:
    return [field.name for field in msgspec.structs.fields(kind)]


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""
