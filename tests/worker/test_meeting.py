"""Ranks that meet: all go on, or all that are there hear why not. Threads stand for processes, over a real store."""

from __future__ import annotations

import shutil
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
import torch
from torch._C._distributed_c10d import TCPStore

from ringlight.core.checkpoint import Checkpoint
from ringlight.core.config import EngineConfig
from ringlight.core.errors import InvalidCheckpoint, InvalidLayout, WorkerError
from ringlight.core.messages import NodesAwaited, RankPlace, WorkerSetup
from ringlight.core.request import RequestLimits
from ringlight.families.digest import digest
from ringlight.families.lora_library import LoraLibrary
from ringlight.families.table import checkpoint_of, model_of
from ringlight.families.wan22_ti2v.demo import DEMO
from ringlight.parallel import meeting
from ringlight.parallel.meeting import Claim, meet
from ringlight.parallel.pulse import beat_key
from ringlight.parallel.roster import Roster
from ringlight.worker.terms import terms_of
from tests.engine.processes import wait_until
from tests.loras import write_lora

SECONDS = 10.0
TERMS = {"dtype": "float32", "checkpoint": "abc"}


class Store:
    """What rank 0 keeps, and what each rank hears while it waits there."""

    def __init__(self, num_ranks: int, num_local: int = 1, refuses_alone: bool = False) -> None:
        self.store = TCPStore(
            "127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=SECONDS)
        )
        self.heard: dict[int, list[NodesAwaited]] = defaultdict(list)
        self._num_ranks, self._num_local, self._refuses_alone = num_ranks, num_local, refuses_alone

    def come(self, rank: int, terms: dict[str, str] = TERMS, seconds: float = SECONDS) -> Roster | Exception:
        """What comes of a rank's meeting with the others."""
        place = RankPlace(
            rank=rank, num_ranks=self._num_ranks, num_local=self._num_local, host="node0", address=f"10.0.0.{rank}"
        )
        try:
            return meet(self.client(), place, terms, seconds, self._refuses_alone, self.heard[rank].append)
        except (InvalidLayout, WorkerError) as error:
            return error

    def client(self) -> TCPStore:
        return TCPStore("127.0.0.1", self.store.port, is_master=False, timeout=timedelta(seconds=SECONDS))

    def outcomes(
        self, ranks: list[int], terms: list[dict[str, str]] | None = None, seconds: float = SECONDS
    ) -> list[Roster | Exception]:
        """The same of several that come at once."""
        with ThreadPoolExecutor(len(ranks)) as pool:
            return list(pool.map(self.come, ranks, terms or [TERMS] * len(ranks), [seconds] * len(ranks)))

    def claim(self, rank: int) -> None:
        """A rank came here and has ended since."""
        self.store.set(f"here/{rank}", msgspec.json.encode(Claim("of the past", "10.9.9.9", 3)).decode())


@pytest.mark.parametrize("num_ranks", [2, 3, 8])
def test_ranks_that_were_told_the_same_go_on(num_ranks: int) -> None:
    roster = Roster(tuple(f"10.0.0.{rank}" for rank in range(num_ranks)), num_local=1)
    assert Store(num_ranks).outcomes(list(range(num_ranks))) == [roster] * num_ranks


@pytest.mark.parametrize("odd", [1, 2])
def test_all_hear_what_one_was_told_differently(odd: int) -> None:
    terms = [TERMS | {"dtype": "bfloat16"} if rank == odd else TERMS for rank in range(3)]
    for error in Store(3).outcomes([0, 1, 2], terms):
        assert isinstance(error, InvalidLayout)
        assert str(error).startswith(f"ranks disagree about dtype float32 on rank 0, bfloat16 on rank {odd}; ")


def test_where_a_stranger_is_refused_alone_the_others_wait_for_the_right_one() -> None:
    """And say so: first whom they wait for, then who came instead and why it was not taken, in the end nobody."""
    store = Store(2, refuses_alone=True)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(store.come, 0)
        stranger = store.come(1, TERMS | {"dtype": "bfloat16"})
        wait_until(lambda: store.heard[0] and store.heard[0][-1].remark)
        assert not first.done()
        store.come(1)
        assert isinstance(first.result(), Roster)
    assert isinstance(stranger, InvalidLayout)
    assert [awaited.nodes for awaited in store.heard[0]][-2:] == [[1], []]
    assert store.heard[0][-2].remark == f"node 1 (10.0.0.1) was refused: {stranger}"


def test_a_rank_that_is_there_already_is_refused_alone() -> None:
    store = Store(3)
    with ThreadPoolExecutor(2) as pool:
        early = [pool.submit(store.come, rank) for rank in (0, 1)]
        wait_until(lambda: store.heard[0] and store.heard[0][-1].nodes == [2])
        second = store.come(1)
        assert isinstance(second, InvalidLayout)
        assert "rank 1 is there already" in str(second)
        wait_until(lambda: store.heard[0][-1].remark == f"node 1 (10.0.0.1) was refused: {second}")
        store.come(2)
        assert all(isinstance(each.result(), Roster) for each in early)


