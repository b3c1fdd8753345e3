"""The demo checkpoint that a benchmark works on, and the flags by which a script is tested at its smallest size."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ringlight.core.config import DEMO_NAME


def add_self_test(parser: argparse.ArgumentParser) -> None:
    """The flag that every benchmark has."""
    told = "the smallest size, to test the script itself: its numbers mean nothing"
    parser.add_argument("--self-test", action="store_true", help=told)


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """The flag of benchmarks that work on a demo checkpoint."""
    told = "a demo checkpoint that is there already (default: one is made, and removed at the end)"
    parser.add_argument("--checkpoint", type=Path, help=told)


@contextmanager
def demo_checkpoint(size: str, given: Path | None) -> Iterator[Path]:
    """The checkpoint that was given, or else one of that size that is there as long as it is used."""
    if given is not None:
        yield given.resolve()
        return
    with tempfile.TemporaryDirectory() as folder:
        write_demo(Path(folder), size)
        yield Path(folder)


def write_demo(folder: Path, size: str, *flags: str) -> None:
    """Write a demo checkpoint as its command does, in a process that is gone afterwards with all that it loaded."""
    command = [sys.executable, "-m", "ringlight", "demo-checkpoint", str(folder), "--size", size, *flags]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def name_of(checkpoint: Path) -> str:
    """What a demo checkpoint calls itself, for conditions: "demo tiny"."""
    index = json.loads((checkpoint / "model_index.json").read_text())
    return "demo " + str(index["_name_or_path"]).removeprefix(f"{DEMO_NAME}-")
