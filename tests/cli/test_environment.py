"""The same settings read the same variables in every command; a flag wins, and what is wrong is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.core import TyperCommand

from ringlight.cli.main import app
from ringlight.cli.settings import EngineCommand
from tests.cli.commands import here

COMMANDS: dict[str, TyperCommand] = typer.main.get_group(app).commands  # type: ignore[assignment]
VIDEO = ("--prompt", "p", "--output", "film.mp4")


def test_every_command_with_settings_of_an_engine_reads_them() -> None:
    """`serve` does so by itself, for it has a file of settings too."""
    with_engine = {name for name, each in COMMANDS.items() if "engine" in getattr(each.callback, "settings", {})}
    assert with_engine == {"generate", "serve", "plan", "bench", "models", "doctor"}
    assert with_engine - {"serve"} == {name for name, each in COMMANDS.items() if isinstance(each, EngineCommand)}


def test_generate_needs_no_flag_for_what_is_in_the_environment(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert here("generate", *VIDEO, folder=tmp_path).code == 2, "its checkpoint is named nowhere"
    for name, text in {"MODEL_PATH": tiny, "LORA": "no:1,such:2", "NUM_FRAMES": "many", "REPORT": "/nowhere"}.items():
        monkeypatch.setenv(f"RINGLIGHT_{name}", str(text))
    first = here("generate", *VIDEO, folder=tmp_path)
    assert first.code == 3 and "--lora no: no such file" in first.err
    assert "--lora such: no such file" in here("generate", *VIDEO, "--lora", "such", folder=tmp_path).err
    without = here("generate", *VIDEO, "--lora", "", "--num-frames", 6, folder=tmp_path)
    assert without.code == 3 and "num_frames: 6 is not 4k+1" in without.err


def test_a_plan_goes_by_what_is_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ("plan", "--gpu", "rtx4090", "--size", "1280x704", "--num-frames", 5)
    usual = here(*flags).out
    monkeypatch.setenv("RINGLIGHT_MEMORY_BUDGET", "6GiB")
    monkeypatch.setenv("RINGLIGHT_NUM_GPUS", "2")  # of an engine; a plan's cards are its own
    small = here(*flags).out
    assert small != usual and small == here(*flags, "--memory-budget", "6GiB").out
    assert here(*flags, "--memory-budget", "").out == usual


@pytest.mark.parametrize(
    ("name", "text", "command", "words"),
    [
        ("TF32", "perhaps", ("plan",), "RINGLIGHT_TF32: "),
        ("NUM_SLICES", "two", ("bench", "--layouts", "u1r1"), "RINGLIGHT_NUM_SLICES: "),
        ("LORA_DIR", "/nowhere", ("models", "--gpu", "rtx4090"), "--lora-dir /nowhere: no such folder"),
        ("DEVICE", "tpu", ("generate", "--model-path", "x", *VIDEO), "RINGLIGHT_DEVICE: "),
    ],
)
def test_a_wrong_variable_is_refused_with_its_name(
    name: str, text: str, command: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"RINGLIGHT_{name}", text)
    done = here(*command)
    assert done.code == 3 and words in done.err, done
    assert here(command[0], "--help").code == 0
