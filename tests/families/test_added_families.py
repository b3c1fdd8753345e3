"""A family that is added: docs/extend/model.md, done as it says."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch

import ringlight
from ringlight.core.config import EngineConfig
from ringlight.core.request import RequestLimits
from ringlight.families import table
from ringlight.families.family import Family
from ringlight.families.recipe import load_recipe
from ringlight.families.wan.recipe import WanRecipe
from tests.core.checkpoints import edit
from tests.families.test_wan21 import make_request
from tests.ours import CPU, final_latents

ROOT = Path(ringlight.__file__).parents[2]
PAGE = (ROOT / "docs" / "extend" / "model.md").read_text()


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> Family:
    """The page's family, in the table."""
    found = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    names: dict[str, Family] = {}
    exec(found[1], names)
    monkeypatch.setattr(table, "FAMILIES", (*table.FAMILIES, names["FAMILY"]))
    return names["FAMILY"]


def test_its_checkpoints_are_found_and_make_videos(tiny21: Path, tmp_path: Path, added: Family) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny21, folder)
    edit(folder, "model_index.json", _class_name="ExamplePipeline")
    spec = table.read_model(folder)
    assert spec.family == added.name
    assert table.model_defaults(spec).width == 832
    config = EngineConfig(model_path=str(folder), device="cpu", num_threads=1)
    recipe = load_recipe(config, RequestLimits(), CPU, torch.float32, torch.float32)
    assert isinstance(recipe, WanRecipe)
    assert final_latents(recipe, make_request(spec, num_inference_steps=1), tmp_path).isfinite().all()