def test_a_rank_that_ended_while_it_waited_is_neither_counted_nor_in_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "ROUND_SECONDS", 0.01)
    store = Store(3)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(store.come, 0)
        wait_until(lambda: store.heard[0])
        store.claim(1)
        wait_until(lambda: store.heard[0][-1].nodes == [2])
        wait_until(lambda: store.heard[0][-1].nodes == [1, 2])  # it has not come again
        second = pool.submit(store.come, 1)
        store.come(2)
        assert first.result() == second.result() == Roster(("10.0.0.0", "10.0.0.1", "10.0.0.2"), num_local=1)


@pytest.mark.parametrize("lives", [True, False], ids=["another one lives", "it was that one"])
def test_who_comes_after_the_beginning(lives: bool) -> None:
    """Either that is one too many, or it has ended before and the others have not noticed yet: it waits for them."""
    store = Store(2)
    store.outcomes([0, 1])
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(store.come, 1, TERMS, 0.5)
        wait_until(lambda: NodesAwaited(nodes=[0], remark="its last group has not ended yet") in store.heard[1])
        for beat in range(100 * lives):
            store.store.set(beat_key(1), str(beat))
            time.sleep(0.01)
        said = late.result()
    assert isinstance(said, InvalidLayout if lives else WorkerError)


def test_the_end_of_rank_0_while_they_meet_names_its_node() -> None:
    store = Store(2)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(store.come, 1)
        wait_until(lambda: store.heard.keys() == {1})
        del store.store
        said = waiting.result()
    assert isinstance(said, WorkerError)
    assert str(said) == "node 0 (node0) is lost: it has ended while its ranks met"


def test_a_rank_that_does_not_come() -> None:
    for error in Store(3).outcomes([0, 1], seconds=0.5):
        assert isinstance(error, WorkerError)


def test_a_lost_rank_is_called_by_its_node() -> None:
    several = Roster(("a", "a", "b", "b"), num_local=2)
    assert several.lost(3, "no longer answers") == "node 1 (b) is lost: its rank 3 no longer answers"
    assert Roster(("a", "a"), num_local=2).lost(1, "no longer answers") == "rank 1 no longer answers"


def setup(folder: Path, **changes: object) -> WorkerSetup:
    config = EngineConfig(model_path=str(folder), device="cpu")
    place = RankPlace(rank=1, num_ranks=2, num_local=2, local_rank=1)
    return msgspec.structs.replace(WorkerSetup(config=config, limits=RequestLimits(), place=place), **changes)


def terms(told: WorkerSetup, dtype: torch.dtype = torch.float32) -> dict[str, str]:
    library = LoraLibrary(told.config, model_of(checkpoint_of(told.config)))
    return terms_of(told, torch.device("cpu"), dtype, torch.float32, library)


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
        terms(setup(tiny, config=msgspec.structs.replace(config, watchdog_timeout=1.0))),
    ]
    mine = terms(setup(tiny))
    differing = [{name for name in mine if mine[name] != other[name]} for other in others]
    assert differing == [{"dtype"}, {"num-gpus"}, {"limits"}, {"num-slices"}, {"decode-chunk"}, {"watchdog-timeout"}]
    assert "torch" in mine


def test_terms_hold_the_loras_of_every_video_by_their_files(tiny: Path, tmp_path: Path) -> None:
    def with_lora(folder: str, seed: int, how: str = "") -> dict[str, str]:
        path = tmp_path / folder / "ink.safetensors"
        write_lora(path, tiny / "transformer", modules="blocks.0.attn1.to_q".__eq__, seed=seed)
        config = EngineConfig(model_path=str(tiny), device="cpu", lora=(f"{path}{how}",))
        return terms(setup(tiny, config=config))

    mine = with_lora("here", 1)
    assert mine == with_lora("elsewhere", 1)
    for other in (with_lora("other", 2), with_lora("here", 1, ":0.5"), terms(setup(tiny))):
        assert {name for name in mine if mine[name] != other[name]} == {"lora"}
    folder = EngineConfig(model_path=str(tiny), device="cpu", lora_dir=(str(tmp_path / "here"),))
    assert terms(setup(tiny, config=folder)) == terms(setup(tiny)), "of those that requests name each says which"


def test_a_checkpoints_digest(tiny: Path, tmp_path: Path) -> None:
    before = digest(Checkpoint(place=tiny), with_weights=True)
    DEMO.write(tmp_path / "other", "tiny", seed=1)
    assert digest(Checkpoint(place=tmp_path / "other"), with_weights=True) != before
    assert (
        digest(Checkpoint(place=tmp_path / "other"), with_weights=False)
        == digest(Checkpoint(place=tiny), with_weights=False)
        != before
    )
    changed = shutil.copytree(tiny, tmp_path / "changed")
    (changed / "tokenizer" / "more.json").write_text("{}")
    assert digest(Checkpoint(place=changed), with_weights=True) != before


def test_a_checkpoint_without_its_json(tmp_path: Path) -> None:
    with pytest.raises(InvalidCheckpoint):
        digest(Checkpoint(place=tmp_path), with_weights=True)
