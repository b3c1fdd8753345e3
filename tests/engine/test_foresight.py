"""What an engine knows of its machine and of requests, before any weight is read."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ringlight import Engine, EngineConfig
from ringlight.core import host, messages
from ringlight.core.config import NodesConfig
from ringlight.core.errors import InvalidLayout, InvalidRequest, InvalidSetting
from ringlight.core.layout import AskedLayout, ParallelLayout
from ringlight.core.plan import Abilities, Speeds
from ringlight.core.report import RunReport
from ringlight.core.request import RequestDefaults, RequestLimits, VideoRequest
from ringlight.engine.driver import DriverCard, hardware_of, visible
from ringlight.engine.foresight import Foresight
from ringlight.engine.machine import this_machine
from ringlight.families.wan22_ti2v.card import WAN22_TI2V_5B
from ringlight.planner import catalogue
from ringlight.planner.calibration import Calibration
from tests.engine.cards import install
from tests.engine.replicas import FakeReplica
from tests.engine.requests import small

HUGE = RequestLimits(max_pixels=2**40, max_frames=10**6)
GIB = 2**30


def card(name: str = "NVIDIA H100 80GB HBM3", **changes: object) -> DriverCard:
    fields = {
        "uuid": f"GPU-{name}",
        "memory_bytes": 80 * GIB,
        "pcie": (5, 16),
        "has_nvlink": True,
        "has_peer_access": True,
    }
    return DriverCard(name=name, **fields | changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "known", "link"),
    [
        (card(), "H100 SXM", "NVLink 4 (H100)"),
        (card("NVIDIA H200"), "H200 SXM", "NVLink 4 (H100)"),
        (card("NVIDIA H20"), "H20", "NVLink 4 (H100)"),
        (card("NVIDIA H100 PCIe", has_nvlink=False), "H100 PCIe", "PCIe 5.0 x16, peer-to-peer"),
        (
            card(
                "NVIDIA GeForce RTX 4090",
                memory_bytes=24 * GIB,
                has_nvlink=False,
                has_peer_access=False,
                pcie=(4, 16),
            ),
            "GeForce RTX 4090",
            "PCIe 4.0 x16 through the host",
        ),
        (
            card("NVIDIA GeForce RTX 3090", has_nvlink=False, has_peer_access=False, pcie=(4, 8)),
            "GeForce RTX 3090",
            "PCIe 4.0 x8 through the host",
        ),
        (
            card("NVIDIA GeForce RTX 4060 Ti", memory_bytes=16 * GIB, has_nvlink=False, pcie=(4, 8)),
            "GeForce RTX 4060 Ti",
            "PCIe 4.0 x8, peer-to-peer",
        ),
        (card("NVIDIA A100-SXM4-40GB", memory_bytes=40 * GIB), "A100 SXM 40 GB", "NVLink 3 (A100)"),
        (card("NVIDIA A100-SXM4-80GB"), "A100 SXM 80 GB", "NVLink 3 (A100)"),
        (card("NVIDIA A100 80GB PCIe", pcie=(4, 16)), "A100 SXM 80 GB", "PCIe 4.0 x16, peer-to-peer"),
        (
            card("NVIDIA GeForce RTX 4090", memory_bytes=48 * GIB, has_nvlink=False, pcie=(4, 16)),
            "GeForce RTX 4090, 48 GB",
            "PCIe 4.0 x16, peer-to-peer",
        ),
    ],
    ids=lambda value: value.name if isinstance(value, DriverCard) else None,
)
def test_a_driver_names_card_memory_and_link(found: DriverCard, known: str, link: str) -> None:
    hardware = hardware_of([found, found])
    assert hardware is not None
    assert (hardware.card.name, hardware.link.name) == (known, link)
    assert hardware.card.memory_bytes == found.memory_bytes


def test_a_driver_names_the_bus() -> None:
    """The slowest slot's: a card at x8 has half of what it has at x16, whatever it could."""
    for slots, name in (
        ([(4, 16)], "PCIe 4.0 x16"),
        ([(4, 16), (3, 8)], "PCIe 3.0 x8"),
        ([(5, 8), (4, 8)], "PCIe 4.0 x8"),
    ):
        hardware = hardware_of([card("NVIDIA GeForce RTX 3090", pcie=slot) for slot in slots])
        assert hardware is not None and catalogue.bus(hardware.card.bus).name == name


