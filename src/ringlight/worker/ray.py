"""The other entry of a worker: a rank in a process that Ray has started, which is heard over the network."""

from __future__ import annotations

from multiprocessing.connection import Connection

from ringlight.core import messages
from ringlight.worker.start import load


def serve(setup: messages.WorkerSetup, connection: Connection) -> None:
    """Be a rank until it is told to stop, or ends this process. The environment is the rank's already."""
    worker = load(connection.fileno())
    worker.work(setup, worker.Corridor(connection))
