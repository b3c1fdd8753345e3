"""What docs/ says about the code is what the code says, and links lead somewhere."""

from __future__ import annotations

import contextlib
import io
import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest

from tests.cli.commands import Done

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
LINK = re.compile(r"\]\(([^)#:\s]*)(?:#([\w-]+))?\)")
OF_A_MACHINE = re.compile(r"""[\s"'](/(?:tmp|root|home|work|mnt|data)/[^\s"']*)""")
BLOCK = re.compile(r"<!-- generated: ([\w-]+) -->\n(.*?)<!-- end -->", re.DOTALL)


def write_docs(*arguments: object) -> Done:
    """Run the script, in this process."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setattr(sys, "argv", ["write_docs.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as leaving:
            runpy.run_path(str(ROOT / "scripts/write_docs.py"), run_name="__main__")
    return Done(int(leaving.value.code or 0), out.getvalue(), "")


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the folder that may be changed."""
    folder = tmp_path / "docs"
    folder.mkdir()
    for path in DOCS.glob("*.md"):
        shutil.copy(path, folder)
    return folder


def test_what_is_generated_is_up_to_date() -> None:
    done = write_docs("--check")
    assert done.code == 0, done.out


@pytest.mark.slow
def test_a_part_that_is_out_of_date_is_found_and_mended_and_all_else_stays(copied: Path) -> None:
    write_docs("--docs", copied)
    path = copied / "operations.md"
    before = path.read_text()
    path.write_text(before.replace("`RINGLIGHT_QUEUE_SIZE`", "`RINGLIGHT_QUEUE`"))
    stale = write_docs("--check", "--docs", copied)
    assert stale.code == 1
    assert "operations.md" in stale.out and "api.md" not in stale.out
    assert "`RINGLIGHT_QUEUE`" in path.read_text(), "a check writes nothing"
    assert write_docs("--docs", copied).code == 0
    assert path.read_text() == before


def test_every_part_holds_something() -> None:
    parts = {name: text for path in DOCS.glob("*.md") for name, text in BLOCK.findall(path.read_text())}
    assert len(parts) == 18
    for name, text in parts.items():
        assert len(text.strip().splitlines()) > 2, name


@pytest.mark.parametrize("path", [*sorted(DOCS.rglob("*.md")), ROOT / "README.md"], ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target, anchor in LINK.findall(path.read_text()):
        found = (path.parent / target).resolve() if target else path
        assert found.exists(), target
        if anchor:
            assert anchor in anchors(found), f"{target}#{anchor}"


def anchors(path: Path) -> set[str]:
    """The names of a file's sections, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}


def test_flags_and_variables_that_the_pages_name_exist() -> None:
    settings = (DOCS / "operations.md").read_text().partition("## All settings")[2]
    flags, variables = set(re.findall(r"--[a-z][\w-]+", settings)), set(re.findall(r"RINGLIGHT_\w+", settings))
    others = {"--check", "--docs", "--url", "--json", "--report", "--output", "--prompt", "--seconds", "--limit"}
    others |= {"--shm-size", "--help"}  # of docker, of all
    others |= {"--rate", "--mix", "--p95", "--compare-orders", "--start-seconds"}  # of `ringlight plan`
    others |= {"--bus", "--host-memory"}  # of the same
    for name in ("api.md", "memory.md", "operations.md", "security.md", "troubleshooting.md"):
        text = BLOCK.sub("", (DOCS / name).read_text())
        assert set(re.findall(r"(?<![\w-])--[a-z][\w-]+", text)) <= flags | others, name
        assert set(re.findall(r"RINGLIGHT_\w+", text)) <= variables | {"RINGLIGHT_URL", "RINGLIGHT_MAX_"}, name


def test_results_name_no_place_of_the_machine_that_they_were_measured_on() -> None:
    """A command in them can be typed elsewhere."""
    results = [path for path in (ROOT / "benchmarks/results").rglob("*") if path.suffix in (".json", ".md")]
    assert results
    assert not [place for path in results for place in OF_A_MACHINE.findall(path.read_text())]
