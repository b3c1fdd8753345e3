"""Fixtures that all tests share: a demo checkpoint, a real photograph, a running engine."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import pytest
import torch

from ringlight.core.config import EngineConfig
from ringlight.engine import process
from ringlight.engine.engine import Engine
from ringlight.families.model import ModelSpec
from ringlight.families.table import read_model
from ringlight.families.wan22_ti2v.demo import DEMO
from tests.forking import fork_command, fork_rank
from tests.server.served import Served

torch.set_num_threads(1)  # ranks are forked from this process, which must not have a pool of threads by then
Served.launch = staticmethod(fork_command)
process.launch = fork_rank


def pytest_collection_finish() -> None:
    """Keep what was imported out of the collections of garbage that begin now (see tests/__init__.py). A forked process
    that looked through all of it would copy it too."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny demo checkpoint. Read-only: copy it before changing a file."""
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    DEMO.write(folder, "tiny")
    return folder


@pytest.fixture(scope="session")
def spec(tiny: Path) -> ModelSpec:
    return read_model(tiny)


@pytest.fixture(scope="session")
def photograph() -> Path:
    """A real photograph (512x600, JPEG) that matplotlib ships."""
    found = find_spec("matplotlib")  # not imported: it takes half a second, here and in every worker of the tests
    assert found is not None and found.origin is not None
    return Path(found.origin).parent / "mpl-data" / "sample_data" / "grace_hopper.jpg"


@pytest.fixture(scope="session")
def engine(tiny: Path) -> Iterator[Engine]:
    """An engine with its worker running, shared by all tests that leave it as it was."""
    with Engine(EngineConfig(model_path=str(tiny), num_threads=1)) as engine:
        engine.start()
        yield engine
