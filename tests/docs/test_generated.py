"""What docs/ says about the code is what the code says."""

from __future__ import annotations

import contextlib
import inspect
import io
import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest

import ringlight
import ringlight.client
from ringlight.core.codes import CODES
from tests.cli.commands import Done

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
OF_A_MACHINE = re.compile(r"""[\s"'](/(?:tmp|root|home|work|mnt|data)/[^\s"']*)""")
BLOCK = re.compile(r"<!-- generated: ([\w-]+) -->\n(.*?)<!-- end -->", re.DOTALL)


def write_docs(*arguments: object) -> Done:
    """Run the script, in this process."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setattr(sys, "argv", ["write_docs.py", *map(str, arguments)])
        patch.syspath_prepend(ROOT / "scripts")  # as for whoever runs it
        with pytest.raises(SystemExit) as leaving:
            runpy.run_path(str(ROOT / "scripts/write_docs.py"), run_name="__main__")
    return Done(int(leaving.value.code or 0), out.getvalue(), "")


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the folder that may be changed."""
    return shutil.copytree(DOCS, tmp_path / "docs")


def test_what_is_generated_is_up_to_date() -> None:
    done = write_docs("--check")
    assert done.code == 0, done.out


@pytest.mark.slow
def test_a_part_that_is_out_of_date_is_found_and_mended_and_all_else_stays(copied: Path) -> None:
    write_docs("--docs", copied)
    path = copied / "settings.md"
    before = path.read_text()
    path.write_text(before.replace("`RINGLIGHT_QUEUE_SIZE`", "`RINGLIGHT_QUEUE`"))
    stale = write_docs("--check", "--docs", copied)
    assert stale.code == 1
    assert "settings.md" in stale.out and "api.md" not in stale.out
    assert "`RINGLIGHT_QUEUE`" in path.read_text(), "a check writes nothing"
    assert write_docs("--docs", copied).code == 0
    assert path.read_text() == before


def test_every_part_holds_something() -> None:
    parts = {name: text for path in DOCS.rglob("*.md") for name, text in BLOCK.findall(path.read_text())}
    assert len(parts) == 24
    for name, text in parts.items():
        assert len(text.strip().splitlines()) > 2, name


def test_flags_and_variables_that_the_pages_name_exist() -> None:
    settings = (DOCS / "settings.md").read_text()
    flags, variables = set(re.findall(r"--[a-z][\w-]+", settings)), set(re.findall(r"RINGLIGHT_\w+", settings))
    others = {"--check", "--docs", "--url", "--json", "--report", "--output", "--prompt", "--seconds", "--limit"}
    others |= {"--shm-size", "--help"}  # of docker, of all
    others |= {"--rate", "--mix", "--p95", "--compare-orders", "--start-seconds"}  # of `ringlight plan`
    others |= {"--bus", "--host-memory"}  # of the same
    for name in ("api.md", "errors.md", "memory.md", "operations.md", "security.md", "troubleshooting.md"):
        text = BLOCK.sub("", (DOCS / name).read_text())
        assert set(re.findall(r"(?<![\w-])--[a-z][\w-]+", text)) <= flags | others, name
        assert set(re.findall(r"RINGLIGHT_\w+", text)) <= variables | {"RINGLIGHT_URL", "RINGLIGHT_MAX_"}, name


def test_every_public_name_has_its_place_in_the_python_reference_and_says_what_it_is() -> None:
    text = (DOCS / "python.md").read_text()
    names = {*ringlight.__all__, *ringlight.client.__all__} - {"__version__"}
    assert set(re.findall(r"^### (\w+)$", text, flags=re.MULTILINE)) == names
    for name in names:
        kind = getattr(ringlight if name in ringlight.__all__ else ringlight.client, name)
        for own, member in vars(kind).items() if isinstance(kind, type) else ():
            function = getattr(member, "__func__", member)  # of a class method
            is_property = isinstance(member, property)
            if not own.startswith("_") and (is_property or inspect.isfunction(function)):
                place = f"| `{own}` |" if is_property else f"#### {name}.{own}"
                assert place in text
                assert function.__doc__, f"{name}.{own} has no docstring"


def test_every_error_and_exit_code_is_explained() -> None:
    errors, commands = (DOCS / "errors.md").read_text(), (DOCS / "cli.md").read_text()
    for code, kind in CODES.items():
        assert f"| [`{code}`](troubleshooting.md#{code}) | {kind.status} |" in errors
        assert f"\n| {kind.exit_code} | " in commands


def test_results_name_no_place_of_the_machine_that_they_were_measured_on() -> None:
    """A command in them can be typed elsewhere."""
    results = [path for path in (ROOT / "benchmarks/results").rglob("*") if path.suffix in (".json", ".md")]
    assert results
    assert not [place for path in results for place in OF_A_MACHINE.findall(path.read_text())]
