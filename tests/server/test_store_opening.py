"""What JobStore opens and what it refuses: URLs, drivers, damaged files, other versions; and how it asks a database."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from ringlight.core.errors import InvalidSetting, NotFound, StoreError
from ringlight.server.collection.folder import DataFolder
from ringlight.server.collection.store import Idempotency, JobStore
from ringlight.server.collection.stored import SCHEMA_VERSION
from tests.server.postgres import Postgres
from tests.server.stores import new_job, opened
from tests.server.stores import path as path
from tests.server.stores import postgres as postgres

pytestmark = pytest.mark.slow  # a real server, or several processes


def test_no_question_reads_the_whole_table(path: Path) -> None:
    """SQLite's own plan of every statement that the store makes finds its jobs by an index, or reads only an index."""
    statements: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        statements.append((statement, parameters))

    store = JobStore(f"sqlite:///{path}")
    job = store.add(new_job())
    event.listen(Engine, "before_cursor_execute", note)
    try:
        key = Idempotency("key", "body")
        store.find("", key)
        store.add(new_job(), key)
        store.get(job.id, "")
        store.list("", None, 10, "desc")
        store.list(None, job.id, 10, "asc")
        store.unfinished()
        store.mark(job.id, progress=1)
        store.finish(job.id, "completed", 1.0, 2.0, tells_operator=True)
        store.settle(store.settle((), 10), 10)
        store.report(job.id)
        store.expired(1.0)
        store.oldest_finished()
        store.total_output_bytes()
        store.count_by_status()
        store.delete(job.id)
    finally:
        event.remove(Engine, "before_cursor_execute", note)
        store.close()
    questions = [each for each in statements if each[0].startswith(("SELECT", "UPDATE", "DELETE"))]
    assert len(questions) >= 18
    with sqlite3.connect(path) as connection:
        for statement, parameters in questions:
            plan = [row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + statement, parameters)]
            scans = [step for step in plan if step.startswith("SCAN") and "USING" not in step]
            assert not scans, (statement, plan)
    connection.close()


def test_sqlite_waits_for_the_disk(tmp_path: Path) -> None:
    store = JobStore(f"sqlite:///{tmp_path}/jobs.sqlite")
    with store._database.write() as connection:  # only a loss of power would show it from outside
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    store.close()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "not a URL"),
        ("jobs.sqlite", "not a URL"),
        ("sqlite://", "must name a file"),
        ("sqlite:///:memory:", "must name a file"),
        ("mysql://root@localhost/jobs", "names mysql"),
        ("redis://localhost", "names redis"),
    ],
)
def test_other_urls_are_refused(url: str, says: str) -> None:
    with pytest.raises(InvalidSetting, match=says) as raised:
        JobStore(url)
    assert "postgresql://" in str(raised.value) or "memory" in str(raised.value)


ODD_NAMES = (
    "a?b",
    "a?mode=memory&cache=shared",
    "a#b",
    "100%25 %3F",
    "a b",
    "späß 視頻",
    "a:b@c",
    "file:a",
    "x'y\"z",
    "a;b&c=d",
)


@pytest.mark.parametrize("is_relative", [False, True])
@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_data_folder_of_any_name_holds_its_database_and_nobody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, is_relative: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = DataFolder.open(name if is_relative else str(tmp_path / name))
    with opened(folder.store_url) as store:
        job = store.add(new_job())
        with pytest.raises(InvalidSetting, match="another server works with"):
            JobStore(folder.store_url)
    with opened(folder.store_url) as store:
        assert store.get(job.id) == job
    folder.close()
    assert [path.name for path in tmp_path.iterdir()] == [name], "nothing lies beside it"
    assert {path.name for path in (tmp_path / name).iterdir()} == {"jobs.sqlite", "jobs.sqlite.lock", "lock", "videos"}


def test_a_missing_driver_is_named_only_where_it_is_asked_for(tmp_path: Path) -> None:
    program = f"""
import sys
sys.modules["psycopg"] = None
from ringlight.core.errors import InvalidSetting
from ringlight.server.collection.store import JobStore
JobStore("sqlite:///{tmp_path}/jobs.sqlite").close()
try:
    JobStore("postgresql://localhost/jobs")
except InvalidSetting as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "pip install 'ringlight[postgres]'" in done.stdout and done.stdout.count("\n") == 1


def test_sqlite_does_not_need_the_driver_of_postgresql(tmp_path: Path) -> None:
    program = f"""
