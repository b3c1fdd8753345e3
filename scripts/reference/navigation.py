"""The pages of the site in their order: docs/navigation.toml, read."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
INDEX = "docs/index.md"
TITLE = re.compile(r"^# (.+)$", re.MULTILINE)


class Page(NamedTuple):
    """A file of the repository, by its path there, and what it is called in the navigation."""

    path: str
    title: str


class Section(NamedTuple):
    """Pages under one heading; `about` says for whom they are."""

    title: str
    about: str
    pages: tuple[Page, ...]


def sections(root: Path = ROOT) -> list[Section]:
    """All pages but the index, each once: where it is named, else where a pattern first finds it.

    Raises FileNotFoundError for a page that is not there; only a pattern with a star may find none.
    """
    asked = tomllib.loads((root / "docs/navigation.toml").read_text(encoding="utf-8"))["section"]
    entries = [[each if isinstance(each, dict) else {"path": each} for each in one["pages"]] for one in asked]
    taken = {entry["path"] for listed in entries for entry in listed} | {INDEX}
    found = []
    for one, listed in zip(asked, entries, strict=True):
        pages: list[Page] = []
        for entry in listed:
            pages += _pages(root, entry, taken)
            taken |= {page.path for page in pages}
        found.append(Section(one["title"], one["about"], tuple(pages)))
    return [section for section in found if section.pages]


def as_lists() -> str:
    """The sections as the index has them: a heading, a sentence, a list of links."""
    parts = []
    for section in sections():
        links = [f"- [{page.title}]({_from_docs(page.path)})" for page in section.pages]
        parts.append("\n".join([f"## {section.title}", "", section.about, "", *links]))
    return "\n\n".join(parts)


def as_toctrees() -> str:
    """The sections as Sphinx has them: what stands beside every page."""
    parts = []
    for section in sections():
        entries = [f"{page.title} </{page.path.removesuffix('.md')}>" for page in section.pages]
        parts.append("\n".join(["```{toctree}", ":hidden:", f":caption: {section.title}", "", *entries, "```"]))
    return "\n\n".join(parts)


def _pages(root: Path, entry: Mapping[str, Any], taken: set[str]) -> Iterator[Page]:
    path = entry["path"]
    if "*" not in path:
        yield Page(path, entry.get("title") or _title(root / path))
        return
    for each in sorted(root.glob(path)):
        name = each.relative_to(root).as_posix()
        if name not in taken:
            yield Page(name, _title(each))


def _title(path: Path) -> str:
    found = TITLE.search(path.read_text(encoding="utf-8"))
    if found is None:
        raise ValueError(f"{path.name} has no title: a line that begins with `# `")
    return found[1].replace("`", "")


def _from_docs(path: str) -> str:
    return path.removeprefix("docs/") if path.startswith("docs/") else f"../{path}"
