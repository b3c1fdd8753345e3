"""Computations in turns, and broken off between two blocks: on real ranks nothing is then left under way."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ringlight.core.layout import ParallelLayout
from ringlight.families.wan.recipe import WanRecipe
from ringlight.parallel.link import LinkLost
from ringlight.parallel.mesh import ParallelMesh
from ringlight.parallel.turns import in_turns, pause
from ringlight.pipelines.stages.denoising import Guided
from tests.ours import load_pipeline
from tests.parallel.ranks import on_ranks

GRIDS = [(3, 6, 10), (1, 2, 2)]  # 45 tokens and 1: with one a rank has nothing to do
LAYERS = 3  # of the tiny demo checkpoint


class Enough(Exception):
    """What is raised between blocks, on all ranks."""


class Stop:
    """Counts how often blocks are behind, and raises at one of these times."""

    def __init__(self, at: int, error: type[Exception] = Enough) -> None:
        self.count, self._at, self._error = 0, at, error

    def __call__(self) -> None:
        self.count += 1
        if self.count == self._at:
            raise self._error


class Journey:
    """Says what a computation did, and what of it was waited for."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def settle(self) -> None:
        self.told.append("settled")

    def blocks(self, name: str, pauses: int = 1) -> Generator[int, None, str]:
        for number in range(3):
            for _ in range(pauses):
                self.told.append(f"{name}{number}")
                with pause(self):
                    yield number
        return name


def test_between_blocks_is_when_one_more_is_behind_all() -> None:
    """However often they pause in a block."""
    for pauses, told in (
        (1, "a0 b0 a1 b1 between a2 b2 between"),
        (2, "a0 b0 a0 b0 a1 b1 between a1 b1 a2 b2 between a2 b2"),
    ):
        journey = Journey()
        a, b = (journey.blocks(name, pauses) for name in "ab")
        assert in_turns(a, b, between=lambda told=journey.told: told.append("between")) == ["a", "b"]
        assert " ".join(journey.told) == told


def test_what_is_broken_off_is_waited_for_unless_a_rank_is_lost() -> None:
    for error, settled in ((Enough, 2), (LinkLost, 0)):
        journey = Journey()
        with pytest.raises(error):
            in_turns(journey.blocks("a"), journey.blocks("b"), between=Stop(1, error))
        assert journey.told == ["a0", "b0", "a1", "b1", *["settled"] * settled]


def test_what_fails_by_itself_waits_for_nobody() -> None:
    """Others may not have come so far."""

    def fails() -> Generator[int, None, str]:
        yield 0
        raise LookupError

    journey = Journey()
    with pytest.raises(LookupError):
        in_turns(journey.blocks("a"), fails())
    assert "settled" not in journey.told


def predictions(
    pipeline: WanRecipe, mesh: ParallelMesh, num_slices: int, take_turns: bool, between: Callable[[], None]
) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    latents = [torch.randn(1, 48, *grid, generator=generator) for grid in GRIDS]
    texts = [torch.randn(length, 64, generator=generator) for length in (30, 7)]
    guided = Guided(pipeline.transformer, pipeline.kernel, mesh, texts, 512, 5.0, num_slices, take_turns)
    return torch.cat([guided.predict(x, torch.tensor([417.0]), between).flatten() for x in latents])


def broken_off(pipeline: WanRecipe, ways: list[tuple[int, bool]]) -> Callable[[ParallelMesh], Tensor]:
    """Work for a rank: predictions, of which the first is broken off at every place where it can be, and whether all
    that were made after that are the same."""

    def work(mesh: ParallelMesh) -> Tensor:
        same = []
        for num_slices, take_turns in ways:
            count = Stop(0)
            expected = predictions(pipeline, mesh, num_slices, take_turns, count)
            forwards = 1 if take_turns or mesh.cfg.size == 2 else 2
            assert count.count == len(GRIDS) * forwards * (LAYERS - 1)
            for at in range(1, count.count // len(GRIDS) + 1):
                with pytest.raises(Enough):
                    predictions(pipeline, mesh, num_slices, take_turns, Stop(at))
                same.append(torch.equal(predictions(pipeline, mesh, num_slices, take_turns, Stop(0)), expected))
        return torch.tensor(same)

    return work


WHOLE, AHEAD = [(1, False), (1, True)], [(4, False), (3, True)]
SLOW = [("u2r1", WHOLE[1:] + AHEAD[:1]), ("u1r2", WHOLE + AHEAD), ("u2r2", WHOLE + AHEAD), ("c2u2r1", [(4, False)])]


@pytest.mark.parametrize(
    ("name", "ways"),
    [
        ("c2u1r1", WHOLE[:1]),
        ("u2r1", WHOLE[:1] + AHEAD[1:]),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in SLOW),
    ],
)
def test_after_a_forward_was_broken_off_the_next_ones_are_the_same(
    tiny: Path, name: str, ways: list[tuple[int, bool]]
) -> None:
    """At each place, in one slice and in several, one after the other and in turns, over the same ranks."""
    for same in on_ranks(ParallelLayout.parse(name), broken_off(load_pipeline(tiny), ways)):
        assert same.numel() >= LAYERS - 1 and same.all()
