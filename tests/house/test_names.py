"""A class name stands for one thing, a module name for two at most: tracebacks, searches and imports say which."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "ringlight"
ROLES = {"__init__.py", "card.py", "demo.py"}  # files that every package, or every family, has


def repeated(sources: Mapping[str, str]) -> dict[str, list[str]]:
    """Class names that stand in several places of some sources, with the places."""
    places = defaultdict(list)
    for name, text in sources.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{name}:{node.lineno}")
    return {name: found for name, found in places.items() if len(found) > 1}


def test_no_class_name_stands_for_two_things() -> None:
    sources = {str(path.relative_to(SOURCE)): path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py")}
    assert repeated(sources) == {}
    assert "wire/video.py" in sources


def test_no_module_name_stands_for_three_things() -> None:
    names = Counter(path.name for path in SOURCE.rglob("*.py"))
    assert {name: count for name, count in names.items() if count > 2 and name not in ROLES} == {}


def test_a_name_that_stands_for_two_things_is_found() -> None:
    sources = {"a.py": "class Video: ...\n", "b.py": "if True:\n    class Video: ...\nclass Other: ...\n"}
    assert repeated(sources) == {"Video": ["a.py:1", "b.py:2"]}
