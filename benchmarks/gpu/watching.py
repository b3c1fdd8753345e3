"""A section in a process of its own, watched from outside: what hangs in a kernel can only be ended so.

Processes are forked from one that has imported everything and touched no device, so that each is there at once, with a
CUDA context of its own: one that breaks, or hangs, takes no other section with it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from gpu.report import Part, Report, Row, error_line
from gpu.scale import Scale
from gpu.section import DeviceLost, Section

Work = Callable[[Section, Scale], None]


def process_began() -> float:
    """When this process was started, by time.monotonic(): what it imports takes its part of the time."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.monotonic() - age


def start_method() -> str:
    """How to start processes: by fork, unless whatever was imported has touched CUDA, after which a fork cannot."""
    trial = multiprocessing.get_context("fork").Process(target=_exit_if_spoilt)
    trial.start()
    trial.join()
    return "spawn" if trial.exitcode else "fork"


def _exit_if_spoilt() -> None:
    sys.exit(torch.cuda._is_in_bad_fork())


def run_watched(report: Report, part: Part, work: Work, scale: Scale, ends_at: float, method: str) -> None:
    """Take in the rows of a section as they come. At `ends_at` (of time.monotonic) its process and all that it has
    started are ended, and the check that was under way is the last row."""
    context = multiprocessing.get_context(method)
    ours, theirs = context.Pipe(duplex=False)
    earlier = [row for other in report.parts for row in other.rows]
    process = context.Process(target=_work, args=(theirs, work, scale, ends_at, earlier))
    process.start()
    theirs.close()
    under_way = "the start of the section's process"
    try:
        while ours.poll(max(0.0, ends_at - time.monotonic())):
            message = ours.recv()
            if isinstance(message, Row):
                part.add(message)
            elif isinstance(message, str):
                under_way = message
            else:
                report.learn(message)
        told = f"had not ended when the section's time was over, after {time.monotonic() - part.started:.0f} s"
    except EOFError:
        process.join(max(1.0, ends_at - time.monotonic()))
        told = f"ended its process (exit code {process.exitcode})" if process.exitcode else ""
    finally:
        _end(process)
        ours.close()
    if told:
        part.add(Row(under_way, told, "ends by itself", "FAIL"))


def _end(process: BaseProcess) -> None:
    """Kill a section's process, and what it has started; an engine's workers leave when their engine is gone."""
    assert process.pid is not None
    process.kill()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.join()


def _work(to_parent: Connection, work: Work, scale: Scale, ends_at: float, earlier: list[Row]) -> None:
    """What a section's process does."""
    os.setsid()
    section = Section(ends_at, earlier, to_parent.send)
    try:
        work(section, scale)
    except DeviceLost as error:
        section.add(Row("the rest of the section", f"the CUDA context broke: {error}", "runs", "FAIL"))
    except Exception as error:  # what a section sets up for its checks
        traceback.print_exc()
        section.add(Row("the rest of the section", error_line(error), "runs", "FAIL"))
    to_parent.close()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # a context that broke may hang in what runs at exit
