"""A `ringlight serve` of our own: started for one layout, waited for, and ended with all that it started."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

import msgspec

from ringlight.bench.variants import file_stem
from ringlight.client import Client
from ringlight.core.errors import WorkerError
from ringlight.core.layout import ParallelLayout

LISTENING = re.compile(r"listening on (http://[^\s\"]+)")
LOOK_SECONDS = 0.05
END_SECONDS = 30.0
PORT = 8898  # in commands that are shown; a server that is measured takes a free one


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """Server that was started: its command, and how long it took until it made videos."""

    round: int
    command: str
    ready_seconds: float


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """Settings that all servers of a benchmark share: a checkpoint, flags, and a folder for logs.

    `variant` names the one that a server is for, if it differs.
    """

    model_path: Path
    flags: tuple[str, ...]
    logs: Path
    ready_timeout_seconds: float = 1800.0
    variant: str = ""


def layout_flags(layout: ParallelLayout) -> list[str]:
    """The flags of `ringlight serve` that ask for a layout."""
    flags = ["--num-gpus", layout.num_ranks, "--sp-degree", layout.sp]
    flags += ["--ulysses-degree", layout.ulysses, "--ring-degree", layout.ring]
    branches = ["--cfg-degree", layout.cfg] if layout.cfg > 1 else []
    return [str(part) for part in flags + branches]


def shown_command(launch: Launch, layout: ParallelLayout) -> str:
    """The command as one would type it, over several lines."""
    lines = [
        "ringlight serve",
        "--model-type diffusion",
        shlex.join(["--model-path", str(launch.model_path)]),
        shlex.join(layout_flags(layout)),
        *([shlex.join(launch.flags)] if launch.flags else []),
        f"--port {PORT}",
    ]
    return " \\\n  ".join(lines)


@contextmanager
def serving(launch: Launch, layout: ParallelLayout, number: int) -> Iterator[tuple[str, Started]]:
    """Run a server in round `number` and yield its URL. It and its data are gone after the block.

    Raises WorkerError with what it said last where it does not start.
    """
    with TemporaryDirectory(prefix="ringlight-bench-", ignore_cleanup_errors=True) as folder:
        flags = ["--model-type", "diffusion", "--model-path", str(launch.model_path), *layout_flags(layout)]
        flags += [*launch.flags, "--port", "0", "--data-dir", folder]
        log_path = launch.logs / f"{file_stem(f'{layout.name} {launch.variant}'.rstrip())}_round{number}.log"
        began = time.monotonic()
        with log_path.open("wb") as log:
            process = start(flags, log)
        try:
            url = _wait_until_ready(process, log_path, began + launch.ready_timeout_seconds)
            ready_seconds = time.monotonic() - began
            command = shlex.join(["ringlight", "serve", *flags])
            yield url, Started(round=number, command=command, ready_seconds=ready_seconds)
        finally:
            end(process)


def start(flags: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start the server's program, in a process group of its own, so that Ctrl-C reaches us alone and we end it."""
    command = [sys.executable, "-m", "ringlight", "serve", *flags]
    return subprocess.Popen(command, stdout=log, stderr=log, process_group=0)


def _wait_until_ready(process: subprocess.Popen[bytes], log_path: Path, deadline: float) -> str:
    url = None
    while url is None:
        _check(process, log_path, deadline)
        if found := LISTENING.search(log_path.read_text(errors="replace")):
            url = found[1]
        time.sleep(LOOK_SECONDS)
    with Client(url, max_retries=0) as client:
        while not client.is_ready():
            _check(process, log_path, deadline)
            time.sleep(LOOK_SECONDS)
    return url


def _check(process: subprocess.Popen[bytes], log_path: Path, deadline: float) -> None:
    """Raise WorkerError if it has ended, or has not started in time."""
    if process.poll() is not None:
        raise WorkerError(f"the server ended with {process.returncode}: {last_line(log_path)} (all: {log_path})")
    if time.monotonic() > deadline:
        raise WorkerError(f"the server did not get ready in time: {last_line(log_path)} (all: {log_path})")


def last_line(log_path: Path) -> str:
    """Last line that a server wrote to its log."""
    lines = log_path.read_text(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def end(process: subprocess.Popen[bytes]) -> None:
    """End a server at once: by a second SIGTERM it does not wait for what runs; its workers end with it."""
    try:
        for _ in range(2):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                time.sleep(2 * LOOK_SECONDS)
        process.wait(END_SECONDS)
    finally:  # also where we are interrupted again
        if process.poll() is None:
            process.kill()
            process.wait()
