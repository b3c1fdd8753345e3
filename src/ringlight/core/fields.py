"""Facts on a setting beside its type and its default: said once, where the field is declared.

Flags, environment, settings files, `--dry-run` and docs are made of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Annotated, Any, NamedTuple, get_args, get_origin

import msgspec
from msgspec import Meta

# The groups that settings are shown in.
MODEL, MACHINE, LAYOUT, SERVER, JOBS = "Model", "Machine", "Layout", "Server", "Jobs"
SAFETY, OBSERVABILITY, VIDEO, SAMPLING = "Safety", "Observability", "Video", "Sampling"


class Field(NamedTuple):
    """Setting of a struct. `meta` holds help, bounds and, in `extra`, how it is shown; `path` leads to it."""

    path: tuple[str, ...]
    type: Any
    meta: Meta
    default: Any

    @property
    def name(self) -> str:
        return self.path[-1]


def setting(
    help: str,  # noqa: A002 (as in every library of flags)
    panel: str = "",
    *,
    metavar: str = "",
    splits: bool = True,
    shown: str = "",
    short: str = "",
    ge: float | None = None,
    le: float | None = None,
) -> Meta:
    """Help of a field, the group that it is shown in, what stands for its value, and its bounds.

    A field of several values `splits` texts at commas. `shown` is what is called its default where that is None;
    `short` the letter of a short flag.
    """
    how = {"panel": panel, "metavar": metavar, "splits": splits, "shown": shown, "short": short}
    return Meta(description=help, ge=ge, le=le, extra=how)


def settings_of(kind: type[msgspec.Struct]) -> Iterator[Field]:
    """Every field that has a `setting`, in the order of their declaration; those of structs in the place of a field."""
    for field in msgspec.structs.fields(kind):
        default = ... if field.required else field.default
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            for inner in settings_of(field.type):
                yield inner._replace(path=(field.name, *inner.path))
        elif metas := [each for each in get_args(field.type)[1:] if isinstance(each, Meta) and each.description]:
            yield Field((field.name,), get_args(field.type)[0], metas[0], default)


def opened(
    name: str, kind: type[msgspec.Struct], without: Collection[str] = (), base: type[msgspec.Struct] | None = None
) -> type[msgspec.Struct]:
    """Make a struct of another's settings, beside the fields of `base`: each may be None, and is by default."""
    fields = [
        (field.name, Annotated[field.type | None, field.meta], None)
        for field in settings_of(kind)
        if field.name not in without
    ]
    bases = None if base is None else (base,)
    return msgspec.defstruct(name, fields, bases=bases, module=kind.__module__, frozen=True, kw_only=True)


def build(kind: type[msgspec.Struct], values: dict[tuple[str, ...], Any]) -> Any:
    """A struct of the values of its settings, by path; all else as it is by default."""
    own = {path[0]: value for path, value in values.items() if len(path) == 1}
    for field in msgspec.structs.fields(kind):
        inner = {path[1:]: value for path, value in values.items() if path[0] == field.name and len(path) > 1}
        if inner:
            own[field.name] = build(field.type, inner)
    return kind(**own)


def holds_several(kind: Any) -> bool:
    """Whether a field's type is that of several values, or of none."""
    return kind_of_several(kind) is not None


def kind_of_several(kind: Any) -> type | None:
    """The type of each value of a field that holds several; None where it holds one."""
    if get_origin(kind) is tuple:
        found: type = get_args(kind)[0]
        return found
    return next(filter(None, map(kind_of_several, get_args(kind))), None)


def texts_of(*kinds: type[msgspec.Struct]) -> set[str]:
    """The names of the settings of structs whose values are texts, one or several."""
    fields = [each for kind in kinds for each in settings_of(kind)]
    return {each.name for each in fields if str in (each.type, kind_of_several(each.type))}
