"""What the smallest video shows of a checkpoint before the first job."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from torch import Tensor

from ringlight import Engine, EngineConfig
from ringlight.core.errors import InvalidCheckpoint
from tests.worker.weights import FILE, rewrite


@pytest.mark.slow
def test_weights_that_make_no_finite_video_are_no_checkpoint(tiny: Path, tmp_path: Path) -> None:
    """They are finite themselves. An operator can mend that, so it ends the command instead of being tried for ever."""
    shutil.copytree(tiny, tmp_path / "checkpoint")

    def overflow(tensors: dict[str, Tensor]) -> None:
        tensors["decoder.conv_out.weight"].fill_(1e38)

    rewrite(tmp_path / "checkpoint" / "vae" / FILE, overflow)
    config = EngineConfig(model_path=str(tmp_path / "checkpoint"), num_threads=1, warm_up=True)
    with (
        Engine(config) as engine,
        pytest.raises(InvalidCheckpoint, match="not even the smallest video is finite: Deco"),
    ):
        engine.start()
