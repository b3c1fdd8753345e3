"""Comparing saved results: what is refused, who is held to whom, and what gates say."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from ringlight.bench.comparison import Comparison, compare
from ringlight.bench.figures import all_rows
from ringlight.bench.gates import Gate, GateVerdict
from ringlight.bench.result import Result
from ringlight.core.errors import InvalidSetting
from ringlight.core.report import RunReport
from tests.bench.reports import CPU, GPU, page_report, result, run, workload


def save(folder: Path, name: str, found: Result | RunReport) -> Path:
    path = folder / f"{name}.json"
    path.write_bytes(found.to_json())
    return path


def saved(folder: Path, *found: Result | RunReport) -> list[Path]:
    """Files a.json, b.json and so on."""
    return [save(folder, "abcdef"[place], each) for place, each in enumerate(found)]


def labels(comparison: Comparison) -> list[tuple[str, str | None]]:
    """Every column, and what it is compared with."""
    (part,) = comparison.parts
    return [
        (column.label, None if column.reference is None else part.columns[column.reference].label)
        for column in part.columns
    ]


def test_reports_of_two_layouts_become_the_page(tmp_path: Path) -> None:
    found = compare(saved(tmp_path, page_report("u1r1"), page_report("u1r2")), force=False)
    assert labels(found) == [("u1r1", None), ("u1r2", "u1r1")]
    assert "| Denoising | 52.6358 | 71.6785 | 1.36x ? |" in found.to_markdown()
    assert "| Overhead Ratio | 33.5% | 25.6% | +7.9pp ? |" in found.to_markdown()


def test_layouts_are_held_to_themselves_in_the_first_file(tmp_path: Path) -> None:
    before = result({"u1r1": [run("u1r1", 4.0)], "u1r2": [run("u1r2", 2.0)]})
    after = result({"u1r2": [run("u1r2", 1.0)], "u1r1": [run("u1r1", 4.0)], "u2r1": [run("u2r1", 3.0)]})
    found = compare(saved(tmp_path, before, after), force=False)
    assert labels(found) == [
        ("a u1r1", None),
        ("a u1r2", "a u1r1"),
        ("b u1r2", "a u1r2"),
        ("b u1r1", "a u1r1"),
        ("b u2r1", "a u1r1"),
    ]
    assert "- `b u1r2` is compared with `a u1r2`" in found.to_markdown()
    (part,) = found.parts
    denoising = next(row for row in all_rows(part.columns) if row.name == "Denoising")
    assert [value.value for value in denoising.values if value] == [4.0, 2.0, 1.0, 4.0, 3.0]


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    paths = [save(tmp_path / name, "result", run("u1r1", 4.0)) for name in ("old", "new")]
    assert labels(compare(paths, force=False)) == [
        ("old/result u1r1", None),
        ("new/result u1r1", "old/result u1r1"),
    ]


BASE = run("u1r1", 4.0)
OTHERS: dict[str, RunReport] = {
    "another workload.*num_frames 49 and not 25": run("u1r1", 4.0, num_frames=49),
    "another workload.*prompt 'a ship' and not 'a boat', seed 2 and not 1": run("u1r1", 4.0, prompt="a ship", seed=2),
    "another model": run("u1r1", 4.0, model_sha256="b" * 64),
    "bfloat16 with a VAE in float32": run("u1r1", 4.0, environment=CPU | {"dtype": "bfloat16"}),
    "float32 with a VAE in bfloat16": run("u1r1", 4.0, environment=CPU | {"vae_dtype": "bfloat16"}),
}


@pytest.mark.parametrize("says", OTHERS)
def test_other_work_is_refused_unless_forced_and_then_said_on_top(tmp_path: Path, says: str) -> None:
    paths = saved(tmp_path, BASE, OTHERS[says])
    with pytest.raises(InvalidSetting, match=says):
        compare(paths, force=False)
    found = compare(paths, force=True)
    assert len(found.warnings) == 1
    assert found.to_markdown().startswith("**Not the same work: b is ")


def test_results_of_other_workloads_are_refused(tmp_path: Path) -> None:
    runs = {"u1r1": [run("u1r1", 4.0)]}
    paths = saved(tmp_path, result(runs), result(runs, workload(seed=9)))
    with pytest.raises(InvalidSetting, match=r"b is of another workload than a .requests 1.seed 9 and not 0"):
        compare(paths, force=False)
    assert compare([paths[0], save(tmp_path, "same", result(runs))], force=False).warnings == []


def test_a_report_goes_with_a_result_that_has_the_same_work(tmp_path: Path) -> None:
    paths = saved(tmp_path, result({"u1r1": [run("u1r1", 4.0)]}), run("u1r2", 2.0))
    assert labels(compare(paths, force=False)) == [("u1r1", None), ("u1r2", "u1r1")]
    other = saved(tmp_path, result({"u1r1": [run("u1r1", 4.0)]}), run("u1r2", 2.0, seed=5))
    with pytest.raises(InvalidSetting, match="seed 5 and not 1"):
        compare(other, force=False)


def test_other_devices_and_broken_results_are_said_and_not_refused(tmp_path: Path) -> None:
    whole = result({"u1r1": [run("u1r1", 4.0)]})
    torn = result({"u1r1": [run("u1r1", 4.0, environment=CPU | {"device": "another"})]}, is_whole=False)
    warnings = compare(saved(tmp_path, whole, torn), force=False).warnings
    assert len(warnings) == 2
    assert "b ran on another, a on AMD EPYC" in warnings[0]
    assert "b is not whole" in warnings[1]


def test_differences_of_noisy_runs_are_marked_and_real_ones_are_not(tmp_path: Path) -> None:
    draw = random.Random(0)

    def runs(denoising: float) -> list[RunReport]:
        return [run("u1r1", denoising * draw.uniform(0.97, 1.03), 2.0) for _ in range(5)]

    text = compare(
        saved(tmp_path, *(result({"u1r1": runs(seconds)}) for seconds in (4.0, 4.02, 2.0))), force=False
    ).to_markdown()
    cells = next(line for line in text.splitlines() if line.startswith("| Denoising")).strip("|").split("|")
    assert [cell.strip().endswith("~") for cell in cells[-2:]] == [True, False]
    assert "noise" in text.splitlines()[-1]


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"samples": 3}', b'{"stages": []}', b"\xff\xfe"])
def test_files_that_are_no_results(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "torn.json"
    path.write_bytes(content)
    with pytest.raises(InvalidSetting, match=r"torn\.json"):
        compare([path], force=False)


def test_results_of_a_later_program_are_refused(tmp_path: Path) -> None:
    found = msgspec.structs.replace(result({"u1r1": [BASE]}), schema_version=99)
    with pytest.raises(InvalidSetting, match="newer"):
        compare(saved(tmp_path, found), force=False)


# --- gates ---


def verdicts(folder: Path, gate: str, *found: Result | RunReport) -> list[GateVerdict]:
    (part,) = compare(saved(folder, *found), force=True).parts
    return list(Gate.parse(gate).verdicts(part.columns, all_rows(part.columns), part.held))


@pytest.mark.parametrize(
    ("gate", "value", "has_failed"),
    [
        ("Total > 1.05x", 1.1, True),  # 6.1 s, then 6.71 s
        ("Total > 1.1x", 1.1, False),
        ("Total >= 1.1x", 1.1, True),
        ("total>9%", 10, True),
        ("TOTAL < 10.5 %", 10, True),
        ("Total <= -10%", 10, False),
        ("Denoising > 4.6", 4.61, True),
        ("Denoising > 4.7s", 4.61, False),
        ("Peak Resident Memory > 0.4GB", 0.5, True),
        ("peak resident memory > 1 gb", 0.5, False),
    ],
)
def test_gates(tmp_path: Path, gate: str, value: float, has_failed: bool) -> None:
    (found,) = verdicts(tmp_path, gate, run("u1r1", 4.0), run("u1r2", 4.61))
    assert found.found == pytest.approx(value, rel=1e-6)
    assert found.has_failed is has_failed
    assert str(found).startswith("failed: " if has_failed else "passed: ")


def test_gates_of_ratios_are_in_percent_points(tmp_path: Path) -> None:
    reports = page_report("u1r1"), page_report("u1r2")
    assert [found.has_failed for found in verdicts(tmp_path, "Overhead Ratio > 7pp", *reports)] == [True]
    assert [found.has_failed for found in verdicts(tmp_path, "Overhead Ratio > 8pp", *reports)] == [False]
    assert [found.has_failed for found in verdicts(tmp_path, "Overhead Ratio > 0.3", *reports)] == [True]


def test_a_gate_looks_at_every_column_but_the_baseline(tmp_path: Path) -> None:
    found = result({"u1r1": [run("u1r1", 4.0)], "u1r2": [run("u1r2", 2.0)], "u2r1": [run("u2r1", 5.0)]})
    assert [(each.column, each.has_failed) for each in verdicts(tmp_path, "Total > 1x", found)] == [
        ("u1r2", False),
        ("u2r1", True),
    ]
    assert [each.has_failed for each in verdicts(tmp_path, "Total > 1", run("u1r1", 4.0))] == [True]


def test_with_several_files_gates_are_about_the_later_ones(tmp_path: Path) -> None:
    """Within the first file c2u1r1 is slower than u1r1, which the later file is no worse for."""
    same = result({"u1r1": [run("u1r1", 4.0)], "c2u1r1": [run("c2u1r1", 5.0)]})
    later = [("b u1r1", False), ("b c2u1r1", False)]
    assert [(each.column, each.has_failed) for each in verdicts(tmp_path, "Total > 1.05x", same, same)] == later
    assert [each.column for each in verdicts(tmp_path, "Total > 1", same, same)] == ["b u1r1", "b c2u1r1"]
    slower = result({"u1r1": [run("u1r1", 4.0)], "c2u1r1": [run("c2u1r1", 6.0)]})
    found = verdicts(tmp_path, "Total > 1.05x", same, slower)
    assert [each.has_failed for each in found] == [False, True]
    assert found[1].found == pytest.approx(8.1 / 7.1)
    assert [each.column for each in verdicts(tmp_path, "Total > 1.05x", same)] == ["c2u1r1"]


def test_a_gate_that_fires_on_noise_says_so(tmp_path: Path) -> None:
    def runs(*seconds: float) -> Result:
        return result({"u1r1": [run("u1r1", each) for each in seconds]})

    (found,) = verdicts(tmp_path, "Total > 1x", runs(4.0, 4.4), runs(4.1, 4.5))
    assert found.has_failed and "may be noise" in str(found)
    (found,) = verdicts(tmp_path, "Total > 1x", runs(4.0, 4.1, 4.0, 4.1), runs(5.0, 5.1, 5.0, 5.1))
    assert found.has_failed and "noise" not in str(found)


@pytest.mark.parametrize(
    ("gate", "says"),
    [
        ("Total 1.05x", "NAME OPERATOR VALUE"),
        ("> 1.05x", "NAME OPERATOR VALUE"),
        ("Total > ", "NAME OPERATOR VALUE"),
        ("Total == 1x", "NAME OPERATOR VALUE"),
        ("Total > 1.0.5x", "NAME OPERATOR VALUE"),
        ("Total > 5kg", "'kg' is none of 'x', '%'"),
        (
            "Denoisin > 1x",
            r"no row 'Denoisin' here \(nearest: Denoising, Decoding; all are in the tables of `ringlight compare`\)",
        ),
        ("Peak GPU Memory > 1x", "nearest: Peak Resident Memory"),
        ("Colour > 1x", r"no row 'Colour' here \(there are Denoising, Decoding, Other, Total, Peak Resident"),
        ("Total > 5GB", "Total is not measured in GB"),
        ("Peak Resident Memory > 5s", "not measured in s"),
        ("Total > 5pp", "not measured in pp"),
        ("Link: ring > 1x", "Link: ring"),
    ],
)
def test_gates_that_mean_nothing(tmp_path: Path, gate: str, says: str) -> None:
    with pytest.raises(InvalidSetting, match=says):
        verdicts(tmp_path, gate, run("u1r1", 4.0), run("u1r2", 2.0))


def test_a_gate_on_what_nobody_measured_does_not_pass(tmp_path: Path) -> None:
    reports: Sequence[RunReport] = (run("u1r1", 4.0, environment=GPU), page_report("u1r2"))
    with pytest.raises(InvalidSetting, match="not known"):
        verdicts(tmp_path, "TextEncoding > 1x", *reports)
    with pytest.raises(InvalidSetting, match="two columns"):
        verdicts(tmp_path, "Total > 1x", reports[0])


def test_other_loras_are_other_work_whatever_the_workload_says(tmp_path: Path) -> None:
    """A server may have some for every video, or another file under the name that is asked for."""
    ink, wash = ({"sha256": letter * 64, "strength": 1.0, "target": "both"} for letter in "ab")
    plain, inked, washed = (
        result({"u1r1": [run("u1r1", 4.0, **loras)]}) for loras in ({}, {"lora": [ink]}, {"lora": [wash]})
    )
    for pair in ((plain, inked), (inked, washed), (washed, plain)):
        with pytest.raises(InvalidSetting, match=r"b has other LoRAs in request 1 than a .lora"):
            compare(saved(tmp_path, *pair), force=False)
    assert "Not the same work" in compare(saved(tmp_path, plain, inked), force=True).to_markdown()
    assert not compare(saved(tmp_path, inked, inked), force=False).warnings
    with pytest.raises(InvalidSetting, match=r"another workload.*lora"):
        compare(saved(tmp_path, run("u1r1", 4.0, lora=[ink]), run("u1r1", 4.0, lora=[wash])), force=False)
