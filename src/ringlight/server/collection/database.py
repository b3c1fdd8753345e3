"""Database: SQLite or PostgreSQL as transactions that are durable, bounded in time and exclusive to one server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import URL, Connection, Engine, create_engine, event, exc, make_url

from ringlight.core.errors import InvalidSetting, Occupied, StoreError
from ringlight.core.plain import plain
from ringlight.server.collection.lock import ServerLock

NUM_READERS = 8
STATEMENT_SECONDS = 30.0  # what PostgreSQL gives one statement at most
LOCK = 0x72696E676C69  # PostgreSQL's advisory lock that a server holds, one per database


class InUse(StoreError):
    """Error for a database that another server works with."""


class Database:
    """Database with one connection that writes, and a few that read.

    A single writer fits SQLite, which has no more, and makes PostgreSQL's lock a fence: the session that holds it is
    the one that writes, so a server that lost its connection, and with it the lock, cannot write until it has it again.
    """

    def __init__(self, url: str | URL, timeout_seconds: float) -> None:
        """Connect.

        Raises InvalidSetting if the URL or the machine does not allow it, or another server is there; StoreError if the
        database does not answer within `timeout_seconds` or is damaged.
        """
        parsed = check_url(url)
        self.is_sqlite = parsed.drivername == "sqlite"
        self.name = str(parsed.database if self.is_sqlite else parsed)  # without the password
        self._timeout_seconds = timeout_seconds
        self._is_closed = False
        self._writer = self._engine(parsed, pool_size=1)
        self._reader = self._engine(parsed, pool_size=NUM_READERS, isolation_level="AUTOCOMMIT")
        if self.is_sqlite:
            event.listen(self._writer, "begin", _begin_immediate)
            self._lock = _lock_beside(self.name)
        try:
            with self.write() as connection:
                if self.is_sqlite:
                    _check_sqlite(connection, self.name)
        except InUse as error:
            self.close()
            raise Occupied(str(error)) from error
        except BaseException:
            self.close()
            raise

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Open a transaction that is on the disk when it ends.

        Raises StoreError if it cannot be, and then nothing of it is; only if the connection breaks while it ends it may
        be there all the same.
        """
        with self._transaction(self._writer) as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a connection to read from; each statement sees the latest. Raises StoreError."""
        with self._transaction(self._reader) as connection:
            yield connection

    def close(self) -> None:
        """Disconnect, and let other servers in. From then on every transaction is refused."""
        self._is_closed = True
        self._reader.dispose()
        self._writer.dispose()
        if self.is_sqlite:
            self._lock.close()

    @contextmanager
    def _transaction(self, engine: Engine) -> Iterator[Connection]:
        if self._is_closed:  # an engine would connect anew
            raise StoreError(f"the database of jobs {self.name} is closed")
        try:
            with engine.begin() as connection:
                yield connection
        except exc.TimeoutError as error:
            raise self._failure(f"no answer within {plain(self._timeout_seconds)} s") from error
        except exc.SQLAlchemyError as error:
            raise self._failure(getattr(error, "orig", None) or error) from error
        except msgspec.MsgspecError as error:
            raise self._failure(f"a job in it cannot be read: {error}") from error

    def _failure(self, reason: object) -> StoreError:
        return StoreError(f"the database of jobs {self.name} failed: {' '.join(str(reason).split())}")

    def _engine(self, url: URL, **options: Any) -> Engine:
        """An engine whose waits are all bounded, and whose errors do not quote prompts."""
        engine = create_engine(
            url,
            connect_args=self._connect_args(),
            max_overflow=0,
            pool_timeout=self._timeout_seconds,
            pool_pre_ping=True,
            hide_parameters=True,
            json_serializer=lambda value: msgspec.json.encode(value).decode(),
            json_deserializer=msgspec.json.decode,
            **options,
        )
        event.listen(engine, "connect", self._prepare_sqlite if self.is_sqlite else self._prepare_postgres)
        if not self.is_sqlite and options["pool_size"] == 1:
            event.listen(engine, "connect", self._lock_postgres)
        return engine

    def _connect_args(self) -> dict[str, Any]:
        if self.is_sqlite:
            return {"timeout": self._timeout_seconds}
        # A server that is gone without a word is noticed after about 15 s; psycopg's least timeout is 2 s.
        probes = {"keepalives_idle": 5, "keepalives_interval": 3, "keepalives_count": 3, "tcp_user_timeout": 15_000}
        return {"connect_timeout": max(2, round(self._timeout_seconds)), **probes}

    def _prepare_sqlite(self, connection: Any, _: object) -> None:
        connection.isolation_level = None  # transactions begin where we say, and not at the first change
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise StoreError(f"the database of jobs {self.name} cannot keep a write-ahead log here ({mode})")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")

    def _prepare_postgres(self, connection: Any, _: object) -> None:
        connection.execute(f"SET lock_timeout = {round(1000 * self._timeout_seconds)}")
        connection.execute(f"SET statement_timeout = {round(1000 * STATEMENT_SECONDS)}")
        connection.execute("SET synchronous_commit = on")
        connection.commit()

    def _lock_postgres(self, connection: Any, _: object) -> None:
        """Hold the lock while the connection lasts.

        Waits a little: the session of a server that was killed may not be over yet.
        """
        import psycopg.errors  # the engine has it already

        try:
            connection.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
            connection.commit()
        except psycopg.errors.LockNotAvailable as error:
            raise InUse(_in_use(self.name)) from error


def check_url(url: str | URL) -> URL:
    """Add the driver that we use to a URL. Connects to nothing.

    Raises InvalidSetting, also if the driver is missing.
    """
    parsed = _parse(url)
    try:
        parsed.get_dialect().import_dbapi()
    except ImportError as error:
        raise InvalidSetting(
            f"store_url names PostgreSQL, whose driver is missing ({error}): pip install 'ringlight[postgres]'"
        ) from error
    return parsed


def _parse(url: str | URL) -> URL:
    try:
        parsed = make_url(url)
    except exc.ArgumentError as error:
        raise InvalidSetting("store_url is not a URL: use postgresql://user@host/database or sqlite:///path") from error
    match parsed.get_backend_name(), parsed.database:
        case "sqlite", None | "" | ":memory:":
            raise InvalidSetting("store_url must name a file: jobs in memory are lost with the server")
        case "sqlite", _:
            return parsed.set(drivername="sqlite")
        case "postgresql", _:
            return parsed.set(drivername="postgresql+psycopg")
        case backend, _:
            raise InvalidSetting(f"store_url names {backend}: use postgresql://user@host/database or sqlite:///path")


def _begin_immediate(connection: Connection) -> None:
    """Wait for the right to write before anything is read: it cannot be had after, if another wrote in between."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _check_sqlite(connection: Connection, name: str) -> None:
    verdict = str(connection.exec_driver_sql("PRAGMA quick_check(1)").scalar())
    if verdict != "ok":
        raise StoreError(f"the database of jobs {name} is damaged: {' '.join(verdict.split())}")


def _lock_beside(path: str) -> ServerLock:
    try:
        return ServerLock(Path(f"{path}.lock"), _in_use(path))
    except OSError as error:
        raise StoreError(f"the database of jobs {path} cannot be opened: {error.strerror}") from error


def _in_use(name: str) -> str:
    return f"another server works with the database of jobs {name}: stop it, or name another one with --store-url"
