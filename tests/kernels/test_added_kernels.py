"""Kernels asked for by name, those of other packages too: docs/extend/kernel.md, done as it says."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from ringlight.core.config import EngineConfig
from ringlight.core.errors import InvalidSetting
from ringlight.kernels.attention.kernel import choose_kernel
from ringlight.kernels.attention.trial import allowed
from tests.cli.commands import program

PAGE = Path(__file__).parents[2] / "docs" / "extend" / "kernel.md"
CPU = torch.device("cpu")


def block(language: str) -> str:
    """The page's block of code in a language."""
    found = re.search(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


def test_the_page_says_by_how_much_a_kernel_may_be_off() -> None:
    page = " ".join(PAGE.read_text().split())
    assert f"(bfloat16: {allowed(torch.bfloat16)})" in page
    assert f"never less than {allowed(torch.float32)} (float32)" in page


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages that has the page's, as an installer would leave it."""
    project = tomllib.loads(block("toml"))["project"]
    (tmp_path / "plain_attention.py").write_text(block("python"))
    about = tmp_path / "plain_attention-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = (f"{name} = {place}" for name, place in project["entry-points"]["ringlight.attention"].items())
    (about / "entry_points.txt").write_text("\n".join(["[ringlight.attention]", *lines]))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "plain_attention", raising=False)
    return tmp_path


def test_a_kernel_of_another_package_is_right(installed: Path) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        kernel = choose_kernel(CPU, dtype, 32, 4, "plain")
        assert kernel.name == "plain"


@pytest.mark.slow
def test_it_makes_a_video(installed: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On two ranks, where partial results are merged; the report names it."""
    monkeypatch.setenv("PYTHONPATH", str(installed))
    small = ["--width", 64, "--height", 64, "--num-frames", 5, "--num-inference-steps", 1, "--ring-degree", 2]
    output = ["--prompt", "a paper boat", "--output", tmp_path / "boat.mp4", "--json"]
    done = program("generate", "--model-path", tiny, "--attention", "plain", *small, *output)
    assert done.code == 0, done.err
    assert json.loads(done.out)["environment"]["attention_kernel"] == "plain"


def test_one_that_is_wrong_is_refused_with_how_wrong_it_is(installed: Path) -> None:
    wrong = block("python").replace("* q_BSHD.shape[-1] ** -0.5", "")
    (installed / "plain_attention.py").write_text(wrong)
    with pytest.raises(InvalidSetting, match=r"attention plain is wrong for .* is wrong by .*; --attention auto takes"):
        choose_kernel(CPU, torch.float32, 32, 4, "plain")


def test_one_that_cannot_be_imported_is_refused_with_the_reason(installed: Path) -> None:
    (installed / "plain_attention.py").write_text("import no_such_part")
    with pytest.raises(InvalidSetting, match=r"plain_attention:PlainAttention\) cannot be loaded: ModuleNotFoundError"):
        choose_kernel(CPU, torch.float32, 32, 4, "plain")


def test_the_reference_is_taken_by_name_only() -> None:
    assert choose_kernel(CPU, torch.float32, 32, 1, "reference").name == "reference"
    assert choose_kernel(CPU, torch.float32, 32).name == "flash_cpu"


def test_one_that_does_not_run_here_is_refused() -> None:
    with pytest.raises(InvalidSetting, match=r"attention cudnn does not run for torch\.float32 heads of 32 on cpu"):
        choose_kernel(CPU, torch.float32, 32, 1, "cudnn")


def test_an_unknown_name_is_told_before_anything_starts() -> None:
    with pytest.raises(InvalidSetting, match=r"attention 'flash_gpu' is none of auto, .*; did you mean flash"):
        EngineConfig(model_path="demo", attention="flash_gpu")
