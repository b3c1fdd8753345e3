"""Flags of a command out of structs: every setting of a struct is one, and the command is given the struct."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import reduce, wraps
from typing import Annotated, Any, TypeVar

import msgspec
import typer

from ringlight.cli.settings import split_lists
from ringlight.core.asked_loras import read_loras
from ringlight.core.errors import InvalidRequest
from ringlight.core.fields import Field, build, holds_several, kind_of_several, settings_of
from ringlight.core.lora import Lora

Command = TypeVar("Command", bound=Callable[..., Any])


def with_flags(
    only: Collection[str] | Mapping[str, Collection[str]] | None = None,
    without: Collection[str] = (),
    usual: Mapping[str, Any] | None = None,
    **structs: type[msgspec.Struct],
) -> Callable[[Command], Command]:
    """Give a command a flag for every setting of these structs, which stand for its parameters of their names.

    `only` some of the settings, or by the struct's name only some of that one's, or all `without` some; `usual` are
    other defaults than the struct's, also of those that have no flag. These two are by a setting's name, or STRUCT.NAME
    where several structs have it. The command's `settings` are the names of flags by struct.
    """
    stated = usual or {}

    def usual_of(struct: str) -> dict[str, Any]:
        names = [field.name for field in settings_of(structs[struct])]
        return {name: stated[key] for name in names for key in (name, f"{struct}.{name}") if key in stated}

    def flags_of(struct: str) -> list[Field]:
        wanted = only.get(struct) if isinstance(only, Mapping) else only
        fields = [
            field for field in settings_of(structs[struct]) if not {field.name, f"{struct}.{field.name}"} & {*without}
        ]
        return fields if wanted is None else [field for field in fields if field.name in wanted]

    def decorate(command: Command) -> Command:
        own = inspect.signature(command, eval_str=True)
        parameters: list[inspect.Parameter] = []
        for name, parameter in own.parameters.items():
            fields = flags_of(name) if name in structs else ()
            parameters += [_parameter(field, usual_of(name)) for field in fields] or [parameter]

        @wraps(command)
        def run(**given: Any) -> Any:
            for name, kind in structs.items():
                usual = usual_of(name)
                values = {field.path: usual[field.name] for field in settings_of(kind) if field.name in usual}
                values |= {field.path: _value(field, given.pop(field.name)) for field in flags_of(name)}
                given[name] = build(kind, values)
            return command(**given)

        keyword = inspect.Parameter.KEYWORD_ONLY
        signature = own.replace(parameters=[each.replace(kind=keyword) for each in parameters])
        run.__signature__ = signature  # type: ignore[attr-defined]
        run.settings = {name: [field.name for field in flags_of(name)] for name in structs}  # type: ignore[attr-defined]
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
            continue
        for each in value if isinstance(value, tuple) else (value,):
            yield from (f"--{flag}", str(each))


def _parameter(field: Field, usual: Mapping[str, Any]) -> inspect.Parameter:
    how, several = field.meta.extra or {}, holds_several(field.type)
    default = usual.get(field.name, field.default)
    if several:
        default = list(default or ()) or None
    option = typer.Option(
        *_names(field.name, how["short"]),
        help=field.meta.description,
        rich_help_panel=how["panel"] or None,
        metavar=how["metavar"] or None,
        min=field.meta.ge,
        max=field.meta.le,
        show_default=how["shown"] or default not in (..., ""),
    )
    kind = list[str] | None if several else field.type  # numbers too: with commas between them they are a text
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if default is ... else default,
        annotation=Annotated[kind, option],
    )


def _names(name: str, short: str) -> list[str]:
    """Names of a flag that typer would not derive by itself."""
    if not short and not name.startswith("no_"):
        return []
    return [f"--{name.replace('_', '-')}", *([f"-{short}"] if short else [])]


def _value(field: Field, given: Any) -> Any:
    kind = kind_of_several(field.type)
    if kind is None:
        return given
    if given is None and field.default is None:
        return None
    texts = split_lists(given or ()) if (field.meta.extra or {})["splits"] else tuple(filter(str.strip, given or ()))
    flag = f"--{field.name.replace('_', '-')}"
    return READERS[kind](texts, flag) if kind in READERS else texts


def numbers(texts: Iterable[str], flag: str) -> tuple[float, ...]:
    """The numbers of a flag that takes several. Raises typer.BadParameter."""
    found = []
    for text in texts:
        try:
            found.append(float(text))
        except ValueError:
            said = f"{text!r} is not a number; give numbers with commas between them"
            raise typer.BadParameter(said, param_hint=f"'{flag}'") from None
    return tuple(found)


def loras(texts: Iterable[str], flag: str) -> tuple[Lora, ...]:
    """The LoRAs of a flag. Raises typer.BadParameter."""
    try:
        return read_loras([*texts])
    except InvalidRequest as error:
        said = "; ".join(problem.message for problem in error.problems)
        raise typer.BadParameter(said, param_hint=f"'{flag}'") from None


READERS: dict[type, Callable[[Iterable[str], str], tuple[Any, ...]]] = {float: numbers, Lora: loras}
"""How the texts of a flag that takes several become what they stand for."""
