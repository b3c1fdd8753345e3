"""The VAE over real ranks, as bands of rows, against one rank; and what the bands send each other."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ringlight.core.layout import ParallelLayout
from ringlight.core.plan import Placement
from ringlight.families.traffic import Traffic
from ringlight.families.wan.networks.causal import CausalConv, Stream
from ringlight.families.wan.networks.vae import WanVae
from ringlight.parallel import halo
from ringlight.parallel.collectives import Transfers, gather_parts
from ringlight.parallel.halo import Bands, Halo
from ringlight.parallel.mesh import Axis, ParallelMesh
from ringlight.pipelines.output import FrameConverter, to_uint8, to_unit_range
from ringlight.pipelines.stages.decoding import decode
from ringlight.pipelines.stages.image_encoding import encode_image
from tests.ours import CPU, Silent, load_pipeline
from tests.parallel.ranks import on_ranks
from tests.residency.exchanges import AtOnce, Late

# Latent frames, rows, columns and chunk. One row: ranks with nothing to do; 44 and 30 rows: 704 and 480 pixels.
VIDEOS = [(3, 1, 4, 1), (1, 2, 2, 1), (4, 3, 2, 2), (6, 5, 4, 3), (5, 10, 2, 1), (2, 44, 2, 1), (3, 30, 2, 8)]
PICTURES = [(1, 4), (2, 2), (3, 2), (5, 6), (10, 4), (44, 2), (30, 2)]  # latent rows and columns
RANKS = [2, pytest.param(3, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)]
FEW_RANKS = [2, pytest.param(4, marks=pytest.mark.slow)]
BOUND = 2e-5


class Kept:
    """A writer that keeps what it is given."""

    def __init__(self) -> None:
        self.parts: list[Tensor] = []

    def write(self, frames_FHWC: Tensor) -> None:
        self.parts.append(frames_FHWC)

    def finish(self) -> list[str]:
        return []

    def abort(self) -> None: ...


class BrokenAtSecond(Kept):
    """A writer whose disk is full after the first portion."""

    def write(self, frames_FHWC: Tensor) -> None:
        if self.parts:
            raise OSError("no space left on device")
        super().write(frames_FHWC)


class Agreed(Silent):
    """Events that raise on all ranks what any of them has met."""

    def __init__(self, axis: Axis) -> None:
        self.axis = axis

    def boundary(self, problem: Exception | None = None) -> None:
        mine = torch.tensor([problem is not None])
        if gather_parts(mine, [1] * self.axis.size, self.axis, dim=0).any():
            raise problem or RuntimeError("another rank has a problem")


def layout_of(num_ranks: int) -> ParallelLayout:
    return ParallelLayout(ring=num_ranks)


def latents_of(frames: int, rows: int, columns: int) -> Tensor:
    return torch.randn(1, 48, frames, rows, columns, generator=torch.Generator().manual_seed(frames + rows + columns))


def picture_of(rows: int, columns: int) -> Tensor:
    return torch.rand(1, 16 * rows, 16 * columns, 3, generator=torch.Generator().manual_seed(rows)) * 2 - 1


def frames_written(
    vae: WanVae,
    video: tuple[int, int, int, int],
    convert: FrameConverter,
    axis: Axis,
    placement: Placement | None = None,
) -> Tensor:
    """All that one decode gave to the writer, (F, H, W, 3): nothing on ranks that have none."""
    *shape, chunk = video
    writer = Kept() if axis.rank == 0 else None
    decode(latents_of(*shape), vae, chunk, convert, writer, Silent(), axis, placement)
    return torch.cat(writer.parts) if writer else torch.empty(0, dtype=torch.uint8)


def flat(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in parts])


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [3])  # two and four make whole videos in tests/pipelines
def test_decode_within_2e_5_of_one_rank(tiny: Path, num_ranks: int) -> None:
    vae = load_pipeline(tiny).vae

    def work(mesh: ParallelMesh) -> Tensor:
        return flat([frames_written(vae, video, to_unit_range, mesh.world) for video in VIDEOS])

    alone = work(ParallelMesh.alone())
    whole, *others = on_ranks(layout_of(num_ranks), work)
    torch.testing.assert_close(whole, alone, rtol=0, atol=BOUND)
    assert not any(len(other) for other in others), "only rank 0 writes"


@pytest.mark.slow
@pytest.mark.parametrize("kind", [AtOnce, Late])
def test_history_on_the_host_changes_no_bit_of_bands(tiny: Path, kind: type[AtOnce]) -> None:
    """A rank's bands of it, with their halo rows. One rank has no rows, and so no history."""
    vae, video = load_pipeline(tiny).vae, (4, 2, 3, 1)

    def work(mesh: ParallelMesh) -> Tensor:
        usual = frames_written(vae, video, to_unit_range, mesh.world)
        vae.exchange = kind()
        placement = Placement(host_history=3, frames_at_once=1)
        placed = frames_written(vae, video, to_unit_range, mesh.world, placement)
        own, is_split = Bands(2, mesh.world).size, mesh.world.size > 1
        num_bytes = 4 * vae.spec.decoder.host_history_elements(own, 3, is_split, 3)
        assert vae.exchange.rooms == ([num_bytes] if own else [])
        return torch.stack([usual, placed])

    usual, placed = on_ranks(layout_of(3), work)[0]
    assert len(usual)
    assert torch.equal(placed, usual)


