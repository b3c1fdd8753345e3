"""The tutorial, typed in its order by somebody who has a small model; and the servers of a how-to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.docs.examples import URL, Example, examples_of, run
from tests.server.served import Served

DOCS = Path(__file__).parents[2] / "docs"
ALREADY_HERE = ("ringlight doctor", "ringlight demo-checkpoint demo")


def at(served: Served, example: Example) -> str:
    """What is typed, for a server that listens elsewhere."""
    return example.text.replace(URL, served.url)


@pytest.mark.slow
def test_the_tutorial_works_as_it_is_typed(served: Served, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "demo").symlink_to(tiny)
    steps = [each for each in examples_of(DOCS / "tutorial.md") if each.language == "bash"]
    typed = [each for each in steps if each.text.strip() not in ALREADY_HERE]
    assert len(steps) - len(typed) == len(ALREADY_HERE)
    told = [run("bash", f"export RINGLIGHT_URL={served.url}\n{at(served, each)}", tmp_path) for each in typed]
    films = [tmp_path / name for name in ("ball.mp4", "cone.mp4", "films/ball.mp4", "films/prompts-0003.mp4")]
    assert all(film.read_bytes()[4:8] == b"ftyp" for film in films)
    assert "3 completed; 3 files in films" in "".join(told)
    assert "chosen: " in told[-1]


@pytest.mark.slow
def test_a_server_is_measured_as_the_page_says(served: Served, tmp_path: Path) -> None:
    measuring, comparing = (each for each in examples_of(DOCS / "how_to/compare_servers.md") if each.language == "bash")
    run("bash", at(served, measuring).replace("--rounds 2", "--rounds 1"), tmp_path)
    assert json.loads((tmp_path / "before/result.json").read_text())["is_whole"]
    run("bash", f"{comparing.text}\nbash -n compare.sh", tmp_path)
