"""The programs below examples/ run from their beginning to their end, as somebody would start them."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import ringlight
from tests.server.served import Served

EXAMPLES = Path(__file__).parents[2] / "examples"
TIMEOUT_SECONDS = 600.0
OF_A_CHECKPOINT = {
    "generate": ("the second one was cancelled", ["lantern.mp4"]),
    "many_ranks": ("the largest difference of any latent: ", ["u2r1.safetensors", "u1r2.safetensors"]),
    "resume": (", after 1 deaths", ["lantern.mp4"]),
    "short_before_long": ("the long one made way 1 times", ["storm.mp4", "gull.mp4"]),
}
OF_A_SERVER = {"client": ("", "| **Total** |"), "openai_sdk": ("/v1", " completed ")}


def run(name: str, argument: str, folder: Path) -> str:
    command = [sys.executable, EXAMPLES / f"{name}.py", argument]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=TIMEOUT_SECONDS, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_all_examples_are_run() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*OF_A_CHECKPOINT, *OF_A_SERVER}


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_A_CHECKPOINT)
def test_an_example_makes_videos_of_a_checkpoint(name: str, tiny: Path, tmp_path: Path) -> None:
    said, files = OF_A_CHECKPOINT[name]
    out = run(name, str(tiny), tmp_path)
    assert said in out
    assert all((tmp_path / file).stat().st_size > 500 for file in files)


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_A_SERVER)
def test_an_example_asks_a_server(name: str, served: Served, tmp_path: Path) -> None:
    end, said = OF_A_SERVER[name]
    assert said in run(name, served.url + end, tmp_path)
    assert (tmp_path / "whale.mp4").read_bytes()[4:8] == b"ftyp"


@pytest.mark.parametrize("name", ringlight.PLACES)
def test_all_that_is_public_is_there(name: str) -> None:
    assert getattr(ringlight, name) is getattr(import_module(f"ringlight.{ringlight.PLACES[name]}"), name)
    assert set(ringlight.__all__) == {*ringlight.PLACES, "__version__"}
