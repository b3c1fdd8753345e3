"""Stores of jobs to test, on new databases of each kind, and jobs to keep in them."""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import URL

from ringlight.core.request import VideoRequest
from ringlight.server.collection.store import JobStore, StoredJob
from tests.server.postgres import Postgres, running_postgres, why_not

REQUEST = VideoRequest(
    prompt="a lighthouse in the fog",
    negative_prompt="blurry",
    width=64,
    height=32,
    num_frames=5,
    fps=24,
    num_inference_steps=2,
    guidance_scale=5.0,
    flow_shift=3.0,
    seed=2**63 - 1,
)


def new_job(prompt: str = REQUEST.prompt, **changes: Any) -> StoredJob:
    """A job that nobody has seen, created now."""
    request = msgspec.structs.replace(REQUEST, prompt=prompt)
    job = StoredJob(
        id=f"video_{uuid.uuid4().hex}", owner="", request=request, model="wan", layout="u1r1", created_at=time.time()
    )
    return msgspec.structs.replace(job, **changes)


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """Call all of them at the same moment, each in a thread; what they returned."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


@contextlib.contextmanager
def opened(url: str | URL, timeout_seconds: float = 5.0) -> Iterator[JobStore]:
    """A store that is closed with the block."""
    store = JobStore(url, timeout_seconds=timeout_seconds)
    try:
        yield store
    finally:
        store.close()


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """A running PostgreSQL, where the machine has one."""
    if reason := why_not():
        pytest.skip(reason)
    with running_postgres() as postgres:
        yield postgres


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a database may be made, of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/jobs.sqlite"
    postgres: Postgres = request.getfixturevalue("postgres")
    return postgres.new_database()


@pytest.fixture
def store(url: str) -> Iterator[JobStore]:
    """A store in a new database of each kind."""
    with opened(url) as store:
        yield store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a SQLite database may be made."""
    return tmp_path / "jobs.sqlite"
