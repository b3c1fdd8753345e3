"""A data folder with as many finished videos as a test likes, as servers before it would have left them."""

from __future__ import annotations

import itertools
import shutil
import uuid
from pathlib import Path

import msgspec
import torch

from ringlight.pipelines.output import finish, open_writer
from ringlight.server.collection.folder import DataFolder
from ringlight.server.collection.store import JobStore, StoredJob
from ringlight.server.collection.stored import StoredBatch
from ringlight.wire.video import VideoError
from tests.server.stores import REQUEST, new_job

COLOURS = 12  # films that differ, each of many videos
FAIL_EVERY = 50
FIRST_SECOND = 1_700_000_000.0  # when the first was asked for; the others follow, a second each
THINGS = ("boat", "heron", "lighthouse", "whale", "keeper")


def prompt_of(number: int) -> str:
    """What the video of this number shows; every fiftieth has failed."""
    return f"a {THINGS[number % len(THINGS)]} in the fog, seen from the shore at dawn, number {number:04d}"


def fill(path: Path, count: int, owner: str = "") -> list[str]:
    """Write so many videos into a new data folder, of which no server runs; their ids, the oldest first."""
    folder = DataFolder.open(str(path))
    store = JobStore(folder.store_url)
    films = [_film(path / f"film{colour}.mp4", colour) for colour in range(COLOURS)]
    jobs = [_finished(number, owner, films[number % COLOURS]) for number in range(count)]
    for job, film in zip(jobs, itertools.cycle(films), strict=False):
        folder.of(job.id).make()
        if job.status == "completed":
            shutil.copyfile(film, folder.of(job.id).video)
    batch = StoredBatch(id=f"batch_{uuid.uuid4().hex}", owner=owner, name="filled", created_at=FIRST_SECOND)
    store.batches.add(batch, {job.id: job for job in jobs})  # all at once
    for film in films:
        film.unlink()
    store.close()
    folder.close()
    return [job.id for job in jobs]


def _finished(number: int, owner: str, film: Path) -> StoredJob:
    made_at = FIRST_SECOND + number
    job = new_job(prompt_of(number), owner=owner, created_at=made_at, started_at=made_at, completed_at=made_at)
    if number % FAIL_EVERY == FAIL_EVERY - 1:
        error = VideoError("out_of_memory", "there was no room for it")
        return msgspec.structs.replace(job, status="failed", error=error)
    return msgspec.structs.replace(job, status="completed", progress=100, output_bytes=film.stat().st_size)


def _film(path: Path, colour: int) -> Path:
    """A small film of one colour, which gets lighter."""
    request = msgspec.structs.replace(REQUEST, width=64, height=64)
    writer = open_writer(path, request, "film")
    light = torch.linspace(-0.8, 0.8, request.num_frames).view(-1, 1, 1, 1)
    hue = torch.tensor([colour / COLOURS, 1 - colour / COLOURS, 0.3]).mul(2).sub(1)
    writer.write((light.expand(-1, 64, 64, 3) + hue).clamp(-1, 1).mul(127.5).add(127.5).byte())
    finish(writer)
    return path
