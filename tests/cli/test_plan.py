"""`ringlight plan`: its tables and JSON, from a card, a checkpoint, files and a calibration."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from ringlight.cli.load_flags import MIX_FIELDS
from ringlight.cli.main import app
from ringlight.cli.plan import request_with
from ringlight.core.config import EngineConfig
from ringlight.core.errors import InvalidRequest, InvalidSetting
from ringlight.core.lora import Lora
from ringlight.core.report import RunReport
from ringlight.core.request import RequestDefaults
from ringlight.families.lora_library import LoraLibrary
from ringlight.families.wan22_ti2v.card import WAN22_TI2V_5B
from ringlight.planner import catalogue
from ringlight.planner.calibration import request_of
from tests.bench.reports import CPU, report
from tests.cli.commands import here, ringlight

HEAVY = ("torch", "diffusers", "transformers", "numpy", "av", "sqlalchemy", "fastapi")
MIX = """
[[request]]
weight = 3
num_frames = 25
[[request]]
num_frames = 49
image = true
"""
CARD = """
name = "a card of mine"
bf16_flops = 100e12
tf32_flops = 50e12
fp32_flops = 40e12
memory_bytes = 51539607552
memory_bytes_per_second = 900e9
source = "measured here"
"""


def planned(*arguments: object) -> str:
    """What it prints. Raises what it refuses."""
    done = CliRunner().invoke(app, ["plan", *map(str, arguments)], catch_exceptions=True)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def as_json(*arguments: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(planned(*arguments, "--json"))
    return found


def test_the_command_prints_tables_and_what_it_chose() -> None:
    done = ringlight("plan", "--gpu", "rtx4090-48g", "--num-gpus", 2, "--num-frames", 25, "--image")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("For 2 ranks, each: GeForce RTX 4090, 48 GB; link: ")
    for part in ("| Layout |", "| u1r2 |", "- c2u1r1: chosen", "| **Total** |", "| Rank |", "6160 tokens", "I2V"):
        assert part in done.out


def test_it_says_that_no_card_was_named() -> None:
    small = ("plan", "--num-frames", 5, "--num-inference-steps", 2)
    for more in ((), ("--json",), ("--rate", 0.1, "--num-requests", 100)):
        done = here(*small, *more)
        assert done.err.startswith("note: no card was named, so this is for rtx4090; --gpu names another one (cpu-core")
        assert done.out.startswith(("For 1 rank: GeForce RTX 4090.", "{"))
    assert here(*small, "--gpu", "cpu-core").err == ""


def test_a_last_picture_is_planned_where_the_model_takes_one(tmp_path: Path) -> None:
    video = ("--gpu", "h200", "--size", "640x640", "--num-frames", 25)
    assert ", FLF2V; " in planned("--model", "Wan2.2-I2V-A14B", *video, "--last-image")
    assert ", I2V; " in planned("--model", "Wan2.2-I2V-A14B", *video)
    assert ", FLF2V; " in planned("--model", "Wan2.1-FLF2V-14B-720P", *video)
    with pytest.raises(InvalidRequest, match=r"last_image: Wan2\.2-TI2V-5B knows no picture that a video ends"):
        planned(*video, "--image", "--last-image")
    (tmp_path / "mix.toml").write_text("[[request]]\nlast_image = true\n")
    load = ("--rate", 0.01, "--num-requests", 100, "--mix", tmp_path / "mix.toml")
    assert "u1r1" in planned("--model", "Wan2.2-I2V-A14B", *video, *load)
    with pytest.raises(InvalidRequest, match="leave it out"):
        planned("--model", "Wan2.1-I2V-14B-480P", *video, *load)


def test_planning_imports_nothing_heavy() -> None:
    modules = ", ".join(f"ringlight.planner.{name}" for name in ("fleet", "tables", "calibration", "prediction"))
    program = f"import sys, {modules}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert not set(done.stdout.split()) & set(HEAVY)


def test_json_has_what_the_tables_show() -> None:
    made = as_json("--gpu", "h100-sxm", "--link", "nvlink4", "--num-gpus", 4, "--size", "832x480")
    chosen = made["chosen"]["prediction"]
    assert chosen["fits"] is True
    assert chosen["total_seconds"] == min(choice["prediction"]["total_seconds"] for choice in made["choices"])
    assert chosen["bound"] in ("compute", "link")
    assert len(chosen["memory_bytes"]) == chosen["num_ranks"]


def test_a_checkpoints_own_numbers_and_defaults_are_read(tiny: Path) -> None:
    text = planned(
        "--model-path", tiny, "--gpu", "cpu-core", "--link", "loopback", "--dtype", "float32", "--num-gpus", 2
    )
    assert "256x160, 17 frames, 8 steps" in text


def test_files_describe_cards_and_links(tmp_path: Path) -> None:
    (tmp_path / "card.toml").write_text(CARD)
    (tmp_path / "link.toml").write_text(
        'name = "a wire"\nbytes_per_second = 1e9\nlatency_seconds = 1e-4\nsource = "measured here"\n'
    )
    text = planned("--gpu-file", tmp_path / "card.toml", "--link-file", tmp_path / "link.toml", "--num-gpus", 2)
    assert "a card of mine, a wire" in text
    (tmp_path / "card.toml").write_text(CARD + "speed = 1\n")
    with pytest.raises(InvalidSetting, match="speed"):
        planned("--gpu-file", tmp_path / "card.toml")
    with pytest.raises(InvalidSetting, match="not both"):
        planned("--gpu", "h100-sxm", "--gpu-file", tmp_path / "card.toml")


@pytest.mark.slow
def test_a_load_is_answered_with_fleets(tmp_path: Path) -> None:
    (tmp_path / "mix.toml").write_text(MIX)
    load = ("--gpu", "h100-sxm", "--num-gpus", 32, "--rate", 0.3, "--num-requests", 1000, "--gpu-price", 2)
    assert "requests a second" in planned(*load)
    mixed = as_json(*load, "--mix", tmp_path / "mix.toml", "--p95", 60)
    assert mixed["chosen"]["queue"]["p95_seconds"] <= 60
    assert mixed["choices"][0]["queue"]["keeps_up"] is True


def test_replicas_that_come_and_go_are_planned() -> None:
    load = ("--gpu", "h100-sxm", "--num-gpus", 2, "--num-frames", 25, "--rate", 0.002, "--num-requests", 200)
    found = planned(*load, "--num-replicas", "0..2", "--start-seconds", 30, "--scale-down-idle", 60)
    assert "| 0..2 x u1r1 | 0." in found
    assert "| 2 x u1r1 | 2 |" in found


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--num-replicas", "2", "--p95", 9), "--p95, which finds the number of replicas, or --num-replicas"),
        (("--scale-up-wait", 9), "need --num-replicas"),
        (("--num-replicas", "few"), "a range"),
    ],
)
def test_a_range_of_replicas_is_asked_for_as_of_a_server(flags: tuple[object, ...], words: str) -> None:
    with pytest.raises(InvalidSetting, match=words):
        planned("--rate", 1, "--num-requests", 100, *flags)


def test_why_no_fleet_is_chosen(tmp_path: Path) -> None:
    load = ("--gpu", "h100-sxm", "--num-gpus", 8, "--num-frames", 25, "--num-requests", 200)
    late = planned(*load, "--rate", 0.01, "--p95", 0.5).splitlines()[-1]
    assert re.fullmatch(
        r"none keeps the promise of 0\.5 s; the closest that keeps up is .+, with a p95 of \d+\.\d s", late
    )
    for flags in (("--p95", 0.5), ("--compare-orders",)):
        behind = planned(*load, "--rate", 100, *flags).splitlines()[-1]
        found = re.fullmatch(r"none keeps up; it takes at least (\d+) x (\w+) on (\d+) GPUs for that", behind)
        assert found is not None, behind
    number, layout = int(found[1]), found[2]
    for num_gpus, keeps_up in ((number - 1, False), (number, True)):  # the layout is of one GPU
        choices = as_json(*load, "--num-gpus", num_gpus, "--rate", 100)["choices"]
        assert [each["queue"]["keeps_up"] for each in choices if each["layout"] == layout] == [keeps_up]
    (tmp_path / "card.toml").write_text(CARD.replace("51539607552", "1048576"))
    small = ("--gpu-file", tmp_path / "card.toml", "--rate", 0.01, "--num-requests", 200)
    assert planned(*small).splitlines()[-1] == "none fits"


LINE = """
[[request]]
weight = 7
num_frames = 5
num_inference_steps = 12
[[request]]
weight = 3
"""


def test_every_order_of_a_mix_is_compared(tmp_path: Path) -> None:
    """Of one replica, with a load of two thirds, pausing has the least mean and slowdown, and in turn the most."""
    (tmp_path / "mix.toml").write_text(LINE)
    load = ("--gpu", "h100-sxm", "--rate", 0.02, "--num-requests", 400, "--mix", tmp_path / "mix.toml")
    found = as_json(*load, "--compare-orders")["choices"]
    assert [each["order"] for each in found] == ["shortest", "shortest without pauses", "arrival"]
    for name in ("mean_seconds", "mean_slowdown"):
        figures = [each["queue"][name] for each in found]
        assert figures == sorted(figures) and figures[0] < 0.8 * figures[-1]
    _, _, *table = planned(*load).splitlines()
    assert "| Mean (s) |" in table[0] and "| Pauses a video | Slowdown | Within 3x | Busy |" in table[0]
    queue = found[0]["queue"]
    assert f"| {queue['mean_paused_seconds']:.1f} | {queue['pauses_per_request']:.2f} |" in table[2]
    assert queue["mean_paused_seconds"] > 0 == found[1]["queue"]["mean_paused_seconds"]
    assert any("Paused: after that, while others have its turn" in line for line in table)
    assert [line for line in table if "| shortest |" in line] and "order: shortest" in table[-1]
    in_turn = planned(*load, "--scheduling", "arrival")
    assert "| arrival |" in in_turn and "| shortest" not in in_turn


def test_clients_priorities_and_timeouts_of_a_mix_count(tmp_path: Path) -> None:
    (tmp_path / "mix.toml").write_text(LINE)
    load = ("--gpu", "h100-sxm", "--rate", 0.02, "--num-requests", 150, "--mix", tmp_path / "mix.toml")
    usual = as_json(*load)["chosen"]["queue"]
    assert usual["in_time_share"] is None
    (tmp_path / "mix.toml").write_text(LINE + "timeout_seconds = 200\n")
    kept = as_json(*load)["chosen"]["queue"]["in_time_share"]
    assert 0.3 < kept < 1
    _, _, *table = planned(*load).splitlines()
    assert "| Within 3x | In time | Busy |" in table[0] and f"| {kept:.1%} |" in table[2]
    (tmp_path / "mix.toml").write_text(LINE + "timeout_seconds = 200\npriority = 1\n")
    urgent = as_json(*load)["chosen"]["queue"]
    assert urgent["in_time_share"] > kept and urgent["mean_slowdown"] > usual["mean_slowdown"]
    (tmp_path / "mix.toml").write_text(LINE + 'client = "films"\n')
    assert as_json(*load[:-2], "--mix", tmp_path / "mix.toml")["chosen"]["queue"] != usual
    assert "(Poisson, seed 0, 2000 simulated)" in planned(*load[:4], *load[6:])


@pytest.mark.parametrize(
    "flags",
    [("--p95", 9), ("--num-requests", 100), ("--seed", 0), ("--gpu-price", 2), ("--scheduling", "arrival")],
)
def test_flags_of_a_load_need_its_rate(flags: tuple[object, ...]) -> None:
    with pytest.raises(InvalidSetting, match=f"{flags[0]}.*--rate"):
        planned(*flags)


@pytest.mark.parametrize("rate", ["0", "-1", "nan", "inf"])
def test_a_rate_is_more_than_nothing(rate: str) -> None:
    done = CliRunner().invoke(app, ["plan", "--rate", rate])
    assert done.exit_code == 2 and "must be more than 0" in done.output


def test_a_preset_is_planned_with_its_steps_and_one_branch() -> None:
    flags = ["--gpu", "h200", "--num-gpus", "2", "--sampler", "lightx2v-4step"]
    said = CliRunner().invoke(app, ["plan", *flags]).output
    assert "4 steps of lightx2v-4step, guidance 1" in said
    assert "| u1r2 |" in said and "c2u1r1" not in said


def test_the_fields_of_a_mix_are_told(tmp_path: Path) -> None:
    said = " ".join(CliRunner().invoke(app, ["plan", "--help"], env={"COLUMNS": "400"}).output.split())
    assert MIX_FIELDS.startswith("weight, client, priority, timeout_seconds, image, last_image, num_frames, ")
    assert f"TOML of [[request]] tables, each with any of {MIX_FIELDS}." in said
    (tmp_path / "mix.toml").write_text(MIX + "steps = 4\n")
    with pytest.raises(
        InvalidSetting, match=rf"unknown field `steps`.*\[\[request\]\] tables, each with any of {MIX_FIELDS}"
    ):
        planned("--rate", 1, "--mix", tmp_path / "mix.toml")


@pytest.mark.parametrize("said", ["weight = 0", "weight = -1", "priority = 99", "timeout_seconds = 0"])
def test_a_mix_has_what_requests_may_have(tmp_path: Path, said: str) -> None:
    (tmp_path / "mix.toml").write_text(f"[[request]]\n{said}\n")
    with pytest.raises(InvalidSetting, match=said.split()[0]):
        planned("--rate", 1, "--mix", tmp_path / "mix.toml")


def one_rank(**environment: object) -> RunReport:
    """A report of a run of the published model on one rank."""
    none = LoraLibrary(EngineConfig(model_path=""), WAN22_TI2V_5B)
    request = request_with(WAN22_TI2V_5B, RequestDefaults(), {"num_frames": 25}, {}, none)
    told = report("u1r1", {"Denoising": 40.0, "Decoding": 20.0}, environment=CPU | environment)
    return msgspec.structs.replace(told, workload=request.workload())


def test_a_report_with_loras_and_pictures_tells_its_request() -> None:
    ink = Lora(name="ink", strength=0.5, target="both", sha256="ab" * 32, num_bytes=4096)
    request = RequestDefaults(seed=1).complete("p", WAN22_TI2V_5B, lora=(ink,), image=b"first", last_image=b"last")
    found = request_of(msgspec.structs.replace(one_rank(), workload=request.workload()))
    assert found.lora == (msgspec.structs.replace(ink, name="ab" * 32),), "whatever it was called"
    assert (found.image, found.last_image, found.num_frames) == (b"\0", b"\0", request.num_frames)


@pytest.mark.slow
def test_a_calibration_names_card_and_dtypes_and_loopback_lies_between_processes(tmp_path: Path) -> None:
    on_cpu, on_gpu, kept = tmp_path / "cpu.json", tmp_path / "gpu.json", tmp_path / "kept.json"
    on_cpu.write_bytes(one_rank().to_json())
    on_gpu.write_bytes(one_rank(device="a GPU", device_type="cuda").to_json())
    loopback, pcie = catalogue.link("loopback").name, catalogue.link("pcie4").name
    assert f", {loopback}; calibrated by a run" in planned("--calibration", on_cpu)
    assert f", {pcie}; calibrated by a run" in planned("--calibration", on_cpu, "--link", "pcie4")
    named = ("--calibration", on_gpu, "--gpu", "rtx4090")
    assert f", {pcie}; calibrated by a run" in planned(*named, "--save-calibration", kept)
    assert planned("--calibration", kept) == planned(*named)
    (tmp_path / "card.toml").write_text(CARD)
    for path in (on_cpu, kept):
        for card in (("--gpu", "h100-sxm"), ("--gpu-file", tmp_path / "card.toml")):
            with pytest.raises(InvalidSetting, match=rf"{path.name} is of .*leave --gpu and --gpu-file out"):
                planned("--calibration", path, *card)
    with pytest.raises(InvalidSetting, match="name its card by --gpu"):
        planned("--calibration", on_gpu)


def test_a_calibration_is_not_planned_in_another_dtype(tmp_path: Path) -> None:
    path = tmp_path / "cpu.json"
    path.write_bytes(one_rank().to_json())
    with pytest.raises(InvalidSetting, match="--dtype bfloat16: the calibration is of a run in float32"):
        planned("--calibration", path, "--dtype", "bfloat16")
    with pytest.raises(InvalidSetting, match="--vae-dtype bfloat16: the calibration is of a run in float32"):
        planned("--calibration", path, "--vae-dtype", "bfloat16")
    same = planned("--calibration", path, "--dtype", "float32", "--vae-dtype", "float32")
    assert same == planned("--calibration", path)


def test_what_cannot_be_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="rtx4090"):
        planned("--gpu", "rtx4091")
    with pytest.raises(InvalidRequest, match="nearest: 25"):
        planned("--num-frames", 26)
    (tmp_path / "mix.toml").write_text("request = []\n")
    with pytest.raises(InvalidSetting, match=r"\[\[request\]\]"):
        planned("--rate", 1, "--mix", tmp_path / "mix.toml")


@pytest.mark.slow
def test_a_report_of_this_machine_calibrates(tiny: Path, tmp_path: Path) -> None:
    """A run of one rank, then the plan of two from its report, and from what was kept of it."""
    made = ringlight(
        "generate", "--model-path", tiny, "--prompt", "a cat", "-o", tmp_path / "a.mp4", "--report", tmp_path / "a.json"
    )
    assert made.code == 0, made.err
    here = ("--model-path", tiny, "--num-gpus", 2, "--link", "loopback")
    text = planned(*here, "--calibration", tmp_path / "a.json", "--save-calibration", tmp_path / "known.json")
    assert "calibrated by a run" in text
    assert planned(*here, "--calibration", tmp_path / "known.json") == text
    measured = json.loads((tmp_path / "a.json").read_text())
    alone = next(
        choice["prediction"]
        for choice in as_json(*here, "--calibration", tmp_path / "known.json")["choices"]
        if choice["prediction"]["layout"] == "u1r1"
    )
    stages = {stage["name"]: stage["compute_seconds"] for stage in alone["stages"]}
    for stage in measured["stages"]:
        if stage["name"] in ("Denoising", "Decoding"):
            assert stages[stage["name"]] == pytest.approx(stage["seconds"], rel=1e-6)
    assert alone["total_seconds"] == pytest.approx(measured["total_seconds"], rel=0.2)


PAGE = ("--size", "1280x704", "--num-frames", 25, "--image")


def test_a_budget_is_planned_with_a_table_of_places() -> None:
    """10 GB on one card, and 6 GB on each of two, at hardly any loss; each part has a place and a reason."""
    roomy = as_json(*PAGE, "--gpu", "rtx4090-48g", "--num-gpus", 2)
    seconds = {each["prediction"]["layout"]: each["prediction"]["total_seconds"] for each in roomy["choices"]}
    for budget, name in (("10GB", "u1r1"), ("6GB", "u1r2")):
        made = as_json(*PAGE, "--num-gpus", 2, "--memory-budget", budget)
        found = next(each for each in made["choices"] if each["prediction"]["layout"] == name)
        assert found["prediction"]["fits"] and found["prediction"]["placement"] is not None
        assert max(found["prediction"]["memory_bytes"]) <= int(budget[:-2]) * 1e9
        assert found["prediction"]["total_seconds"] < 1.02 * seconds[name]
        assert found["least_bytes_at_5_percent"] <= found["least_bytes"] <= int(budget[:-2]) * 1e9
        assert {place["place"] for place in made["places"]} == {"device", "host"}
    text = planned(*PAGE, "--memory-budget", "6.5GiB")
    for part in ("| Part | Place | GiB | Why |", "| token table | host | 1.96 |", "Least at 0 %", "Bus exposed (s)"):
        assert part in text
    assert "All weights lie once in the host's memory, for all ranks: 22.54 GiB." in text


def test_a_card_of_8_gb_says_what_it_reaches() -> None:
    made = as_json(*PAGE, "--gpu", "rtx4060")
    chosen = made["chosen"]["prediction"]
    assert chosen["fits"] and chosen["memory_bytes"][0] <= 7 * 2**30
    assert chosen["bus_exposed_seconds"] < 0.01 * chosen["total_seconds"]
    assert made["chosen"]["least_bytes"] < 7 * 2**30


def test_a_budget_that_is_too_small_names_the_least_that_is_not() -> None:
    (reason,) = re.findall(r"- u1r1: (.*)", planned(*PAGE, "--memory-budget", "2GiB"))
    found = re.fullmatch(r"does not fit: [0-9.]+ GiB of 2\.0; would with --memory-budget ([0-9.]+GiB)", reason)
    assert found is not None
    assert "- u1r1: chosen" in planned(*PAGE, "--memory-budget", found[1])


@pytest.mark.parametrize(("budget", "said"), [("much", "no size such as 10GiB"), ("0", "must be more than 0")])
def test_a_budget_that_is_none(budget: str, said: str) -> None:
    with pytest.raises(InvalidSetting, match=said):
        planned("--memory-budget", budget)


def test_the_bus_is_the_cards_or_as_asked(tmp_path: Path) -> None:
    """Weights that nothing hides wait for a slower one; a card of a file may name its own."""
    waits = [
        as_json(*PAGE, "--memory-budget", "7GiB", *bus)["chosen"]["prediction"]["bus_exposed_seconds"]
        for bus in (("--bus", "pcie5x16"), (), ("--bus", "pcie3x8"))
    ]
    assert waits == sorted(waits) and waits[0] < waits[1] < waits[2]
    assert "bus: PCIe 3.0 x8, 6.2 GB/s" in planned(*PAGE, "--bus", "pcie3x8")
    (tmp_path / "card.toml").write_text(CARD + 'bus = "pcie3x16"\n')
    assert "bus: PCIe 3.0 x16, 12.4 GB/s" in planned("--gpu-file", tmp_path / "card.toml")
    assert "bus: PCIe 4.0 x8" in planned("--gpu-file", tmp_path / "card.toml", "--bus", "pcie4x8")
    (tmp_path / "card.toml").write_text(CARD + 'bus = "isa"\n')
    with pytest.raises(InvalidSetting, match="bus 'isa' is not in the table"):
        planned("--gpu-file", tmp_path / "card.toml")
    with pytest.raises(InvalidSetting, match="leave --bus out"):
        planned("--gpu", "cpu-core", "--link", "loopback", "--bus", "pcie4x8")
