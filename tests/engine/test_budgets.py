"""Engines within a memory budget, with their ranks in processes of their own: the same frames, and what they share.

Ranks are forked (`faults`), but where their own memory is measured: there they are programs that are started. A budget
that nothing could keep, and that nobody checks, makes plans with as little of the weights in a rank's own memory as may
be.
"""

from __future__ import annotations

import io
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from PIL import Image

from ringlight import Engine, EngineConfig
from ringlight.core import messages
from ringlight.core.errors import Cancelled, InvalidLayout, InvalidRequest, WorkerError
from ringlight.core.layout import AskedLayout, ParallelLayout
from ringlight.core.report import RunReport
from ringlight.core.request import VideoRequest
from ringlight.engine import process
from ringlight.engine.jobs import Job, Keep, Submission
from ringlight.families.wan.recipe import WanRecipe
from tests import forking
from tests.engine.faults import fork_rank
from tests.engine.processes import ends, wait_until
from tests.engine.requests import endless, small
from tests.engine.sharing import (
    held_here,
    num_descriptors,
    num_maps,
    proportional_bytes,
    resident_bytes,
    sharers,
)
from tests.engine.test_generation import at_step
from tests.forking import start_rank
from tests.pipelines.test_placed import feed_late

pytestmark = pytest.mark.slow

LEAST: dict[str, Any] = {"memory_budget": "1MiB", "memory_check": False}
LAYERS = 3  # of the tiny demo checkpoint
SLACK = 2**23  # that allocators keep, less than half a MiB a job
LAYOUTS = {"u1r2": ParallelLayout(ring=2), "c2u1r1": ParallelLayout(cfg=2)}


@pytest.fixture(scope="module", autouse=True)
def _forked() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "launch", fork_rank)
        yield


class Sharing:
    """An engine whose ranks share a copy of the weights, started, and the inode of that memory."""

    def __init__(self, model_path: Path, num_gpus: int = 1, num_replicas: int = 1, **changes: Any) -> None:
        before = held_here()
        config = config_of(model_path, num_gpus, **LEAST | changes)
        self.engine = Engine(config, num_replicas=num_replicas)
        (self.inode,) = held_here() - before
        self.engine.start()

    @property
    def ranks(self) -> list[int]:
        """The process ids of all ranks."""
        return sharers(self.inode)


def config_of(model_path: Path, num_gpus: int = 1, **changes: Any) -> EngineConfig:
    asked = AskedLayout(num_gpus=num_gpus)
    return EngineConfig(model_path=str(model_path), device="cpu", num_threads=1, asked_layout=asked, **changes)


@pytest.fixture(scope="module")
def one(tiny: Path) -> Iterator[Sharing]:
    """A rank that warms up."""
    sharing = Sharing(tiny, warm_up=True)
    with sharing.engine:
        yield sharing


@pytest.fixture(scope="module")
def two(tiny: Path) -> Iterator[Sharing]:
    sharing = Sharing(tiny, num_gpus=2, watchdog_timeout=10.0)
    with sharing.engine:
        yield sharing


@pytest.fixture(scope="module")
def resident_pair(tiny: Path) -> Iterator[Engine]:
    """Two ranks with all weights of their own."""
    with Engine(config_of(tiny, num_gpus=2)) as engine:
        yield engine


def make(engine: Engine, folder: Path, request: VideoRequest, **how: Any) -> tuple[RunReport, bytes]:
    """A job's report, and the bytes of its frames."""
    output = folder / "film.npy"
    report = engine.submit(request, str(output), **how).wait(60)
    return report, output.read_bytes()


def killing(pid: int, step: int) -> Callable[[Job], None]:
    """A listener that kills a process once its job has done so many steps."""
    left = [pid]

    def listen(job: Job) -> None:
        if job.state.step >= step and left:
            os.kill(left.pop(), signal.SIGKILL)

    return listen


@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("with_picture", [False, True])
def test_one_rank_makes_the_same_frames_within_any_budget(
    one: Sharing, engine: Engine, tmp_path: Path, photograph: Path, with_picture: bool, guidance: float
) -> None:
    image = photograph.read_bytes() if with_picture else None
    request = small(engine, num_frames=9, image=image, guidance_scale=guidance)
    previews = Submission(preview_seconds=1e-3)
    report, frames = make(one.engine, tmp_path, request, submission=previews)
    assert report.placement is not None
    assert (report.placement.streamed_blocks, report.placement.streams_decoder) == (LAYERS, True)
    assert report.environment["load_gigabytes_per_second"] > 0
    plain, expected = make(engine, tmp_path, request)
    assert plain.placement is None
    assert frames == expected


@pytest.mark.parametrize("name", LAYOUTS)
def test_two_ranks_make_the_same_frames_within_any_budget(
    two: Sharing, resident_pair: Engine, tmp_path: Path, photograph: Path, name: str
) -> None:
    request = small(two.engine, num_frames=9, image=photograph.read_bytes())
    report, frames = make(two.engine, tmp_path, request, layout=LAYOUTS[name])
    assert report.layout == name
    assert report.placement is not None
    assert report.placement.streamed_blocks == LAYERS
    _, expected = make(resident_pair, tmp_path, request, layout=LAYOUTS[name])
    assert frames == expected