@pytest.mark.slow
def test_pixels_differ_where_rounding_sits_on_the_edge_only(tiny: Path) -> None:
    vae = load_pipeline(tiny).vae

    def work(mesh: ParallelMesh) -> Tensor:
        return flat([frames_written(vae, video, to_uint8, mesh.world) for video in VIDEOS[3:5]])

    alone = work(ParallelMesh.alone())
    difference = (on_ranks(layout_of(2), work)[0].int() - alone.int()).abs()
    assert alone.dtype == torch.uint8
    assert difference.max() <= 1
    assert difference.count_nonzero() < 1e-3 * len(difference)


@pytest.mark.parametrize("num_ranks", RANKS)
def test_encode_within_2e_5_of_one_rank(tiny: Path, num_ranks: int) -> None:
    vae = load_pipeline(tiny).vae

    def work(mesh: ParallelMesh) -> Tensor:
        return flat([encode_image(picture_of(*picture), vae, CPU, mesh.world, Silent()) for picture in PICTURES])

    alone = work(ParallelMesh.alone())
    for latents in on_ranks(layout_of(num_ranks), work):
        torch.testing.assert_close(latents, alone, rtol=0, atol=BOUND)


@pytest.mark.slow
def test_encode_many_frames_within_2e_5_of_one_rank(tiny: Path) -> None:
    vae = load_pipeline(tiny).vae
    video = torch.rand(9, 16 * 5, 16 * 2, 3, generator=torch.Generator().manual_seed(9)) * 2 - 1

    def work(mesh: ParallelMesh) -> Tensor:
        bands = Bands(5, mesh.world)
        return gather_parts(vae.encode(bands.own(video, 1, 16), bands), bands.sizes, mesh.world, dim=2)

    alone = vae.encode(video)
    for latents in on_ranks(layout_of(3), work):
        torch.testing.assert_close(latents, alone, rtol=0, atol=BOUND)


class StartedAtWait(Transfers):
    """Transfers on a link so slow that nothing has come before somebody waits."""

    def __init__(self, *arguments: object) -> None:
        self._arguments = arguments

    def wait(self) -> None:
        super().__init__(*self._arguments)  # type: ignore[arg-type]
        super().wait()


def read_before_arrival(monkeypatch: pytest.MonkeyPatch) -> None:
    wait = Halo.wait

    def late(self: Halo) -> tuple[Tensor, Tensor]:
        above, below = self._above.clone(), self._below.clone()
        wait(self)
        return above, below

    monkeypatch.setattr(halo, "Transfers", StartedAtWait)
    monkeypatch.setattr(Halo, "wait", late)


def swap_above_and_below(monkeypatch: pytest.MonkeyPatch) -> None:
    wait = Halo.wait
    monkeypatch.setattr(Halo, "wait", lambda self: wait(self)[::-1])


def forget_halos_of_history(monkeypatch: pytest.MonkeyPatch) -> None:
    keep = Stream.keep

    def forgetful(self: Stream, conv: CausalConv, whole: Tensor) -> None:
        if rows := self.halo_of(conv):
            whole = whole.clone()
            whole[:, :rows] = whole[:, -rows:] = 0
        keep(self, conv, whole)

    monkeypatch.setattr(Stream, "keep", forgetful)


