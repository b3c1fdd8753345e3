"""What is looked for before a worker is started is what workers import."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import ringlight
from ringlight.core.installation import WORKSHOP

FLOORS = ("worker", "families", "pipelines", "models", "kernels", "samplers", "parallel", "attention")
OPTIONAL = {"gguf", "diffusers"}  # imported where a checkpoint asks for it


def imported_by(path: Path) -> set[str]:
    """The packages that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found


def test_all_that_workers_import_is_looked_for() -> None:
    root = Path(ringlight.__file__).parent
    imported = set().union(*(imported_by(path) for floor in FLOORS for path in (root / floor).rglob("*.py")))
    ours = {"ringlight", "msgspec"}  # without the latter there is no front either
    assert imported - sys.stdlib_module_names - ours - OPTIONAL == set(WORKSHOP)
