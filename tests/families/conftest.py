"""Demo checkpoints of each family, written once a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringlight.families.wan.demo import DemoModel
from ringlight.families.wan21_flf2v.demo import DEMO as FLF2V
from ringlight.families.wan21_i2v.demo import DEMO as I2V21
from ringlight.families.wan21_t2v.demo import DEMO
from ringlight.families.wan22_i2v_a14b.demo import DEMO as I2V_A14B
from ringlight.families.wan22_t2v_a14b.demo import DEMO as T2V_A14B


def tiny(demo: DemoModel, tmp_path_factory: pytest.TempPathFactory, name: str) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / name
    demo.write(folder, "tiny")
    return folder


@pytest.fixture(scope="session")
def tiny21(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny demo checkpoint of Wan2.1-T2V. Read-only: copy it before changing a file."""
    return tiny(DEMO, tmp_path_factory, "tiny21")


@pytest.fixture(scope="session")
def tiny_t2v_a14b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny demo checkpoint of Wan2.2-T2V-A14B. Read-only: copy it before changing a file."""
    return tiny(T2V_A14B, tmp_path_factory, "t2v-a14b")


@pytest.fixture(scope="session")
def tiny_i2v_a14b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny demo checkpoint of Wan2.2-I2V-A14B. Read-only: copy it before changing a file."""
    return tiny(I2V_A14B, tmp_path_factory, "i2v-a14b")


@pytest.fixture(scope="session")
def tiny_i2v21(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny demo checkpoint of Wan2.1-I2V. Read-only: copy it before changing a file."""
    return tiny(I2V21, tmp_path_factory, "i2v21")


@pytest.fixture(scope="session")
def tiny_flf2v(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny demo checkpoint of Wan2.1-FLF2V. Read-only: copy it before changing a file."""
    return tiny(FLF2V, tmp_path_factory, "flf2v")
