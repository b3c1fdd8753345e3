"""Ratios of servers that took turns, the page's section of them, and keys and names of servers."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from ringlight.bench.agreement import Agreement
from ringlight.bench.comparison import compare
from ringlight.bench.gates import Gate
from ringlight.bench.page import to_markdown
from ringlight.bench.ratios import Ratio
from ringlight.bench.result import Column, Result, read_result
from ringlight.bench.runner import Benchmark, RunningServer, Target
from ringlight.cli.asked_bench import read_keys, read_servers
from ringlight.core.errors import InvalidSetting
from tests.bench.reports import result, run
from tests.bench.test_workload import REQUEST, read


def two(before: list[float], after: list[float]) -> Result:
    """Two servers, with these seconds of Denoising round by round."""
    found = result({name: [run("u1r1", each) for each in runs] for name, runs in (("a", before), ("b", after))})
    columns = [Column(name="a", layout="u1r1", server="a"), Column(name="b", layout="u1r1", server="b", beside="a")]
    same = Agreement(column="b", kind=0, num_frames=5, max_difference=3, psnr_db=45.0, worst_psnr_db=44.0, ssim=0.99)
    told = {"columns": columns, "agreements": [same]}
    return result({"a": [], "b": []}, **{"samples": found.samples, "num_rounds": len(before), **told})


def total(found: Result) -> Ratio:
    (ratio,) = (each for each in found.ratios if each.measure == "Total")
    return ratio


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ([4.0, 4.2, 4.1, 4.3], [2.0, 2.1, 2.3, 2.2], "faster"),
        ([2.0, 2.1, 2.3, 2.2], [4.0, 4.2, 4.1, 4.3], "slower"),
        ([4.0, 14.0, 4.1], [4.1, 4.2, 13.0], "noise"),  # a machine that was busy for a while
        ([4.0, 4.2], [4.2, 4.3], "noise"),
        ([4.0, 4.2, 4.1], [2.0, 2.1, 2.2], "too few rounds"),
        ([4.0], [2.0], "too few rounds"),
    ],
)
def test_the_whole_page_has_one_verdict(before: list[float], after: list[float], verdict: str, tmp_path: Path) -> None:
    """In the ratios, in the summary, under Spread, and of a gate and the marks of a comparison."""
    found = two(before, after)
    assert {each.measure: each.verdict for each in found.ratios} == {"Latency": verdict, "Total": verdict}
    page = to_markdown(found)
    assert f"| **{verdict}** |" in page and "would be so far apart in at most 1 of 20 comparisons" in page
    says = {"faster": "x`).", "slower": "x`).", "noise": "no more than rounds differ by.", "too few rounds": "to tell"}
    (latency,) = (line for line in page.splitlines() if line.startswith("- End-to-end latency"))
    assert says[verdict] in latency
    few = [line for line in page.splitlines() if line.startswith("Of `b`, too few rounds tell")]
    assert ("`Total`" in "".join(few)) is (verdict == "too few rounds")
    path = tmp_path / "result.json"
    path.write_bytes(found.to_json())
    comparison = compare([path], force=False)
    (gate,) = comparison.verdicts([Gate.parse("Total > 9x")])
    assert gate.is_noise is (verdict in ("noise", "too few rounds"))
    (total,) = (line for line in comparison.to_markdown().splitlines() if line.startswith("| **Total"))
    assert total.endswith({"noise": "x** ~ |", "too few rounds": "x** ? |"}.get(verdict, "x** |"))


def test_several_requests_of_a_round_count_once() -> None:
    """Ten and ten of two rounds are no more than two and two."""
    found = two([4.0, 4.2] * 5, [2.0, 2.1] * 5)
    assert total(found).verdict == "faster"
    samples = [msgspec.structs.replace(sample, round=1 + sample.round % 2) for sample in found.samples]
    merged = msgspec.structs.replace(found, samples=samples).with_ratios()
    assert (total(merged).num_rounds, total(merged).verdict) == (2, "too few rounds")
    assert "in too few rounds to tell from chance" in to_markdown(merged)


def test_a_result_from_before_has_its_verdicts_by_todays_rule(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    for was, seconds in (("measured once", [4.0]), ("faster", [4.0] * 3)):
        plain = json.loads(two(seconds, [2.0 for _ in seconds]).to_json())
        plain["ratios"] = [ratio | {"verdict": was} for ratio in plain["ratios"]]
        path.write_text(json.dumps(plain))
        found = read_result(path)
        assert isinstance(found, Result) and {each.verdict for each in found.ratios} == {"too few rounds"}


def test_a_ratio_is_of_medians_and_has_its_range_over_rounds() -> None:
    ratio = total(two([2.0, 4.0, 6.0], [5.0, 6.0, 15.0]))  # 2.1 seconds beside Denoising
    assert ratio.ratio == pytest.approx(8.1 / 6.1)
    assert (ratio.low, ratio.high) == (pytest.approx(8.1 / 6.1), pytest.approx(17.1 / 8.1))
    assert (ratio.seconds, ratio.beside_seconds, ratio.num_rounds) == (pytest.approx(8.1), pytest.approx(6.1), 3)


def test_the_page_has_servers_side_by_side() -> None:
    page = to_markdown(two([4.0, 4.2] * 2, [2.0, 2.1] * 2))
    assert page.startswith("# Servers Benchmark: ") and "- Server config: " in page and "### Server (`b`)" in page
    assert "| `b` | 1 | Total | 6.200 | 4.150 | 0.669x | 0.667-0.672x | **faster** |" in page
    assert "| `b` | 1 | 45.0 | 44.0 | 0.9900 | - |" in page
    assert "### Variants" not in page


def test_servers_have_their_turns_and_are_held_to_the_first(tmp_path: Path) -> None:
    half = '[[variant]]\nname = "half"\nnum_inference_steps = 2\n'
    servers = [RunningServer(name=name, url=f"http://{name}") for name in ("before", "after")]
    target = Target(running=tuple(servers))
    found = Benchmark(read(tmp_path, "", REQUEST + half), [], target, 2, tmp_path, lambda line: None)
    turns = [[[each.name for each in group] for group in found.turns(number)] for number in (1, 2)]
    assert turns[0] == [["before", "before half"], ["after", "after half"]]
    assert turns[1] == [["after half", "after"], ["before half", "before"]]
    columns = {each.name: (each.beside, each.server) for each in found.result("").columns}
    assert columns == {
        "before": ("", "before"),
        "before half": ("before", "before"),
        "after": ("before", "after"),
        "after half": ("before half", "after"),
    }
    layouts = Benchmark(read(tmp_path), ["u1r2", "u1r1"], target, 2, tmp_path, lambda line: None)
    assert layouts.baseline == "before u1r1"
    assert [(each.name, each.beside) for each in layouts.contenders] == [
        ("before u1r2", ""),
        ("before u1r1", ""),
        ("after u1r2", "before u1r2"),
        ("after u1r1", "before u1r1"),
    ]


def test_servers_have_names_and_keys() -> None:
    assert read_servers(["http://a/?x=1"]) == {"server": "http://a/?x=1"}
    found = read_servers(["before=http://a", "https://b"])
    assert found == {"before": "http://a", "server2": "https://b"}
    assert read_keys(["before=one", "a-key="], found) == {"before": "one", "": "a-key="}
    for urls, says in (
        (["a"], "is not .NAME=.URL"),
        (["x=http://a", "x=http://b"], "called x"),
        (["=http://a"], "name"),
    ):
        with pytest.raises(InvalidSetting, match=says):
            read_servers(urls)
    with pytest.raises(InvalidSetting, match="2 keys are for all servers; say NAME=KEY"):
        read_keys(["one", "two"], found)
