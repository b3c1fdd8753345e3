"""Running the real command, alone or two at a time, and watching the processes that it starts."""

from __future__ import annotations

import contextlib
import io
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, NamedTuple

import pytest

from ringlight.cli.main import main
from tests.engine.processes import wait_until
from tests.forking import Forked, fork_command

RINGLIGHT = str(Path(sys.executable).with_name("ringlight"))
TIMEOUT_SECONDS = 120.0


class Done(NamedTuple):
    """What a command left: its exit code, stdout and stderr."""

    code: int
    out: str
    err: str


def program(*arguments: object, folder: Path | None = None) -> Done:
    """Run the installed `ringlight` with these arguments, in a folder: for what a start has to do with."""
    command = [RINGLIGHT, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False, cwd=folder)
    return Done(done.returncode, done.stdout, done.stderr)


def ringlight(*arguments: object, folder: Path | None = None, environment: Mapping[str, str] | None = None) -> Done:
    """As `program`, forked from this process: neither it nor its workers have to import anything."""
    return finished(lambda out, err: fork_command(arguments, out, err, environment, folder), TIMEOUT_SECONDS)


def finished(start: Callable[[IO[bytes], IO[bytes]], Forked], limit_seconds: float) -> Done:
    """What a forked process left that writes to these files; it has ended by then."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        running = start(out, err)
        try:
            code = running.wait(limit_seconds)
        finally:
            running.kill()
            running.wait()
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
        return Done(code, *texts)


def here(*arguments: object, folder: Path | None = None) -> Done:
    """As `ringlight`, in this process: for what a command says and refuses, to which a process of its own adds nothing.
    One of each kind is run as a command all the same."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder or "."):
        patch.setattr(sys, "argv", ["ringlight", *map(str, arguments)])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as leaving:
            main()
    return Done(int(leaving.value.code or 0), out.getvalue(), err.getvalue())


def slow(*cases: tuple[Any, ...]) -> list[Any]:
    """Parameters of a test of which others stand for these: each is a command that has to start."""
    return [pytest.param(*case, marks=pytest.mark.slow) for case in cases]


def together(commands: Iterable[list[object]]) -> list[Done]:
    """Run commands two at a time."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda arguments: ringlight(*arguments), commands))


class Running:
    """A command in the middle of its work; what it prints goes to files in `log`."""

    def __init__(self, log: Path, *arguments: object, namespace: str = "") -> None:
        """Forked, as `ringlight` is, and in a network namespace where one is named."""
        self._out, self._err = log / "out", log / "err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = fork_command(arguments, out, err, namespace=namespace)

    def wait_for(self, word: str) -> None:
        """Wait until it has said this word on stderr."""
        wait_until(lambda: word in self._err.read_text() or self._process.poll() is not None)
        assert word in self._err.read_text()

    def workers(self, number: int = 1) -> list[int]:
        """The process ids of its ranks, as soon as there are so many."""
        wait_until(lambda: len(self._children()) >= number)
        workers = sorted(self._children())
        assert len(workers) == number
        return workers

    def interrupt(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def end(self) -> Done:
        """Wait for its end."""
        code = self._process.wait(TIMEOUT_SECONDS)
        return Done(code, self._out.read_text(), self._err.read_text())

    def kill(self) -> None:
        """End it whatever it does."""
        self._process.kill()
        self._process.wait()

    def _children(self) -> set[int]:
        threads = Path(f"/proc/{self._process.pid}/task").glob("*/children")
        return {int(pid) for children in threads for pid in children.read_text().split()}
