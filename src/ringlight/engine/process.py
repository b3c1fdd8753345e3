"""LocalProcess: a worker process of this machine, and how one is started."""

from __future__ import annotations

import signal
import subprocess
import sys

from ringlight.core import messages
from ringlight.core.config import worker_environment
from ringlight.core.errors import InvalidInstallation
from ringlight.core.installation import DOCTOR
from ringlight.engine.network import interface_of
from ringlight.engine.rank import Ending

WORKER = "ringlight.worker.start"
STDERR = 2  # the descriptor: sys.stderr may be an object without one (in notebooks, in tests)


class LocalProcess:
    """Child process. Its exit status is remembered, and can be asked for repeatedly."""

    def __init__(self, arguments: list[str], inherited: list[int], place: messages.RankPlace) -> None:
        """Start the worker's program with these arguments and descriptors. Raises InvalidInstallation."""
        try:
            self._process = launch(arguments, inherited, rank_environment(place))
        except (FileNotFoundError, PermissionError) as error:
            raise InvalidInstallation(f"{sys.executable} cannot be run: {error.strerror}; {DOCTOR}") from None

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait(self, seconds: float) -> Ending | None:
        try:
            status = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        cause = f"signal {-status}" if status < 0 else f"exit status {status}"
        hint = " (out of memory?)" if status == -signal.SIGKILL else ""
        return Ending(
            f"the worker process died ({cause}){hint}; its log says more",
            is_well=status == 0,
            is_cause=status < 0 and status != -signal.SIGABRT,  # with which libraries end what has lost another rank
        )

    @property
    def unheard(self) -> str:
        return "the worker closed its connection and hangs"

    def kill(self) -> None:
        self._process.kill()


def launch(arguments: list[str], inherited: list[int], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start the worker's program with these arguments and descriptors, in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", WORKER, *arguments],
        pass_fds=inherited,
        stdin=subprocess.DEVNULL,
        stdout=STDERR,
        env=environment,
        start_new_session=True,
    )


def rank_environment(place: messages.RankPlace) -> dict[str, str]:
    """Environment of a worker. Between nodes it names the interface that reaches node 0, unless ours names one."""
    environment = worker_environment(place.num_nodes)
    if place.num_nodes > 1 and "GLOO_SOCKET_IFNAME" not in environment:
        interface = environment["GLOO_SOCKET_IFNAME"] = interface_of(place.address)
        environment.setdefault("NCCL_SOCKET_IFNAME", f"={interface}")  # "=": exactly so, not what begins so
    return environment
