"""A demo checkpoint of Wan2.1-T2V."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringlight.families.wan21_t2v.demo import DEMO


@pytest.fixture(scope="session")
def tiny21(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny demo checkpoint of Wan2.1-T2V. Read-only: copy it before changing a file."""
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny21"
    DEMO.write(folder, "tiny")
    return folder
