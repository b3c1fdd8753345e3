"""The other entry of a worker: a rank in a process that Ray has started, which is heard over the network."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from multiprocessing.connection import Connection

from ringlight.core import messages
from ringlight.worker.corridor import Corridor
from ringlight.worker.start import load

LOOK_SECONDS = 1.0


def serve(setup: messages.WorkerSetup, connection: Connection) -> None:
    """Run as a rank until it is told to stop, or ends this process. The environment is the rank's already."""
    work = load(connection.fileno()).work
    corridor = Corridor(connection)
    watch = threading.Thread(target=_watch_raylet, args=(setup.place, corridor), name="raylet", daemon=True)
    watch.start()
    work(setup, corridor)


def _watch_raylet(place: messages.RankPlace, corridor: Corridor) -> None:
    """Tell the engine when the raylet has ended, whose child this process is.

    Ray then takes the node for lost, and a new raylet gives its cards away.
    """
    raylet = os.getppid()
    while os.getppid() == raylet:
        time.sleep(LOOK_SECONDS)
    message = f"the raylet on {place.address} has ended"
    with contextlib.suppress(OSError):  # the engine is gone too
        corridor.send(messages.PlaceLost(rank=place.rank, message=message))
