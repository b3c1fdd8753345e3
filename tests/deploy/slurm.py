"""A real Slurm of two nodes, from Debian's packages: a controller and two daemons on this machine, of which each says
that it is a machine of its own. Ports, folders and the file of settings are theirs alone."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from getpass import getuser
from pathlib import Path
from typing import NamedTuple

from tests.engine.processes import ends, is_alive, wait_until
from tests.server.served import free_port

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "sinfo", "squeue", "scancel", "setpriv")
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin"
CONFIG = """\
ClusterName=ringlight
SlurmctldHost=localhost
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
NodeName=n0 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[1]}
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[2]}
PartitionName=all Nodes=n0,n1 Default=YES MaxTime=10
"""
NODES = ("n0", "n1")
DAEMONS = (("slurmctld", "-D"), *(("slurmd", "-D", "-N", node) for node in NODES))
GOING_ON = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING")


class Ended(NamedTuple):
    """How a job ended: the state and the exit code that Slurm has for it, and what it had printed."""

    state: str
    code: int
    log: str


def why_not() -> str | None:
    """Why there can be no Slurm on this machine; None if there can."""
    if missing := [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]:
        return f"no {', '.join(missing)}: apt-get install slurmctld slurmd slurm-client util-linux"
    if not [*Path("/usr/lib").glob("*/slurm-wlm/cred_none.so")]:
        return "this Slurm takes no jobs without a key of the whole machine (cred/none)"
    return None


class Slurm:
    """Nodes n0 and n1, with a partition of both. Jobs run in `folder`, and write their logs there."""

    def __init__(self, folder: Path) -> None:
        """Write its settings into an empty folder."""
        self.folder = folder
        self._environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": PATH}
        self._daemons: list[subprocess.Popen[bytes]] = []
        ports = [free_port() for _ in DAEMONS]
        (folder / "slurm.conf").write_text(CONFIG.format(folder=folder, ports=ports, user=getuser()))
        (folder / "state").mkdir()

    def start(self) -> None:
        """Start it, and return once both nodes take jobs."""
        for number, command in enumerate(DAEMONS):
            with (self.folder / f"daemon{number}.log").open("wb") as log:
                started = ["setpriv", "--pdeathsig", "KILL", *command]
                environment, folder = self._environment, self.folder
                self._daemons.append(subprocess.Popen(started, env=environment, cwd=folder, stdout=log, stderr=log))
        wait_until(self._takes_jobs, poll_seconds=0.1)

    def stop(self) -> None:
        """End it, and whatever a job of it has left."""
        for daemon in self._daemons:
            daemon.terminate()
        for daemon in self._daemons:
            daemon.wait(timeout=30)
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            assert ends(pid)

    def submit(self, script: Path, *arguments: object) -> int:
        """Give it a job; its number."""
        return int(self.run("sbatch", "--parsable", script, *arguments))

    def ended(self, job: int, within_seconds: float = 120.0) -> Ended:
        """Wait until a job is over."""
        wait_until(lambda: self._said_of(job, "JobState") not in GOING_ON, within_seconds, poll_seconds=0.1)
        return Ended(
            self._said_of(job, "JobState"), int(self._said_of(job, "ExitCode").partition(":")[0]), self.log(job)
        )

    def log(self, job: int) -> str:
        """What it has printed so far."""
        path = self.folder / f"ringlight-{job}.log"
        return path.read_text() if path.exists() else ""

    def processes(self, *words: str, **variables: object) -> list[int]:
        """Processes of its jobs whose command line has these words, and whose environment has these variables."""
        wanted = {f"SLURM_CONF={self.folder / 'slurm.conf'}", *(f"{key}={value}" for key, value in variables.items())}
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                has = (path / "environ").read_text(errors="replace").split("\0")
                command = (path / "cmdline").read_text(errors="replace").split("\0")
                if wanted <= {*has} and {*words} <= {*command} and is_alive(int(path.name)):
                    found.append(int(path.name))
        return found

    def run(self, *command: object) -> str:
        """What one of Slurm's commands prints. Raises CalledProcessError."""
        words, environment = [*map(str, command)], self._environment
        done = subprocess.run(words, env=environment, cwd=self.folder, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def _takes_jobs(self) -> bool:
        for number, daemon in enumerate(self._daemons):
            assert daemon.poll() is None, (self.folder / f"daemon{number}.log").read_text()
        try:
            return self.run("sinfo", "--noheader", "--format=%t %D").split() == ["idle", str(len(NODES))]
        except AssertionError:  # nobody listens yet
            return False

    def _said_of(self, job: int, field: str) -> str:
        match = re.search(rf"\b{field}=(\S+)", self.run("scontrol", "--oneliner", "show", "job", job))
        assert match is not None
        return match[1]


@contextmanager
def running_slurm() -> Iterator[Slurm]:
    """A Slurm that ends with the block, and its files with it. Ask `why_not` first."""
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:  # a socket's path may have 107 characters
        slurm = Slurm(Path(folder))
        try:
            slurm.start()
            yield slurm
        finally:
            slurm.stop()
