"""Videos whose content is known: made once where nothing disturbs them, and compared byte by byte ever after."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from tests.engine.processes import wait_until
from tests.server.served import POLL_SECONDS, SMALL, Served, serve

Film = dict[str, Any]

RING = ("--num-gpus", 2, "--ring-degree", 2, "--watchdog-timeout", 2, "--save-seconds", 0.2, "--no-warm-up")
"""Two ranks that share every attention, noticed soon when they are stopped."""

SHORT: Film = SMALL
LONGER: Film = SMALL | {"seed": 8, "size": "256x160", "num_frames": 9, "num_inference_steps": 40}
STEPS: Film = SMALL | {"seed": 9, "size": "128x96", "num_inference_steps": 60}
"""A second of denoising, in steps that a poll can see."""
DECODED: Film = SMALL | {"seed": 10, "size": "128x96", "num_frames": 17, "num_inference_steps": 20}
"""Long enough in every stage that takes any for a poll to see it there."""
UNHURRIED: Film = SHORT | {"priority": -1}
"""The same, for which no other makes way."""
ENDLESS: Film = SMALL | {"size": "256x160", "num_inference_steps": 1000}
FILMS = (SHORT, LONGER, STEPS)


def sha256_of(served: Served, video_id: str) -> str:
    """The digest of a completed video's file."""
    answer = served.http.get(f"/v1/videos/{video_id}/content")
    assert answer.status_code == 200, answer.text
    return hashlib.sha256(answer.content).hexdigest()


class Originals:
    """What films are where nothing is killed. Each is made once, when it is first asked for."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._digests: dict[str, str] = {}

    def sha256(self, film: Film) -> str:
        """The digest of a film."""
        key = repr(sorted(film.items()))
        if key not in self._digests:
            self._digests[key] = sha256_of(self._served, self._served.completed(**film)["id"])
        return self._digests[key]


def digests_of(folder: Path, checkpoint: Path, films: tuple[Film, ...], *options: object) -> list[str]:
    """The digests of films, from a server of their own in a new `folder`."""
    folder.mkdir()
    with serve(folder, checkpoint, *options) as server:
        originals = Originals(server)
        return [originals.sha256(film) for film in films]


def ranks_of(served: Served, number: int = 0) -> list[int]:
    """The process ids of a server's ranks: of all that there are, or once there are so many."""

    def children() -> list[int]:
        threads = Path(f"/proc/{served.process.pid}/task").glob("*/children")
        return sorted({int(pid) for each in threads for pid in each.read_text().split()})

    wait_until(lambda: len(children()) >= number)
    return children()


def replica_of(served: Served) -> dict[str, Any]:
    """The state of a server's only replica."""
    (replica,) = served.http.get("/health").json()["replicas"]
    return dict(replica)


def wait_until_renewed(served: Served, restarts: int) -> None:
    """Return when the workers have been started again more often than `restarts`, and can make videos."""

    def is_so() -> bool:
        replica = replica_of(served)
        return replica["restarts"] > restarts and replica["status"] in ("ready", "busy")

    wait_until(is_so, 120, POLL_SECONDS)


def wait_until_idle(served: Served) -> None:
    """Return when nothing waits and nothing runs."""
    wait_until(
        lambda: replica_of(served)["status"] == "ready" and not served.http.get("/health").json()["queue_length"],
        poll_seconds=POLL_SECONDS,
    )


def wait_until_over(served: Served, video_id: str) -> dict[str, Any]:
    """Wait until a video has ended, in whatever way."""
    wait_until(lambda: served.get(video_id)["status"] in ("completed", "failed"))
    return served.get(video_id)


def wait_until_off_the_ranks(served: Served, video_id: str) -> None:
    """Return when nothing is left to do for a video, which may not be written down yet."""
    wait_until(lambda: served.get(video_id)["queue_position"] is None, poll_seconds=POLL_SECONDS)


def wait_for_step(served: Served, video_id: str, step: int) -> int:
    """Wait until ranks denoise it and so many steps are done, or more; how many are."""

    def steps() -> int:
        video = served.get(video_id)
        assert video["status"] in ("queued", "in_progress"), video
        return int(video["step"]) if video["stage"] == "Denoising" else 0

    wait_until(lambda: steps() >= step)
    return steps()


def num_finished(served: Served) -> int:
    """How many ends of jobs a server has told its metrics, each of which is to be told once."""
    lines = served.http.get("/metrics").text.splitlines()
    return sum(
        int(float(line.rpartition(" ")[2])) for line in lines if line.startswith("ringlight_jobs_finished_total")
    )


def spread(seconds: list[float]) -> dict[str, float]:
    """Median, 99th percentile and most of some measured times."""
    ordered = sorted(seconds)
    at = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {name: round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 4) for name, share in at.items()}
