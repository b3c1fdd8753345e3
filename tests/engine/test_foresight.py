"""What an engine knows of its machine and of requests, before any weight is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringlight import Engine, EngineConfig
from ringlight.core import host
from ringlight.core.errors import InvalidLayout, InvalidRequest, InvalidSetting
from ringlight.core.layout import AskedLayout
from ringlight.core.report import RunReport
from ringlight.core.request import RequestLimits
from ringlight.engine.machine import DriverCard, hardware_of, this_machine
from tests.engine.replicas import FakeReplica
from tests.engine.requests import small

HUGE = RequestLimits(max_pixels=2**40, max_frames=10**6)
GIB = 2**30


def card(name: str = "NVIDIA H100 80GB HBM3", **changes: object) -> DriverCard:
    fields = {"memory_bytes": 80 * GIB, "pcie": (5, 16), "has_nvlink": True, "has_peer_access": True}
    return DriverCard(name=name, **fields | changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "known", "link"),
    [
        (card(), "H100 SXM", "NVLink 4 (H100)"),
        (card("NVIDIA H200"), "H200 SXM", "NVLink 4 (H100)"),
        (card("NVIDIA H20"), "H20", "NVLink 4 (H100)"),
        (card("NVIDIA H100 PCIe", has_nvlink=False), "H100 PCIe", "PCIe 5.0 x16, peer-to-peer"),
        (
            card("NVIDIA GeForce RTX 4090", has_nvlink=False, has_peer_access=False, pcie=(4, 16)),
            "GeForce RTX 4090",
            "PCIe 4.0 x16 through the host",
        ),
        (
            card("NVIDIA GeForce RTX 3090", has_nvlink=False, has_peer_access=False, pcie=(4, 8)),
            "GeForce RTX 3090",
            "PCIe 4.0 x8 through the host",
        ),
        (card("NVIDIA A100-SXM4-40GB", memory_bytes=40 * GIB), "A100 SXM 80 GB", "NVLink 3 (A100)"),
    ],
    ids=lambda value: value.name if isinstance(value, DriverCard) else None,
)
def test_a_driver_names_card_memory_and_link(found: DriverCard, known: str, link: str) -> None:
    hardware = hardware_of([found, found])
    assert hardware is not None
    assert (hardware.card.name, hardware.link.name) == (known, link)
    assert hardware.card.memory_bytes == found.memory_bytes


@pytest.mark.parametrize(
    "found",
    [[card("NVIDIA GeForce GTX 1080")], [card(), card("NVIDIA H200")], [card(is_divided=True)]],
    ids=["not in the table", "different", "divided"],
)
def test_other_cards_are_not_known(found: list[DriverCard]) -> None:
    assert hardware_of(found) is None


def test_ranks_share_the_cores_and_the_memory_of_a_cpu(tiny: Path) -> None:
    engine = Engine(EngineConfig(model_path=str(tiny), device="cpu"), None, FakeReplica())
    shares = [this_machine(engine.config, engine.spec, ranks, 1) for ranks in (1, 2, 4)]
    whole, half, quarter = (share.hardware.card for share in shares if share is not None)
    assert whole.memory_bytes == 2 * half.memory_bytes == 4 * quarter.memory_bytes == host.memory_bytes()
    assert whole.fp32_flops >= half.fp32_flops >= quarter.fp32_flops > 0
    assert half.fp32_flops == pytest.approx(2 * quarter.fp32_flops) or host.num_cores() > 8


def test_a_container_bounds_memory(tmp_path: Path) -> None:
    assert list(host._limits(tmp_path)) == []
    (tmp_path / "memory.max").write_text("max\n")
    assert list(host._limits(tmp_path)) == []
    (tmp_path / "memory.max").write_text("4096\n")
    assert list(host._limits(tmp_path)) == [4096]


def test_what_does_not_fit_is_refused_before_anything_is_loaded(tiny: Path, tmp_path: Path) -> None:
    replica = FakeReplica()
    engine = Engine(EngineConfig(model_path=str(tiny)), HUGE, replica)
    huge = small(engine, width=16_000, height=16_000, num_frames=81)
    said = r"16000x16000 with 81 frames needs [0-9.]+ GiB on a rank of u1r1.*predicted to fit with"
    with engine, pytest.raises(InvalidRequest, match=said) as e:
        engine.submit(huge, str(tmp_path / "a.mp4"))
    assert e.value.problems[0].field == "size" and "--no-memory-check" in str(e.value)
    with pytest.raises(InvalidLayout, match=said):
        Engine(engine.config, HUGE, replica, typical=huge)
    assert replica.events == ["close"]


def test_the_check_of_memory_can_be_left_out(tiny: Path, tmp_path: Path) -> None:
    config = EngineConfig(model_path=str(tiny), memory_check=False)
    huge = small(Engine(config, HUGE, FakeReplica()), width=32_000, height=32_000, num_frames=81)
    with Engine(config, HUGE, FakeReplica(), typical=huge) as engine:
        engine.submit(huge, str(tmp_path / "a.mp4")).wait(10)


def test_a_typical_request_that_cannot_be_made_leaves_the_choice_to_the_rule(tiny: Path) -> None:
    config = EngineConfig(model_path=str(tiny), asked_layout=AskedLayout(num_gpus=2))
    wrong = small(Engine(config, None, FakeReplica()), width=-5)
    choice = Engine(config, None, FakeReplica(), typical=wrong).choice
    assert choice.layout.name == "c2u1r1" and "predicted" not in choice.reason


def test_every_report_carries_what_was_predicted(tiny: Path, tmp_path: Path) -> None:
    with Engine(EngineConfig(model_path=str(tiny)), None, FakeReplica()) as engine:
        job = engine.submit(small(engine), str(tmp_path / "a.mp4"))
        report = job.wait(10)
    said, plan = report.predicted, job.plan
    assert said is not None and plan is not None and "Zen 4 core" in said.basis
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
    import msgspec

    said = {"device": "a CPU", "device_type": "cpu", "dtype": "float32", "vae_dtype": "float32"}
    return msgspec.structs.replace(report, environment=said)


def test_a_calibration_that_is_none(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="No such file"):
        Engine(EngineConfig(model_path=str(tiny), calibration=str(tmp_path / "none.json")), None, FakeReplica())
