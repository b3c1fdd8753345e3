"""Every script under benchmarks/ starts, and runs at its smallest size to its last line.

They are found in the folder, so that none is forgotten. Nothing is written but what was asked for: results that are
there were measured by somebody, and a self-test's numbers mean nothing. What runs to the last line is forked from this
process, with the servers and workers that it starts itself: all that they would import is there.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.benchmarks.programs import BENCHMARKS, fork_script
from tests.cli.commands import Done, finished

SCRIPTS = sorted(path for path in BENCHMARKS.glob("*.py") if '__name__ == "__main__"' in path.read_text())
LIMIT_SECONDS = 1800.0  # generous: a test is no clock


@pytest.fixture(autouse=True)
def _results_stay() -> Iterator[None]:
    """Nothing under benchmarks/results changes."""

    def stamps() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in (BENCHMARKS / "results").rglob("*")}

    before = stamps()
    yield
    assert stamps() == before


def run(script: Path, *arguments: str) -> Done:
    """Run a script as `python SCRIPT` does, in a fork."""
    return finished(lambda out, err: fork_script(script, arguments, out, err), LIMIT_SECONDS)


def test_scripts_are_found() -> None:
    assert {"chaos", "fuzz", "gpu_check", "replicas", "scaling", "slow_link", "versus_diffusers"} <= {
        script.stem for script in SCRIPTS
    }


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_starts(script: Path) -> None:
    """From nothing, as a user starts it, and not from the folder that it is in."""
    done = subprocess.run([sys.executable, str(script), "--help"], cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "--self-test" in done.stdout, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_runs_to_its_last_line_at_its_smallest_size(script: Path, tiny: Path, tmp_path: Path) -> None:
    """Exit code 0, and results where they were asked for: the table, and the numbers where a script keeps them."""
    checkpoint = ("--checkpoint", str(tiny)) if "add_checkpoint(" in script.read_text() else ()
    output = tmp_path / "new" / "results"
    done = run(script, "--self-test", *checkpoint, "--output", str(output))
    assert done.code == 0, done.out[-4000:] + done.err[-4000:]
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {".md"} <= {path.suffix for path in written} <= {".md", ".json", ".png"}, written
    assert all(path.stat().st_size for path in written)
    told = "".join(path.read_text() for path in written if path.suffix != ".png")
    assert "--self-test" in told, "the conditions say that the numbers mean nothing"
