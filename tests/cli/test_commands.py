"""The other commands, and what none of them may do: import torch before it is needed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from ringlight.cli.diagnosis import show
from ringlight.core.config import read_examples
from ringlight.core.demo_world import COLOURS, read_prompt
from ringlight.families.table import family_named
from ringlight.families.wan22_ti2v.demo import DEMO
from tests.cli.commands import RINGLIGHT, here, ringlight, together

FILM = family_named("wan22_ti2v").trained_demo
HEAVY = ("torch", "diffusers", "transformers", "av", "numpy", "ray")


def test_help_does_not_import_torch() -> None:
    command = [sys.executable, "-X", "importtime", RINGLIGHT, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert {"typer", "ringlight", "msgspec"} <= imported
    assert not imported & set(HEAVY)
    assert all(command in done.stdout for command in ("generate", "doctor", "demo-checkpoint"))


@pytest.mark.parametrize("command", ["generate", "doctor", "demo-checkpoint"])
def test_every_command_explains_itself(command: str) -> None:
    done = here(command, "--help")
    assert done.code == 0
    assert f"ringlight {command} [OPTIONS]" in done.out
    assert done.err == ""


def test_paragraphs_of_help_are_as_wide_as_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    lines = [line.rstrip() for line in here("jobs", "create", "--help").out.splitlines()]
    text = lines[lines.index("") + 1 : next(number for number, line in enumerate(lines) if "Options" in line)]
    paragraphs = [each.splitlines() for each in "\n".join(text).strip().split("\n\n")]
    assert any(len(each) > 2 for each in paragraphs)
    assert all(len(line) > 80 for each in paragraphs for line in each[:-1])


def test_without_a_command_it_says_which_there_are() -> None:
    done = here()
    assert done.code == 2
    assert "generate" in done.out + done.err


def test_an_unknown_command_is_a_usage_error() -> None:
    done = here("degenerate")
    assert done.code == 2
    assert "degenerate" in done.err


@pytest.mark.slow
def test_python_runs_it_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ringlight", "doctor", "--help"], capture_output=True, text=True, check=True, timeout=60
    )
    assert "Usage: " in done.stdout


@pytest.mark.slow
def test_doctor_says_what_a_report_of_a_bug_needs(tmp_path: Path) -> None:
    """Of the packages that are installed: a torch.py in the folder is none of them."""
    (tmp_path / "torch.py").write_text("raise SystemExit(9)")
    done = ringlight("doctor", "--json", folder=tmp_path)
    assert (done.code, done.err) == (0, "")
    facts = json.loads(done.out)
    assert facts.keys() == {"packages", "extras", "machine", "torch", "codecs", "environment", "problems"}
    assert facts.pop("problems") == []
    assert facts["packages"]["torch"][0].isdigit()
    assert "not installed" not in facts["packages"].values()
    assert facts["machine"]["cpus"] >= 1
    assert facts["machine"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert facts["codecs"] == {"libx264": True, "libvpx-vp9": True}
    assert facts["torch"]["threads"] >= 1
    lines = show(facts, []).splitlines()
    assert {*facts, "problems"} <= set(lines) and lines[-1] == "  none"
    assert all(f"  {name:<16} {version}" in lines for name, version in facts["packages"].items())


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a folder by its path in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_the_command_writes_the_same_bytes_for_the_same_seed(tmp_path: Path) -> None:
    """The command in its own process, and the function in ours."""
    folder, expected = tmp_path / "deep" / "sharded", tmp_path / "expected"
    done = ringlight("demo-checkpoint", folder, "--size", "tiny", "--seed", 5, "--shard-megabytes", 2)
    assert done == (0, f"{folder}\n", "")
    DEMO.write(expected, "tiny", seed=5, shard_bytes=2 * 2**20)
    assert tree(folder) == tree(expected)
    weights = list(folder.rglob("*.safetensors"))
    assert len(weights) > 3
    assert all(path.stat().st_size < 2.1 * 2**20 or is_one_tensor(path) for path in weights)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint in shards."""
    folder = tmp_path_factory.mktemp("sharded") / "tiny"
    DEMO.write(folder, "tiny", shard_bytes=2 * 2**20)
    return folder


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder"])
def test_one_file_and_shards_hold_the_same_weights(tiny: Path, sharded: Path, part: str) -> None:
    whole, shards = tensors(tiny / part), tensors(sharded / part)
    assert whole.keys() == shards.keys()
    assert all((whole[name] == shards[name]).all() for name in whole)


