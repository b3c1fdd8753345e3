"""Docstrings begin with a verb or the name of a thing. That they are there, and how they are laid out, ruff checks."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "ringlight"
PRONOUNS = "He I It Its Our That Their These They This Those We You Your None Nobody Nothing Somebody Something"
QUESTIONS = "How What When Where Which Who Whom Whose Why"  # "Whether" is for booleans
LINKS = "After And As Because Before But If Likewise Not Once Or Said Since So There Told Until While"
PLACES = "Above At Below Beside Between By For From In Into Of On Over To Under With Without"
HEADLESS = frozenset(f"{PRONOUNS} {QUESTIONS} {LINKS} {PLACES}".split())
PLACES_OF_DOCSTRINGS = ("{}", "class Some:\n    {}\n", "class Some:\n    async def call(self):\n        {}\n")
FAULTS = ("What became of it.", "Of a row.", "None, where there is none.", "With a sign.", "This machine.", "Likewise.")


def headless(text: str) -> Iterator[str]:
    """Yield the first lines of a module's docstrings that begin with a word that is neither a verb nor a name."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = (ast.get_docstring(node) or "").partition("\n")[0]
            if first.partition(" ")[0].rstrip(".,:;") in HEADLESS:
                yield first


def test_every_docstring_begins_with_a_verb_or_a_name() -> None:
    texts = {str(path.relative_to(SOURCE)): path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py")}
    assert {name: found for name, text in texts.items() if (found := list(headless(text)))} == {}
    assert "wire/video.py" in texts


@pytest.mark.parametrize("line", FAULTS)
@pytest.mark.parametrize("place", PLACES_OF_DOCSTRINGS)
def test_a_line_without_a_head_is_found(place: str, line: str) -> None:
    assert list(headless(place.format(f'"""{line}\n\nMore of it.\n"""'))) == [line]


@pytest.mark.parametrize("line", ["Return the sign.", "Bytes of a row.", "(B, L) tokens.", "Whether it is there.", ""])
def test_a_line_with_a_head_is_not(line: str) -> None:
    assert list(headless(f'def some():\n    """{line}"""')) == []