@pytest.mark.parametrize(
    "found",
    [
        [card("NVIDIA GeForce GTX 1080")],
        [card("NVIDIA GeForce RTX 4090 Laptop GPU")],
        [card("NVIDIA H100 NVL")],
        [card(), card("NVIDIA H200")],
        [card(is_divided=True)],
    ],
    ids=["not in the table", "laptop", "another memory", "different", "divided"],
)
def test_other_cards_are_not_known(found: list[DriverCard]) -> None:
    assert hardware_of(found) is None


@pytest.mark.parametrize(
    ("shown", "names"),
    [
        (None, "abc"),
        ("", ""),
        ("-1", ""),
        ("1", "b"),
        ("2,0", "ca"),
        ("0,-1,2", "a"),  # up to the first that is none
        ("7", ""),
        ("GPU-c", "c"),
        ("GPU-", ""),
        ("MIG-GPU-a/1/0", None),
    ],
)
def test_the_environment_hides_cards_as_cuda_reads_it(shown: str | None, names: str | None) -> None:
    found = visible([card(name) for name in "abc"], shown)
    assert (None if found is None else "".join(each.name for each in found)) == names


@pytest.mark.parametrize(
    ("cards", "shown", "names"),
    [("ab", "1", None), ("ab", "GPU-b", "b"), ("ab", None, "ab"), ("ab", "", ""), ("aa", "1,0", "aa")],
)
def test_fastest_first_nobody_knows_which_index_is_which_of_different_cards(
    cards: str, shown: str | None, names: str | None
) -> None:
    found = visible([card(name) for name in cards], shown, in_bus_order=False)
    assert (None if found is None else "".join(each.name for each in found)) == names


def test_ranks_share_the_cores_and_the_memory_of_a_cpu(tiny: Path) -> None:
    engine = Engine(EngineConfig(model_path=str(tiny), device="cpu"), None, FakeReplica())
    shares = [this_machine(engine.config, engine.spec, ranks, 1) for ranks in (1, 2, 4)]
    whole, half, quarter = (share.hardware.card for share in shares if share is not None)
    assert whole.memory_bytes == 2 * half.memory_bytes == 4 * quarter.memory_bytes == host.memory_bytes()
    assert whole.fp32_flops >= half.fp32_flops >= quarter.fp32_flops > 0
    assert half.fp32_flops == pytest.approx(2 * quarter.fp32_flops) or host.num_cores() > 8


def test_a_container_bounds_memory_and_cores(tmp_path: Path) -> None:
    assert host.memory_bytes(tmp_path) > 4096 and host.num_cores(tmp_path) >= 1
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert host.memory_bytes(tmp_path) > 4096 and host.num_cores(tmp_path) == len(os.sched_getaffinity(0))
    (tmp_path / "memory.max").write_text("4096\n")
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert (host.memory_bytes(tmp_path), host.num_cores(tmp_path)) == (4096, 1)


SHORTAGE = r"16000x16000 with 81 frames needs [0-9.]+ GiB on a rank of u1r1, which has [0-9.]+ "


def huge_for(tiny: Path, config: EngineConfig | None = None) -> tuple[Engine, VideoRequest]:
    engine = Engine(config or EngineConfig(model_path=str(tiny)), HUGE, FakeReplica())
    return engine, small(engine, width=16_000, height=16_000, num_frames=81)