import sys
from ringlight.server.collection.store import JobStore
JobStore("sqlite:///{tmp_path}/jobs.sqlite").close()
assert "psycopg" not in sys.modules
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def damage(path: Path, kind: str) -> None:
    """Make a database that is full of jobs one that is damaged."""
    content = path.read_bytes()
    assert len(content) > 60_000
    if kind == "garbage":
        content = random.Random(1).randbytes(len(content))
    elif kind == "text":
        content = b"not a database, whatever its name says\n" * 100
    elif kind == "cut off":
        content = content[: len(content) // 2]
    elif kind == "pages overwritten":
        content = content[:20_000] + bytes([0xAA]) * 20_000 + content[40_000:]
    path.write_bytes(content)


@pytest.mark.parametrize("kind", ["garbage", "text", "cut off", "pages overwritten"])
def test_a_damaged_file_is_named_and_left_alone(path: Path, kind: str) -> None:
    with opened(f"sqlite:///{path}") as store:
        for _ in range(50):
            store.add(new_job(prompt="long " * 200))
    damage(path, kind)
    before = path.read_bytes()
    with pytest.raises(StoreError) as raised:
        JobStore(f"sqlite:///{path}")
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)
    assert path.read_bytes() == before
    path.unlink()
    with opened(f"sqlite:///{path}") as store:  # the one that was refused holds nothing any more
        assert store.unfinished() == []


def test_an_empty_file_becomes_a_database(path: Path) -> None:
    path.touch()
    with opened(f"sqlite:///{path}") as store:
        assert store.unfinished() == []


@pytest.mark.parametrize("place", ["missing/jobs.sqlite", "folder", "file/jobs.sqlite"])
def test_a_place_where_no_file_can_be_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(StoreError) as raised:
        JobStore(f"sqlite:///{tmp_path}/{place}")
    assert f"{tmp_path}/{place}" in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("version", [0, SCHEMA_VERSION + 1, 99])
def test_a_database_of_another_version_is_refused_and_left_alone(path: Path, version: int) -> None:
    with opened(f"sqlite:///{path}") as store:
        job = store.add(new_job())

    def set_version(number: int) -> None:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            assert connection.execute("UPDATE schema_version SET version = ?", (number,)).rowcount == 1

    set_version(version)
    with pytest.raises(StoreError) as raised:
        JobStore(f"sqlite:///{path}")
    assert str(path) in str(raised.value) and f"version {version} " in str(raised.value)
    assert "\n" not in str(raised.value)
    set_version(SCHEMA_VERSION)
    with opened(f"sqlite:///{path}") as store:
        assert store.unfinished() == [job]


def test_a_database_from_before_object_stores_keeps_its_jobs(path: Path) -> None:
    with opened(f"sqlite:///{path}") as store:
        job = store.add(new_job())
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for change in (
            "ALTER TABLE jobs DROP COLUMN made_at",
            "ALTER TABLE jobs DROP COLUMN media_url",
            "DROP TABLE media_claims",
            "UPDATE schema_version SET version = 5",
        ):
            connection.execute(change)
    for _ in range(2):
        with opened(f"sqlite:///{path}") as store:
            assert store.get(job.id) == job
            assert store.uploads.claim("s3://bucket/films")


def test_a_database_of_something_else_is_refused_and_left_alone(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE jobs (title TEXT, salary INTEGER)")
    with pytest.raises(StoreError, match="jobs already exists"):
        JobStore(f"sqlite:///{path}")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall() == [("jobs",)]


def test_a_job_that_cannot_be_read_does_not_hide_the_others(path: Path) -> None:
    with opened(f"sqlite:///{path}") as store:
        jobs = [store.add(new_job()) for _ in range(4)]
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            for job, request in zip(jobs, ("{", '{"prompt": 3}', b"\xff\xfe"), strict=False):
                connection.execute("UPDATE jobs SET request = ? WHERE id = ?", (request, job.id))
        for job in jobs[:3]:
            with pytest.raises(StoreError, match="cannot be read"):
                store.get(job.id)
        assert store.get(jobs[3].id) == jobs[3]
        assert store.delete(jobs[0].id)
        with pytest.raises(NotFound):
            store.get(jobs[0].id)


def test_a_postgresql_that_is_not_there_is_named_without_its_password(tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(StoreError) as raised:
        JobStore(f"postgresql://ann:secret@/jobs?host={tmp_path}", timeout_seconds=0.2)
    assert str(tmp_path) in str(raised.value)
    assert "secret" not in str(raised.value) and "\n" not in str(raised.value)


def test_a_missing_database_of_postgresql_is_named(postgres: Postgres) -> None:
    url = postgres.new_database()
    with pytest.raises(StoreError, match=r'database "jobs\d+nowhere" does not exist'):
        JobStore(url.replace("?", "nowhere?"))


def test_a_refused_store_leaves_no_connection_or_file_open(path: Path) -> None:
    path.write_bytes(b"not a database" * 100)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(StoreError):
            JobStore(f"sqlite:///{path}")
    assert len(os.listdir("/proc/self/fd")) == before
