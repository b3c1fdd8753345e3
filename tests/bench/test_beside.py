"""Variants on the page and in comparisons: what stands beside what is exact, what is judged, and what gates say."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from ringlight.bench.agreement import Agreement
from ringlight.bench.comparison import compare
from ringlight.bench.figures import all_rows
from ringlight.bench.gates import Gate
from ringlight.bench.judged import Judged
from ringlight.bench.page import to_markdown
from ringlight.bench.result import Column, Result, read_result
from ringlight.core.errors import InvalidSetting
from tests.bench.reports import result, run

EXACT, HALF, NARROW = "u1r1", "u1r1 half", "u1r1 narrow"
SERVE = "ringlight serve # u1r1"
COLUMNS = [
    Column(name=EXACT, layout="u1r1", command=SERVE),
    Column(name=HALF, layout="u1r1", command=SERVE, variant="half", says="num_inference_steps=2", beside=EXACT),
    Column(
        name=NARROW,
        layout="u1r1",
        command="ringlight serve # narrow",
        variant="narrow",
        says="server.dtype=bfloat16",
        beside=EXACT,
    ),
]
LIKE = Agreement(column=HALF, kind=0, num_frames=5, max_difference=90, psnr_db=24.5, worst_psnr_db=21.25, ssim=0.8125)
SAME = Agreement(column=NARROW, kind=0, num_frames=5, ssim=1.0)
ALL = {"colour": True, "shape": True, "motion": True, "place": True}
JUDGED = [
    Judged(column=EXACT, kind=0, right=ALL),
    Judged(
        column=HALF,
        kind=0,
        right=ALL | {"shape": False, "motion": False},
        seen={"colour": "red", "shape": "box", "motion": None, "place": "snow"},
    ),
    Judged(column=NARROW, kind=0, right=ALL),
]


def varied(**told: object) -> Result:
    """An exact column and two variants of it."""
    reports = {EXACT: [run("u1r1", 4.0)], HALF: [run("u1r1", 2.0)], NARROW: [run("u1r1", 3.0)]}
    fields = {"columns": COLUMNS, "agreements": [LIKE, SAME], "judged": JUDGED} | told
    return result(reports, **fields)


def rows(page: str, heading: str) -> list[list[str]]:
    """Of the first table below a heading, without its head."""
    lines = [line for line in page.partition(heading)[2].partition("\n#")[0].splitlines() if line.startswith("|")]
    return [[cell.strip(" `*") for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_page_has_each_variant_beside_what_is_exact() -> None:
    page = to_markdown(varied())
    assert page.startswith("# Variants Benchmark: Wan2.2-TI2V-5B-Diffusers (u1r1 half, u1r1 narrow vs Baseline)")
    assert "- `half`: `num_inference_steps=2`\n- `narrow`: `server.dtype=bfloat16`" in page
    assert rows(page, "### Variants") == [
        ["u1r1", "1", "6.10", "-", "exact", "-", "-", "4 of 4"],
        ["u1r1 half", "1", "4.10", "1.49x ?", "24.5", "21.2", "0.8125", "2 of 4"],
        ["u1r1 narrow", "1", "5.10", "1.20x ?", "identical", "identical", "1.0000", "4 of 4"],
    ]
    assert [row[1:] for row in rows(page, "### Films beside Their Prompts")] == [
        ["a boat", "u1r1 half", "2 of 4", "shape box, motion none"]
    ]
    assert "2 of 3 films show all that their prompts ask for; the others:" in page
    assert "### Variant (`u1r1 narrow`)" in page and "### Variant (`u1r1 half`)" not in page
    assert "Agreement of Outputs" not in page
    said = page.partition("## Summary")[2]
    assert "Videos of `u1r1 half` and of `u1r1` differ by at most 90 of 255 in any channel (PSNR 24.5 dB, SSIM" in said
    assert "Videos of `u1r1 narrow` and of `u1r1` are the same in every pixel." in said
    assert "`u1r1 half` shows 2 of 4 things that prompts ask for, `u1r1` 4 of 4." in said


def test_several_requests_are_summed_up_by_the_least() -> None:
    found = varied()
    other = msgspec.structs.replace(LIKE, kind=1, psnr_db=20.0, worst_psnr_db=20.0, ssim=0.9)
    lost = msgspec.structs.replace(SAME, kind=1, problem="frames differ in number or in size")
    requests = found.workload["requests"] * 2
    page = to_markdown(
        varied(
            titles=found.titles * 2,
            workload=found.workload | {"requests": requests},
            agreements=[LIKE, other, SAME, lost],
            judged=[*JUDGED, msgspec.structs.replace(JUDGED[0], kind=1)],
        )
    )
    lines = rows(page, "### Variants")
    assert len(lines) == 9
    assert lines[0][1:] == ["all", "-", "-", "exact", "-", "-", "8 of 8"]
    assert lines[1][1:] == ["all", "-", "-", "20.0", "20.0", "0.8125", "2 of 4"]
    assert lines[2][4] == lines[8][4] == "frames differ in number or in size"


def test_a_result_comes_back_and_one_from_before_is_read(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(varied().to_json())
    assert read_result(path) == varied()
    plain = json.loads(path.read_text())
    del plain["judged"]
    for column in plain["columns"]:
        del column["variant"], column["says"], column["beside"]
    for agreement in plain["agreements"]:
        del agreement["worst_psnr_db"], agreement["ssim"]
    path.write_text(json.dumps(plain))
    old = read_result(path)
    assert isinstance(old, Result) and old.schema_version == 1
    assert "(PSNR 24.5 dB), after their codec" in to_markdown(old)
    assert "| PSNR | - | 24.5 dB | identical |" in sideways(compare([path], force=False).to_markdown())


def sideways(page: str) -> str:
    """With the baseline first, as the file has it."""
    cells = [line.strip("|").split("|") for line in page.splitlines() if line.startswith("| PSNR")]
    return "\n".join(f"|{'|'.join([row[0], row[-1], *row[1:-1]])}|" for row in cells)


@pytest.mark.parametrize(
    ("gate", "failed"),
    [
        ("PSNR < 30dB", [HALF]),
        ("psnr < 24", []),
        ("Worst PSNR < 22", [HALF]),
        ("SSIM < 0.9", [HALF]),
        ("Judge < 0.9", [HALF]),
        ("Judge < -40pp", [HALF]),
        ("Judge < -60pp", []),
        ("Total > 0.7x", [NARROW]),
    ],
)
def test_gates_hold_variants_to_likeness_and_to_what_was_asked(tmp_path: Path, gate: str, failed: list[str]) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(varied().to_json())
    (part,) = compare([path], force=False).parts
    verdicts = [*Gate.parse(gate).verdicts(part.columns, all_rows(part.columns), part.held)]
    assert [verdict.column for verdict in verdicts] == [HALF, NARROW]
    assert [verdict.column for verdict in verdicts if verdict.has_failed] == failed


def test_gates_of_later_files_hold_each_to_the_same_of_the_first(tmp_path: Path) -> None:
    """Without videos beside them no gate on these means anything, and all the others do."""
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path in paths:
        path.write_bytes(varied().to_json())
    found = compare(paths, force=False)
    (part,) = found.parts
    assert [part.columns[column.reference or 0].label for column in part.columns[3:]] == [
        "a u1r1",
        "a u1r1 half",
        "a u1r1 narrow",
    ]
    assert [verdict.column for verdict in found.verdicts([Gate.parse("Judge < 0.1")])] == [
        "b u1r1",
        "b u1r1 half",
        "b u1r1 narrow",
    ]
    assert "- Videos of `b u1r1` were not compared: " in found.to_markdown()
    with pytest.raises(InvalidSetting, match=r"PSNR of b u1r1 or its .* not known: .*b.json says of no video that was"):
        found.verdicts([Gate.parse("PSNR < 1")])


def test_a_result_without_variants_is_held_to_what_was_asked(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(result({EXACT: [run("u1r1", 4.0)]}, judged=[JUDGED[1], JUDGED[0]]).to_json())
    (part,) = compare([path], force=False).parts
    (verdict,) = Gate.parse("Judge < 0.9").verdicts(part.columns, all_rows(part.columns), part.held)
    assert not verdict.has_failed and verdict.found == 1


def test_a_video_that_could_not_be_compared_passes_no_gate(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    lost = msgspec.structs.replace(SAME, problem="frames differ in number or in size", ssim=None)
    path.write_bytes(varied(agreements=[LIKE, lost]).to_json())
    (part,) = compare([path], force=False).parts
    with pytest.raises(InvalidSetting, match="PSNR of u1r1 narrow or its reference is not known"):
        list(Gate.parse("PSNR < 1").verdicts(part.columns, all_rows(part.columns), part.held))
