"""The notebook below examples/ runs from its first cell to its last, and lies there without what a run leaves in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

NOTEBOOK = Path(__file__).parents[2] / "examples" / "ringlight.ipynb"
TIMEOUT_SECONDS = 600  # generous: a test is no clock


def left_of_runs(notebook: Any) -> list[str]:
    """What a run has left in cells, or in the notebook's own metadata."""
    found = [f"{cell.id}: output" for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")]
    found += [f"{cell.id}: {', '.join(cell.metadata)}" for cell in notebook.cells if cell.metadata]
    return found + sorted(notebook.metadata.keys() - {"kernelspec", "language_info"})


def said(notebook: Any) -> str:
    """What cells have printed, and their values as text."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    values = [each.get("data", {}) for each in outputs]
    texts = [each.get("text/markdown", "") + each.get("text/plain", "") for each in values]
    return "\n".join([*texts, *(each.get("text", "") for each in outputs)])


def execute(notebook: Any, folder: Path) -> None:
    NotebookClient(notebook, timeout=TIMEOUT_SECONDS, resources={"metadata": {"path": str(folder)}}).execute()


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    execute(notebook, tmp_path)
    out = said(notebook)
    assert "| **Total** |" in out
    assert "the largest difference of any latent: " in out
    assert "heard of steps 0 to 5, and made in " in out
    assert out.count("<Figure ") == 4
    assert left_of_runs(notebook)
    assert not any(tmp_path.iterdir())


def test_its_outputs_are_stripped() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert left_of_runs(notebook) == []


@pytest.mark.slow
def test_a_cell_that_fails_is_found(tmp_path: Path) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("nothing")])
    with pytest.raises(CellExecutionError, match="NameError"):
        execute(notebook, tmp_path)
