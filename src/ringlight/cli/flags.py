"""Flags of a command out of structs: every setting of a struct is one, and the command is given the struct."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import reduce, wraps
from typing import Annotated, Any, TypeVar

import msgspec
import typer

from ringlight.cli.settings import split_lists
from ringlight.core.fields import Field, build, holds_several, settings_of

Command = TypeVar("Command", bound=Callable[..., Any])


def with_flags(
    only: Collection[str] | None = None,
    without: Collection[str] = (),
    usual: Mapping[str, Any] | None = None,
    **structs: type[msgspec.Struct],
) -> Callable[[Command], Command]:
    """Give a command a flag for every setting of these structs, which stand for its parameters of their names.

    `only` some of the settings, or all `without` some; `usual` are other defaults than the struct's, also of those that
    have no flag.
    """
    usual = usual or {}

    def has_flag(field: Field) -> bool:
        return field.name not in without and (only is None or field.name in only)

    def decorate(command: Command) -> Command:
        own = inspect.signature(command, eval_str=True)
        parameters: list[inspect.Parameter] = []
        for name, parameter in own.parameters.items():
            fields = filter(has_flag, settings_of(structs[name])) if name in structs else ()
            parameters += [_parameter(field, usual) for field in fields] or [parameter]

        @wraps(command)
        def run(**given: Any) -> Any:
            for name, kind in structs.items():
                values = {}
                for field in settings_of(kind):
                    if has_flag(field):
                        values[field.path] = _value(field, given.pop(field.name))
                    elif field.name in usual:
                        values[field.path] = usual[field.name]
                given[name] = build(kind, values)
            return command(**given)

        keyword = inspect.Parameter.KEYWORD_ONLY
        signature = own.replace(parameters=[each.replace(kind=keyword) for each in parameters])
        run.__signature__ = signature  # type: ignore[attr-defined]
        run.__annotations__ = {name: each.annotation for name, each in signature.parameters.items()}
        return run  # type: ignore[return-value]

    return decorate


def as_flags(struct: msgspec.Struct, names: Collection[str]) -> Iterator[str]:
    """The flags that say these settings of a struct, as far as they are not as by default."""
    for field in settings_of(type(struct)):
        value: Any = reduce(getattr, field.path, struct)
        if field.name not in names or value == field.default:
            continue
        flag = field.name.replace("_", "-")
        if isinstance(value, bool):
            yield f"--{flag}" if value else f"--no-{flag}"
        else:
            yield from (f"--{flag}", str(value))


def _parameter(field: Field, usual: Mapping[str, Any]) -> inspect.Parameter:
    how, several = field.meta.extra or {}, holds_several(field.type)
    default = usual.get(field.name, field.default)
    if several:
        default = list(default) or None
    option = typer.Option(
        *([f"--{field.name.replace('_', '-')}"] if field.name.startswith("no_") else []),
        help=field.meta.description,
        rich_help_panel=how["panel"] or None,
        metavar=how["metavar"] or None,
        min=field.meta.ge,
        max=field.meta.le,
        show_default=default not in (..., ""),
    )
    kind = list[str] | None if several else field.type
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if default is ... else default,
        annotation=Annotated[kind, option],
    )


def _value(field: Field, given: Any) -> Any:
    if not holds_several(field.type):
        return given
    return split_lists(given or ()) if (field.meta.extra or {})["splits"] else tuple(given or ())
