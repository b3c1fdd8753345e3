"""A worker that cannot even be imported, or has nowhere to write, still says why. It never comes to torch."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import pytest

from ringlight import Engine, EngineConfig
from ringlight.core.errors import InvalidInstallation
from ringlight.engine import process
from tests.cli.commands import slow
from tests.forking import start_rank

TORCHES = [  # what a broken one may do, and what is then told
    (
        "import ctypes; ctypes.CDLL('libcudart.so.99')",
        ["torch cannot be imported (OSError: libcudart", "reinstall torch"],
    ),
    *slow(
        ("raise ModuleNotFoundError(name='torch')", ["torch is not installed", "`pip install 'ringlight[worker]'`"]),
        ("import no_such_part", ["no_such_part is not installed", "`pip install no_such_part`"]),
        ("raise RuntimeError('compiled against ABI 0x1')", ["torch cannot be imported (RuntimeError: compiled"]),
    ),
]


@pytest.fixture(autouse=True)
def _started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "launch", start_rank)


def refusal(tiny: Path) -> str:
    """Why an engine of its own cannot start."""
    config = EngineConfig(model_path=str(tiny), device="cpu")
    with Engine(config) as engine, pytest.raises(InvalidInstallation) as caught:
        engine.start()
    return str(caught.value)


@pytest.mark.parametrize(("program", "words"), TORCHES, ids=["library", "missing", "part", "build"])
def test_a_torch_that_cannot_be_imported(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, words: list[str]
) -> None:
    (tmp_path / "torch.py").write_text(program)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    said = refusal(tiny)
    assert all(word in said for word in [*words, sys.executable, "ringlight doctor"]), said


def test_no_folder_for_temporary_files(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file of the worker may have a single byte, wherever it lies."""

    def launch_without_disk(arguments: list[str], inherited: list[int], environment: dict[str, str]) -> object:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
        try:
            return start_rank(arguments, inherited, environment)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    monkeypatch.setattr(process, "launch", launch_without_disk)
    said = refusal(tiny)
    assert said.startswith("there is no folder for temporary files") and "TMPDIR" in said


def test_an_interpreter_that_is_gone(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert refusal(tiny).startswith(f"{tmp_path / 'python'} cannot be run: No such file")


def test_what_is_missing_is_known_before_a_worker_is_started(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # which is how Python notes that there is none
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(InvalidInstallation, match=r"torch, PIL are not .*`pip install 'ringlight\[worker\]'`"):
        Engine(EngineConfig(model_path=str(tiny)))
