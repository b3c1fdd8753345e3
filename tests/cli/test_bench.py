"""`ringlight bench`: real servers measured over HTTP, what is refused, and Ctrl-C."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringlight.bench.expected import counted_bytes
from ringlight.bench.result import Result, read_result
from tests.cli.commands import Done, Running, here, program, ringlight
from tests.engine.processes import is_alive, wait_until
from tests.server.served import Served, serve

WORKLOAD = """
repeats = {repeats}
warm_up = 1
timeout_seconds = 120

[[request]]
prompt = "a paper boat"
negative_prompt = "blurry"
image = "given"
size = "64x64"
num_frames = 5
num_inference_steps = {steps}
guidance_scale = 5
seed = 7
"""


KEY = "a-key-that-nobody-else-has"


@pytest.fixture
def workload(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(WORKLOAD.format(repeats=2, steps=2))
    return path


def read(folder: Path) -> Result:
    found = read_result(folder / "result.json")
    assert isinstance(found, Result)
    return found


@pytest.mark.slow
def test_two_layouts_over_http(tiny: Path, tmp_path: Path, workload: Path, photograph: Path) -> None:
    output, trace = tmp_path / "found", tmp_path / "trace.json"
    done = ringlight(
        *("bench", "--model-path", tiny, "--layouts", "u1r1", "u1r2", "--workload", workload, "--image", photograph),
        *("--rounds", 1, "--num-threads", 1, "--output", output, "--trace", trace, "--quiet"),
    )
    assert (done.code, done.err) == (0, "")
    assert done.out == (output / "report.md").read_text()
    found = read(output)
    assert found.is_whole and found.baseline == "u1r1"
    assert [(s.column, s.place, s.fate) for s in found.samples] == [
        (column, place, "completed") for column in ("u1r1", "u1r2") for place in (0, 1)
    ]
    for sample in found.samples:
        report = sample.report
        assert report is not None and report.layout == sample.column
        assert sum(stage.seconds for stage in report.stages) + report.other_seconds == pytest.approx(
            report.total_seconds
        )
        assert sample.latency_seconds is not None and sample.latency_seconds > report.total_seconds
        assert report.stages[2].name == "ImageEncoding" and len(report.step_seconds) == 2
    for expected in found.expected:
        for sample in found.of(expected.column):
            assert sample.report is not None
            counted = counted_bytes(sample.report)
            assert len(counted) == len(expected.sent_bytes)
            for said, sent in zip(expected.sent_bytes, counted, strict=True):
                assert said.keys() == sent.keys()
                assert {k: n for k, n in said.items() if k != "text"} == {k: n for k, n in sent.items() if k != "text"}
    assert [expected.column for expected in found.expected] == ["u1r1", "u1r2"]
    assert found.expected[1].sent_bytes[0]["ring"] > 0
    (agreement,) = found.agreements
    assert (agreement.num_frames, agreement.problem) == (5, "") and (agreement.psnr_db or 99) > 35
    assert "| u1r2" not in done.out and "| `u1r2` | ring |" in done.out and "**not equal**" not in done.out
    names = {path.name for path in output.rglob("*") if path.is_file()}
    assert names >= {"report.md", "result.json", "runs.csv", "stages.png", "u1r2_request1.mp4", "u1r1_round1.log"}
    assert json.loads(trace.read_text())["traceEvents"]
    for column in found.columns:
        assert "--num-gpus" in column.started[0].command and column.started[0].ready_seconds > 0
    compared = ringlight("compare", output / "result.json", "--fail-if", "Total > 1000x")
    assert compared.code == 0 and "- passed: Total > 1000x: u1r2" in compared.out


@pytest.mark.slow
def test_variants_stand_beside_what_is_exact(tiny: Path, tmp_path: Path) -> None:
    """One on the same server and one on its own; a prompt that is in the judge's words stays as it is."""
    workload, output = tmp_path / "varied.toml", tmp_path / "found"
    text = WORKLOAD.format(repeats=1, steps=2).replace('image = "given"\n', "").replace("warm_up = 1", "warm_up = 0")
    text = text.replace("a paper boat", "a red ball rises over snow")
    workload.write_text(f'{text}\n[[variant]]\nname = "one step"\nnum_inference_steps = 1\n')
    done = ringlight(
        *("bench", "--model-path", tiny, "--layouts", "u1r1", "--workload", workload, "--rounds", 1),
        *("--num-threads", 1, "--variant", "server.dtype=bfloat16", "--output", output, "--quiet"),
    )
    assert (done.code, done.err) == (0, "")
    found = read(output)
    names = ["u1r1", "u1r1 one step", "u1r1 server.dtype=bfloat16"]
    assert [column.name for column in found.columns] == names
    starts = [column.started[0].command for column in found.columns]
    assert starts[0] == starts[1] and "--dtype bfloat16" in starts[2]
    reports = {sample.column: sample.report for sample in found.samples if sample.report is not None}
    assert [len(reports[name].step_seconds) for name in names] == [2, 1, 2]
    assert [reports[name].environment["dtype"] for name in names] == ["float32", "float32", "bfloat16"]
    assert [(each.column, each.num_frames, each.problem) for each in found.agreements] == [
        (name, 5, "") for name in names[1:]
    ]
    assert all((each.psnr_db or 99) > 10 and (each.ssim or 0) > 0.1 for each in found.agreements)
    assert [(each.column, len(each.right)) for each in found.judged] == [(name, 4) for name in names]
    files = {path.name for path in output.rglob("*") if path.is_file()}
    assert files >= {"u1r1_one_step_request1.mp4", "u1r1_server.dtype=bfloat16_round1.log", "u1r1_round1.log"}
    assert "### Variants" in done.out and "### Films beside Their Prompts" in done.out
    compared = ringlight("compare", output / "result.json", "--fail-if", "PSNR < 99dB", "--fail-if", "SSIM < 0")
    assert compared.code == 1 and "- failed: PSNR < 99dB: u1r1 one step has" in compared.out


