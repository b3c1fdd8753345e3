"""RayProcess: an actor that is a rank. How it ended is read of Ray once, and said in words of ours."""

from __future__ import annotations

import contextlib
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayError

from ringlight.engine.launch.ray.actor import Seat
from ringlight.engine.rank import Ending


class RayProcess:
    """Process of an actor, from when it is told to serve. Its restarts and repeats are ours, so it has none."""

    def __init__(self, actor: Any, serving: Any, seat: Seat) -> None:
        self._actor = actor
        self._serving = serving
        self._seat = seat
        self._ending: Ending | None = None

    @property
    def pid(self) -> int:
        return self._seat.pid

    @property
    def unheard(self) -> str:
        return f"the connection to {self._seat.address} is lost, or the worker there hangs"

    def wait(self, seconds: float) -> Ending | None:
        if self._ending is None:
            done, _ = ray.wait([self._serving], timeout=seconds)
            self._ending = self._read() if done else None
        return self._ending

    def kill(self) -> None:
        with contextlib.suppress(RayError):  # it has ended, or nobody can reach it
            ray.kill(self._actor)

    def _read(self) -> Ending:
        on, log = f"on {self._seat.address}", f"its log there, {self._seat.log}, says more"
        try:
            ray.get(self._serving)
            return Ending(f"the worker process {on} has ended", is_well=True)
        except OutOfMemoryError:
            return Ending(f"Ray has ended the worker process {on}, whose memory was used up; {log}", is_cause=True)
        except RayActorError:  # how is not known to Ray: it has seen the end of a socket
            return Ending(
                f"the worker process {on} died without a word (killed, or out of memory?); {log}", is_cause=True
            )
        except RayError as error:
            said = " ".join(str(error).split())
            return Ending(f"the worker process {on} failed ({said}); {log}", is_cause=True)
