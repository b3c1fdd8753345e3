"""The public Python interface, from signatures and docstrings."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterator
from typing import Any, get_args, get_origin

import msgspec

import ringlight
import ringlight.client
from reference.markdown import bounds, table

MAKING = (
    "Engine",
    "EngineConfig",
    "NodesConfig",
    "AskedLayout",
    "ParallelLayout",
    "VideoRequest",
    "RequestDefaults",
    "RequestLimits",
    "Submission",
    "Keep",
    "Job",
    "JobState",
    "RunReport",
)
ERRORS = ("RinglightError", "ApiError", "Unreachable")
LINE = 100  # characters of a signature in one line
STARS = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}


def making() -> str:
    """The classes that make videos in processes of their own."""
    return "\n\n".join(_section(name, getattr(ringlight, name)) for name in MAKING)


def client() -> str:
    """The classes of the client, and what it gives."""
    names = sorted({*ringlight.client.__all__} - {*ERRORS}, key=lambda name: (name != "Client", name))  # that one first
    return "\n\n".join(_section(name, getattr(ringlight.client, name)) for name in names)


def errors() -> str:
    """Base of what is raised on purpose, and errors of the client."""
    return "\n\n".join(_section(name, getattr(ringlight, name)) for name in ERRORS)


def _section(name: str, kind: Any) -> str:
    if not isinstance(kind, type):  # a union
        return f"### {name}\n\nOne of these: {type_name(kind)}.".replace("|", "or")
    parts = [f"### {name}", _text(kind)]
    if issubclass(kind, msgspec.Struct):
        parts.append(_fields(kind))
    elif "__init__" in vars(kind):
        parts += [_code(f"{name}{_signature(kind.__init__)}"), _text(kind.__init__)]
    parts += [_properties(kind), *(_method(name, each, value) for each, value in _members(kind))]
    return "\n\n".join(filter(None, parts))


def _fields(kind: type[msgspec.Struct]) -> str:
    """A table of a struct's fields; the last column only where something is said of one."""
    rows = [
        (f"`{field.name}`", f"`{type_name(field.type)}`", _usual(field), _said(field.type))
        for field in msgspec.structs.fields(kind)
    ]
    head = ("field", "type", "default", "meaning")
    width = 4 if any(row[3] for row in rows) else 3
    return table(head[:width], [row[:width] for row in rows])


def _usual(field: Any) -> str:
    """The default of a field."""
    if field.required:
        return "must be given"
    made = field.default_factory is not msgspec.NODEFAULT
    return f"`{_written(field.default_factory() if made else field.default)}`"


def _said(kind: Any) -> str:
    """Text and bounds that are declared of a field beside its type."""
    notes = get_args(kind)[1:] if get_origin(kind) is typing.Annotated else ()
    metas = [each for each in notes if isinstance(each, msgspec.Meta)]
    texts = [each.description or "" for each in metas]
    ranges = [f"({between})" for each in metas if (between := bounds(each.ge, each.le))]
    return " ".join([*filter(None, texts), *ranges])


def _properties(kind: type) -> str:
    found = [(name, each.fget) for name, each in _public(kind) if isinstance(each, property)]
    rows = [(f"`{name}`", f"`{type_name(get.__annotations__['return'])}`", _line(get)) for name, get in found]
    return table(("property", "type", "meaning"), rows) if rows else ""


def _members(kind: type) -> Iterator[tuple[str, Any]]:
    """Functions, and what makes one of the class."""
    for name, each in _public(kind):
        if isinstance(each, types.FunctionType | classmethod):
            yield name, each


def _public(kind: type) -> Iterator[tuple[str, Any]]:
    """Public members of a class and of those that it is made of, in the order of definition."""
    seen: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.startswith("ringlight"):
            seen |= {name: each for name, each in vars(base).items() if not name.startswith("_")}
    yield from seen.items()


def _method(owner: str, name: str, member: Any) -> str:
    function = inspect.unwrap(getattr(member, "__func__", member))
    return "\n\n".join([f"#### {owner}.{name}", _code(f"{name}{_signature(function)}"), _text(function)])


def _signature(function: Any) -> str:
    """A signature without the object itself, over several lines where it is long."""
    signature = inspect.signature(function)
    parts: list[str] = []
    for each in list(signature.parameters.values())[1:]:
        if each.kind is each.KEYWORD_ONLY and not any(part.startswith("*") for part in parts):
            parts.append("*")
        parts.append(_parameter(each))
    is_told = signature.return_annotation is not signature.empty and function.__name__ != "__init__"
    end = f" -> {type_name(signature.return_annotation)}" if is_told else ""
    line = f"({', '.join(parts)}){end}"
    if len(line) <= LINE:
        return line
    return "\n".join(["(", *(f"    {part}," for part in parts), f"){end}"])


def _parameter(each: inspect.Parameter) -> str:
    text = STARS.get(each.kind, "") + each.name
    if each.annotation is not each.empty:
        text += f": {type_name(each.annotation)}"
    return text if each.default is each.empty else f"{text} = {_written(each.default)}"


def _written(value: Any) -> str:
    """A default as it is written in Python."""
    if isinstance(value, msgspec.Struct):
        return f"{type(value).__name__}()"
    if callable(value):
        return "..."
    return f'"{value}"' if isinstance(value, str) else repr(value)


def type_name(kind: Any) -> str:
    """A type as it is written in Python."""
    if isinstance(kind, str):
        return kind.replace("'", '"')
    if kind is None or kind is type(None):
        return "None"
    if kind is ...:
        return "..."
    inner = get_args(kind)
    match get_origin(kind):
        case typing.Annotated:
            return type_name(inner[0])
        case typing.Literal:
            return " | ".join(f'"{each}"' if isinstance(each, str) else repr(each) for each in inner)
        case typing.Union | types.UnionType:
            return " | ".join(map(type_name, inner))
        case None:
            return getattr(kind, "__name__", str(kind))
        case outer:
            return f"{outer.__name__}[{', '.join(map(type_name, inner))}]"


def _text(member: Any) -> str:
    """A docstring, which is Markdown; of a class, its own."""
    return inspect.cleandoc(vars(member).get("__doc__") or "" if isinstance(member, type) else member.__doc__ or "")


def _line(function: Any) -> str:
    return " ".join((function.__doc__ or "").split())


def _code(text: str) -> str:
    return f"```python\n{text}\n```"
