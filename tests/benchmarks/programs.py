"""Python programs in a fork: scripts, and what scripts start. What they would import is there already.

So is what diffusers' pipelines import, which takes longer than what is done with them.
"""

from __future__ import annotations

import inspect
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import diffusers

from ringlight.cli.main import main
from ringlight.engine import process
from tests.forking import Forked, enter_network, fork, fork_rank

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
IMPORTED = (diffusers.WanPipeline, diffusers.WanImageToVideoPipeline)


def fork_script(script: Path, arguments: tuple[str, ...], out: IO[bytes], err: IO[bytes]) -> Forked:
    """`python SCRIPT` with these arguments; the workers and the programs that it starts are forked too, from it."""

    def work() -> None:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        os.chdir(ROOT)
        subprocess.Popen = ForkedProgram  # type: ignore[misc]
        run_script(script, arguments)

    return fork(work, os.environ | {"OMP_NUM_THREADS": "1"}, (out.fileno(), err.fileno()))


def run_script(script: Path, arguments: tuple[str, ...]) -> None:
    """As `python SCRIPT` does, in this process."""
    process.launch = fork_rank
    sys.argv, sys.path[0] = [str(script), *arguments], str(BENCHMARKS)
    runpy.run_path(str(script), run_name="__main__")


def run_command(arguments: tuple[str, ...]) -> None:
    """As `python -m ringlight` does, in this process."""
    process.launch = fork_rank
    sys.argv = ["ringlight", *arguments]
    main()


def within(namespace: str, work: Callable[[], None]) -> None:
    """As `ip netns exec` does, in this process."""
    enter_network(namespace)
    work()


def forkable(command: Any) -> Callable[[], None] | None:
    """What is done by a program that needs no start of its own."""
    match command:
        case ["ip", "netns", "exec", namespace, *inner] if work := forkable(inner):
            return lambda: within(namespace, work)
        case [sys.executable, "-m", "ringlight", *arguments]:
            return lambda: run_command(tuple(arguments))
        case [sys.executable, script, *arguments] if script.endswith(".py"):
            return lambda: run_script(Path(script), tuple(arguments))
        case _:
            return None


class ForkedProgram(subprocess.Popen[Any]):
    """In the place of Popen: `python SCRIPT` and `python -m ringlight` are forked. All else is started."""

    _started: list[ForkedProgram] = []  # noqa: RUF012 - a fork has their pipes too, and has to close them

    def _execute_child(self, *given: Any) -> None:
        start = super()._execute_child  # type: ignore[misc]
        told = inspect.signature(start).bind(*given).arguments
        work = forkable(told["args"])
        if work is None:
            start(*given)
            return
        theirs = {0: told["p2cread"], 1: told["c2pwrite"], 2: told["errwrite"]}  # -1 is none
        ours = {0: told["p2cwrite"], 1: told["c2pread"], 2: told["errread"]}
        inherited = {end for end in theirs.values() if end >= 0}

        def forked() -> None:
            pipes = [pipe for each in self._started for pipe in (each.stdin, each.stdout, each.stderr) if pipe]
            for pipe in pipes:
                pipe.close()
            for number, end in theirs.items():
                if end >= 0:
                    os.dup2(end, number)
                if ours[number] >= 0:
                    os.close(ours[number])
            for end in inherited:
                os.close(end)
            sys.stdin = open(0, closefd=False)  # noqa: SIM115
            os.chdir(told["cwd"] or ".")
            work()

        environment = os.environ if told["env"] is None else told["env"]
        self.pid, self._child_created = fork(forked, environment, inherited).pid, True
        for end in {theirs[number] for number, end in ours.items() if end >= 0}:
            os.close(end)
        self._started.append(self)
