"""The command in surroundings that want to trip it up."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.cli.commands import TIMEOUT_SECONDS, program, ringlight
from tests.forking import fork_command

pytestmark = pytest.mark.slow  # a real server, or several processes


SMALL = ["--prompt", "a cat", "--size", "64x64", "--num-frames", "1", "--num-inference-steps", "1"]


def test_nothing_is_imported_from_the_current_folder(tmp_path: Path) -> None:
    """A torch.py beside a checkpoint would otherwise run as ours."""
    (tmp_path / "torch.py").write_text("open('was_run', 'w'); raise SystemExit(9)")
    assert program("demo-checkpoint", "demo", "--size", "tiny", folder=tmp_path).code == 0
    assert program("generate", "--model-path", "demo", *SMALL, "-o", "a.png", folder=tmp_path).code == 0
    assert not (tmp_path / "was_run").exists()


def test_a_machine_without_git(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    arguments = ("generate", "--model-path", tiny, *SMALL, "-o", tmp_path / "a.png")
    done = ringlight(*arguments, environment=os.environ | {"PATH": str(tmp_path / "bin")})
    assert done.code == 0, done.err


def test_nobody_reads_the_progress(tiny: Path, tmp_path: Path) -> None:
    """`ringlight generate ... 2>&1 | head -1`: the video is still made."""
    readable, writable = os.pipe()
    os.close(readable)  # before the fork, which would hold it open
    with open(os.devnull, "wb") as out, open(writable, "wb", buffering=0) as err:
        running = fork_command(["generate", "--model-path", tiny, *SMALL, "-o", tmp_path / "a.png"], out, err)
    assert running.wait(TIMEOUT_SECONDS) == 0
    assert (tmp_path / "a.png").exists()


def test_limits_come_from_the_environment(tiny: Path, tmp_path: Path) -> None:
    arguments = ("generate", "--model-path", tiny, *SMALL, "-o", tmp_path / "a.png")
    done = ringlight(*arguments, environment=os.environ | {"RINGLIGHT_MAX_PIXELS": "2048"})
    assert done.code == 3
    assert "the limit is 2048 (nearest: 32x32)" in done.err


def test_a_demo_checkpoint_never_takes_the_place_of_another(tiny: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny, other)
    index = other / "model_index.json"
    index.write_text(index.read_text().replace("ringlight-demo", "somebody-else"))
    done = ringlight("demo-checkpoint", other)
    assert done.code == 3
    assert "holds another checkpoint" in done.err
