"""The glossary, and the pages that explain: terms are used, modules and files that they name are there."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import get_args

import pytest

from ringlight.bench.gates import Gate, Measure
from ringlight.bench.workload_file import read_file
from tests.docs.examples import examples_of, run

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PLACES = (ROOT, ROOT / "src/ringlight")
TERMS = re.compile(r"^- ((?:\*\*[^*]+\*\*(?:, )?)+)", re.MULTILINE)
NAMED = re.compile(r"`((?:[a-z_]+/)+[\w.]*)`")
OF_OTHERS = ("before/", "videos/", "openai/")  # folders of a reader, and a prefix of another program
PAGES = [*sorted((DOCS / "explanation").glob("*.md")), *sorted((DOCS / "how_to").glob("*.md")), DOCS / "glossary.md"]


def terms(text: str) -> list[str]:
    """What a glossary explains."""
    found = [each for line in TERMS.findall(text) for each in re.findall(r"\*\*([^*]+)\*\*", line)]
    return [term for each in found for term in each.split(", ")]


def unused(text: str, used_in: str) -> list[str]:
    """The terms that stand nowhere else."""
    lower = used_in.lower().replace("_", " ")
    return [term for term in terms(text) if not re.search(rf"\b{re.escape(term.lower())}", lower)]


def test_every_term_of_the_glossary_is_used_elsewhere() -> None:
    glossary = (DOCS / "glossary.md").read_text()
    pages = [path for path in [*DOCS.rglob("*.md"), ROOT / "README.md"] if path.name not in ("glossary.md", "log.md")]
    assert len(terms(glossary)) > 80
    assert unused(glossary, "\n".join(path.read_text() for path in pages)) == []


def test_a_term_that_nobody_uses_is_found() -> None:
    assert unused("- **Ring**, **flux capacitor**: a thing\n", "a ring of ranks") == ["flux capacitor"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_modules_and_files_that_a_page_names_are_there(page: Path) -> None:
    named = NAMED.findall(page.read_text())
    assert not [
        name
        for name in named
        if not any((place / name).exists() or (place / f"{name}.py").exists() for place in PLACES)
        and not name.startswith(OF_OTHERS)
    ]


def test_the_servers_of_the_page_could_be_measured_and_compared(tmp_path: Path) -> None:
    page = DOCS / "how_to/compare_servers.md"
    measuring, _, comparing = (each.text for each in examples_of(page) if each.language == "bash")
    run("bash", measuring.partition("ringlight bench")[0], tmp_path)
    assert read_file(tmp_path / "ci.toml").name == "ci"
    run("bash", f"{comparing}\nbash -n compare.sh", tmp_path)
    gates = re.findall(r"`([A-Z][\w ]* [<>]=? [^`]+)`", page.read_text())
    assert len({Gate.parse(text).measure for text in gates}) == len(get_args(Measure))


def test_the_timelines_are_what_the_planner_plays_now() -> None:
    draw = runpy.run_path(str(ROOT / "scripts/draw_timelines.py"))
    assert draw["PICTURE"].read_text() == draw["picture"](), "run scripts/draw_timelines.py"