@pytest.mark.slow
@pytest.mark.parametrize("plant", [read_before_arrival, swap_above_and_below, forget_halos_of_history])
def test_planted_bugs_would_show(
    tiny: Path, plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    vae, video = load_pipeline(tiny).vae, (3, 5, 2, 1)
    alone = frames_written(vae, video, to_unit_range, ParallelMesh.alone().world)
    plant(monkeypatch)
    wrong = on_ranks(layout_of(2), lambda mesh: frames_written(vae, video, to_unit_range, mesh.world))[0]
    assert (wrong - alone).abs().max() > 1e-2


@pytest.mark.slow
def test_a_slow_link_changes_nothing(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slow link of the planted bug, without the bug."""
    vae, video = load_pipeline(tiny).vae, (3, 5, 2, 1)
    alone = frames_written(vae, video, to_unit_range, ParallelMesh.alone().world)
    monkeypatch.setattr(halo, "Transfers", StartedAtWait)
    right = on_ranks(layout_of(2), lambda mesh: frames_written(vae, video, to_unit_range, mesh.world))[0]
    torch.testing.assert_close(right, alone, rtol=0, atol=BOUND)


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [1, *FEW_RANKS])
@pytest.mark.parametrize("num_latents", [1, *(pytest.param(number, marks=pytest.mark.slow) for number in (2, 4))])
def test_what_the_writer_raises_all_ranks_raise(tiny: Path, num_ranks: int, num_latents: int) -> None:
    """Together, with nothing left under way: the next video over the same ranks is whole."""
    vae, video = load_pipeline(tiny).vae, (2, 3, 2, 1)

    def work(mesh: ParallelMesh) -> Tensor:
        axis, writer = mesh.world, BrokenAtSecond() if mesh.world.rank == 0 else None
        expected = pytest.raises(OSError if axis.rank == 0 else RuntimeError) if num_latents > 1 else nullcontext()
        with expected:
            decode(latents_of(num_latents, 3, 2), vae, 1, to_unit_range, writer, Agreed(axis), axis)
        return frames_written(vae, video, to_unit_range, axis)

    alone = frames_written(vae, video, to_unit_range, ParallelMesh.alone().world)
    whole = work(ParallelMesh.alone()) if num_ranks == 1 else on_ranks(layout_of(num_ranks), work)[0]
    torch.testing.assert_close(whole, alone, rtol=0, atol=BOUND)


def kinds_sent(work: Callable[[Axis], object]) -> Callable[[ParallelMesh], Tensor]:
    """Bytes that a rank sends in `work`: of halos, gathered parts and frames."""

    def measured(mesh: ParallelMesh) -> Tensor:
        work(mesh.world)
        report = mesh.world.link.report()
        assert report.keys() <= {"halo", "gather", "frames"}
        return torch.tensor([report[kind].sent_bytes if kind in report else 0 for kind in ("halo", "gather", "frames")])

    return measured


def in_order(traffic: Traffic) -> list[int]:
    return [traffic.get(kind, 0) for kind in ("halo", "gather", "frames")]


@pytest.mark.parametrize(("convert", "frame_bytes"), [(to_uint8, 1), (to_unit_range, 4)], ids=["pixels", "floats"])
@pytest.mark.parametrize("video", [(1, 3, 2, 1), pytest.param((4, 5, 4, 2), marks=pytest.mark.slow)], ids=str)
@pytest.mark.parametrize("num_ranks", FEW_RANKS)
def test_bytes_of_decoding(
    tiny: Path, num_ranks: int, video: tuple[int, int, int, int], convert: FrameConverter, frame_bytes: int
) -> None:
    vae = load_pipeline(tiny).vae
    sent = on_ranks(layout_of(num_ranks), kinds_sent(lambda axis: frames_written(vae, video, convert, axis)))
    for rank, found in enumerate(sent):
        formula = vae.spec.decoder.sent_bytes(num_ranks, rank, video[:3], frame_bytes, itemsize=4)
        assert found.tolist() == in_order(formula)


@pytest.mark.parametrize("picture", [(3, 2), (5, 4)], ids=str)
@pytest.mark.parametrize("num_ranks", FEW_RANKS)
def test_bytes_of_encoding(tiny: Path, num_ranks: int, picture: tuple[int, int]) -> None:
    vae = load_pipeline(tiny).vae
    work = kinds_sent(lambda axis: encode_image(picture_of(*picture), vae, CPU, axis, Silent()))
    for rank, found in enumerate(on_ranks(layout_of(num_ranks), work)):
        assert found.tolist() == in_order(vae.spec.encoder.sent_bytes(num_ranks, rank, picture, itemsize=4))


def test_history_shrinks_with_the_ranks(tiny: Path) -> None:
    """A rank keeps its rows and two halo rows of each convolution with rows around it."""
    vae = load_pipeline(tiny).vae
    alone, *bands = (
        vae.start_decoding(bands, 8, 2, CPU).history_bytes
        for bands in (
            Bands.alone(40),
            *(Bands(40, Axis((0, 1), rank, ParallelMesh.alone().world.link)) for rank in (0, 1)),
        )
    )
    assert bands[0] == bands[1] < 0.55 * alone
