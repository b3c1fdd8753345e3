"""Another version of the server on the same folder, which computes other numbers."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from ringlight.core.numerics import NUMERICS
from ringlight.worker import main as worker
from tests.engine.processes import wait_until
from tests.server.films import STEPS, UNHURRIED
from tests.server.served import POLL_SECONDS, Served, serve

pytestmark = pytest.mark.slow

FLAGS = ("--no-warm-up", "--save-seconds", 0)
FIRST = STEPS | {"num_inference_steps": 150, "priority": 1}
NUM_WAITING = 2


def stopped_in_the_middle(folder: Path, checkpoint: Path) -> tuple[str, list[str]]:
    """A video that was half done when its server was stopped, and those that waited behind it."""
    server = Served(folder, checkpoint, *FLAGS, "--drain-timeout", 0)
    try:
        server.wait_until_ready()
        first = server.create(**FIRST)["id"]
        waiting = [server.create(**UNHURRIED)["id"] for _ in range(NUM_WAITING)]
        wait_until(lambda: (server.get(first)["step"] or 0) > 10, poll_seconds=POLL_SECONDS)
    finally:
        status = server.stop(signal.SIGTERM)
    assert status == 0
    return first, waiting


def test_an_upgrade_to_other_numerics_loses_no_job_and_mixes_none(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same ones it goes on from the state, as tests/server/kills.py has it."""
    first, waiting = stopped_in_the_middle(tmp_path, tiny)
    monkeypatch.setattr(worker, "NUMERICS", NUMERICS + 1)  # of workers, which are forked from here
    with serve(tmp_path, tiny, *FLAGS) as server:
        for video_id in (first, *waiting):
            assert server.wait(video_id)["restarts"] == 0
        assert server.http.get(f"/v1/videos/{first}/report").json()["resumed_from_step"] == 0
        assert "not used, the job begins anew: it is of another request" in server.log