def test_a_request_that_does_not_fit_is_refused_with_one_that_does(tiny: Path, tmp_path: Path) -> None:
    engine, huge = huge_for(tiny)
    with engine, pytest.raises(InvalidRequest, match=SHORTAGE) as refused:
        engine.submit(huge, str(tmp_path / "a.mp4"))
    (problem,) = refused.value.problems
    assert problem.nearest is not None and "--" not in str(refused.value)  # flags are the operator's
    changed = {"num_frames": int(problem.nearest)} if problem.field == "num_frames" else size_of(problem.nearest)
    with Engine(engine.config, HUGE, FakeReplica()) as engine:
        engine.submit(msgspec.structs.replace(huge, **changed), str(tmp_path / "a.mp4")).wait(10)


def size_of(text: str) -> dict[str, int]:
    return dict(zip(("width", "height"), map(int, text.split("x")), strict=True))


def test_a_typical_request_that_does_not_fit_is_refused_before_anything_is_loaded(tiny: Path) -> None:
    engine, huge = huge_for(tiny)
    with pytest.raises(InvalidLayout, match=SHORTAGE + r".*; predicted to fit with --.* \(--no-memory-check tries"):
        Engine(engine.config, HUGE, FakeReplica(), typical=huge)


def test_defaults_that_do_not_fit_are_told_and_smaller_videos_are_made(
    tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    large = RequestDefaults(width=16_000, height=16_000, num_frames=81)
    with Engine(EngineConfig(model_path=str(tiny)), HUGE, FakeReplica(), defaults=large) as engine:
        assert "a video of all defaults will be refused: 16000x16000" in caplog.text
        engine.submit(small(engine), str(tmp_path / "a.mp4")).wait(10)


def test_the_check_of_memory_can_be_left_out(tiny: Path, tmp_path: Path) -> None:
    config = EngineConfig(model_path=str(tiny), memory_check=False)
    _, huge = huge_for(tiny, config)
    with Engine(config, HUGE, FakeReplica(), typical=huge) as engine:
        engine.submit(huge, str(tmp_path / "a.mp4")).wait(10)


def test_a_typical_request_that_cannot_be_made_leaves_the_choice_to_the_rule(tiny: Path) -> None:
    config = EngineConfig(model_path=str(tiny), asked_layout=AskedLayout(num_gpus=2))
    wrong = small(Engine(config, None, FakeReplica()), width=-5)
    choice = Engine(config, None, FakeReplica(), typical=wrong).choice
    assert choice.layout.name == "c2u1r1" and "predicted" not in choice.reason


def test_the_room_beside_a_job_is_what_it_leaves_of_a_rank(tiny: Path) -> None:
    """By what ranks have measured, where all weights lie on a device; else by the plan. Nobody knows all machines."""
    engine = Engine(EngineConfig(model_path=str(tiny)), None, FakeReplica())
    foresight, plan = engine._foresight, engine._foresight.plan(small(engine), engine.choice.layout)
    assert foresight.room_beside(plan) == plan.usable_bytes - plan.worst_memory.peak_bytes > 0
    assert foresight.room_beside(msgspec.structs.replace(plan, usable_bytes=1)) == 0
    worst, machine = plan.worst_memory, foresight.machine
    assert machine is not None
    abilities = Abilities(spare_bytes=worst.peak_bytes)
    foresight.machine = msgspec.structs.replace(machine, abilities=abilities)
    assert foresight.room_beside(plan) == worst.weights_bytes > 0
    foresight.machine = None
    assert foresight.room_beside(plan) == math.inf


def test_every_report_carries_what_was_predicted(tiny: Path, tmp_path: Path) -> None:
    with Engine(EngineConfig(model_path=str(tiny)), None, FakeReplica()) as engine:
        job = engine.submit(small(engine), str(tmp_path / "a.mp4"))
        report = job.wait(10)
    said, plan = report.predicted, job.prediction
    assert said is not None and plan is not None and said.basis.endswith("reckoned as of a Zen 4")
    assert said.stages["Denoising"] == plan.seconds("Denoising")
    assert said.total_seconds == pytest.approx(sum(said.stages.values())) == plan.total_seconds
    assert said.peak_bytes == plan.worst_memory.peak_bytes
    assert report.predicted_over_measured == pytest.approx(
        {"Denoising": said.stages["Denoising"] / 1.0, "Total": said.total_seconds / 1.0}
    )
    assert "Predicted (s)" in report.table()


def test_plans_go_by_a_calibration_of_this_machine(tiny: Path, tmp_path: Path) -> None:
    measured = Engine(EngineConfig(model_path=str(tiny)), None, FakeReplica())
    request = small(measured)
    with measured:
        report = measured.submit(request, str(tmp_path / "a.mp4")).wait(10)
    file = tmp_path / "u1r1.json"
    file.write_bytes(complete(report).to_json())
    engine = Engine(EngineConfig(model_path=str(tiny), calibration=str(file)), None, FakeReplica())
    with engine:
        job = engine.submit(request, str(tmp_path / "b.mp4"))
        again = job.wait(10)
    assert again.predicted is not None and again.predicted.basis.endswith("calibrated by u1r1.json")
    assert again.predicted.stages["Denoising"] == pytest.approx(1.0)  # as it was measured


def complete(report: RunReport) -> RunReport:
    """As real workers report: a fake's says nothing of its device."""
    said: dict[str, Any] = {"device": "a CPU", "device_type": "cpu", "dtype": "float32", "vae_dtype": "float32"}
    said["num_threads"] = host.num_cores()
    return msgspec.structs.replace(report, environment=said)


def test_workers_on_another_device_make_plans_void(tiny: Path, tmp_path: Path) -> None:
    """The driver named no card, say, and torch found one."""

    class Elsewhere(FakeReplica):
        def start(self) -> messages.WorkerReady:
            said = {"device": "H100", "device_type": "cuda"}
            return msgspec.structs.replace(super().start(), environment=said)

    with Engine(EngineConfig(model_path=str(tiny)), None, Elsewhere()) as engine:
        engine.start()
        job = engine.submit(small(engine), str(tmp_path / "a.mp4"))
        assert job.wait(10).predicted is None and not job.is_planned_here


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "another"}, "of another model"),
        ({"card": catalogue.card("h100-sxm"), "device": "H100"}, "is of 'H100', and this machine has"),
    ],
)
def test_a_calibration_of_something_else(tiny: Path, tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    engine = Engine(EngineConfig(model_path=str(tiny)), None, FakeReplica())
    with engine:
        report = complete(engine.submit(small(engine), str(tmp_path / "a.mp4")).wait(10))
    known = msgspec.structs.replace(Calibration.of(report, engine.spec), **changes)
    (tmp_path / "known.json").write_bytes(known.to_json())
    with pytest.raises(InvalidSetting, match=said):
        Engine(EngineConfig(model_path=str(tiny), calibration=str(tmp_path / "known.json")), None, FakeReplica())


def test_plans_of_several_machines_tell_no_seconds(tiny: Path, tmp_path: Path) -> None:
    nodes = NodesConfig(nnodes=2, dist_init_addr="127.0.0.1:29500")
    config = EngineConfig(model_path=str(tiny), asked_layout=AskedLayout(num_gpus=2), nodes=nodes)
    with Engine(config, None, FakeReplica()) as engine:
        job = engine.submit(small(engine), str(tmp_path / "a.mp4"))
        assert job.wait(10).predicted is None and not job.is_planned_here


def test_a_calibration_that_is_none(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="No such file"):
        Engine(EngineConfig(model_path=str(tiny), calibration=str(tmp_path / "none.json")), None, FakeReplica())


def foreseen(tiny: Path, found: list[DriverCard], monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Foresight:
    """What an engine for the real model foresees on such cards, or on a CPU for none."""
    install(found, monkeypatch)
    config = EngineConfig(model_path=str(tiny), device="cuda" if found else "cpu", **settings)
    return Foresight(config, WAN22_TI2V_5B, RequestLimits())


def gpu(gib: int) -> list[DriverCard]:
    return [card("NVIDIA GeForce RTX 4090", memory_bytes=gib * GIB, has_nvlink=False, pcie=(4, 16))]


def test_steps_of_a_card_that_is_not_known_may_be_long(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until its ranks have measured how fast it is they agree within steps that a known card makes at once."""
    request = RequestDefaults(num_frames=25).complete("a film", WAN22_TI2V_5B, seed=0)
    layout = ParallelLayout(ulysses=2)

    def agrees(found: Foresight) -> bool:
        return found.plan(request, layout).blocks_per_agreement > 0

    assert not agrees(foreseen(tiny, 2 * [card()], monkeypatch))
    found = foreseen(tiny, 2 * [card("NVIDIA GeForce GTX 1080")], monkeypatch)
    assert found.machine is None and agrees(found)
    said = {"device_type": "cuda", "memory_bytes": 8 * GIB}
    ready = messages.WorkerReady(environment=said, load_seconds=1.0, abilities=Abilities(spare_bytes=2**34))
    found.meet(ready)
    assert agrees(found)
    speeds = Speeds(link_bytes_per_second=1e10, flops_per_second=2e14)
    found.meet(msgspec.structs.replace(ready, abilities=Abilities(spare_bytes=2**34, speeds=speeds)))
    assert not agrees(found)


@pytest.mark.parametrize(
    ("cards", "budget", "is_placed"),
    [
        (gpu(24), "", True),  # 35 GiB of weights and work
        (gpu(48), "", False),
        (gpu(48), "40GiB", True),
        ([], "", False),
        ([], "30GiB", True),
    ],
)
def test_weights_lie_on_the_host_within_a_budget_or_where_they_must(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, cards: list[DriverCard], budget: str, is_placed: bool
) -> None:
    found = foreseen(tiny, cards, monkeypatch, memory_budget=budget, memory_check=False)
    request = RequestDefaults(num_frames=25).complete("a film", WAN22_TI2V_5B, seed=0)
    layout = found.choose(None, request).layout
    assert found.is_placed == is_placed
    assert (found.plan(request, layout).placement is not None) == is_placed
    kind = "cuda" if cards else "cpu"
    said = {"device_type": kind}
    found.meet(messages.WorkerReady(environment=said, load_seconds=1.0, abilities=Abilities(spare_bytes=2**34)))
    assert found.is_placed == is_placed
    assert (found.plan(request, layout).placement is not None) == is_placed


def test_a_larger_request_than_what_all_fits_for_is_told_of_a_budget(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers that have all weights on the device stay so; the operator hears what would help."""
    found = foreseen(tiny, gpu(48), monkeypatch)
    small_one = RequestDefaults(num_frames=25).complete("a film", WAN22_TI2V_5B, seed=0)
    layout = found.choose(small_one, small_one).layout
    large = msgspec.structs.replace(small_one, width=2560, height=1408, num_frames=121)
    with pytest.raises(InvalidRequest, match=r"needs .* GiB on a rank of u1r1"):
        found.check_memory(large, layout, found.plan(large, layout))
    told = found.remedy(large, layout, {"device_type": "cuda", "memory_bytes": 48 * GIB})
    assert told is not None and told.startswith("predicted to fit with --memory-budget 47.0GiB (")


def test_a_budget_that_nothing_fits_into_is_refused_with_one_that_does(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = foreseen(tiny, gpu(24), monkeypatch, memory_budget="1GiB")
    request = RequestDefaults(num_frames=25).complete("a film", WAN22_TI2V_5B, seed=0)
    said = r"which has 1\.00 \(the memory budget\); predicted to fit with --memory-budget [0-9.]+GiB"
    with pytest.raises(InvalidLayout, match=said):
        found.choose(request, request)
