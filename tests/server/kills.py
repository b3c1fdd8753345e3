"""Killing the server, killing and stopping its ranks: nothing that was acknowledged is lost or made twice.

Only processes that the server under test has started are ever touched.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import httpx

from tests.engine.processes import ends, wait_until
from tests.server.films import (
    FILMS,
    RING,
    SHORT,
    STEPS,
    UNHURRIED,
    Film,
    Originals,
    digests_of,
    ranks_of,
    replica_of,
    sha256_of,
    spread,
    wait_for_step,
    wait_until_idle,
    wait_until_renewed,
)
from tests.server.served import POLL_SECONDS, Served

Findings = dict[str, Any]
Video = dict[str, Any]

MAX_OPEN = 4  # videos that a client keeps waiting
VICTIMS = ([0], [1], [0, 1])
MOMENTS = ("running", "finishing", "creating", "loading", "whenever")


class Client:
    """Creates one video after another, each under a key of its own, until each is acknowledged. Survives the server."""

    def __init__(self, url: str, chance: random.Random, films: Sequence[Film] = FILMS) -> None:
        self.acknowledged: dict[str, tuple[str, int]] = {}
        """By key: the video's id, and the number of its film."""
        self.films = films
        self.num_asked = 0
        self.num_sent_again = 0
        self._url = url
        self._chance = chance
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._create_all, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask for no more."""
        self._ending.set()

    def close(self) -> None:
        """Return when the last one is acknowledged."""
        self.stop()
        self._thread.join()

    def _create_all(self) -> None:
        with httpx.Client(base_url=self._url, timeout=30.0, trust_env=False) as http:
            while not self._ending.is_set():
                self.num_asked += 1
                self._create(http, f"film {self.num_asked} {uuid4().hex}", self._chance.randrange(len(self.films)))
                while not self._ending.is_set() and self._num_open(http) >= MAX_OPEN:
                    self._ending.wait(0.1)

    def _create(self, http: httpx.Client, key: str, film: int) -> None:
        while True:
            try:
                answer = http.post("/v1/videos", json=self.films[film], headers={"Idempotency-Key": key})
            except httpx.TransportError:  # killed, or not there yet
                self.num_sent_again += 1
                time.sleep(0.05)
                continue
            assert answer.status_code == 200, answer.text
            self.acknowledged[key] = (answer.json()["id"], film)
            return

    def _num_open(self, http: httpx.Client) -> int:
        try:
            return sum(video["status"] in ("queued", "in_progress") for video in videos_of(http))
        except httpx.TransportError:
            return MAX_OPEN


def videos_of(http: httpx.Client) -> list[dict[str, Any]]:
    """All videos, the newest first."""
    found: list[dict[str, Any]] = []
    after = ""
    while True:
        page = http.get(f"/v1/videos?limit=100{after}").json()
        found += page["data"]
        if not page["has_more"]:
            return found
        after = f"&after={page['last_id']}"


def kill_the_server(folder: Path, checkpoint: Path, count: int, chance: random.Random) -> Findings:
    """Kill the server `count` times while a client creates videos; the last one makes what is left.

    In turn while it makes a video, ends one, takes one in, loads, and at any time.
    """
    options = ("--no-warm-up", "--save-seconds", 0.2)
    server = Served(folder, checkpoint, *options)
    try:
        server.wait_until_ready()
        made = [server.completed(**film) for film in FILMS]
        expected = {number: sha256_of(server, video["id"]) for number, video in enumerate(made)}
    finally:
        server.stop(signal.SIGKILL)
    client = Client(server.url, random.Random(chance.random()))
    lives: dict[str, list[float]] = {"listening again, s": [], "ready again, s": [], "ranks ended after, s": []}
    moments: Counter[str] = Counter()
    seen = {video["id"]: video for video in made}
    try:
        for life in range(count + 1):
            moment = MOMENTS[life % len(MOMENTS)] if life < count else "never"
            began = time.monotonic()
            server = Served(folder, checkpoint, *options, port=server.port)
            try:
                server.wait_until_listening()
                lives["listening again, s"].append(time.monotonic() - began)
                if moment != "loading":
                    server.wait_until_ready()
                    lives["ready again, s"].append(time.monotonic() - began)
                if moment == "never":
                    client.close()
                    return check_all(server, client, expected, seen) | {
                        "kills": dict(moments),
                        **{name: spread(seconds) for name, seconds in lives.items()},
                    }
                wait_for_moment(server, moment, chance)
                seen |= {video["id"]: video for video in videos_of(server.http) if is_over(video)}
                ranks = ranks_of(server)
            finally:
                server.stop(signal.SIGKILL)
            moments[moment] += 1
            killed_at = time.monotonic()
            assert all(map(ends, ranks))
            lives["ranks ended after, s"].append(time.monotonic() - killed_at)
        raise AssertionError("the last one is not killed")
    finally:
        client.stop()


def is_over(video: dict[str, Any]) -> bool:
    return video["status"] in ("completed", "failed")


def wait_for_moment(server: Served, moment: str, chance: random.Random) -> None:
    """Return when it is time to kill."""
    if moment == "running":
        wait_until(lambda: any(each["status"] == "in_progress" for each in videos_of(server.http)))
    elif moment == "finishing":
        stage = chance.choice(["Decoding", "Output"])
        before = sum(map(is_over, videos_of(server.http)))

        def is_near_an_end() -> bool:
            videos = videos_of(server.http)
            return any(each["stage"] == stage for each in videos) or sum(map(is_over, videos)) > before

        wait_until(is_near_an_end)
    elif moment == "creating":
        before = len(videos_of(server.http))
        wait_until(lambda: len(videos_of(server.http)) > before)
    time.sleep(chance.uniform(0, {"loading": 2.0, "whenever": 2.0, "running": 0.5}.get(moment, 0.02)))


def check_all(server: Served, client: Client, expected: dict[int, str], seen: dict[str, Video]) -> Findings:
    """Every key has one video, which is completed and as it should be; what was over before has stayed as it was."""
    wait_until(lambda: all(map(is_over, videos_of(server.http))), 600, POLL_SECONDS)
    videos = {video["id"]: video for video in videos_of(server.http)}
    films = dict(client.acknowledged.values())
    assert len(client.acknowledged) == client.num_asked
    assert len(films) == client.num_asked
    assert films.keys() <= videos.keys()
    assert len(videos) == len(films) + len(client.films), "one for each key, and those of before the first kill"
    assert [video for video in videos.values() if video["status"] != "completed"] == []
    assert {video_id: without_details(videos[video_id]) for video_id in seen} == {
        video_id: without_details(video) for video_id, video in seen.items()
    }
    assert [video_id for video_id, film in films.items() if sha256_of(server, video_id) != expected[film]] == []
    reports = [server.http.get(f"/v1/videos/{video_id}/report").json() for video_id in films]
    return {
        "videos": len(films),
        "creates sent again": client.num_sent_again,
        "lost": 0,
        "made twice": 0,
        "went on from a saved step": sum(report["resumed_from_step"] > 0 for report in reports),
    }


def without_details(video: Video) -> Video:
    """A video as lists show it: they leave out what its report tells."""
    return video | {"inference_time_s": None, "stages": None, "memory": None, "layout_reason": None}


class Renewal(NamedTuple):
    """Seconds from a signal until the ranks of before had all been ended, and until new ones could make videos."""

    ended: float
    ready: float


def kill_ranks(served: Served, originals: Originals, count: int, chance: random.Random) -> Findings:
    """Kill one of two ranks in the middle of denoising, with two more videos waiting."""
    renewals, resumed = [], 0
    for _ in range(count):
        renewal, went_on = disturb(served, originals, [chance.randrange(2)], signal.SIGKILL, chance)
        renewals.append(renewal)
        resumed += went_on
    return {
        "kills": count,
        "videos completed with identical frames": 3 * count,
        "went on from a saved step": resumed,
        **said(renewals),
    }


def stop_busy_ranks(served: Served, originals: Originals, count: int, chance: random.Random) -> Findings:
    """SIGSTOP one of two ranks or both, in the middle of denoising, with two more videos waiting."""
    victims = [chance.choice(VICTIMS) for _ in range(count)]
    renewals = [disturb(served, originals, each, signal.SIGSTOP, chance)[0] for each in victims]
    return stops(victims) | said(renewals) | {"videos completed with identical frames": 3 * count}


def stop_idle_ranks(served: Served, originals: Originals, count: int, chance: random.Random) -> Findings:
    """SIGSTOP one of two ranks or both, when there is nothing to do; the next video is as ever."""
    victims = [chance.choice(VICTIMS) for _ in range(count)]
    renewals = []
    for each in victims:
        wait_until_idle(served)
        renewals.append(strike(served, each, signal.SIGSTOP))
        assert sha256_of(served, served.completed(**SHORT)["id"]) == originals.sha256(SHORT)
    return stops(victims) | said(renewals) | {"next videos identical": count}


def stops(victims: list[list[int]]) -> Findings:
    """What was stopped how often."""
    both = victims.count([0, 1])
    return {"one rank": len(victims) - both, "both": both, "watchdog, s": 2}


def said(renewals: list[Renewal]) -> Findings:
    """How long ranks took to be renewed."""
    return {
        "old ranks ended after, s": spread([renewal.ended for renewal in renewals]),
        "new ranks ready after, s": spread([renewal.ready for renewal in renewals]),
    }


def disturb(
    served: Served, originals: Originals, victims: list[int], number: signal.Signals, chance: random.Random
) -> tuple[Renewal, bool]:
    """Signal ranks under a video that has two others behind it: all are as they should be, and only it was repeated.

    Also returns whether it went on from a saved step.
    """
    restarts = replica_of(served)["restarts"]
    struck, *others = [served.create(**film)["id"] for film in (STEPS, UNHURRIED, UNHURRIED)]
    wait_for_step(served, struck, chance.randrange(1, 35))
    renewal = strike(served, victims, number)
    for video_id, film, deaths in zip((struck, *others), (STEPS, SHORT, SHORT), (1, 0, 0), strict=True):
        video = served.wait(video_id)
        assert video["restarts"] == deaths, video
        assert sha256_of(served, video_id) == originals.sha256(film)
    assert replica_of(served)["restarts"] == restarts + 1
    return renewal, served.http.get(f"/v1/videos/{struck}/report").json()["resumed_from_step"] > 0


def strike(served: Served, victims: list[int], number: signal.Signals) -> Renewal:
    """Signal ranks; all of them end, and there are new ones."""
    before, restarts = ranks_of(served, 2), replica_of(served)["restarts"]
    began = time.monotonic()
    for victim in victims:
        os.kill(before[victim], number)
    assert all(map(ends, before))
    ended = time.monotonic() - began
    wait_until_renewed(served, restarts)
    assert not set(before) & set(ranks_of(served, 2))
    return Renewal(ended, time.monotonic() - began)


def kill_again_and_again(served: Served, originals: Originals, count: int, chance: random.Random) -> Findings:
    """A video under which ranks die each time fails after two repeats, and others go before its last one."""
    waited: list[float] = []
    for _ in range(count):
        restarts = replica_of(served)["restarts"]
        poisoned = served.create(**STEPS)["id"]
        others = [served.create(**UNHURRIED)["id"] for _ in range(3)]
        began = time.monotonic()
        for deaths in range(3):
            wait_for_step(served, poisoned, 1)
            if deaths == 2:  # it has been put behind all others
                assert [served.get(video_id)["status"] for video_id in others] == ["completed"] * 3
            os.kill(ranks_of(served, 2)[chance.randrange(2)], signal.SIGKILL)
            wait_until_renewed(served, restarts + deaths)
        failed = served.wait(poisoned, "failed")
        waited.append(time.monotonic() - began)
        assert failed["error"]["code"] == "worker_error"
        assert failed["error"]["message"].startswith("repeated 2 times; ")
        assert "signal 9" in failed["error"]["message"]
        assert failed["restarts"] == 2
        for video_id in others:
            assert served.get(video_id)["restarts"] == 0
            assert sha256_of(served, video_id) == originals.sha256(SHORT)
    return {"videos": count, "failed after two repeats with their cause": count, "took, s": spread(waited)}


def terminate(folder: Path, checkpoint: Path, count: int, chance: random.Random) -> Findings:
    """SIGTERM with one video running and five queued: it is finished where there is time, else kept, and gone on with.

    The third way is a second SIGTERM while the first one waits.
    """
    films = (STEPS, *[SHORT] * 5)
    expected = digests_of(folder / "undisturbed", checkpoint, (STEPS, SHORT), *RING)
    took: dict[str, list[float]] = {"finished": [], "kept": [], "second signal": []}
    resumed = 0
    for number in range(count):
        for way, drain_seconds in (("finished", 600), ("kept", 0), ("second signal", 600)):
            home = folder / f"{way} {number}"
            home.mkdir()
            ids, seconds = stop_in_the_middle(home, checkpoint, films, drain_seconds, way, chance)
            took[way].append(seconds)
            server = Served(home, checkpoint, *RING)
            try:
                server.wait_until_ready()
                reports = []
                for video_id, film in zip(ids, films, strict=True):
                    video = server.wait(video_id)
                    assert video["restarts"] == 0
                    assert sha256_of(server, video_id) == expected[0 if film is STEPS else 1]
                    reports.append(server.http.get(f"/v1/videos/{video_id}/report").json())
                resumed += reports[0]["resumed_from_step"] > 0
                assert (reports[0]["resumed_from_step"] == 0) or way != "finished"
            finally:
                server.stop(signal.SIGKILL)
    return {
        "servers": 3 * count,
        "exit codes": "all 0",
        "went on from a saved step": resumed,
        "ended after, s": {way: spread(seconds) for way, seconds in took.items()},
    }


def stop_in_the_middle(
    home: Path,
    checkpoint: Path,
    films: tuple[dict[str, Any], ...],
    drain_seconds: float,
    way: str,
    chance: random.Random,
) -> tuple[list[str], float]:
    """Start a server and end it by SIGTERM, once or twice. Returns the videos, and the seconds that it took."""
    server = Served(home, checkpoint, *RING, "--drain-timeout", drain_seconds)
    try:
        server.wait_until_ready()
        ids = [server.create(**film, priority=-number)["id"] for number, film in enumerate(films)]  # none makes way
        wait_for_step(server, ids[0], chance.randrange(5, 50))
        ranks = ranks_of(server, 2)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        if way == "second signal":
            wait_until(lambda: server.http.get("/health").json()["status"] == "draining")
            assert server.http.post("/v1/videos", json=SHORT).status_code == 503
            server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(120) == 0
        seconds = time.monotonic() - began
        assert all(map(ends, ranks))
        return ids, seconds
    finally:
        server.stop(signal.SIGKILL)
