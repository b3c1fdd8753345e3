"""Predictions for two ranks from one run of one rank at another shape, against what was measured on two cores."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ringlight.core.errors import InvalidSetting
from ringlight.core.plan import Placement
from ringlight.core.report import MemoryReport, RankReport, RunReport, StageReport
from ringlight.planner import catalogue
from ringlight.planner.calibration import Calibration
from ringlight.planner.prediction import Prediction, predict
from tests.planner.specs import demo_spec, layout, request, work

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
SMALL = demo_spec("small")
STAGES = ("Denoising", "Decoding")
IDLE_BYTES = 700 * 2**20  # of a worker with the small checkpoint; the benchmark keeps growth alone
SECONDS_BAND, MEMORY_BAND = 0.15, 0.10
FIRST, SECOND = "scaling", "scaling_beside_diffusers"  # 49 frames, 9 frames


def document(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return found


def median(results: dict[str, Any], contender: str, what: str) -> float:
    return statistics.median(seconds[what] for seconds in results["rounds"][contender])


def report_of_one_rank(results: dict[str, Any]) -> RunReport:
    """The run of one rank in a benchmark's results as a report."""
    stages = [
        StageReport(
            name=stage,
            seconds=median(results, "one rank", stage),
            peak_bytes=int(IDLE_BYTES + median(results, "one rank", f"{stage} growth")),
        )
        for stage in STAGES
    ]
    total = median(results, "one rank", "Total")
    peak = max(stage.peak_bytes for stage in stages)
    memory = MemoryReport(rank=0, device="cpu", peak_resident_bytes=peak, idle_resident_bytes=IDLE_BYTES)
    return RunReport(
        workload=request(SMALL, **fields(results)).workload(),
        workload_hash="0" * 64,
        layout="u1r1",
        environment={"device": "AMD EPYC", "device_type": "cpu", "dtype": "float32", "vae_dtype": "float32"},
        stages=stages,
        other_seconds=total - sum(stage.seconds for stage in stages),
        total_seconds=total,
        step_seconds=[],
        ranks=[RankReport(rank=0, stages=stages, memory=memory, link={})],
        num_tokens=0,
        outputs=[],
    )


def fields(results: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in results["conditions"]["request"].items() if name != "seed"}


def predicted(calibrated_by: str, target: str, name: str) -> Prediction:
    known = Calibration.of(report_of_one_rank(document(calibrated_by)), SMALL)
    return predict(work(SMALL, **fields(document(target))), layout(name), known.machine(catalogue.link("loopback")))


CASES = [
    (calibrated_by, target, name)
    for calibrated_by, target in ((FIRST, SECOND), (SECOND, FIRST))
    for name in ("u1r1", "u1r2", "u2r1", "c2u1r1")
    if name == "u1r1" or name in document(target)["rounds"]
]


@pytest.mark.parametrize(("calibrated_by", "target", "name"), CASES)
def test_a_run_of_another_shape_predicts_layouts(calibrated_by: str, target: str, name: str) -> None:
    """Denoising and Decoding within 15 % of measured, the peak of memory within 10 %."""
    found, results = predicted(calibrated_by, target, name), document(target)
    contender = "one rank" if name == "u1r1" else name
    for stage in STAGES:
        measured = median(results, contender, stage)
        assert found.seconds(stage) == pytest.approx(measured, rel=SECONDS_BAND), stage
    grown = max(median(results, contender, f"{stage} growth") for stage in STAGES)
    assert found.worst_memory.peak_bytes == pytest.approx(IDLE_BYTES + grown, rel=MEMORY_BAND)


def test_a_run_predicts_itself() -> None:
    results = document(FIRST)
    found = predicted(FIRST, FIRST, "u1r1")
    for stage in STAGES:
        assert found.seconds(stage) == pytest.approx(median(results, "one rank", stage))
        grown = median(results, "one rank", f"{stage} growth")
        assert getattr(found.memory[0], f"{stage.lower()}_bytes") == pytest.approx(grown, rel=1e-6)


def test_a_calibration_comes_back_from_its_file(tmp_path: Path) -> None:
    report = report_of_one_rank(document(FIRST))
    known = Calibration.of(report, SMALL)
    for name, content in (("known.json", known.to_json()), ("report.json", report.to_json())):
        (tmp_path / name).write_bytes(content)
        assert Calibration.read(tmp_path / name, SMALL) == known
    (tmp_path / "torn.json").write_bytes(known.to_json()[:-20])
    with pytest.raises(InvalidSetting, match=r"torn\.json"):
        Calibration.read(tmp_path / "torn.json", SMALL)
    with pytest.raises(InvalidSetting, match="No such file"):
        Calibration.read(tmp_path / "absent.json", SMALL)


def test_a_stage_that_nobody_plans_is_other_once_it_was_measured() -> None:
    """As docs/extend/stage.md says; before, nothing is known of it."""
    change, report = msgspec.structs.replace, report_of_one_rank(document(FIRST))
    stages = [*report.stages, StageReport(name="Sharpening", seconds=7.0, peak_bytes=0)]
    longer = change(report, stages=stages, total_seconds=report.total_seconds + 7)
    known, before = (Calibration.of(each, SMALL).machine(catalogue.link("loopback")) for each in (longer, report))
    asked = work(SMALL, **fields(document(FIRST)))
    (more, usual) = (predict(asked, layout("u1r1"), machine) for machine in (known, before))
    assert more.seconds("Sharpening") is None
    assert (more.seconds("Other") or 0) - (usual.seconds("Other") or 0) == pytest.approx(7)


def test_a_calibration_comes_from_the_median_of_a_benchmark(tmp_path: Path) -> None:
    """Of its runs on one rank; those of others, of failures and of repeats tell nothing."""
    change, report = msgspec.structs.replace, report_of_one_rank(document(FIRST))
    runs = [change(report, other_seconds=added, total_seconds=report.total_seconds + added) for added in (9, 0, 1)]
    other = [change(report, ranks=report.ranks * 2, total_seconds=0.0), change(report, resumed_from_step=3), None]
    file = tmp_path / "result.json"
    file.write_bytes(msgspec.json.encode({"samples": [{"report": each} for each in [*runs, *other]]}))
    assert Calibration.read(file, SMALL) == Calibration.of(runs[2], SMALL)
    file.write_bytes(msgspec.json.encode({"samples": [{"report": each} for each in other]}))
    with pytest.raises(InvalidSetting, match=r"result\.json: .* name u1r1"):
        Calibration.read(file, SMALL)


def test_a_calibration_needs_a_run_that_tells_all() -> None:
    report = report_of_one_rank(document(FIRST))
    with pytest.raises(InvalidSetting, match=r"of u1r2; .*--num-gpus 1 --report FILE` makes one"):
        Calibration.of(msgspec.structs.replace(report, ranks=report.ranks * 2, layout="u1r2"), SMALL)
    with pytest.raises(InvalidSetting, match="step 3"):
        Calibration.of(msgspec.structs.replace(report, resumed_from_step=3), SMALL)
    with pytest.raises(InvalidSetting, match="made again"):
        Calibration.of(msgspec.structs.replace(report, repeated_seconds=0.1), SMALL)
    with pytest.raises(InvalidSetting, match="one without --memory-budget"):
        Calibration.of(msgspec.structs.replace(report, placement=Placement()), SMALL)
    with pytest.raises(InvalidSetting, match="--gpu"):
        Calibration.of(msgspec.structs.replace(report, environment={"device": "H100", "device_type": "cuda"}), SMALL)
