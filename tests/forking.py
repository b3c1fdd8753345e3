"""Processes that are forked from the warm test process, in the place of programs that start from nothing.

They have ids, signals, sockets and ends of their own, as programs have. What they need not do is import, which takes
most of the time of a start. What a start itself does is tested with programs that are started.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import logging
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import IO

from ringlight.bench import servers
from ringlight.cli.main import main
from ringlight.engine import process
from ringlight.worker import main as worker

start_rank = process.launch
"""What starts a worker as a program, for tests of just that; tests/conftest.py puts `fork_rank` in its place."""

STANDARD = (0, 1, 2)
CLONE_NEWNET, CLONE_NEWNS = 0x40000000, 0x00020000  # of sched.h


class Forked(subprocess.Popen[bytes]):
    """A child of this process, to be handled as a program that it has started."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.args: list[str] = []
        self.returncode: int | None = None
        self._asking = threading.Lock()  # several threads ask, and a child can be reaped once

    def poll(self) -> int | None:
        with self._asking:
            if self.returncode is None:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    self.returncode = os.waitstatus_to_exitcode(status)
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = time.monotonic() + (60 if timeout is None else timeout)
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("a forked process", timeout or 60)
            time.sleep(0.005)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __del__(self) -> None:
        """Nothing: the base class would warn of a child that it did not start."""


def fork_command(
    arguments: Iterable[object],
    out: IO[bytes],
    err: IO[bytes],
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    namespace: str = "",
    prepare: Callable[[], None] = lambda: None,
) -> Forked:
    """`ringlight` with these arguments, in a folder and in a network namespace; before it begins it is prepared. Its
    workers, and the servers that it measures, are forked too, from it."""
    command = ["ringlight", *map(str, arguments)]

    def work() -> None:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        os.chdir(folder or ".")
        if namespace:
            enter_network(namespace)
        prepare()
        process.launch, servers.start = fork_rank, fork_server
        sys.argv = command
        main()

    forked = fork(work, os.environ if environment is None else environment, (out.fileno(), err.fileno()))
    forked.args = command
    return forked


def fork_server(flags: Iterable[str], log: IO[bytes]) -> Forked:
    """A server that is measured, in the place of `bench.servers.start`."""
    return fork_command(["serve", *flags], log, log, prepare=os.setpgrp)


def fork_rank(
    arguments: Iterable[str],
    inherited: Collection[int],
    environment: Mapping[str, str],
    prepare: Callable[[], None] = lambda: None,
) -> Forked:
    """A worker, in the place of `engine.process.launch`; before it begins it is prepared."""

    def work() -> None:
        os.setsid()
        os.dup2(process.STDERR, 1)
        prepare()
        sys.argv = ["worker", *arguments]
        worker.main()

    return fork(work, environment, inherited)


def fork(work: Callable[[], None], environment: Mapping[str, str], inherited: Collection[int]) -> Forked:
    """A child that does this and ends, in this environment, with these descriptors beside the standard ones."""
    child = os.fork()
    if child:
        return Forked(child)
    status = 1
    try:
        be_new(environment, inherited)
        work()
        threading._shutdown()  # type: ignore[attr-defined]
        status = 0
    except SystemExit as leaving:
        status = int(leaving.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def be_new(environment: Mapping[str, str], inherited: Collection[int]) -> None:
    """Leave behind what a started program would not have of this process."""
    kept = dict(environment)
    os.environ.clear()
    os.environ.update(kept)
    gc.collect()  # sockets that nobody holds any more close now, and not when others have their numbers
    gc.freeze()
    close_all_but(inherited)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        setattr(sys, name, open(number, "w" if number else "r", buffering=1, closefd=False))  # noqa: SIM115
    for each in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if callable(signal.getsignal(each)) or each == signal.SIGHUP:  # ignored under nohup
            signal.signal(each, signal.default_int_handler if each == signal.SIGINT else signal.SIG_DFL)
    faulthandler.disable()
    logging.getLogger().handlers.clear()
    warnings.resetwarnings()
    for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", category)
    tempfile.tempdir = None


def leave_networks() -> None:
    """Move this process into a new network namespace, and a new one of mounts."""
    _check(ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET | CLONE_NEWNS), "unshare")


def enter_network(namespace: str) -> None:
    """Move this process into a network namespace that `ip netns` has made."""
    with Path("/run/netns", namespace).open() as there:
        _check(ctypes.CDLL(None, use_errno=True).setns(there.fileno(), CLONE_NEWNET), "setns")


def _check(failed: int, call: str) -> None:
    if failed:
        raise OSError(ctypes.get_errno(), call)


def close_all_but(inherited: Collection[int]) -> None:
    """Close sockets, whose end shows only when nobody holds them, and files, which may be locked.

    Pipes stay: libuv, on which the ranks' store runs, keeps one of its own in every process that loads torch.
    """
    for link in Path("/proc/self/fd").iterdir():
        number = int(link.name)
        if number in inherited or number in STANDARD or not link.is_symlink():
            continue
        kind = os.fstat(number).st_mode
        if stat.S_ISSOCK(kind) or stat.S_ISREG(kind):
            os.close(number)
