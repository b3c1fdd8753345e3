"""Ratios of servers that took turns, the page's section of them, and keys and names of servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringlight.bench.agreement import Agreement
from ringlight.bench.page import to_markdown
from ringlight.bench.ratios import Ratio, ratios
from ringlight.bench.result import Column, Result
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
    told = {"columns": columns, "agreements": [same], "ratios": ratios(found.samples, {"b": "a"}, 1)}
    return result({"a": [], "b": []}, **{"samples": found.samples, "num_rounds": len(before), **told})


def total(found: Result) -> Ratio:
    (ratio,) = (each for each in found.ratios if each.measure == "Total")
    return ratio


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ([4.0, 4.2], [2.0, 2.1], "faster"),
        ([2.0, 2.1], [4.0, 4.2], "slower"),
        ([4.0, 14.0, 4.1], [4.1, 4.2, 13.0], "noise"),  # a machine that was busy for a while
        ([4.0, 4.2], [4.2, 4.3], "noise"),
        ([4.0], [2.0], "measured once"),
    ],
)
def test_what_overlaps_round_by_round_is_noise(before: list[float], after: list[float], verdict: str) -> None:
    found = two(before, after)
    assert {each.measure: each.verdict for each in found.ratios} == {"Latency": verdict, "Total": verdict}
    assert f"| **{verdict}** |" in to_markdown(found)


def test_a_ratio_is_of_medians_and_has_its_range_over_rounds() -> None:
    ratio = total(two([2.0, 4.0, 6.0], [5.0, 6.0, 15.0]))  # 2.1 seconds beside Denoising
    assert ratio.ratio == pytest.approx(8.1 / 6.1)
    assert (ratio.low, ratio.high) == (pytest.approx(8.1 / 6.1), pytest.approx(17.1 / 8.1))
    assert (ratio.seconds, ratio.beside_seconds, ratio.num_rounds) == (pytest.approx(8.1), pytest.approx(6.1), 3)


def test_the_page_has_servers_side_by_side() -> None:
    page = to_markdown(two([4.0, 4.2], [2.0, 2.1]))
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
