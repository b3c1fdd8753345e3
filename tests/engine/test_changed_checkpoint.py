"""A checkpoint that changes under a running engine: its next workers do not go on with another model in silence."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from ringlight import Engine, EngineConfig, RequestLimits
from ringlight.core.errors import InvalidCheckpoint
from ringlight.engine import process
from ringlight.engine.launch.local import LocalLauncher
from ringlight.engine.ranked import RankedReplica
from ringlight.families.wan22_ti2v.demo import DEMO
from tests.engine.faults import fork_rank
from tests.engine.processes import wait_until

pytestmark = pytest.mark.slow


def replace(folder: Path) -> None:
    shutil.rmtree(folder)
    DEMO.write(folder, "tiny", seed=1)


@pytest.mark.parametrize(
    ("change", "said"),
    [(replace, "is not the checkpoint that this was started with"), (shutil.rmtree, "no such folder")],
    ids=["replaced", "gone"],
)
def test_workers_do_not_start_again_from_another_checkpoint(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], said: str
) -> None:
    monkeypatch.setattr(process, "launch", fork_rank)
    folder = shutil.copytree(tiny, tmp_path / "checkpoint")
    config = EngineConfig(model_path=str(folder), device="cpu", num_threads=1)
    replica = RankedReplica(config, LocalLauncher(config, RequestLimits()))
    with Engine(config, replica=replica, supervised=True) as engine:
        engine.start()
        os.kill(replica.pids[0], signal.SIGKILL)
        wait_until(lambda: engine.replicas[0].restarts and replica.is_ready())  # from the same one it does
        change(folder)
        os.kill(replica.pids[0], signal.SIGKILL)
        wait_until(lambda: engine.replicas[0].status == "failed")
        assert isinstance(engine.failure, InvalidCheckpoint)
        assert str(folder) in str(engine.failure) and said in str(engine.failure)
