"""Demo checkpoints of each family."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringlight.families.wan21_flf2v.demo import DEMO as FLF2V
from ringlight.families.wan21_i2v.demo import DEMO as I2V21
from ringlight.families.wan21_t2v.demo import DEMO
from ringlight.families.wan22_i2v_a14b.demo import DEMO as I2V_A14B
from ringlight.families.wan22_t2v_a14b.demo import DEMO as T2V_A14B


@pytest.fixture(scope="session")
def tiny21(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny demo checkpoint of Wan2.1-T2V. Read-only: copy it before changing a file."""
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny21"
    DEMO.write(folder, "tiny")
    return folder


@pytest.fixture(scope="session")
def tiny_t2v_a14b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny demo checkpoint of Wan2.2-T2V-A14B. Read-only: copy it before changing a file."""
    folder = tmp_path_factory.mktemp("checkpoints") / "t2v-a14b"
    T2V_A14B.write(folder, "tiny")
    return folder


@pytest.fixture(scope="session")
def tiny_i2v_a14b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny demo checkpoint of Wan2.2-I2V-A14B. Read-only: copy it before changing a file."""
    folder = tmp_path_factory.mktemp("checkpoints") / "i2v-a14b"
    I2V_A14B.write(folder, "tiny")
    return folder


@pytest.fixture(scope="session")
def tiny_i2v21(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny demo checkpoint of Wan2.1-I2V. Read-only: copy it before changing a file."""
    folder = tmp_path_factory.mktemp("checkpoints") / "i2v21"
    I2V21.write(folder, "tiny")
    return folder


@pytest.fixture(scope="session")
def tiny_flf2v(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny demo checkpoint of Wan2.1-FLF2V. Read-only: copy it before changing a file."""
    folder = tmp_path_factory.mktemp("checkpoints") / "flf2v"
    FLF2V.write(folder, "tiny")
    return folder