def test_a_server_of_somebody_else_has_no_variants_with_their_own(tmp_path: Path, workload: Path) -> None:
    text = workload.read_text().replace('image = "given"\n', "")
    workload.write_text(f'{text}\n[[variant]]\nname = "narrow"\n[variant.server]\ndtype = "bfloat16"\n')
    done = here("bench", "--url", "http://127.0.0.1:1", "--workload", workload, folder=tmp_path)
    assert done.code == 3 and "variants with a server of their own (narrow) need --model-path" in done.err


@pytest.fixture(scope="module")
def server(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    small = {"width": 64, "height": 64, "num_frames": 5, "num_inference_steps": 2, "seed": 7}
    defaults = [word for name, value in small.items() for word in ("--default", f"{name}={value}")]
    with serve(tmp_path_factory.mktemp("server"), tiny, "--no-warm-up", *defaults) as server:
        yield server


@pytest.fixture(scope="module")
def guarded(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Another server, in another precision, with a key and other defaults."""
    options = ("--no-warm-up", "--dtype", "bfloat16", "--api-key", KEY, "--default", "num_frames=9")
    with serve(tmp_path_factory.mktemp("guarded"), tiny, *options) as server:
        yield server


@pytest.mark.slow
def test_servers_that_run_already_have_their_turns(server: Served, guarded: Served, tmp_path: Path) -> None:
    """Without a file: the first one's defaults are sent to all. Another precision is another film, and is found."""
    output = tmp_path / "found"
    urls = (f"before={server.url}", f"same={server.url}", f"after={guarded.url}")
    done = ringlight(
        *("bench", "--rounds", 2, "--output", output, "--quiet", "--api-key", f"after={KEY}"),
        *(word for url in urls for word in ("--url", url)),
        *("--fail-if", "PSNR < 60dB", "--fail-if", "Total > 1000x"),
    )
    assert (done.code, done.err) == (1, "")
    found = read(output)
    assert found.name.startswith("defaults of ") and found.num_failed == 0
    assert found.workload["requests"][0]["num_frames"] == 5 and found.workload["requests"][0]["seed"] == 0
    order = [list(dict.fromkeys(s.column for s in found.samples if s.round == number)) for number in (1, 2)]
    assert order == [["before", "same", "after"], ["after", "same", "before"]]
    assert {(ratio.column, ratio.num_rounds) for ratio in found.ratios} == {("same", 2), ("after", 2)}
    assert "- passed: PSNR < 60dB: same is identical" in done.out
    assert "- failed: PSNR < 60dB: after has " in done.out
    assert "### Servers Side by Side" in done.out and KEY not in (output / "result.json").read_text()


@pytest.mark.slow
def test_frames_of_two_results_are_compared(server: Served, guarded: Served, tmp_path: Path, workload: Path) -> None:
    workload.write_text(
        'warm_up = 0\n[[request]]\nprompt = "a boat"\nsize = "64x64"\nnum_frames = 5\nnum_inference_steps = 2\n'
    )
    for name, url, key in (("a", server.url, ""), ("c", guarded.url, KEY)):
        measured = ("bench", "--url", url, "--workload", workload, "--rounds", 1, "--output", tmp_path / name, "-q")
        assert ringlight(*measured, "--api-key", key).code == 0
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert read(tmp_path / "a").workload["requests"][0]["guidance_scale"] == 5.0
    results = [tmp_path / name / "result.json" for name in "abc"]
    gates = ("--fail-if", "PSNR < 60dB", "--fail-if", "SSIM < 0.9999")
    same = ringlight("compare", *results[:2], *gates)
    assert same.code == 0 and same.out.count("- passed: ") == 2
    assert ringlight("compare", results[0], results[2], "--force", *gates).code == 1
    shutil.rmtree(tmp_path / "b" / "videos")
    lost = ringlight("compare", *results[:2], *gates)
    assert lost.code == 3 and "request1.mp4 is not there" in lost.err
    assert "were not compared: " in ringlight("compare", *results[:2]).out


@pytest.mark.slow
def test_a_server_that_runs_already(server: Served, tmp_path: Path, workload: Path, photograph: Path) -> None:
    output = tmp_path / "found"
    measured = ("bench", "--url", server.url, "--workload", workload, "--rounds", 1, "--output", output, "--quiet")
    assert ringlight(*measured, "--image", photograph).code == 0
    found = read(output)
    assert [(s.column, s.fate) for s in found.samples] == [("server", "completed")] * 2
    assert found.columns[0].layout == "u1r1" and found.columns[0].started == []
    assert ringlight(*measured, "--image", photograph, "--variant", "num_inference_steps=1").code == 0
    found = read(output)
    assert [(each.name, each.layout, each.beside) for each in found.columns] == [
        ("server", "u1r1", ""),
        ("server num_inference_steps=1", "u1r1", "server"),
    ]
    assert [each.column for each in found.agreements] == ["server num_inference_steps=1"] and not found.judged
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    done = ringlight(*measured, "--image", broken)
    assert done.code == 4 and "2 of 2 requests failed" in done.err
    assert "2 of 2 requests failed" in done.out
    refused = ringlight(*measured, "--image", photograph, "--layouts", "u1r2")
    assert refused.code == 4 and read(output).num_failed == 2


@pytest.mark.slow
def test_an_interruption_leaves_no_process_and_keeps_what_was_measured(tiny: Path, tmp_path: Path) -> None:
    workload, output = tmp_path / "long.toml", tmp_path / "found"
    kinds = WORKLOAD.format(repeats=1, steps=2) + WORKLOAD.format(repeats=1, steps=1000).partition("\n\n")[2]
    workload.write_text(kinds.replace('image = "given"\n', ""))
    running = Running(
        tmp_path,
        *("bench", "--model-path", tiny, "--layouts", "u1r1", "--workload", workload),
        *("--rounds", 2, "--num-threads", 1, "--memory-budget", "400MiB", "--output", output),
    )
    try:
        running.wait_for("request 1 completed")
        (server,) = running.workers()
        threads = Path(f"/proc/{server}/task").glob("*/children")
        ranks = [int(pid) for children in threads for pid in children.read_text().split()]
        assert len(ranks) == 1
    finally:
        running.interrupt(signal.SIGINT)
        try:
            done: Done = running.end()
        finally:
            running.kill()
    assert done.code == 130 and "what was measured until then" in done.err and "Traceback" not in done.err
    wait_until(lambda: not any(map(is_alive, [server, *ranks])))
    found = read(output)
    assert not found.is_whole and [sample.fate for sample in found.samples] == ["completed"]
    page = (output / "report.md").read_text()
    assert "was interrupted" in page
    assert "Memory budget: 0.39 GiB" in page and "--memory-budget 400MiB" in page


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--layouts", "u1r1"], "name a checkpoint with --model-path"),
        (["--model-path", "TINY"], "name --layouts"),
        (["--model-path", "TINY", "--layouts", "u1r1", "r2u1"], "'r2u1' is not a layout"),
        (["--model-path", "TINY", "--layouts", "u1r1", "--workload", "absent.toml"], "absent.toml: No such file"),
        (
            ["--model-path", "TINY", "--layouts", "u1r1", "--calibration", "absent.json"],
            "absent.json: No such file",
        ),
        (["--model-path", "absent", "--layouts", "u1r1"], "absent"),
        (["--url", "a=127.0.0.1:1"], "is not [NAME=]URL, such as"),
        (["--url", "http://127.0.0.1:1", "--fail-if", "PSNR"], "is not NAME OPERATOR VALUE"),
        (["--model-path", "TINY", "--layouts", "u1r1", "--output", "file/found"], "file/found"),
        (["--model-path", "TINY", "--layouts", "u1r1", "--variant", "sampler"], "'sampler' is not NAME=VALUE"),
        (
            ["--model-path", "TINY", "--layouts", "u1r1", "--variant", "num_inference_step=2"],
            "variant 'num_inference_step=2': there is no num_inference_step (nearest: num_inference_steps)",
        ),
        (["--model-path", "TINY", "--layouts", "u1r1", "--variant", "num_frames=6"], "num_frames: 6"),
        (["--model-path", "TINY", "--layouts", "u1r1", "--variant", "server.dtype=auto"], "differs in nothing"),
        (
            ["--model-path", "TINY", "--layouts", "u1r1", "--variant", "name=other,server.model_path=absent"],
            "variant other: absent: no such folder",
        ),
        (["--model-path", "TINY", "--layouts", "u1r1", "u9r1"], "invalid_layout: ulysses-degree 9 is more than the 4"),
    ],
)
def test_what_cannot_be_measured_is_said_before_a_server_is_started(
    tiny: Path, tmp_path: Path, arguments: list[str], says: str
) -> None:
    (tmp_path / "file").write_text("")
    done = here("bench", *(str(tiny) if each == "TINY" else each for each in arguments), folder=tmp_path)
    assert done.code == 3 and says in done.err and "Traceback" not in done.err
    assert not (tmp_path / "bench").exists()


@pytest.mark.slow
def test_a_server_that_does_not_start_says_why(tiny: Path, tmp_path: Path) -> None:
    """The folder's tokenizer is gone. Here the command starts its server, as it does for everybody."""
    copy = tmp_path / "broken"
    copy.mkdir()
    for each in tiny.iterdir():
        if each.name != "tokenizer":
            os.symlink(each, copy / each.name)
    done = program("bench", "--model-path", copy, "--layouts", "u1r1", "--output", tmp_path / "found")
    assert done.code == 4 and "the server ended with 3: ringlight: invalid_" in done.err
    assert (tmp_path / "found" / "logs" / "u1r1_round1.log").exists()
