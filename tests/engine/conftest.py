"""What several files of these tests are given."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.scene import Scene


@pytest.fixture
def scene(tiny: Path, tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tiny, tmp_path)
    with scene.engine:
        yield scene
