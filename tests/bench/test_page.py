"""The page, the CSV, the trace and the charts of a result."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from PIL import Image

from ringlight.bench import plots
from ringlight.bench.agreement import Agreement
from ringlight.bench.expected import Expected, misses
from ringlight.bench.page import kind_of, to_markdown
from ringlight.bench.result import Column, Result, read_result
from ringlight.bench.sending import Sample
from ringlight.bench.trace import to_trace
from ringlight.bench.workload import RequestKind, Workload, WorkloadFile
from ringlight.core.plain import bytes_of
from ringlight.core.report import GIB, LinkReport, MemoryReport
from tests.bench.reports import cpu_memory, page_report, result, run

HEADINGS = [
    "# Ring SP Benchmark: Wan2.2-TI2V-5B-Diffusers (u1r2 vs Baseline)",
    "## Benchmark Setup",
    "## Online Serving",
    "### Ring SP (`u1r2`)",
    "### Baseline (`u1r1`)",
    "## Benchmarks",
    "### Benchmark Disclaimer",
    "### Stage Time Breakdown",
    "### Memory Usage",
    "## Summary",
]
SENT = 1000
LINK = {"ring": LinkReport(sent_bytes=SENT, wait_seconds=0.5), "text": LinkReport(sent_bytes=10, wait_seconds=0.1)}
PAGE = result({"u1r1": [page_report("u1r1")], "u1r2": [page_report("u1r2")]})


def expected(ring: int = SENT, **told: Any) -> Expected:
    return Expected(column="u1r2", kind=0, num_slices=1, sent_bytes=[{"ring": ring, "text": 9}] * 2, **told)


def compared(**told: Any) -> Result:
    """Two layouts, two runs each."""
    return result(
        {
            "u1r1": [run("u1r1", 4.0), run("u1r1", 4.1)],
            "u1r2": [run("u1r2", 2.0, link=LINK), run("u1r2", 2.1, link=LINK)],
        },
        **told,
    )


def table(page: str, head: str) -> list[list[str]]:
    """The rows of the table whose first heading this is."""
    lines = page.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {head} |"))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip(" *`") for cell in line.strip("|").split("|")])
    return rows[:1] + rows[2:]


def test_the_sections_are_those_of_the_published_page_in_its_order() -> None:
    found = [line for line in to_markdown(PAGE).splitlines() if line.startswith("#")]
    assert [line for line in found if line in HEADINGS] == HEADINGS


def test_rows_of_the_page_sum_and_its_differences_follow() -> None:
    """What stands on paper, to its last digit."""
    page = to_markdown(compared())
    head, *rows, total = table(page, "Stage / Metric")
    assert head == ["Stage / Metric", "u1r2` (s)", "u1r1` baseline (s)", "Speedup"]
    for column in (1, 2):
        assert sum(float(row[column]) for row in rows) == pytest.approx(float(total[column]), abs=0.006)
    for row in (*rows, total):
        assert float(row[3].rstrip("x")) == pytest.approx(float(row[2]) / float(row[1]), abs=0.006)
    for row in table(page, "Memory Metric")[1:]:
        assert float(row[3]) == pytest.approx(float(row[1]) - float(row[2]), abs=0.011)


def test_the_summary_is_computed_from_the_numbers() -> None:
    said = to_markdown(PAGE).partition("## Summary")[2]
    assert (
        "End-to-end latency improves from `90.63s` to `63.74s` (`1.42x`), in too few rounds to tell from chance."
        in said
    )
    assert "Main gains come from `Denoising` (`1.36x`) and `Decoding` (`1.75x`)." in said
    assert "drops noticeably on `u1r2` (`Peak GPU Memory -7.33GB`, `Peak Allocated -7.05GB`)" in said
    assert "Overhead ratio rises (`+7.9pp`)" in said
    slower = result(
        {"u1r1": [run("u1r1", 2.0), run("u1r1", 2.1)] * 2, "u1r2": [run("u1r2", 4.0), run("u1r2", 4.1)] * 2}
    )
    said = to_markdown(slower).partition("## Summary")[2]
    assert "latency worsens from `4.10s` to `6.10s` (`0.67x`)." in said
    assert "Main losses come from `Denoising` (`0.50x`)." in said and "gains" not in said
    same = result({"u1r1": [run("u1r1", 4.0), run("u1r1", 4.2)], "u1r2": [run("u1r2", 4.1), run("u1r2", 4.2)]})
    said = to_markdown(same).partition("## Summary")[2]
    assert "no more than rounds differ by" in said and "Main" not in said


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        (0.47, 0.44, "is about the same on `u1r2` (`Peak Resident Memory -0.03GB`)"),
        (20.0, 20.8, "is about the same on `u1r2` (`Peak Resident Memory +0.80GB`)"),
        (20.0, 21.2, "rises noticeably on `u1r2` (`Peak Resident Memory +1.20GB`)"),
        (1.0, 0.8, "drops noticeably on `u1r2` (`Peak Resident Memory -0.20GB`)"),
    ],
)
def test_words_about_memory_fit_the_number(before: float, after: float, says: str) -> None:
    found = result(
        {
            "u1r1": [run("u1r1", 4.0, memory=[cpu_memory(0, before, 0.4)])],
            "u1r2": [run("u1r2", 2.0, memory=[cpu_memory(rank, after, 0.4) for rank in (0, 1)])],
        }
    )
    assert f"Absolute memory usage {says}." in to_markdown(found).partition("## Summary")[2]


def test_bytes_by_formula_stand_beside_those_counted() -> None:
    def verdicts(ring: int) -> dict[str, str]:
        page = to_markdown(compared(expected=[expected(ring)]))
        return {row[1]: row[-1] for row in table(page, "Column") if row[0] == "u1r2"}

    assert verdicts(SENT) == {"ring": "equal", "text": "estimated"}
    assert verdicts(SENT + 1) == {"ring": "not equal", "text": "estimated"}


def test_predictions_stand_beside_what_was_measured_and_misses_are_named() -> None:
    found = compared(
        expected=[expected(stages={"Denoising": 2.0, "Decoding": 1.0}, total_seconds=3.0, peak_bytes=2**29)]
    )
    page = to_markdown(found)
    rows = {row[1]: row[2:] for row in table(page.partition("### Predicted")[2], "Column")}
    assert rows["Denoising"] == ["2.0000", "2.0500", "-2.4%"]
    assert rows["Decoding"] == ["1.0000", "2.0000", "-50.0%"]
    assert rows["Total"] == ["3.0000", "4.1500", "-27.7%"]
    assert list(misses(found.expected, found.samples, 0.15)) == [
        "u1r2, request 1: Decoding is 2.00 of what was predicted"
    ]
    assert list(misses(found.expected, found.samples, 1.0)) == []


@pytest.mark.parametrize(
    ("agreement", "says"),
    [
        (Agreement(column="u1r2", kind=0, num_frames=5), "are the same in every pixel"),
        (
            Agreement(column="u1r2", kind=0, num_frames=5, max_difference=3, psnr_db=51.23),
            "differ by at most 3 of 255 in any channel (PSNR 51.2 dB)",
        ),
        (Agreement(column="u1r2", kind=0, problem="frames differ in number or in size"), "could not be compared"),
    ],
)
def test_the_page_says_whether_outputs_agree(agreement: Agreement, says: str) -> None:
    page = to_markdown(compared(agreements=[agreement]))
    assert "### Agreement of Outputs" in page and says in page.partition("## Summary")[2]


def within(budget: str) -> Result:
    """Runs within a memory budget on a CPU."""
    memory = MemoryReport(rank=0, device="cpu", peak_own_bytes=GIB // 4)
    environment = {"device_type": "cpu", "memory_budget_bytes": bytes_of(budget)}
    return result({"u1r1": [run("u1r1", 4.0, memory=[memory], environment=environment)]})


def test_a_budget_is_a_condition_and_a_ranks_own_memory_stands_where_it_is_measured() -> None:
    found = within("300MiB")
    page = to_markdown(found)
    assert "- Memory budget: 0.29 GiB a rank" in page
    assert "Memory budget" not in to_markdown(compared())
    assert "| Peak of a Rank's Own" in page and "Resident" not in page.partition("### Memory Usage")[2]
    (line,) = csv.DictReader(io.StringIO(found.to_csv()))
    assert line["peak_own_bytes"] == str(GIB // 4)


def test_failures_and_interruptions_are_said_on_top() -> None:
    found = compared(is_whole=False)
    lost = Sample(column="u1r2", round=3, place=0, kind=0, fate="failed", sent_seconds=0.0, error="out_of_memory: no")
    late = msgspec.structs.replace(lost, fate="timed_out", error="not over after 1 s")
    page = to_markdown(msgspec.structs.replace(found, samples=[*found.samples, lost, late]))
    assert "interrupted" in page[:600] and "2 of 6 requests failed" in page[:800]
    rows = {row[0]: row[1:] for row in table(page.partition("### Requests over HTTP")[2], "")}
    assert [rows[name] for name in ("Sent", "Completed", "Failed", "Timed out")] == [
        ["4", "2"],
        ["2", "2"],
        ["1", "0"],
        ["1", "0"],
    ]
    assert "- `u1r2`: out_of_memory: no" in page


def test_a_server_that_tells_nothing_leaves_blanks() -> None:
    mute = Sample(column="server", round=1, place=0, kind=0, fate="completed", sent_seconds=0.0, latency_seconds=2.5)
    found = msgspec.structs.replace(
        PAGE, columns=[Column(name="server")], samples=[mute], baseline="server", titles=PAGE.titles
    )
    page = to_markdown(found)
    assert "Device: not known" in page and "No server reported its memory." in page
    assert "| Latency, median (s) | 2.50 |" in page
    assert plots.draw(found, Path("nowhere")) == []


def test_kinds_of_requests_have_tables_of_their_own() -> None:
    kinds = [
        RequestKind(prompt="a boat", size=size, num_frames=5, num_inference_steps=4, guidance_scale=1.0)
        for size in ("64x64", "96x64")
    ]
    asked = Workload(
        said=WorkloadFile(request=[], arrival_rate=0.5, fresh_prompts=False), kinds=kinds, images=(None, None)
    )
    found = result({"u1r1": [run("u1r1", 4.0), run("u1r1", 8.0)]}, asked)
    samples = [msgspec.structs.replace(sample, kind=kind) for kind, sample in enumerate(found.samples)]
    page = to_markdown(msgspec.structs.replace(found, samples=samples))
    assert "Request 2 (T2V, 96x64, 5 frames" in page and "a second (Poisson, seed 0)" in page
    first, second = (table(part, "Stage / Metric")[1][1] for part in page.split("### Stage Time Breakdown")[1:])
    assert (first, second) == ("4.0000", "8.0000")


@pytest.mark.parametrize(
    ("layout", "kind"),
    [
        ("u1r2", "Ring SP"),
        ("u2r1", "Ulysses SP"),
        ("u2r2", "Ulysses x Ring SP"),
        ("c2u1r1", "Guidance Branches"),
        ("c2u2r1", "Guidance Branches and Ulysses SP"),
        ("u1r1", "One Rank"),
    ],
)
def test_layouts_have_names(layout: str, kind: str) -> None:
    assert kind_of(layout) == kind


def test_a_result_comes_back_from_its_json(tmp_path: Path) -> None:
    found = compared(expected=[expected()], agreements=[Agreement(column="u1r2", kind=0)])
    path = tmp_path / "result.json"
    path.write_bytes(found.to_json())
    again = read_result(path)
    assert again == found
    assert isinstance(again, Result) and to_markdown(again) == to_markdown(found)
    plain = json.loads(path.read_text())
    assert plain["schema_version"] == 1 and plain["workload_hash"] == found.workload_hash


def test_the_csv_has_a_line_for_each_request() -> None:
    lines = list(csv.DictReader(io.StringIO(compared().to_csv())))
    assert [(line["layout"], line["round"], line["fate"]) for line in lines] == [
        ("u1r1", "1", "completed"),
        ("u1r1", "2", "completed"),
        ("u1r2", "1", "completed"),
        ("u1r2", "2", "completed"),
    ]
    last = lines[-1]
    stages = sum(float(last[f"{name}_seconds"]) for name in ("Denoising", "Decoding", "Other"))
    assert stages == pytest.approx(float(last["Total_seconds"]))
    assert last["ring_sent_bytes"] == str(SENT) and lines[0]["ring_sent_bytes"] == ""


def test_the_trace_lays_stages_end_to_end() -> None:
    found = json.loads(to_trace(compared()))
    spans = [event for event in found["traceEvents"] if event["ph"] == "X" and event["pid"] == 1 and event["tid"] == 0]
    assert [span["name"] for span in spans] == ["Denoising", "Decoding", "Other"] * 2
    at = 0.0
    for span in spans:
        assert span["ts"] == pytest.approx(at, abs=1e-3)
        at = span["ts"] + span["dur"]
    assert at == pytest.approx(1e6 * (4.1 + 4.2))
    counters = [event for event in found["traceEvents"] if event["ph"] == "C" and event["args"]["ring"]]
    assert len(counters) == 4 and counters[0]["args"] == {"ring": 500.0, "text": 100.0}
    steps = [event for event in found["traceEvents"] if event["name"].startswith("step ") and event["pid"] == 1]
    assert sum(step["dur"] for step in steps) == pytest.approx(1e6 * 4.1)
    assert "begins were not" in found["otherData"]["note"]


@pytest.mark.slow
def test_charts_are_drawn(tmp_path: Path) -> None:
    for found, of in ((compared(), "cpu"), (PAGE, "gpu"), (within("300MiB"), "budget")):
        (tmp_path / of).mkdir()
        charts = plots.draw(found, tmp_path / of)
        assert [name for _, name in charts] == ["stages.png", "memory.png", "steps.png", "step.png"]
        for _, name in charts:
            with Image.open(tmp_path / of / name) as picture:
                assert picture.width > 400 and len(set(picture.convert("L").tobytes())) > 10
        assert re.findall(r"!\[[^]]+\]\((\w+\.png)\)", to_markdown(found, charts)) == [name for _, name in charts]


def test_the_bench_imports_nothing_heavy() -> None:
    program = "import sys, ringlight.cli.bench, ringlight.bench.runner, ringlight.bench.page, ringlight.bench.plots"
    done = subprocess.run(
        [sys.executable, "-c", f"{program}; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "ringlight.bench.plots" in done.stdout.split()
    assert not {"torch", "numpy", "av", "matplotlib", "diffusers", "transformers"} & set(done.stdout.split())
