"""Commands with their options, as `--help` has them and with the variables that stand for options."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from typing import Any

import typer

from reference.markdown import bounds, first_sentence, table
from ringlight.cli.main import command as ringlight
from ringlight.cli.settings import ONLY_FLAGS, EngineCommand, variable

ARGUMENTS, FIRST_PANEL = "Arguments", "Options"  # as help calls what has no panel
READ_WITHOUT_ENVVAR = ("config", "default")  # of ONLY_FLAGS
SETTINGS = "All its settings, with their environment and defaults, stand on [a page of their own](settings.md)."


def overview() -> str:
    """A line for every command."""
    rows = [(f"[`{' '.join(path)}`](#{'-'.join(path)})", first_sentence(command.help)) for path, command in _commands()]
    return table(("command", "what it does"), rows)


def all_commands() -> str:
    """A section for every command: how it is called, what it does, and its options."""
    return "\n\n".join(_section(path, command) for path, command in _commands())


def options(command: Any, heading: str = "**{}**") -> str:
    """A table for each group of a command's options, under a heading with the group's name."""
    groups: dict[str, list[tuple[str, ...]]] = {}
    for option in command.params:
        if option.name == "help" or option.hidden:
            continue
        row = (_call(command, option), _environment(command, option), _default(option), _meaning(option))
        is_argument = option.param_type_name == "argument"
        panel = ARGUMENTS if is_argument else option.rich_help_panel or FIRST_PANEL
        groups.setdefault(panel, []).append(row)
    head = ("flag", "environment", "default", "meaning")
    titles = sorted(groups, key=lambda title: (title != ARGUMENTS, title != FIRST_PANEL))  # these first, as in help
    return "\n\n".join(f"{heading.format(title)}\n\n{table(head, groups[title])}" for title in titles)


def _commands(
    command: Any = ringlight, path: tuple[str, ...] = ("ringlight",)
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Commands that can be run with their paths, in the order of help."""
    below = getattr(command, "commands", None)
    if below is None:
        yield path, command
    for name, each in (below or {}).items():
        yield from _commands(each, (*path, name))


def _section(path: tuple[str, ...], command: Any) -> str:
    name = " ".join(path)
    pieces = command.collect_usage_pieces(typer.Context(command, info_name=name))
    parts = [f"## {name}", f"```text\n{name} {' '.join(pieces)}\n```", command.help]
    return "\n\n".join([*parts, SETTINGS if path[-1] == "serve" else options(command)])


def _call(command: Any, option: Any) -> str:
    """A flag as it is written, with what stands for its value."""
    if option.param_type_name == "argument":
        return f"`{option.name.upper()}`"
    *flags, last = [*option.opts, *option.secondary_opts]
    if not option.is_flag:
        last += f" {option.metavar or _kind(option.display_type(typer.Context(command)))}"
    return ", ".join(f"`{flag}`" for flag in [*flags, last])


def _kind(shown: str) -> str:
    """The kind of a value as help shows it, with its choices bare and of a list one of its values."""
    bare = re.sub(r"^list\[(.*)]$", r"\1", shown.strip("<>"))
    return bare if "|" in bare else f"<{bare}>"


def _environment(command: Any, option: Any) -> str:
    """The variable that stands for a flag, where there is one."""
    if option.envvar:
        return f"`{option.envvar}`"
    if command.name == "serve":
        is_read = option.name not in ONLY_FLAGS or option.name in READ_WITHOUT_ENVVAR
    else:
        is_read = isinstance(command, EngineCommand) and option.name in command.callback.settings["engine"]
    return f"`{variable(option.name)}`" if is_read else ""


def _default(option: Any) -> str:
    if option.required:
        return "must be given"
    if isinstance(option.show_default, str):
        return option.show_default
    value = option.default
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, bool):
        return "on" if value else "off"
    if value in (None, "", (), []):
        return ""
    return f"`{value:g}`" if isinstance(value, float) and value < 1e6 else f"`{value}`"


def _meaning(option: Any) -> str:
    between = bounds(option.min, option.max)
    return " ".join((option.help or "").split()) + (f" ({between})" if between else "")
