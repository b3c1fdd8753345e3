"""What bounds a job and a server: deadlines, priorities, retention, and one server for one folder."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from ringlight.core.clock import Clock
from ringlight.core.config import EngineConfig
from ringlight.core.errors import NotFound
from ringlight.core.layout import AskedLayout
from ringlight.core.settings import ServeSettings
from ringlight.engine import process
from ringlight.server.collection.folder import STRANGE_SECONDS
from ringlight.server.collection.videos import Videos
from ringlight.server.collection.view import Draft, View
from tests.cli.commands import ringlight
from tests.core.clocks import SetClock
from tests.engine.faults import fork_rank
from tests.engine.processes import wait_until
from tests.server.films import ENDLESS, SHORT, Originals, ranks_of, sha256_of, wait_until_idle
from tests.server.served import Served

Findings = dict[str, Any]

ALICE = "alice"
KEPT_SECONDS = 3.0
BOUND_BYTES = 25_000  # two videos of those made here, and not three


def meet_deadlines(served: Served, originals: Originals, count: int, chance: random.Random) -> Findings:
    """Videos whose `timeout_seconds` end while they run and while they wait; the next one is as ever."""
    before, late = ranks_of(served, 2), []
    for _ in range(count):
        began = time.time()
        ids = [served.create(**ENDLESS, timeout_seconds=1)["id"] for _ in range(2)]
        for video_id in ids:
            failed = served.wait(video_id, "failed")
            assert failed["error"]["code"] == "deadline_exceeded"
            assert failed["completed_at"] >= int(failed["created_at"]) + 1
        late.append(time.time() - began - 1)
        assert sha256_of(served, served.completed(**SHORT)["id"]) == originals.sha256(SHORT)
    assert ranks_of(served, 2) == before
    return {"videos": 2 * count, "failed with deadline_exceeded": 2 * count, "late at most, s": round(max(late), 3)}


def keep_priorities(served: Served, originals: Originals, count: int, chance: random.Random) -> Findings:
    """`count` videos of random priorities behind one of the highest: higher ones go first, equal ones as they came."""
    wait_until_idle(served)
    first = served.create(**ENDLESS, priority=3)["id"]
    served.wait(first, "in_progress")
    given = [chance.randrange(-2, 3) for _ in range(count)]
    ids = [served.create(**SHORT, priority=priority)["id"] for priority in given]
    expected = [ids[i] for i in sorted(range(count), key=lambda i: (-given[i], i))]
    wait_until(lambda: [served.get(video_id)["queue_position"] for video_id in expected] == [*range(1, count + 1)])
    served.http.delete(f"/v1/videos/{first}")
    ended: list[str] = []

    def all_ended() -> bool:
        ended.extend(each for each in expected if each not in ended and served.get(each)["status"] == "completed")
        return len(ended) == count

    wait_until(all_ended)
    assert ended == expected
    return {"videos": count, "in the order of their priorities": count}


def refuse_a_second_server(served: Served, originals: Originals, count: int, chance: random.Random) -> Findings:
    """Another server on the same folder is refused, in one line, and the first one does not notice."""
    arguments = served.process.args
    checkpoint = arguments[arguments.index("--model-path") + 1]
    before = ranks_of(served, 2)
    for _ in range(count):
        done = ringlight("serve", "--model-path", checkpoint, "--port", 0, "--data-dir", served.folder / "data")
        assert (done.code, done.out) == (3, "")
        assert "in use by another server" in done.err
        assert done.err.count("\n") == 1, done.err
    assert sha256_of(served, served.completed(**SHORT)["id"]) == originals.sha256(SHORT)
    assert ranks_of(served, 2) == before
    return {"servers": count, "refused in one line": count}


# The collection by itself, with ranks that are forked: a server of its own for every setting, in a second


@contextmanager
def forked_videos(folder: Path, checkpoint: Path, clock: Clock | None = None, **settings: Any) -> Iterator[Videos]:
    """A collection of videos with two ranks that are forked from this process, and fail as prompts say."""
    config = EngineConfig(
        model_path=str(checkpoint),
        device="cpu",
        num_threads=1,
        asked_layout=AskedLayout(num_gpus=2, ring_degree=2),
        watchdog_timeout=2.0,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "launch", fork_rank)
        videos = Videos(ServeSettings(data_dir=str(folder / "data"), **settings), config, clock=clock)
        try:
            videos.start()
            yield videos
        finally:
            videos.close()


def made(videos: Videos, prompt: str = "a paper boat") -> View:
    """A small video, once it is over."""
    request = videos.complete(prompt, width=64, height=32, num_frames=9, num_inference_steps=2, seed=7)
    video_id = videos.create(Draft(request=request), ALICE).stored.id
    wait_until(lambda: videos.get(video_id, ALICE).status in ("completed", "failed"))
    return videos.get(video_id, ALICE)


def forget_by_age(folder: Path, checkpoint: Path, count: int, chance: random.Random) -> Findings:
    """Videos are there until the time that they say, and gone after it, with their files."""
    with forked_videos(folder, checkpoint, retention_seconds=KEPT_SECONDS) as videos:
        kept = [made(videos).stored for _ in range(count)]
        for stored in kept:
            assert stored.completed_at is not None
            assert stored.expires_at == stored.completed_at + KEPT_SECONDS
        last = max(stored.expires_at or 0 for stored in kept)
        while time.time() <= last:
            videos.retention.sweep()
            for stored in kept:
                if time.time() < (stored.expires_at or 0):  # asked before, so that it is not over in between
                    there = is_there(videos, stored.id)
                    assert there or time.time() >= (stored.expires_at or 0)
            time.sleep(0.05)
        videos.retention.sweep()
        assert [is_there(videos, stored.id) for stored in kept] == [False] * count
        assert list((folder / "data" / "videos").iterdir()) == []
    return {"videos": count, "gone when they said": count}


def forget_by_bytes(folder: Path, checkpoint: Path, count: int, chance: random.Random) -> Findings:
    """Where all need more than they may, the oldest go, and no more than that."""
    with forked_videos(folder, checkpoint, retention_bytes=BOUND_BYTES, retention_seconds=0.0) as videos:
        made_in_order = [made(videos).stored for _ in range(count)]
        assert {stored.expires_at for stored in made_in_order} == {None}
        sizes = [stored.output_bytes for stored in made_in_order]
        num_kept = max(number for number in range(count + 1) if sum(sizes[count - number :]) <= BOUND_BYTES)
        videos.retention.sweep()
        there = [is_there(videos, stored.id) for stored in made_in_order]
        assert there == [False] * (count - num_kept) + [True] * num_kept
        left = sum(path.stat().st_size for path in (folder / "data" / "videos").rglob("*.mp4"))
    assert 0 < num_kept < count
    assert left == sum(sizes[count - num_kept :])
    return {"videos": count, "bound, bytes": BOUND_BYTES, "kept": num_kept, "bytes left": left}


def forget_strangers(folder: Path, checkpoint: Path, count: int, chance: random.Random) -> Findings:
    """Folders of calls that were never answered are removed after a minute, whenever they come; others stay."""
    clock = SetClock()
    with forked_videos(folder, checkpoint, clock) as videos:
        kept = made(videos).stored
        for _ in range(count):
            stranger, young = (videos.folder.of(f"video_{uuid4().hex}") for _ in range(2))
            stranger.path.mkdir()
            clock.is_set(STRANGE_SECONDS * chance.choice((-1e3, 1e3)))  # which is nobody's age
            videos.retention.sweep()
            assert stranger.path.exists()
            clock.goes_on(STRANGE_SECONDS)
            young.path.mkdir()
            os.utime(young.path, (0, 0))  # nor is this
            videos.retention.sweep()
            assert [each.path.exists() for each in (stranger, young)] == [False, True]
            assert is_there(videos, kept.id)
    return {"strangers removed": count}


def wait_until_empty(folder: Path) -> None:
    """Return when nothing is left in a folder."""
    wait_until(lambda: list(folder.iterdir()) == [])


def is_there(videos: Videos, video_id: str) -> bool:
    """Whether a video is found, and has its file."""
    try:
        return videos.contents.find(videos.store.get(video_id, ALICE)).path.exists()
    except NotFound:
        return False


# What fails in a rank

CODES = {"memory": "out_of_memory", "nan": "numerical_error", "error": "worker_error"}
STAGES = ("TextEncoding", "Denoising", "Decoding", "frames 1", "Output")
STEPS = ("step 1", "step 2")  # not seen again by a repeat that goes on from a later one, as after an error


def fail_in_ranks(folder: Path, checkpoint: Path, count: int, chance: random.Random) -> Findings:
    """An exception, out of memory and NaN, in one rank and in all: that video fails with its code, the next is right.

    Each kind `count` times, at random places.
    """
    failures: dict[str, int] = {}
    with forked_videos(folder, checkpoint) as videos:
        original = videos.folder.of(made(videos).stored.id).video.read_bytes()
        for kind, code in CODES.items():
            for _ in range(count):
                place = chance.choice(STAGES if kind == "error" else STAGES + STEPS)
                failed = made(videos, f"{kind} {chance.choice(['0', '1', 'all'])} {place}")
                assert failed.stored.status == "failed", place
                assert failed.stored.error is not None
                assert failed.stored.error.code == code
                left = folder / "data" / "videos" / failed.stored.id
                wait_until_empty(left)
                assert videos.folder.of(made(videos).stored.id).video.read_bytes() == original
                failures[code] = failures.get(code, 0) + 1
    return {"failures": failures, "next videos identical": sum(failures.values())}
