"""docs/extend/: the stage and the launcher, done as the pages say. Kernels and families have tests beside theirs."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from ringlight.core.config import EngineConfig
from ringlight.core.errors import NumericalError
from ringlight.core.request import RequestLimits
from ringlight.engine.engine import Engine
from ringlight.engine.ranked import RankedReplica
from tests.house.test_collectives import ENDS, unmarked, workshop
from tests.ours import new_tracer

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "extend"
FOLDERS = "src|tests|docs|engine|worker|core|families|pipelines|models|parallel|kernels|planner"
PLACES = (ROOT, ROOT / "src" / "ringlight")


def blocks(page: str) -> list[str]:
    """The blocks of Python on a page, in their order."""
    return re.findall(r"```python\n(.*?)```", (PAGES / page).read_text(), re.DOTALL)


def names_of(code: str) -> dict[str, Any]:
    """What a block of code defines."""
    names: dict[str, Any] = {}
    exec(code, names)
    return names


@pytest.mark.parametrize("place", [0, 1], ids=["one rank", "two ranks"])
def test_the_tests_of_a_stage_pass(place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, tests = blocks("stage.md")
    module = ModuleType("sharpening")
    exec(code, module.__dict__)
    monkeypatch.setitem(sys.modules, "ringlight.pipelines.stages.sharpening", module)
    found = [value for name, value in names_of(tests).items() if name.startswith("test_")]
    assert len(found) == 2
    found[place]()


def test_a_stage_is_marked_as_the_house_asks() -> None:
    code, _, _ = blocks("stage.md")
    assert unmarked(workshop() | {"pipelines/stages/sharpening.py": code}) == ENDS.keys()


def test_a_stage_stands_in_the_report_by_its_name() -> None:
    code, line, _ = blocks("stage.md")
    tracer, latents = new_tracer(), torch.arange(8.0).view(1, 1, 1, 4, 2)
    names = names_of(code) | {"tracer": tracer, "latents": latents}
    exec(line, names)
    torch.testing.assert_close(names["latents"][..., 1:, :], latents[..., 1:, :] + 0.2)
    assert [stage.name for stage in tracer.stages] == ["Sharpening"]
    with pytest.raises(NumericalError):
        exec(line, names | {"latents": torch.full_like(latents, torch.nan)})


@pytest.mark.slow
def test_a_launchers_workers_make_a_video(tiny: Path, tmp_path: Path) -> None:
    code, _ = blocks("launcher.md")
    config, limits = EngineConfig(model_path=str(tiny), num_threads=1), RequestLimits()
    launcher = names_of(code)["PinnedLauncher"](config, limits, num_ranks=1, cores={0})
    output = tmp_path / "boat.mp4"
    with Engine(config, replica=RankedReplica(config, launcher)) as engine:
        request = engine.request("a boat", width=64, height=64, num_frames=5, num_inference_steps=1)
        assert engine.submit(request, str(output)).wait().outputs == [str(output)]
    assert output.stat().st_size


@pytest.mark.parametrize("page", sorted(path.name for path in PAGES.glob("*.md")))
def test_every_file_that_a_page_names_is_there(page: str) -> None:
    named = set(re.findall(rf"`((?:{FOLDERS})/[\w/.]*)`", (PAGES / page).read_text()))
    assert named
    own = {"src/ringlight/families/example_t2v/card.py"}
    assert not {name for name in named - own if not any((place / name).exists() for place in PLACES)}