def tensors(folder: Path) -> dict[str, NDArray[np.float32]]:
    """Every tensor of a folder's files."""
    return {name: value for path in folder.glob("*.safetensors") for name, value in load_file(path).items()}


def is_one_tensor(path: Path) -> bool:
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return len(header.keys() - {"__metadata__"}) == 1


def test_another_seed_gives_other_weights_and_the_same_configuration(tiny: Path, tmp_path: Path) -> None:
    DEMO.write(tmp_path / "other", "tiny", seed=1)
    ours, theirs = tree(tiny), tree(tmp_path / "other")
    assert ours.keys() == theirs.keys()
    differing = {name for name in ours if ours[name] != theirs[name]}
    assert differing == {name for name in ours if name.endswith(".safetensors")}
    assert len(differing) == 3


def test_writing_again_leaves_nothing_of_what_was_there(tiny: Path, sharded: Path, tmp_path: Path) -> None:
    """Shards of an earlier checkpoint, with their index, would be read in place of the new file."""
    reused = shutil.copytree(sharded, tmp_path / "reused")
    DEMO.write(reused, "tiny")
    assert tree(reused) == tree(tiny)


@pytest.mark.slow
def test_a_demo_checkpoint_that_cannot_be_written_is_told_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    onto_a_file, huge_seed = together(
        [
            ["demo-checkpoint", tmp_path / "file", "--size", "tiny"],
            ["demo-checkpoint", tmp_path / "huge", "--size", "tiny", "--seed", 10**20],
        ]
    )
    assert onto_a_file.code == 3
    assert onto_a_file.err.count("\n") == 1
    assert "file" in onto_a_file.err
    assert (tmp_path / "file").read_text() == "mine"
    assert huge_seed.code in (0, 2, 3)
    assert "Traceback" not in huge_seed.err


def test_the_trained_checkpoint_is_written_without_torch_and_knows_its_prompts(tmp_path: Path) -> None:
    assert FILM is not None
    folder = tmp_path / "film"
    DEMO.write(folder, "tiny")  # of which nothing is to be left
    done = here("demo-checkpoint", folder)
    assert done == (0, f"{folder}\n", "")
    assert tree(folder) == tree(FILM)
    assert sum(map(len, tree(folder).values())) < 12 * 2**20
    examples = read_examples(folder)
    assert {read_prompt(each).colour for each in examples} == set(COLOURS)
    assert all(all(msgspec.structs.astuple(read_prompt(each))) for each in examples)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--seed", "3", "--shard-megabytes", "1"], "--seed and --shard-megabytes are for random weights"),
        (["--family", "wan21_t2v"], "no film is trained for wan21_t2v, only for wan22_ti2v; use --size tiny"),
    ],
)
def test_what_a_trained_checkpoint_cannot_be(tmp_path: Path, flags: list[str], told: str) -> None:
    done = here("demo-checkpoint", tmp_path / "film", *flags)
    assert done.code == 3
    assert told in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flags", [["--size", "huge"], ["--seed", "-1"], []])
def test_wrong_flags_of_demo_checkpoint(tmp_path: Path, flags: list[str]) -> None:
    done = here("demo-checkpoint", *([tmp_path / "new", *flags] if flags else []))
    assert done.code == 2
    assert list(tmp_path.iterdir()) == []
