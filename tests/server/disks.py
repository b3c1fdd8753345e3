"""Disks and databases that fail: a clear answer, a server that goes on, and all as before once they work again."""

from __future__ import annotations

import contextlib
import io
import random
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from tests.cli.commands import ringlight
from tests.server.films import (
    SHORT,
    STEPS,
    UNHURRIED,
    Originals,
    sha256_of,
    spread,
    wait_until_off_the_ranks,
    wait_until_over,
)
from tests.server.served import SMALL, Served, error_of, serve

Findings = dict[str, Any]

DISK_BYTES = 4 * 2**20
PICTURE_BYTES = 64 * 1024


class NoSmallDisk(Exception):
    """Only root can mount a file system in memory, and not everywhere."""


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 4 MiB. Raises NoSmallDisk with the reason where it cannot be had."""
    disk = folder / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", str(disk)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    if mounted.returncode:
        raise NoSmallDisk(mounted.stderr.strip())
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True, timeout=30)


def fill(disk: Path) -> Path:
    """Leave no room at all. Returns the file to remove."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return filler


def fill_the_disk(folder: Path, checkpoint: Path, count: int, chance: random.Random) -> Findings:
    """Fill the disk while a video is made: it fails, no other is taken in, and all works once there is room."""
    codes: dict[str, int] = {}
    with small_disk(folder) as disk, serve(disk, checkpoint, "--no-warm-up", "--drain-timeout", 0) as server:
        originals = Originals(server)
        original = originals.sha256(SHORT)
        for _ in range(count):
            running = server.create(**STEPS)["id"]
            waiting = server.create(**UNHURRIED)["id"]
            server.wait(running, "in_progress")
            filler = fill(disk)
            refused = [server.http.post("/v1/videos", **call) for call in (with_picture(), {"json": SHORT})]
            for answer in refused:
                assert answer.status_code == 503, answer.text
                assert error_of(answer)["code"] == "store_error"
                assert int(answer.headers["retry-after"]) >= 1
                codes["store_error"] = codes.get("store_error", 0) + 1
            for video_id in (running, waiting):  # it is over, but nobody is told before that is written down
                wait_until_off_the_ranks(server, video_id)
                assert server.get(video_id)["status"] in ("queued", "in_progress")
            seen = server.get(running)["progress"]
            answers_what_needs_no_room(server)
            filler.unlink()
            for video_id in (running, waiting):
                failed = wait_until_over(server, video_id)
                assert failed["error"]["code"] == "output_error", failed
                assert "make room" in failed["error"]["message"]
                codes["output_error"] = codes.get("output_error", 0) + 1
            assert server.get(running)["progress"] == seen
            assert sha256_of(server, server.completed(**SHORT)["id"]) == original
    return {"times": count, "codes": codes, "works again": count}


@contextmanager
def starting(folder: Path, checkpoint: Path) -> Iterator[Served]:
    """A server that listens, and ends with the block."""
    server = Served(folder, checkpoint, "--no-warm-up", "--drain-timeout", 0)
    try:
        server.wait_until_listening()
        yield server
    finally:
        server.stop()


def with_picture() -> dict[str, Any]:
    """A call with a picture that is too large for a full disk."""
    noise = Image.effect_noise((256, 256), 100)
    buffer = io.BytesIO()
    noise.convert("RGB").save(buffer, "PNG")
    assert len(buffer.getvalue()) > PICTURE_BYTES
    return {"data": SMALL, "files": {"input_reference": ("noise.png", buffer.getvalue(), "image/png")}}


def answers_what_needs_no_room(server: Served) -> None:
    """What needs no room is answered."""
    for path in ("/livez", "/health", "/v1/videos", "/v1/models", "/metrics"):
        assert server.http.get(path).status_code == 200, path


def lock_the_store(served: Served, originals: Originals, count: int, chance: random.Random) -> Findings:
    """Lock the database while a video runs: creates fail and say when to come back, all else goes on.

    The end of the video is written as soon as the lock is gone.
    """
    original = originals.sha256(STEPS)
    took: list[float] = []
    for _ in range(count):
        running = served.create(**STEPS)["id"]
        served.wait(running, "in_progress")
        with contextlib.closing(sqlite3.connect(served.folder / "data" / "jobs.sqlite", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            began = time.monotonic()
            answer = served.http.post("/v1/videos", json=SHORT)
            took.append(time.monotonic() - began)
            assert answer.status_code == 503
            error = error_of(answer)
            assert error["code"] == "store_error"
            behind = "no answer within"  # where the end of the video has come first, and waits for the lock itself
            assert any(words in error["message"] for words in ("locked", behind)), error
            assert int(answer.headers["retry-after"]) >= 1
            wait_until_off_the_ranks(served, running)
            answers_what_needs_no_room(served)
            assert served.get(running)["status"] == "in_progress", "an end counts once it is written down"
            other.execute("ROLLBACK")
        served.wait(running)
        assert sha256_of(served, running) == original
        assert sha256_of(served, served.completed(**SHORT)["id"]) == originals.sha256(SHORT)
    return {"times": count, "creates refused with 503 and Retry-After": count, "refused after, s": spread(took)}


def damage_the_store(folder: Path, checkpoint: Path, count: int, chance: random.Random) -> Findings:
    """Start on a damaged database: refused in one line that names it. With the database as it was all is there."""
    with starting(folder, checkpoint) as server:
        video = server.create(**SHORT)  # before there are ranks
    store = folder / "data" / "jobs.sqlite"
    whole = store.read_bytes()
    assert not store.with_name("jobs.sqlite-wal").exists(), "the last server has put all into one file"
    for number in range(count):
        damaged = bytearray(whole)
        start = 0 if number == 0 else 4096 * chance.randrange(1, len(whole) // 4096)
        damaged[start : start + 4096] = chance.randbytes(4096)
        store.write_bytes(damaged)
        done = ringlight("serve", "--model-path", checkpoint, "--port", 0, "--data-dir", folder / "data")
        assert done.code != 0, f"page {start // 4096} was not missed"
        assert (done.out, done.err.count("\n")) == ("", 1), done.err
        assert str(store) in done.err
        assert bytes(damaged) == store.read_bytes(), "what may be saved is left alone"
    store.write_bytes(whole)
    with starting(folder, checkpoint) as server:
        assert server.wait(video["id"])["created_at"] == video["created_at"]
        assert server.http.get(f"/v1/videos/{video['id']}/content").status_code == 200
    return {"damaged": count, "refused in one line": count, "all there again": True}