def test_previews_are_those_of_a_rank_with_all_weights(one: Sharing, engine: Engine, tmp_path: Path) -> None:
    """Painters are fitted to the decoder, which is there for a moment while it denoises."""

    def previewed(engine: Engine) -> bytes:
        seen: dict[int, bytes] = {}

        def listen(job: Job) -> None:
            if job.state.preview is not None:
                seen[job.state.preview_step] = job.state.preview

        make(engine, tmp_path, small(engine), submission=Submission(preview_seconds=1e-3), on_change=listen)
        return seen[min(seen)]

    found = previewed(one.engine)
    assert Image.open(io.BytesIO(found)).width > 0
    assert found == previewed(engine)


def test_memory_maps_and_descriptors_stay_as_they_are_from_job_to_job(one: Sharing, tmp_path: Path) -> None:
    (rank,), request = one.ranks, small(one.engine, num_inference_steps=1)
    for _ in range(3):
        make(one.engine, tmp_path, request)
    own, shared = (resident_bytes(rank, kind) for kind in ("RssAnon", "RssShmem"))
    maps, held = num_maps(rank), num_descriptors(rank)
    for _ in range(17):
        make(one.engine, tmp_path, request)
    assert resident_bytes(rank, "RssAnon") < own + SLACK
    assert resident_bytes(rank, "RssShmem") == shared
    assert num_maps(rank) < maps + 17
    assert num_descriptors(rank) == held


def test_two_ranks_have_one_copy(two: Sharing, tmp_path: Path, photograph: Path) -> None:
    """Both have used all of it, whichever of them it was filled by: also the encoder of pictures."""
    report, _ = make(two.engine, tmp_path, small(two.engine, num_frames=9, image=photograph.read_bytes()))
    copies = {rank.weights.host_bytes for rank in report.ranks if rank.weights is not None}
    (host_bytes,) = copies
    shares = [proportional_bytes(rank, two.inode) for rank in two.ranks]
    assert len(shares) == 2
    assert sum(share for _, share in shares) <= host_bytes
    for resident, share in shares:
        assert resident > 0.8 * host_bytes
        assert share == pytest.approx(resident / 2, rel=0.1)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_over_streamed_weights_ends_its_job_and_the_next_ones_find_them(
    two: Sharing, tmp_path: Path, rank: int
) -> None:
    _, expected = make(two.engine, tmp_path, small(two.engine))
    before = two.ranks
    with pytest.raises(WorkerError, match=rf"rank {rank}: .*signal 9"):
        make(two.engine, tmp_path, small(two.engine, f"kill {rank} step 1"))
    assert all(map(ends, before))
    report, frames = make(two.engine, tmp_path, small(two.engine))
    assert not set(two.ranks) & set(before)
    assert frames == expected
    assert report.environment["load_gigabytes_per_second"] == 0


def test_a_job_whose_rank_is_killed_is_repeated_from_its_state(two: Sharing, tmp_path: Path) -> None:
    request = small(two.engine, num_inference_steps=4)
    _, expected = make(two.engine, tmp_path, request)
    keep = Keep(state_file=str(tmp_path / "state.safetensors"), save_seconds=0.0)
    job = two.engine.submit(
        request, str(tmp_path / "film.npy"), killing(two.ranks[1], step=2), submission=Submission(keep=keep)
    )
    job.wait(60)
    assert job.state.deaths == 1
    assert (tmp_path / "film.npy").read_bytes() == expected


@pytest.mark.parametrize("is_placed_first", [True, False])
def test_a_job_goes_on_where_weights_lie_elsewhere(
    one: Sharing, engine: Engine, tmp_path: Path, is_placed_first: bool
) -> None:
    request = small(engine, num_inference_steps=24, num_frames=9)
    _, expected = make(engine, tmp_path, request)
    keep = Keep(state_file=str(tmp_path / "state.safetensors"), save_seconds=0.0)
    first, then = (one.engine, engine) if is_placed_first else (engine, one.engine)
    saved = threading.Event()

    def listen(job: Job) -> None:
        if job.state.saved_step > 0:
            saved.set()

    job = first.submit(request, str(tmp_path / "film.npy"), listen, submission=Submission(keep=keep))
    assert saved.wait(60)
    first.cancel(job)
    with pytest.raises(Cancelled):
        job.wait(60)
    report, frames = make(then, tmp_path, request, submission=Submission(keep=keep))
    assert report.resumed_from_step > 0
    assert (report.placement is None) == is_placed_first
    assert frames == expected


