"""Ranks that meet: all go on, or all that are there hear why not. Threads stand for processes, over a real store."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
import torch
from torch._C._distributed_c10d import TCPStore

from ringlight.core.config import EngineConfig
from ringlight.core.errors import InvalidCheckpoint, InvalidLayout
from ringlight.core.messages import RankPlace, WorkerSetup
from ringlight.core.request import RequestLimits
from ringlight.models.wan.demo import write_demo_checkpoint
from ringlight.parallel.meeting import meet
from ringlight.worker.terms import digest, terms_of

SECONDS = 10.0
TERMS = {"dtype": "float32", "checkpoint": "abc"}


def outcomes(ranks: list[int], terms: list[dict[str, str]], num_ranks: int, seconds: float = SECONDS) -> list[object]:
    """What each rank's `meet` raises, None where it returns."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=SECONDS))

    def come(rank: int, mine: dict[str, str]) -> Exception | None:
        client = TCPStore("127.0.0.1", store.port, is_master=False, timeout=timedelta(seconds=SECONDS))
        try:
            meet(client, rank, num_ranks, mine, seconds)
        except (InvalidLayout, RuntimeError) as error:
            return error
        return None

    with ThreadPoolExecutor(len(ranks)) as pool:
        return list(pool.map(come, ranks, terms))


@pytest.mark.parametrize("num_ranks", [2, 3, 8])
def test_ranks_that_were_told_the_same_go_on(num_ranks: int) -> None:
    assert outcomes(list(range(num_ranks)), [TERMS] * num_ranks, num_ranks) == [None] * num_ranks


@pytest.mark.parametrize("odd", [1, 2])
def test_all_hear_what_one_was_told_differently(odd: int) -> None:
    terms = [TERMS | {"dtype": "bfloat16"} if rank == odd else TERMS for rank in range(3)]
    for error in outcomes([0, 1, 2], terms, 3):
        assert isinstance(error, InvalidLayout)
        assert str(error).startswith(f"ranks disagree about dtype float32 on rank 0, bfloat16 on rank {odd}; ")


@pytest.mark.slow
def test_a_rank_that_is_there_already() -> None:
    *_, one, other = outcomes([0, 1, 1], [TERMS] * 3, 2)
    assert {type(one), type(other)} == {type(None), InvalidLayout}
    assert "rank 1 is there already" in str(one or other)


@pytest.mark.slow
def test_a_rank_that_does_not_come() -> None:
    for error in outcomes([0, 1], [TERMS] * 2, 3, seconds=0.5):
        assert isinstance(error, RuntimeError)


def setup(folder: Path, **changes: object) -> WorkerSetup:
    config = EngineConfig(model_path=str(folder), device="cpu")
    place = RankPlace(rank=1, num_ranks=2, num_local=2, local_rank=1)
    return msgspec.structs.replace(WorkerSetup(config=config, limits=RequestLimits(), place=place), **changes)


def terms(told: WorkerSetup, dtype: torch.dtype = torch.float32) -> dict[str, str]:
    return terms_of(told, torch.device("cpu"), dtype, torch.float32)


def test_terms_do_not_hold_what_may_differ(tiny: Path, tmp_path: Path) -> None:
    """The folder's place, a rank's own number, its threads."""
    elsewhere = shutil.copytree(tiny, tmp_path / "elsewhere")
    config = EngineConfig(model_path=str(elsewhere), device="cpu", num_threads=3)
    place = RankPlace(rank=0, num_ranks=2, num_local=2)
    assert terms(setup(tiny)) == terms(setup(tiny, config=config, place=place))


def test_terms_hold_what_may_not(tiny: Path) -> None:
    config = EngineConfig(model_path=str(tiny), device="cpu")
    others = [
        terms(setup(tiny), torch.bfloat16),
        terms(setup(tiny, place=RankPlace(rank=1, num_ranks=4, num_local=2))),
        terms(setup(tiny, limits=RequestLimits(max_frames=5))),
        terms(setup(tiny, config=msgspec.structs.replace(config, num_slices=4))),
        terms(setup(tiny, config=msgspec.structs.replace(config, decode_chunk=4))),
        terms(setup(tiny, config=msgspec.structs.replace(config, watchdog_seconds=1.0))),
    ]
    mine = terms(setup(tiny))
    differing = [{name for name in mine if mine[name] != other[name]} for other in others]
    assert differing == [{"dtype"}, {"num-gpus"}, {"limits"}, {"num-slices"}, {"decode-chunk"}, {"watchdog-timeout"}]
    assert "torch" in mine


def test_a_checkpoints_digest(tiny: Path, tmp_path: Path) -> None:
    before = digest(tiny, with_weights=True)
    write_demo_checkpoint(tmp_path / "other", "tiny", seed=1)
    assert digest(tmp_path / "other", with_weights=True) != before
    assert digest(tmp_path / "other", with_weights=False) == digest(tiny, with_weights=False) != before
    changed = shutil.copytree(tiny, tmp_path / "changed")
    (changed / "tokenizer" / "more.json").write_text("{}")
    assert digest(changed, with_weights=True) != before


def test_a_checkpoint_without_its_json(tmp_path: Path) -> None:
    with pytest.raises(InvalidCheckpoint):
        digest(tmp_path, with_weights=True)
