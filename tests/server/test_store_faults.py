"""JobStore when things break: killed processes, crashed, locked and full databases, and a second server."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import sqlite3
import subprocess
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import pytest

from ringlight.core.errors import InvalidSetting, StoreError
from ringlight.server.collection.store import Idempotency, JobStore, StoredJob
from ringlight.wire.video import VideoError
from tests.engine.processes import wait_until
from tests.forking import fork
from tests.server.postgres import Postgres
from tests.server.stores import new_job, opened
from tests.server.stores import path as path
from tests.server.stores import postgres as postgres
from tests.server.stores import url as url

pytestmark = pytest.mark.slow  # a real server, or several processes


SECRET = "no error quotes a prompt"
QUICK_SECONDS = 0.5  # how long a store waits for a lock in tests where it waits in vain


def add_for_ever(url: str, told: int) -> None:
    """Add jobs, and write the id of each to this descriptor once it is acknowledged."""
    store = JobStore(url)
    while True:
        job = new_job()
        store.add(job, Idempotency(job.id, "body"))
        os.write(told, f"{job.id}\n".encode())


def store_error(store: JobStore, job: StoredJob | None = None) -> str:
    """What the store says when it cannot keep a job: one line, without the prompt."""
    with pytest.raises(StoreError) as raised:
        store.add(job or new_job(prompt=SECRET))
    assert "\n" not in str(raised.value)
    assert SECRET not in "".join(traceback.format_exception(raised.value))
    return str(raised.value)


def wait_for_more(results: Sequence[object]) -> None:
    """Wait until ten more have been added."""
    before = len(results)
    wait_until(lambda: len(results) >= before + 10)


# Killed


def kill_while_adding(url: str, chance: random.Random) -> list[str]:
    """Kill a process that adds jobs, soon after one of its adds returned; the ids of those that did."""
    hearing, telling = os.pipe()
    process = fork(lambda: add_for_ever(url, telling), os.environ, ())
    os.close(telling)
    with open(hearing) as told:
        try:
            acknowledged = [told.readline() for _ in range(chance.randrange(1, 30))]
            time.sleep(chance.uniform(0, 0.002))
        finally:
            process.kill()
        acknowledged += told.readlines()
    assert process.wait() == -signal.SIGKILL
    return [line.strip() for line in acknowledged if line.endswith("\n")]


def test_no_acknowledged_job_is_lost_when_the_server_is_killed(url: str) -> None:
    """Three times; `benchmarks/chaos.py` kills a whole server a hundred times."""
    chance = random.Random(2)
    acknowledged: list[str] = []
    for kills in range(1, 4):
        acknowledged += kill_while_adding(url, chance)
        with opened(url) as store:
            kept = store.unfinished()
            assert set(acknowledged) <= {job.id for job in kept}
            assert len(acknowledged) <= len(kept) <= len(acknowledged) + kills  # and one on its way at each kill
            assert all(store.find("", Idempotency(job.id, "body")) == job for job in kept)


def test_no_acknowledged_job_is_lost_when_postgresql_crashes(postgres: Postgres) -> None:
    """Several times under load; the store that was there goes on by itself."""
    acknowledged: list[str] = []
    refused: list[StoreError] = []
    ending = threading.Event()

    def add_for_ever() -> None:
        while not ending.is_set():
            job = new_job()
            try:
                acknowledged.append(store.add(job).id)
            except StoreError as error:
                refused.append(error)
                time.sleep(0.01)

    with opened(postgres.new_database()) as store:
        threads = [threading.Thread(target=add_for_ever) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(3):
                wait_for_more(acknowledged)
                postgres.stop(signal.SIGQUIT)
                wait_for_more(refused)
                postgres.start()
            wait_for_more(acknowledged)
        finally:
            ending.set()
            for thread in threads:
                thread.join()
        assert set(acknowledged) <= {job.id for job in store.unfinished()}
    assert all("\n" not in str(error) for error in refused)


def test_reads_go_on_after_postgresql_was_restarted(postgres: Postgres) -> None:
    with opened(postgres.new_database()) as store:
        job = store.add(new_job())
        for _ in range(10):
            store.get(job.id)
        postgres.stop()
        with pytest.raises(StoreError):
            store.get(job.id)
        postgres.start()
        assert store.get(job.id) == job
        assert store.finish(job.id, "failed", 1.0, None, VideoError("cancelled", "cancelled"))


# Another server


def test_a_second_server_is_refused_until_the_first_is_gone(url: str) -> None:
    with opened(url) as store:
        job = store.add(new_job())
        with pytest.raises(InvalidSetting, match=r"another server works with .* stop it"):
            JobStore(url, timeout_seconds=QUICK_SECONDS)
        assert store.get(job.id) == job
        assert store.delete(job.id)
    with opened(url) as store:
        assert store.unfinished() == []


def test_a_server_that_was_killed_does_not_keep_the_next_one_out(url: str) -> None:
    kill_while_adding(url, random.Random(0))
    with opened(url) as store:
        store.add(new_job())


def test_who_lost_postgresql_to_another_server_writes_nothing(postgres: Postgres) -> None:
    url = postgres.new_database()
    with opened(url, timeout_seconds=1.0) as first:
        kept = first.add(new_job())
        postgres.stop()
        postgres.start()
        with opened(url) as second:
            assert "another server works with" in store_error(first)
            with pytest.raises(StoreError, match="another server"):
                first.settle((), 10)  # or both would send what waits
            assert second.unfinished() == [kept]
            assert second.finish(kept.id, "completed", 1.0, None)
        assert not first.finish(kept.id, "failed", 1.0, None)
        first.add(new_job())


def test_a_closed_store_stays_closed(url: str) -> None:
    store = JobStore(url)
    job = store.add(new_job())
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.get(job.id)
    assert "closed" in store_error(store)
    with opened(url) as store:
        assert store.unfinished() == [job]


# Locked, full


def test_a_locked_sqlite_fails_writes_not_reads_and_only_while_it_lasts(path: Path) -> None:
    with opened(f"sqlite:///{path}", QUICK_SECONDS) as store:
        job = store.add(new_job())
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            assert store_error(store) == f"the database of jobs {path} failed: database is locked"
            with pytest.raises(StoreError):
                store.mark(job.id, progress=1)
            assert store.get(job.id) == job
            assert store.list(None, None, 1, "asc") == ([job], False)
            other.execute("ROLLBACK")
        assert len({store.add(new_job()).id for _ in range(3)}) == 3


def test_a_short_lock_is_waited_for(path: Path) -> None:
    with opened(f"sqlite:///{path}") as store, contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        adding = threading.Thread(target=store.add, args=(new_job(),))
        adding.start()
        adding.join(0.1)
        assert adding.is_alive()
        other.execute("COMMIT")
        adding.join()
        assert len(store.unfinished()) == 1


def test_writers_that_wait_for_a_lock_do_not_keep_readers_out(path: Path) -> None:
    with opened(f"sqlite:///{path}", 1.0) as store:
        job = store.add(new_job())
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            writers = [threading.Thread(target=store_error, args=(store,)) for _ in range(20)]
            for writer in writers:
                writer.start()
            for _ in range(20):
                assert store.get(job.id) == job
            assert any(writer.is_alive() for writer in writers)
            for writer in writers:
                writer.join()
            other.execute("ROLLBACK")
        assert store.unfinished() == [job]


def test_a_locked_table_of_postgresql_fails_writes_only_while_it_lasts(postgres: Postgres) -> None:
    import psycopg

    url = postgres.new_database()
    with opened(url, QUICK_SECONDS) as store, psycopg.connect(url) as other:
        job = store.add(new_job())
        other.execute("LOCK TABLE jobs IN EXCLUSIVE MODE")
        assert "lock timeout" in store_error(store)
        assert store.get(job.id) == job
        other.rollback()
        store.add(new_job())


def test_a_full_sqlite_fails_and_works_again_when_there_is_room(path: Path) -> None:
    with opened(f"sqlite:///{path}") as store:
        job = store.add(new_job())
        with store._database.write() as connection:  # the limit is a connection's own, so it must be the store's
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        assert "full" in store_error(store, new_job(prompt=SECRET * 1000))
        assert store.unfinished() == [job]
        with store._database.write() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
        large = store.add(new_job(prompt=SECRET * 1000))
        assert store.unfinished() == [job, large]


def test_a_full_disk_fails_and_works_again_when_there_is_room(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", disk], capture_output=True, text=True, check=False, timeout=30
    )
    if mounted.returncode:
        pytest.skip(f"no small disk can be made here: {mounted.stderr.strip()}")
    try:
        with opened(f"sqlite:///{disk}/jobs.sqlite") as store:
            job = store.add(new_job())
            filler = disk / "filler"
            with pytest.raises(OSError, match="No space left"):
                filler.write_bytes(bytes(2**20))
            assert "full" in store_error(store)
            assert store.unfinished() == [job]
            filler.unlink()
            assert len([store.add(new_job()) for _ in range(3)]) == 3
    finally:
        subprocess.run(["umount", disk], check=True, timeout=30)


def test_a_disk_that_refuses_to_write_is_an_error_and_nothing_half_written(path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with opened(f"sqlite:///{path}") as store:
        job = store.add(new_job())
        written = path.with_name(f"{path.name}-wal").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (written + 4096, before[1]))  # in the middle of the next transaction
        try:
            assert "I/O error" in store_error(store)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert store.unfinished() == [job]
        store.add(new_job())
    with opened(f"sqlite:///{path}") as store:
        assert len(store.unfinished()) == 2
