"""`ringlight compare`: the command, its exit codes, and what it prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringlight.core.report import RunReport
from tests.bench.reports import result, run
from tests.cli.commands import here, ringlight


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Reports as `generate --report` writes them: u1r1, u1r2, and u1r1 of other work."""
    reports: dict[str, RunReport] = {
        "one": run("u1r1", 4.0),
        "two": run("u1r2", 2.0),
        "other": run("u1r1", 4.0, num_frames=49),
    }
    for name, report in reports.items():
        (tmp_path / f"{name}.json").write_bytes(report.to_json())
    return [tmp_path / f"{name}.json" for name in reports]


def test_tables_of_two_reports(files: list[Path]) -> None:
    done = ringlight("compare", *files[:2], "--fail-if", "Total > 1.05x", "--fail-if", "Denoising > 3s")
    assert (done.code, done.err) == (0, "")
    assert "| Denoising | 2.0000 | 4.0000 | 2.00x ? |" in done.out
    assert "- passed: Total > 1.05x: u1r2 has 0.6721x" in done.out


def test_a_gate_fails_with_a_code_of_its_own(files: list[Path]) -> None:
    done = here("compare", files[1], files[0], "--fail-if", "Total > 1.05x")
    assert (done.code, done.err) == (1, "")
    assert "- failed: Total > 1.05x: u1r1 has 1.488x" in done.out


def test_a_file_that_is_as_the_first_passes_whatever_the_first_holds(tmp_path: Path) -> None:
    found = result({"u1r1": [run("u1r1", 4.0)], "c2u1r1": [run("c2u1r1", 5.0)]})
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_bytes(found.to_json())
    done = here("compare", "a.json", "b.json", "--fail-if", "Total > 1.05x", folder=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert [line for line in done.out.splitlines() if "1.05x" in line] == [
        "- passed: Total > 1.05x: b u1r1 has 1x, a difference that may be noise",
        "- passed: Total > 1.05x: b c2u1r1 has 1x, a difference that may be noise",
    ]
    assert here("compare", "a.json", "--fail-if", "Total > 1.05x", folder=tmp_path).code == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["one", "other"], "another workload than one (num_frames 49 and not 25)"),
        (["one", "absent"], "absent.json: No such file"),
        (["one", "one"], "named twice"),
        (["one", "two", "--fail-if", "Totl > 1x"], "there is no row 'Totl' here (nearest: Total; all are in"),
        (["one", "two", "--fail-if", "Total"], "NAME OPERATOR VALUE"),
    ],
)
def test_what_cannot_be_compared_is_an_error_and_no_failed_gate(
    files: list[Path], arguments: list[str], says: str
) -> None:
    folder = files[0].parent
    done = here(
        "compare",
        *(f"{name}.json" if name.isalpha() else name for name in arguments[:2]),
        *arguments[2:],
        folder=folder,
    )
    assert (done.code, done.out) == (3, "")
    assert done.err.startswith("ringlight: invalid_setting: ") and says in done.err and "Traceback" not in done.err


def test_forced_comparisons_say_so_first(files: list[Path]) -> None:
    done = here("compare", files[0], files[2], "--force")
    assert done.code == 0 and done.out.startswith("**Not the same work: other is of another workload")
