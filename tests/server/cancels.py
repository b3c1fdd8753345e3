"""Cancelling at every point of a job, and at the very moment at which it ends: one end, and free ranks."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from tests.engine.processes import wait_until
from tests.server.films import (
    DECODED,
    ENDLESS,
    SHORT,
    Originals,
    num_finished,
    ranks_of,
    replica_of,
    sha256_of,
    spread,
    wait_until_idle,
    wait_until_over,
)
from tests.server.served import Served

Findings = dict[str, Any]
Video = dict[str, Any]

STAGES = ("", "InputValidation", "TextEncoding", "LatentPreparation", "TimestepPreparation", "Denoising", "Decoding")
NUM_STEPS = DECODED["num_inference_steps"]
POLL_SECONDS = 0.01
MAX_VIDEOS = 10  # that may be over before a poll sees them at a point, which may last for a moment


def has_reached(stage: str, step: int = 0, progress: int = 0) -> Callable[[Video], bool]:
    """Whether a video is so far, or further."""

    def is_so(video: Video) -> bool:
        now = video["stage"] or ""
        if now == "Output":
            return True
        place = STAGES.index(now)
        wanted = STAGES.index(stage)
        return place > wanted or (place == wanted and video["step"] >= step and video["progress"] >= progress)

    return is_so


POINTS: dict[str, Callable[[Video], bool]] = {
    "queued, as the last": lambda video: video["queue_position"] == 2,
    "queued, as the next": lambda video: video["queue_position"] == 1,
    "at once": lambda video: True,
    "begun": lambda video: video["status"] == "in_progress",
    "text encoded": has_reached("LatentPreparation"),
    "denoising, first step": has_reached("Denoising", 1),
    "denoising, a quarter": has_reached("Denoising", NUM_STEPS // 4),
    "denoising, half": has_reached("Denoising", NUM_STEPS // 2),
    "denoising, nearly all": has_reached("Denoising", NUM_STEPS - 5),
    "decoding": has_reached("Decoding"),
    "decoding, half": has_reached("Decoding", progress=95),
    "encoding": lambda video: video["stage"] == "Output",
}


def cancel_at_points(served: Served, originals: Originals, count: int, chance: random.Random) -> Findings:
    """Cancel at each of 12 points, `count` times: each video has one end, told once, and the ranks go on.

    Only where the ranks are done, and the file is being written, may it be completed all the same.
    """
    before = ranks_of(served, 2)
    freed: dict[str, list[float]] = {}
    outcomes: dict[str, Counter[str]] = {}
    for _ in range(count):
        for point, is_there in POINTS.items():
            with waiting_behind(served, {"queued, as the last": 2, "queued, as the next": 1}.get(point, 0)) as runs:
                seen, told = video_at(served, is_there)
                video_id = seen["id"]
                answered, seconds = cancel(served, video_id, is_busy=bool(runs))
                check_end(
                    served, video_id, may_be_completed=was_done(seen) or (is_decoding(seen) and was_done(answered))
                )
                assert num_finished(served) == told + 1
            freed.setdefault(point, []).append(seconds)
            end = served.get(video_id)
            outcomes.setdefault(point, Counter())[end["status"] if end["error"] is None else end["error"]["code"]] += 1
        assert sha256_of(served, served.completed(**SHORT)["id"]) == originals.sha256(SHORT)
    assert ranks_of(served, 2) == before
    return {
        "points": len(POINTS),
        "times": count,
        "ends": {point: dict(ends) for point, ends in outcomes.items()},
        "ranks free after, s": {point: max(seconds) for point, seconds in freed.items()},
        "ranks free after, all, s": spread([each for seconds in freed.values() for each in seconds]),
    }


@contextmanager
def waiting_behind(served: Served, num_ahead: int) -> Iterator[list[str]]:
    """So many videos that do not end, and make no way, ahead of the next one, until the block ends."""
    ahead = [served.create(**ENDLESS, priority=1)["id"] for _ in range(num_ahead)]
    for video_id in ahead[:1]:
        served.wait(video_id, "in_progress")
    yield ahead
    for video_id in reversed(ahead):
        served.http.delete(f"/v1/videos/{video_id}")
    wait_until_idle(served)


def video_at(served: Served, is_there: Callable[[Video], bool]) -> tuple[Video, int]:
    """A video that a poll has seen at a point, as it was then, and how many had finished before it was created.

    Where the poll came too late, and the video was over, another one is created.
    """
    for _ in range(MAX_VIDEOS):
        told, seen = num_finished(served), served.create(**DECODED)
        while seen["status"] in ("queued", "in_progress"):
            if is_there(seen := served.get(seen["id"])) and seen["status"] in ("queued", "in_progress"):
                return seen, told
            time.sleep(POLL_SECONDS)
        assert seen["status"] == "completed", seen["error"]
    raise AssertionError(f"{MAX_VIDEOS} videos ended before the point was seen")


def was_done(video: Video) -> bool:
    """Whether its ranks were done, and at most its file was still being written."""
    return video["stage"] == "Output" or video["status"] == "completed"


def is_decoding(video: Video) -> bool:
    """Whether it is about to be done, and may be so by the time that a cancel arrives, which its answer then says."""
    return video["stage"] == "Decoding"


def cancel(served: Served, video_id: str, is_busy: bool) -> tuple[Video, float]:
    """Cancel a video. Returns the answer, and the seconds until it was over and, unless others run, its ranks free."""
    began = time.monotonic()
    answer = served.http.post(f"/v1/videos/{video_id}/cancel")
    assert answer.status_code == 200, answer.text
    wait_until_over(served, video_id)
    if not is_busy:
        wait_until(lambda: replica_of(served)["status"] == "ready")
    return answer.json(), round(time.monotonic() - began, 3)


def check_end(served: Served, video_id: str, may_be_completed: bool) -> None:
    """It has one end, and the same one for whoever asks however often."""
    end = served.get(video_id)
    if end["status"] == "completed":
        assert may_be_completed
        sha256_of(served, video_id)
    else:
        assert (end["status"], end["error"]["code"]) == ("failed", "cancelled")
        assert served.http.get(f"/v1/videos/{video_id}/content").status_code == 404
    again = served.http.post(f"/v1/videos/{video_id}/cancel")
    assert (again.status_code, again.json()) == (200, end)
    assert [content for name, content in events_of(served, video_id) if name == "done"] == [end]
    assert served.get(video_id) == end


def events_of(served: Served, video_id: str) -> Iterator[tuple[str, Any]]:
    """The events of a video, until it is over."""
    with served.http.stream("GET", f"/v1/videos/{video_id}/events") as answer:
        name = ""
        for line in answer.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                yield name, json.loads(line.removeprefix("data: "))


def race_with_completion(served: Served, originals: Originals, count: int, chance: random.Random) -> Findings:
    """Cancel `count` videos, twice at once, about when they end: whoever is first, there is one end.

    The moment follows the videos: earlier after one that was completed, later after one that was not.
    """
    original = originals.sha256(SHORT)
    before = ranks_of(served, 2)
    delay_seconds, step_seconds = 0.2, 0.05
    outcomes: Counter[str] = Counter()
    for _ in range(count):
        told = num_finished(served)
        video_id = served.create(**SHORT)["id"]
        time.sleep(max(0.0, delay_seconds + chance.uniform(-step_seconds, step_seconds)))
        answers = cancel_twice(f"{served.url}/v1/videos/{video_id}/cancel")
        assert [answer.status_code for answer in answers] == [200, 200]
        wait_until_over(served, video_id)
        check_end(served, video_id, may_be_completed=True)
        assert num_finished(served) == told + 1
        is_completed = served.get(video_id)["status"] == "completed"
        outcomes["completed" if is_completed else "cancelled"] += 1
        delay_seconds = max(0.0, delay_seconds + (-step_seconds if is_completed else step_seconds))
        step_seconds = max(0.01, step_seconds * 0.97)
        if is_completed:
            assert sha256_of(served, video_id) == original
    assert sha256_of(served, served.completed(**SHORT)["id"]) == original
    assert ranks_of(served, 2) == before
    return {"races": count, "ends": dict(outcomes), "videos with two ends": 0}


def cancel_twice(url: str) -> list[httpx.Response]:
    """The answers to the same call from two threads at once."""
    answers: list[httpx.Response] = []
    threads = [threading.Thread(target=lambda: answers.append(httpx.post(url, timeout=60))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers
