"""The hard stop of gpu_check: whatever a section does, it is ended, and what it had found is written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from gpu.report import Report, Row
from gpu.scale import Scale, full_scale, toy_scale
from gpu.section import Section
from gpu.watching import run_watched, start_method

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SECONDS = 5.0  # that a section is given: enough to come to what hangs, also on a busy machine
FOUND = Row("found before", "1 s")


@pytest.fixture
def report(tmp_path: Path) -> Report:
    return Report(tmp_path / "results", {"self_test": True})


def deaf(section: Section, scale: Scale) -> None:
    """Hears no signal, starts a process that is as deaf, and never ends: as a kernel that hangs."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    section.add(FOUND)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    section.add(Row("child", str(child.pid)))
    section.attempt("the one that hangs", endless)


def endless() -> Iterator[Row]:
    time.sleep(1000)
    yield FOUND


def killed(section: Section, scale: Scale) -> None:
    """Dies as a process does whose kernel the driver ends."""
    section.say("the one that dies")
    section.add(FOUND)
    os.kill(os.getpid(), signal.SIGKILL)


def broken(section: Section, scale: Scale) -> None:
    section.attempt("the one that breaks", lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    section.add(Row("device", section.earlier[0].measured))
    section.say({"learnt": 7})


def watch(report: Report, work: object, seconds: float) -> list[Row]:
    """Rows of a section that is given so many seconds."""
    part = report.start("section", seconds)
    scale = toy_scale(torch.device("cpu"))
    run_watched(report, part, work, scale, time.monotonic() + seconds, start_method())  # type: ignore[arg-type]
    return part.rows


@pytest.mark.slow
def test_what_hangs_is_ended_with_all_that_it_started(report: Report) -> None:
    found, child, late = watch(report, deaf, SECONDS)
    assert (found, late.name, late.verdict) == (FOUND, "the one that hangs", "FAIL")
    assert "had not ended" in late.measured
    with pytest.raises(ProcessLookupError):
        _wait_for_end(int(child.measured))
    written = json.loads((report.folder / "gpu_check.json").read_text())
    assert [row["name"] for row in written["sections"][0]["rows"]] == [FOUND.name, "child", "the one that hangs"]
    assert "the one that hangs" in (report.folder / "gpu_check.md").read_text()
    assert {path.name for path in report.folder.iterdir()} == {"gpu_check.json", "gpu_check.md"}


def _wait_for_end(pid: int) -> None:
    """Until there is no such process, or one that nobody has fetched; raises ProcessLookupError then."""
    while True:
        os.kill(pid, 0)
        if Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "Z":
            raise ProcessLookupError
        time.sleep(0.05)


def test_a_process_that_dies_costs_its_own_section_alone(report: Report) -> None:
    found, died = watch(report, killed, 60.0)
    assert (found, died.name, died.verdict) == (FOUND, "the one that dies", "FAIL")
    assert "-9" in died.measured
    failed, device = watch(report, broken, 60.0)
    assert (failed.name, failed.verdict) == ("the one that breaks", "FAIL")
    assert "ZeroDivisionError" in failed.measured
    assert device.measured == FOUND.measured, "a section knows the rows of those before it"
    assert report.conditions["learnt"] == 7


def test_budgets_fit_into_nine_minutes() -> None:
    assert sum(full_scale(torch.device("cpu")).budgets.values()) <= 540


@pytest.mark.slow
def test_the_whole_run_ends_when_it_is_told_to(tmp_path: Path) -> None:
    """Imports count: a whole run that is given a moment has time for nothing, and says so in every section."""
    command = [sys.executable, str(BENCHMARKS / "gpu_check.py"), "--self-test", "--seconds", "0.1"]
    done = subprocess.run([*command, "--output", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    sections = json.loads((tmp_path / "gpu_check.json").read_text())["sections"]
    assert len(sections) == len(full_scale(torch.device("cpu")).budgets)
    assert {row["verdict"] for section in sections for row in section["rows"]} == {"cut"}
