"""Listing of a server's settings, a line each: the setting, its value and its source. Secrets stay secret."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum

import typer

from ringlight.cli.settings import Said, options_of, source_of
from ringlight.core.plain import plain

HIDDEN = "***"
FIRST_PANEL = "Model"  # of what must be given, which help shows without one
NO_SETTINGS = ("config", "dry_run", "default", "help")
PASSWORD = re.compile(r"(?<=://)([^/@:]*):[^/@]*@")
QUERY = re.compile(r"\?.*")


def of_command(ctx: typer.Context, limits: Mapping[str, Said], defaults: Mapping[str, Said]) -> str:
    """Every option of the command that runs by its help panel, then the limits and the defaults of requests."""
    groups: dict[str, dict[str, Said]] = {}
    for name, option in options_of(ctx).items():
        if name not in NO_SETTINGS:
            group = groups.setdefault(option.rich_help_panel or FIRST_PANEL, {})
            group[option.opts[0].removeprefix("--")] = Said(ctx.params[name], source_of(ctx, name))
    groups |= {"Limits of requests": dict(limits), "Defaults of requests": dict(defaults)}
    names = max(len(name) for rows in groups.values() for name in rows)
    texts = max(len(show(name, said.value)) for rows in groups.values() for name, said in rows.items())
    lines = [f"config  {ctx.params['config'] or 'no file'}"]
    for title, rows in groups.items():
        lines += ["", title]
        lines += [f"  {name:<{names}}  {show(name, said.value):<{texts}}  {said.source}" for name, said in rows.items()]
    return "\n".join(lines)


def show(name: str, value: object) -> str:
    """A value as text, without what nobody but the operator may know; `-` where there is none."""
    if value is None or value in ("", (), []):
        return "-"
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return plain(value)
    if isinstance(value, (list, tuple)):
        return ", ".join(show(name, each) for each in value)
    if name == "api-key":
        owner, colon, _ = str(value).partition(":")
        return f"{owner}:{HIDDEN}" if colon else HIDDEN
    text = str(value)
    return QUERY.sub(f"?{HIDDEN}", PASSWORD.sub(rf"\1:{HIDDEN}@", text)) if "://" in text else text
