"""`ringlight serve --engine ray` as it is typed, on a real Ray of a head and two nodes with a CPU each."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringlight.bench.agreement import agree
from tests.engine.processes import ends, wait_until
from tests.engine.ray_nodes import RayNodes, ray_cluster
from tests.server.films import SHORT, sha256_of, wait_for_step
from tests.server.kills import videos_of
from tests.server.ray_kills import FILM, PAIR, PATIENCE, RayScene, ray_scene
from tests.server.served import LONG, POLL_SECONDS, Served
from tests.server.test_scaling import counts, statuses

pytestmark = pytest.mark.slow  # a Ray, and servers with ranks on its nodes

CHANCE = random.Random(20)
LEAST_PSNR_DB = 50.0  # of two films that are the same but for the last bits of their numbers, after a codec
NAP = ("--num-replicas", "0..2", "--scale-up-wait", 0.01, "--scale-down-idle", 0.5, "--drain-timeout", 0)


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    with ray_cluster(1, 1) as nodes:
        yield nodes


@pytest.fixture
def scene(nodes: RayNodes, tiny: Path, tmp_path: Path) -> Iterator[RayScene]:
    with ray_scene(tmp_path, tiny, nodes, *PAIR, "--drain-timeout", 600) as scene:
        yield scene


def test_a_server_of_two_nodes_survives_what_a_local_one_does(
    scene: RayScene, served: Served, tiny: Path, tmp_path: Path
) -> None:
    calm = scene.server.completed(**FILM)["id"]
    expected = sha256_of(scene.server, calm)
    _looks_like_one_ranks(scene.server, calm, served, tmp_path)

    struck = scene.server.create(**FILM)["id"]
    wait_for_step(scene.server, struck, 15)
    scene.strike("a rank", CHANCE)
    assert scene.server.wait(struck)["restarts"] == 1
    assert sha256_of(scene.server, struck) == expected
    assert scene.server.http.get(f"/v1/videos/{struck}/report").json()["resumed_from_step"] > 0

    acknowledged = [scene.server.create(**FILM)["id"] for _ in range(2)]
    wait_for_step(scene.server, acknowledged[0], 15)
    scene.strike("the server", CHANCE)
    for video_id in acknowledged:
        assert scene.server.wait(video_id)["restarts"] == 0
        assert sha256_of(scene.server, video_id) == expected
    assert scene.server.http.get(f"/v1/videos/{acknowledged[0]}/report").json()["resumed_from_step"] > 0
    assert {video["id"] for video in videos_of(scene.server.http)} == {calm, struck, *acknowledged}

    running = scene.server.create(**FILM)["id"]
    wait_for_step(scene.server, running, 1)
    ranks = scene.nodes.ranks()
    assert len(ranks) == 2
    scene.server.process.send_signal(signal.SIGTERM)
    wait_until(lambda: scene.server.http.get("/health").json()["status"] == "draining")
    assert scene.server.http.post("/v1/videos", json=SHORT).status_code == 503
    assert scene.server.process.wait(PATIENCE) == 0
    assert all(map(ends, ranks))
    assert "_ray_timestamp" not in scene.server.log
    scene.server.http.close()
    later = Served(tmp_path, tiny)  # whoever comes next finds what was let go
    try:
        later.wait_until_listening()
        assert later.get(running)["status"] == "completed"
    finally:
        later.stop(signal.SIGKILL)


def _looks_like_one_ranks(server: Served, video_id: str, one: Served, folder: Path) -> None:
    files = folder / "two.mp4", folder / "one.mp4"
    for each, made, path in ((server, video_id, files[0]), (one, one.completed(**FILM)["id"], files[1])):
        path.write_bytes(each.http.get(f"/v1/videos/{made}/content").content)
    found = agree("two ranks", 0, *files)
    assert found.num_frames == FILM["num_frames"] and not found.problem
    assert found.worst_psnr_db is None or found.worst_psnr_db > LEAST_PSNR_DB, found


def test_replicas_come_to_the_nodes_with_work_and_go_with_it(nodes: RayNodes, tiny: Path, tmp_path: Path) -> None:
    with ray_scene(tmp_path, tiny, nodes, *NAP, "--no-warm-up") as scene:
        server = scene.server
        assert server.http.get("/readyz").json()["status"] == "asleep"
        assert (nodes.ranks(), counts(server)) == ([], [0, 0, 0])
        first = server.create(**LONG)["id"]
        wait_until(lambda: server.http.get("/readyz").json()["status"] == "waking")
        assert counts(server) == [1, 0, 1]
        wait_for_step(server, first, 2)
        assert server.http.get("/readyz").json()["status"] == "ready"
        second = server.create(**LONG)["id"]
        wait_until(lambda: counts(server) == [2, 1, 1])
        assert server.http.get("/readyz").json()["message"].startswith("1 of 2 replicas are ready")
        text = server.http.get("/metrics").text
        assert "ringlight_replicas_wanted 2.0" in text and "ringlight_replicas_pending 1.0" in text
        wait_until(lambda: statuses(server) == ["busy", "busy"], poll_seconds=POLL_SECONDS)
        assert counts(server) == [2, 2, 0]
        assert 'ringlight_replicas{state="busy"} 2.0' in server.http.get("/metrics").text
        ranks = nodes.ranks()
        assert len(ranks) == 2
        for job in (first, second):
            assert server.http.post(f"/v1/videos/{job}/cancel").status_code == 200
            server.wait(job, "failed")
        wait_until(lambda: server.http.get("/readyz").json()["status"] == "asleep", poll_seconds=POLL_SECONDS)
        assert all(map(ends, ranks)) and counts(server) == [0, 0, 0]
