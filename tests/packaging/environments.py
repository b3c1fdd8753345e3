"""Empty virtual environments, into which uv installs the wheel from where this machine's pip takes packages."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import pytest

UV = str(Path(sys.executable).with_name("uv"))
OF_PIP = {  # its settings, as uv calls them, which does not read those of pip
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "constraint": "UV_CONSTRAINT",
    "cert": "SSL_CERT_FILE",
    "no-index": "UV_NO_INDEX",
}
SECTIONS = ("global", "install", ":env:")  # of pip's configuration, each over those before
AS_PIP_DOES = {"UV_INDEX_STRATEGY": "unsafe-best-match", "UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1"}
UNREACHABLE = ("failed to fetch", "client error (connect)", "network was disabled")
TORCH = f"torch=={version('torch')}"  # the build of the tests themselves: another may bring gigabytes of CUDA
LIMIT_SECONDS = 300


def settings_of_pip(listed: str) -> dict[str, str]:
    """What `pip config list` prints, as environment variables of uv."""
    told = [line.partition("=")[::2] for line in listed.splitlines() if "=" in line]
    found = {}
    for section in SECTIONS:
        for name, value in told:
            where, _, option = name.rpartition(".")
            if where == section and option in OF_PIP:
                between = "," if option == "find-links" else " "
                found[OF_PIP[option]] = between.join(str(ast.literal_eval(value)).split())
    return found


class Installer:
    """Installs a wheel into environments of its own, in a folder."""

    def __init__(self, wheel: Path, folder: Path) -> None:
        command = [sys.executable, "-m", "pip", "config", "list"]
        listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=LIMIT_SECONDS).stdout
        self._wheel = wheel
        self._folder = folder
        self._environment = os.environ | AS_PIP_DOES | settings_of_pip(listed)
        pins = folder / "pins.txt"
        pins.write_text(TORCH)
        self._environment["UV_CONSTRAINT"] = f"{self._environment.get('UV_CONSTRAINT', '')} {pins}".strip()

    def install(self, *extras: str) -> Environment:
        """The wheel with these extras, in an environment that had nothing. Skips the test without a network, or where
        torch would be another build than that of the tests."""
        prefix = self._folder / ("-".join(extras) or "base")
        self._run("venv", "--python", sys.executable, prefix)
        python = prefix / "bin" / "python"
        wanted = f"ringlight[{','.join(extras)}] @ {self._wheel.as_uri()}"
        self._run("pip", "install", "--python", python, wanted)
        self._run("pip", "check", "--python", python)
        return Environment(prefix / "bin")

    def _run(self, *arguments: object) -> None:
        command = [UV, *map(str, arguments)]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=LIMIT_SECONDS, env=self._environment
        )
        said = " ".join(done.stderr.split())
        if any(words in said.lower() for words in UNREACHABLE):
            pytest.skip(f"no package can be fetched here: {said[-300:]}")
        if f"there is no version of {TORCH}" in said:
            pytest.skip(f"{TORCH}, which is installed here, is not to be had from where pip takes packages")
        assert done.returncode == 0, done.stderr


class Said(NamedTuple):
    """What a program left: its exit code, stdout and stderr."""

    code: int
    out: str
    err: str


class Environment(NamedTuple):
    """An environment, by the folder of its programs."""

    programs: Path

    def run(self, name: str, *arguments: object, more: Mapping[str, str] | None = None) -> Said:
        """Run one of its programs, which sees nothing of the environment of the tests."""
        hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
        clean = {
            key: value for key, value in os.environ.items() if key not in hidden and not key.startswith("RINGLIGHT_")
        }
        done = subprocess.run(
            [str(self.programs / name), *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT_SECONDS,
            cwd=self.programs,
            env=clean | dict(more or {}),
        )
        return Said(done.returncode, done.stdout, done.stderr)
