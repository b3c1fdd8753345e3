"""What the wheel carries, and what it says of itself."""

from __future__ import annotations

import tomllib
from email.message import Message
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest
from readme_renderer.markdown import render

import ringlight

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def carried(wheel: Path) -> dict[str, bytes]:
    """The files of the wheel, by their paths in it."""
    with ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def metadata(carried: dict[str, bytes]) -> Message:
    (name,) = (name for name in carried if name.endswith(".dist-info/METADATA"))
    return Parser().parsestr(carried[name].decode())


def test_the_wheel_carries_the_package_whole_and_nothing_else(carried: dict[str, bytes]) -> None:
    """The page, the trained checkpoint and the mark of types too; of tests nothing."""
    paths = [path for path in (SOURCE / "ringlight").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    ours = {str(path.relative_to(SOURCE)): path.read_bytes() for path in paths}
    assert {name: content for name, content in carried.items() if ".dist-info/" not in name} == ours
    needed = {
        "ringlight/py.typed",
        "ringlight/server/page/index.html",
        "ringlight/server/page/page.js",
        "ringlight/families/wan/demo_tokenizer.json",
        "ringlight/families/wan22_ti2v/film/transformer/diffusion_pytorch_model.safetensors",
    }
    assert needed <= ours.keys()


def test_it_says_what_it_is_and_which_extras_it_has(metadata: Message, carried: dict[str, bytes]) -> None:
    assert (metadata["Name"], metadata["Version"]) == ("ringlight", ringlight.__version__)
    assert metadata["License-Expression"] == PROJECT["license"]
    assert any(name.endswith("/licenses/LICENSE") for name in carried)
    assert set(metadata.get_all("Provides-Extra", [])) == PROJECT["optional-dependencies"].keys()
    (script,) = (content.decode() for name, content in carried.items() if name.endswith("/entry_points.txt"))
    assert "ringlight = ringlight.cli.entry:main" in script


def test_only_the_worker_and_what_runs_in_it_bring_torch(metadata: Message) -> None:
    needs = metadata.get_all("Requires-Dist", [])
    torches = [need for need in needs if need.startswith("torch")]
    assert {need.partition("extra == ")[2].strip("'\"") for need in torches} == {"worker", "diffusers", "dev"}
    base = {need for need in needs if "extra ==" not in need}
    assert len(base) == len(PROJECT["dependencies"]) and not any("torch" in need for need in base)


def test_the_readme_is_rendered_by_an_index(metadata: Message) -> None:
    assert metadata["Description-Content-Type"] == "text/markdown"
    text = str(metadata.get_payload())
    assert text.strip() == (ROOT / "README.md").read_text().strip()
    page = render(text, variant="GFM")
    assert page is not None and "<h1" in page and "<table>" in page and "pip install" in page
