"""The wheel, built once, and what installs it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.packaging.environments import LIMIT_SECONDS, Installer

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this source."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=LIMIT_SECONDS)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def installer(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installer]:
    folder = tmp_path_factory.mktemp("environments")
    yield Installer(wheel, folder)
    shutil.rmtree(folder)  # a torch or two
