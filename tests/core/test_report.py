"""RunReport: rows that sum to the total, one JSON, and a hash that stands for the work."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from ringlight.core.plan import Placement, PredictedReport
from ringlight.core.report import (
    GIB,
    SCHEMA_VERSION,
    LinkReport,
    MemoryReport,
    RankReport,
    RunReport,
    StageReport,
    WeightsReport,
    workload_hash,
)
from ringlight.core.request import VideoRequest

MIB = 2**20
STAGES = {
    "InputValidation": 0.0004,
    "TextEncoding": 0.81234,
    "LatentPreparation": 0.00251,
    "TimestepPreparation": 0.0016,
    "Denoising": 41.50498,
    "Decoding": 6.60007,
    "Output": 0.0211,
}
GPU = MemoryReport(
    rank=0,
    device="cuda:0",
    peak_reserved_bytes=20 * GIB,
    peak_allocated_bytes=15 * GIB,
    overhead_bytes=5 * GIB,
    overhead_ratio=0.25,
)
CPU = MemoryReport(
    rank=0,
    device="cpu",
    peak_resident_bytes=3 * GIB,
    idle_resident_bytes=GIB,
    resident_growth_bytes=2 * GIB,
)
OWN = MemoryReport(rank=0, device="cpu", peak_own_bytes=4 * GIB)
PREDICTED = PredictedReport(basis="a card", stages={"Denoising": 40.0}, total_seconds=50.0, peak_bytes=19 * GIB)
LINKS = [
    {"ulysses": LinkReport(sent_bytes=3 * MIB, wait_seconds=0.25), "text": LinkReport(sent_bytes=10, wait_seconds=0.5)},
    {"ulysses": LinkReport(sent_bytes=2 * MIB, wait_seconds=0.75)},
    {"frames": LinkReport(sent_bytes=MIB // 4, wait_seconds=0.0)},
]


def stages(slower: float = 1.0, peak_bytes: int = GIB) -> list[StageReport]:
    return [StageReport(name=name, seconds=seconds * slower, peak_bytes=peak_bytes) for name, seconds in STAGES.items()]


def report(*memory: MemoryReport) -> RunReport:
    """A report of a rank for each memory. Rank 1 is slower than the others."""
    return RunReport(
        workload={"prompt": "a cat", "seed": 1},
        workload_hash="0" * 64,
        layout="u1r1",
        environment={"device": "a device"},
        stages=stages(),
        other_seconds=0.1234,
        total_seconds=sum(STAGES.values()) + 0.1234,
        step_seconds=[2.0, 1.5],
        ranks=[
            RankReport(
                rank=rank,
                stages=stages(slower=2 if rank == 1 else 1, peak_bytes=(1 + rank) * GIB),
                memory=mine,
                link=LINKS[rank] if len(memory) > 1 else {},
            )
            for rank, mine in enumerate(memory)
        ],
        num_tokens=200,
        outputs=["cat.mp4"],
    )


def rows_of(table: str) -> dict[str, list[str]]:
    """The cells of each row of Markdown tables, by the first cell."""
    cells = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in table.splitlines() if line]
    return {first: rest for first, *rest in cells}


def test_the_table_has_every_stage_and_other_and_sums_to_the_total() -> None:
    rows = rows_of(report(CPU).table())
    parts = [float(rows[name][0]) for name in (*STAGES, "Other")]
    assert parts == pytest.approx([*STAGES.values(), 0.1234], abs=5e-5)
    assert sum(parts) == pytest.approx(float(rows["Total"][0]), abs=5e-5 * (len(parts) + 1))
    shares = [float(rows[name][1].rstrip("%")) for name in (*STAGES, "Other")]
    assert sum(shares) == pytest.approx(100, abs=0.05 * len(shares))
    assert rows["Denoising"][2] == "1.00"


def test_memory_of_a_gpu_and_of_a_cpu() -> None:
    gpu, cpu = rows_of(report(GPU).table()), rows_of(report(CPU).table())
    assert gpu["Peak GPU Memory"] == ["20.00"]
    assert gpu["Peak Allocated"] == ["15.00"]
    assert gpu["Memory Overhead"] == ["5.00"]
    assert gpu["Overhead Ratio"] == ["25.0%"]
    assert (cpu["Peak resident"], cpu["Idle worker"], cpu["Growth"]) == (["3.00"], ["1.00"], ["2.00"])
    assert "Peak GPU Memory" not in cpu


@pytest.mark.parametrize("memory", [GPU, CPU, OWN])
def test_a_predicted_peak_stands_beside_the_measured_one(memory: MemoryReport) -> None:
    found = msgspec.structs.replace(report(memory), predicted=PREDICTED)
    assert rows_of(found.table())["Predicted peak"] == ["19.00"]
    resumed = msgspec.structs.replace(found, resumed_from_step=1)
    assert "Predicted peak" not in rows_of(resumed.table())


def test_steps_that_were_made_again_are_told_and_no_measure_of_a_plan() -> None:
    found = msgspec.structs.replace(report(GPU), predicted=PREDICTED, pauses=2, paused_seconds=7.0)
    assert found.is_whole and found.predicted_over_measured
    assert "\nMade way for others 2 times, 7.00 s in all, which is not counted here.\n" in found.table()
    broken = msgspec.structs.replace(found, repeated_seconds=1.5)
    assert not broken.is_whole and not broken.predicted_over_measured
    assert "is not counted here. 1.50 s of Denoising went into steps that were made again." in broken.table()
    assert "Predicted (s)" in found.table() and "Predicted (s)" not in broken.table()


def test_weights_that_came_have_a_row_and_others_none() -> None:
    def told(brought: dict[str, int]) -> str:
        weights = WeightsReport(host_bytes=12 * GIB, brought_bytes=brought, wait_seconds={"transformer": 0.5})
        found = report(OWN)
        ranks = [msgspec.structs.replace(rank, weights=weights) for rank in found.ranks]
        return msgspec.structs.replace(found, ranks=ranks).table()

    rows = rows_of(told({"transformer": 3 * GIB, "vae": 0}))
    assert rows["Peak of a rank's own"] == ["4.00"]
    assert rows["Weights on the host, shared"] == ["12.00"]
    assert rows["transformer"] == ["3.00", "0.5000"]
    assert "vae" not in rows
    assert "Weights (worst rank)" not in rows_of(told({"transformer": 0}))


@pytest.mark.parametrize(
    ("placement", "says"),
    [
        (Placement(), ""),
        (Placement(streamed_blocks=1), "1 block of the transformer from the host as needed"),
        (
            Placement(streamed_blocks=12, streams_decoder=True, host_history=3, frames_at_once=2),
            "12 blocks of the transformer and the decoder from the host as needed; history of the decoder's last 3 "
            "levels on the host; 2 frames at once through the decoder's last levels",
        ),
        (
            Placement(streams_decoder=True, host_history=1, frames_at_once=1),
            "the decoder from the host as needed; history of the decoder's last level on the host; 1 frame at once "
            "through the decoder's last levels",
        ),
    ],
)
def test_a_placement_in_words(placement: Placement, says: str) -> None:
    assert str(placement) == says


def test_the_worst_rank_stands_for_all() -> None:
    small = msgspec.structs.replace(GPU, rank=1, peak_reserved_bytes=GIB)
    assert report(small, GPU).worst_memory is GPU
    assert rows_of(report(small, GPU).table())["Peak GPU Memory"] == ["20.00"]


def test_a_single_rank_says_nothing_of_others() -> None:
    table = report(CPU).table()
    assert "rank" not in table.lower()
    assert "Link" not in table


def test_seconds_are_rank_0s_and_the_slowest_ranks_and_peaks_are_the_worst_ranks() -> None:
    made = report(CPU, CPU, CPU)
    assert (made.slowest(4), made.worst_peak_bytes(4)) == (made.ranks[1].stages[4], 3 * GIB)
    rows = rows_of(made.table())
    assert rows["Stage"] == ["Seconds", "Share", "Slowest rank (s)", "Peak memory (GiB)"]
    assert rows["Denoising"] == ["41.5050", "84.6%", "83.0100", "3.00"]
    assert rows["Other"][2:] == ["", ""]
    assert rows["Total"][2:] == ["", "3.00"]
    parts = [float(rows[name][0]) for name in (*STAGES, "Other")]
    assert sum(parts) == pytest.approx(float(rows["Total"][0]), abs=5e-5 * (len(parts) + 1))


def test_every_rank_has_a_row_with_its_memory_and_its_traffic() -> None:
    big = msgspec.structs.replace(GPU, rank=1, device="cuda:1", peak_reserved_bytes=30 * GIB)
    rows = rows_of(report(GPU, big).table())
    assert rows["Rank"] == ["Device", "Peak memory (GiB)", "Waited for the link (s)", "Sent (MiB)"]
    assert rows["0"] == ["cuda:0", "20.00", "0.7500", "3.00"]
    assert rows["1"] == ["cuda:1", "30.00", "0.7500", "2.00"]


def test_traffic_has_for_each_kind_the_most_that_any_rank_sent_and_the_longest_that_any_waited() -> None:
    made = report(CPU, CPU, CPU)
    assert made.worst_link == {
        "frames": LinkReport(sent_bytes=MIB // 4, wait_seconds=0.0),
        "text": LinkReport(sent_bytes=10, wait_seconds=0.5),
        "ulysses": LinkReport(sent_bytes=3 * MIB, wait_seconds=0.75),
    }
    rows = rows_of(made.table())
    assert rows["Link (worst rank)"] == ["Waited (s)", "Sent (MiB)"]
    assert rows["ulysses"] == ["0.7500", "3.00"]
    assert rows["frames"] == ["0.0000", "0.25"]
    plain = json.loads(made.to_json())
    assert plain["worst_link"]["ulysses"] == {"sent_bytes": 3 * MIB, "wait_seconds": 0.75}
    assert plain["ranks"][1]["link"] == {"ulysses": {"sent_bytes": 2 * MIB, "wait_seconds": 0.75}}
    assert msgspec.json.decode(made.to_json(), type=RunReport) == made


@pytest.mark.parametrize("memory", [GPU, CPU])
def test_json_gives_the_same_report_back(memory: MemoryReport) -> None:
    before = report(memory)
    text = before.to_json()
    assert msgspec.json.decode(text, type=RunReport) == before
    plain = json.loads(text)
    assert plain["schema_version"] == SCHEMA_VERSION == 2
    assert plain["worst_memory"]["device"] == memory.device
    assert [rank["memory"] for rank in plain["ranks"]] == plain["memory"] == [plain["worst_memory"]]
    assert plain["worst_link"] == {}
    assert plain["stages"][4] == {"name": "Denoising", "seconds": 41.50498, "peak_bytes": GIB}
    assert text.endswith(b"}\n")


def workload(**changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "prompt": "a cat",
        "negative_prompt": "",
        "width": 256,
        "height": 160,
        "num_frames": 17,
        "fps": 24,
        "num_inference_steps": 8,
        "guidance_scale": 5.0,
        "flow_shift": 5.0,
        "seed": 1,
        "image": None,
    }
    return VideoRequest(**fields | changes).workload() | {"model": "tiny"}


def test_equal_work_has_equal_hashes() -> None:
    assert workload_hash(workload()) == workload_hash(workload())
    assert workload_hash(workload()) == workload_hash(dict(reversed(workload().items())))
    assert workload_hash(workload(image=b"picture")) == workload_hash(workload(image=bytes(bytearray(b"picture"))))
    assert len(workload_hash(workload())) == 64


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "a dog"},
        {"negative_prompt": "blurry"},
        {"width": 160, "height": 256},
        {"num_frames": 21},
        {"fps": 25},
        {"num_inference_steps": 9},
        {"guidance_scale": 5.0000001},
        {"flow_shift": 4.0},
        {"seed": 2},
        {"image": b"picture"},
    ],
)
def test_different_work_has_different_hashes(change: dict[str, Any]) -> None:
    assert workload_hash(workload(**change)) != workload_hash(workload())


def test_hashes_differ_by_model_and_by_picture() -> None:
    assert workload_hash(workload() | {"model": "other"}) != workload_hash(workload())
    assert workload_hash(workload(image=b"one")) != workload_hash(workload(image=b"two"))


def test_turns_are_added_up_and_memory_is_that_of_the_fullest() -> None:
    def turn(peak: int, link: dict[str, LinkReport], weights: WeightsReport | None) -> RankReport:
        memory = msgspec.structs.replace(CPU, peak_resident_bytes=peak)
        return RankReport(rank=0, stages=[], memory=memory, link=link, weights=weights)

    first = turn(
        7, {"ring": LinkReport(sent_bytes=1, wait_seconds=0.5)}, WeightsReport(host_bytes=3, brought_bytes={"vae": 2})
    )
    second = turn(
        5,
        {"ring": LinkReport(sent_bytes=2, wait_seconds=0.25), "halo": LinkReport(sent_bytes=4, wait_seconds=0.0)},
        WeightsReport(host_bytes=3, brought_bytes={"vae": 1, "transformer": 9}, wait_seconds={"vae": 0.5}),
    )
    both = second.after(first)
    assert both.memory == first.memory
    assert both.link == {"ring": LinkReport(sent_bytes=3, wait_seconds=0.75), "halo": second.link["halo"]}
    assert both.weights == WeightsReport(
        host_bytes=3, brought_bytes={"vae": 3, "transformer": 9}, wait_seconds={"vae": 0.5}
    )


@pytest.mark.parametrize(("pauses", "said"), [(0, ""), (1, "once, 2.50 s"), (3, "3 times, 2.50 s")])
def test_pauses_are_told_where_there_were_any(pauses: int, said: str) -> None:
    table = msgspec.structs.replace(report(CPU), pauses=pauses, paused_seconds=2.5 if pauses else 0.0).table()
    assert ("Made way" in table) == bool(pauses)
    assert said in table
