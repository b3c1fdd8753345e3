"""A real PostgreSQL server, from the machine's own package, in a folder of its own on a unix socket."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from tests.engine.processes import wait_until

USER = "postgres"


def binaries() -> Path | None:
    """The folder of the newest server that Debian's packages put here."""
    found = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return max((path.parent for path in found), key=lambda path: int(path.parent.name), default=None)


def why_not() -> str | None:
    """Why no server can be started on this machine; None if one can."""
    if binaries() is None:
        return "no PostgreSQL: apt-get install postgresql"
    if shutil.which("setpriv") is None:
        return "no setpriv: apt-get install util-linux"
    if os.geteuid() == 0 and USER not in {user.pw_name for user in pwd.getpwall()}:
        return f"PostgreSQL does not run as root, and there is no user {USER}"
    return None


def as_user(*command: str | Path) -> list[str]:
    """A command as a user that PostgreSQL accepts; it ends when the thread that started it does."""
    other = ["--reuid", USER, "--regid", USER, "--init-groups"] if os.geteuid() == 0 else []
    return ["setpriv", "--pdeathsig", "QUIT", *other, *map(str, command)]


class Postgres:
    """A server that can be stopped, and started again with the same databases."""

    def __init__(self, folder: Path) -> None:
        """Make its files in an empty folder, which another user may enter."""
        found = binaries()
        assert found is not None
        self.folder = folder
        self._binaries = found
        self._process: subprocess.Popen[bytes] | None = None
        self._num_databases = 0
        if os.geteuid() == 0:
            shutil.chown(folder, USER, USER)
        command = as_user(
            found / "initdb", "-D", folder / "files", "-U", USER, "-A", "trust", "-E", "UTF8", "--no-locale"
        )
        done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr

    def new_database(self) -> str:
        """Make an empty database, and return its URL as --store-url takes it."""
        self._num_databases += 1
        name = f"jobs{self._num_databases}"
        self.run(f"CREATE DATABASE {name}")
        return f"postgresql://{USER}@/{name}?host={self.folder}"

    def start(self) -> None:
        """Start, and return once it accepts connections."""
        command = as_user(self._binaries / "postgres", "-D", self.folder / "files", "-k", self.folder, "-h", "")
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, cwd="/", stdout=log, stderr=log)
        wait_until(self._answers, within_seconds=30)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT ends sessions in order, SIGQUIT as a crash does."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(timeout=30)
            self._process = None

    def run(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run one statement outside a transaction, and return its rows."""
        with psycopg.connect(host=str(self.folder), user=USER, dbname=database, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def _answers(self) -> bool:
        assert self._process is not None and self._process.poll() is None, (self.folder / "log").read_text()
        try:
            return bool(self.run("SELECT 1"))
        except psycopg.OperationalError:
            return False


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A server that ends with the block, and its files with it. Ask `why_not` first."""
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:  # a socket's path may have 107 characters
        postgres = Postgres(Path(folder))
        try:
            postgres.start()
            yield postgres
        finally:
            postgres.stop(signal.SIGQUIT)  # nothing need be written any more