def test_a_job_after_one_that_is_cancelled_within_a_step(two: Sharing, tmp_path: Path) -> None:
    before = two.ranks
    _, expected = make(two.engine, tmp_path, small(two.engine))
    reached, event = at_step(1)
    job = two.engine.submit(endless(two.engine), str(tmp_path / "endless.npy"), reached)
    assert event.wait(60)
    two.engine.cancel(job)
    with pytest.raises(Cancelled):
        job.wait(60)
    _, frames = make(two.engine, tmp_path, small(two.engine))
    assert frames == expected
    assert two.ranks == before


def test_replicas_share_one_copy_which_ends_with_the_engine(
    tiny: Path, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []

    def launch(arguments: list[str], *rest: Any) -> forking.Forked:
        told.append(msgspec.json.decode(arguments[1], type=messages.WorkerSetup).place.num_sharing)
        return fork_rank(arguments, *rest)

    monkeypatch.setattr(process, "launch", launch)
    sharing = Sharing(tiny, num_replicas=2)
    with sharing.engine:
        wait_until(lambda: [each.status for each in sharing.engine.replicas] == ["ready", "ready"])
        ranks = sharing.ranks
        assert len(ranks) == 2
        report, frames = make(sharing.engine, tmp_path, small(engine))
        assert frames == make(engine, tmp_path, small(engine))[1]
        (weights,) = (rank.weights for rank in report.ranks)
        assert weights is not None
        pages, _ = proportional_bytes(ranks[0], sharing.inode)
        assert pages <= weights.host_bytes
        assert sharing.inode in held_here()
    assert told == [2, 2], "each may page-lock half of what there is"
    assert sharing.inode not in held_here()
    assert all(map(ends, ranks))
    assert sharers(sharing.inode) == []
    assert not [name for name in os.listdir("/dev/shm") if "ringlight" in name]


def test_random_weights_are_the_same_ones_within_a_budget(tiny: Path, tmp_path: Path) -> None:
    with Engine(config_of(tiny, load_format="dummy")) as resident:
        _, expected = make(resident, tmp_path, small(resident))
    with Engine(config_of(tiny, load_format="dummy", **LEAST)) as placed:
        report, frames = make(placed, tmp_path, small(placed))
    assert report.placement is not None
    assert frames == expected


def fork_fed(*arguments: Any) -> forking.Forked:
    """A rank to which weights come by a lane, as to a GPU."""

    def prepare() -> None:
        load = WanRecipe.__init__

        def loaded(self: WanRecipe, *arguments: Any, **named: Any) -> None:
            load(self, *arguments, **named)
            feed_late(self)

        WanRecipe.__init__ = loaded  # type: ignore[method-assign]

    return forking.fork_rank(*arguments, prepare=prepare)


def test_a_report_tells_what_came_for_its_own_job(
    tiny: Path, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not what came for the warm-up, or for a job that was cancelled."""
    monkeypatch.setattr(process, "launch", fork_fed)
    with Engine(config_of(tiny, warm_up=True, **LEAST)) as fed:
        first, frames = make(fed, tmp_path, small(fed))
        assert frames == make(engine, tmp_path, small(engine))[1]
        reached, event = at_step(1)
        job = fed.submit(endless(fed), str(tmp_path / "endless.npy"), reached)
        assert event.wait(60)
        fed.cancel(job)
        with pytest.raises(Cancelled):
            job.wait(60)
        again, _ = make(fed, tmp_path, small(fed, "another prompt"))
    ((told,), (told_again,)) = ([rank.weights for rank in report.ranks] for report in (first, again))
    assert told is not None and told_again is not None
    assert min(told.brought_bytes[name] for name in ("text encoder", "transformer", "vae")) > 0
    assert told_again.brought_bytes == told.brought_bytes
    assert "| transformer |" in first.table()


def least_budget(tiny: Path) -> str:
    """The one that a refusal names."""
    with pytest.raises(InvalidLayout, match="the memory budget") as caught:
        Engine(config_of(tiny, memory_budget="100MiB"))
    (found,) = re.findall(r"--memory-budget ([0-9.]+[GM]iB)", str(caught.value))
    return str(found)


def test_what_a_rank_has_of_its_own_is_within_the_least_budget(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that is started, for a forked one has what the tests' process has. What is larger is refused."""
    monkeypatch.setattr(process, "launch", start_rank)
    with Engine(config_of(tiny, memory_budget=least_budget(tiny), warm_up=True)) as engine:
        usual = engine.request("a lighthouse in the fog", num_inference_steps=2)
        report, _ = make(engine, tmp_path, usual)
        most = engine.config.memory_budget_bytes
        large = engine.request("a lighthouse in the fog", width=1280, height=704, num_frames=49)
        with pytest.raises(InvalidRequest, match="the memory budget") as caught:
            engine.submit(large, str(tmp_path / "large.npy"))
    assert caught.value.problems[0].nearest
    measured = report.worst_memory.peak_own_bytes
    assert measured is not None
    assert measured <= most
    assert report.predicted is not None
    assert measured <= report.predicted.peak_bytes <= most
    rows = report.table().splitlines()
    (place,) = (number for number, row in enumerate(rows) if row.startswith("| Peak of a rank's own"))
    assert rows[place + 1].startswith("| Predicted peak")
