"""Dry runs of `ringlight serve` in this process, and all that they print."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from ringlight.cli.main import command
from tests.core.checkpoints import link_all


class Listed(NamedTuple):
    """What a dry run printed: settings as (value, source), and the lines at the end."""

    settings: dict[str, tuple[str, str]]
    end: dict[str, str]
    text: str


Dry = Callable[..., Listed]


@pytest.fixture
def checkpoint(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Links to another's files, which a dry run looks at and never loads; and no settings in the environment."""
    for name in os.environ:
        if name.startswith("RINGLIGHT_"):
            monkeypatch.delenv(name)
    return link_all(tiny, tmp_path / "checkpoint")


@pytest.fixture
def dry(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Dry:
    """Runs `ringlight serve --dry-run` with more flags."""

    def run(*flags: object, model_path: object = checkpoint) -> Listed:
        path = [] if model_path is None else ["--model-path", model_path]
        arguments = ["serve", *path, "--data-dir", tmp_path / "kept", *flags, "--dry-run"]
        assert not command([str(each) for each in arguments], standalone_mode=False)
        text = capsys.readouterr().out
        settings = {}
        for line in text.splitlines():
            if line.startswith("  "):
                name, rest = line.split(maxsplit=1)
                value, _, source = rest.rstrip().rpartition("  ")
                settings[name] = (value.strip(), source)
        end = dict(line.split(maxsplit=1) for line in text.rpartition("\n\n")[2].splitlines())
        assert not (tmp_path / "kept").exists()
        return Listed(settings, end, text)

    return run


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    return path
