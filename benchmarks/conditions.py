"""What a number must travel with."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def conditions() -> dict[str, Any]:
    """Date, machine, dtype, versions, commit and command of a CPU benchmark."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "cpu": names[0].partition(":")[2].strip() if names else platform.machine(),
        "cores": os.cpu_count(),
        "dtype": "float32",
        "versions": versions(("torch", "diffusers", "tokenizers", "ringlight")),
        "commit": commit(),
        "command": command(sys.argv),
    }


def command(arguments: list[str]) -> str:
    """What was typed, of paths from the root of a machine only their last part: no other machine has the others."""
    return shlex.join(["python", *(Path(each).name if Path(each).is_absolute() else each for each in arguments)])


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions by package; what is run from a source tree is not installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def commit() -> str | None:
    """The commit, with + where tracked files are changed; None outside a checkout."""
    git = ["git", "-C", str(ROOT)]
    head = answer([*git, "rev-parse", "--short=12", "HEAD"])
    if head is None:
        return None
    return head + ("+" if answer([*git, "status", "--porcelain", "--untracked-files=no"]) else "")


def answer(command: list[str]) -> str | None:
    """The output of a command on one line, or None where it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return "; ".join(done.stdout.split("\n")).strip("; ") if done.returncode == 0 else None
