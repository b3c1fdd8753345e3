"""`ringlight doctor --engine ray`: on a real cluster that is well, and on one of which a node differs."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from ringlight.cli.node_checks import SILENT, VERSIONS, findings_of, judge
from ringlight.core.cluster import ClusterConfig
from ringlight.core.config import EngineConfig
from ringlight.core.errors import InvalidSetting
from ringlight.engine.launch.ray.on_node import NOT_INSTALLED, NodeAnswer, examine_node
from ringlight.families.wan22_ti2v.demo import DEMO
from tests.cli.commands import program
from tests.engine.ray_nodes import RayNodes, ray_cluster
from tests.server.served import free_port

NAME = "ringlight/tiny"
COMMIT = "a" * 40
DIGEST, OTHER_DIGEST = "0123456789ab", "ba9876543210"
WELL = dict.fromkeys(VERSIONS, "1.0") | {"token": "on", "cards": "", "door": "open"}
WELL |= {"checkpoint": DIGEST, "model": "123412341234"}
CARDS = "NVIDIA H100 80GB HBM3, NVIDIA H100 80GB HBM3"


@pytest.fixture(scope="module")
def ray_nodes() -> Iterator[RayNodes]:
    with ray_cluster(1, 1) as nodes:
        yield nodes


def cached(folder: Path, seed: int) -> Path:
    """A cache of the hub that holds a model under NAME."""
    snapshot = folder / f"models--{NAME.replace('/', '--')}" / "snapshots" / COMMIT
    DEMO.write(snapshot, "tiny", seed=seed)
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text(COMMIT)
    return folder


def examined(nodes: RayNodes, *flags: object) -> tuple[int, dict[str, str], dict[str, str], list[str]]:
    """The command's exit code, its checks, its problems with their remedies, and the nodes that it tells of."""
    done = program("doctor", "--engine", "ray", "--ray-address", nodes.address, "--json", *flags)
    said = json.loads(done.out)
    problems = {each["what"]: each["remedy"] for each in said["problems"]}
    return done.code, said["cluster"], problems, [name for name in said if name.startswith("node ")]


@pytest.mark.slow
def test_a_cluster_that_is_well(ray_nodes: RayNodes, tiny: Path) -> None:
    code, checks, problems, nodes = examined(ray_nodes, "--model-path", tiny)
    assert (code, problems, len(nodes)) == (0, {}, 3)
    assert all(said.startswith("ok: ") for said in checks.values()), checks
    assert {"address", "nodes", "token", "python", "ray", "ringlight", "cards", "door", "checkpoint"} <= checks.keys()
    assert checks["nodes"] == "ok: 3, of which 2 host ranks: 0 GPUs, 2 cores"
    assert checks["token"] == "ok: on"


@pytest.mark.slow
def test_a_node_that_differs_is_named(ray_nodes: RayNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has another Ringlight, and another model under the same name."""
    theirs = tmp_path / "packages" / "ringlight-9.9.dist-info"
    theirs.mkdir(parents=True)
    (theirs / "METADATA").write_text("Metadata-Version: 2.1\nName: ringlight\nVersion: 9.9\n")
    variables = {"PYTHONPATH": str(theirs.parent), "HF_HUB_CACHE": str(cached(tmp_path / "theirs", seed=1))}
    monkeypatch.setenv("HF_HUB_CACHE", str(cached(tmp_path / "ours", seed=0)))
    other = ray_nodes.add(1, **variables)  # the cluster's last test: it ends with it
    code, checks, problems, nodes = examined(ray_nodes, "--model-path", NAME)
    assert (code, len(nodes)) == (3, 4)
    assert [name for name, said in checks.items() if said.startswith("problem: ")] == ["ringlight", "checkpoint"]
    versions, checkpoints = (what.split("; ") for what in problems)
    assert len(versions) == 1 and "9.9 on " in versions[0] and other.node_id[:8] in versions[0]
    assert sum(" here, " in each for each in checkpoints) == 1, "the new node has it, and it is another one"
    assert sum("not in the hub's cache" in each for each in checkpoints) == 2, "those that were there before have none"
    assert all("same" in remedy for remedy in problems.values())


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_told_at_once_and_with_a_remedy() -> None:
    from ringlight.engine.launch.ray.examination import examine_cluster  # here, because it imports Ray

    address = f"127.0.0.1:{free_port()}"
    config = EngineConfig(model_path="", cluster=ClusterConfig(engine="ray", ray_address=address))
    with pytest.raises(
        InvalidSetting, match=f"--ray-address {address}: no Ray cluster lets us in .*; .*RAY_AUTH_TOKEN"
    ):
        examine_cluster(config, ())


def answer(name: str, counts: dict[str, float] | None = None, **told: str | None) -> NodeAnswer:
    """What a node tells that has a GPU and differs only in this; None is what it does not tell."""
    found = {key: value for key, value in (WELL | {"cards": CARDS} | told).items() if value is not None}
    return NodeAnswer(name, {"CPU": 16, "GPU": 2} if counts is None else counts, found)


@pytest.mark.parametrize(
    ("wrong", "name", "words"),
    [
        ({"python": "3.11.9"}, "python", ["1.0 here, 3.11.9 on n1"]),
        ({"torch": "not installed"}, "torch", ["not installed on n1"]),
        ({"token": "off"}, "token", ["off on n1"]),
        ({"door": None, "door_fault": "timed out"}, "door", ["n1: timed out"]),
        ({"checkpoint": OTHER_DIGEST}, "checkpoint", [f"{DIGEST} here, {OTHER_DIGEST} on n1"]),
        ({"checkpoint": None, "checkpoint_fault": "/model: no such folder"}, "checkpoint", ["on n1: /model: no such"]),
        ({"cards": CARDS.partition(", ")[0]}, "cards", ["n1: Ray counts 2 GPUs, the driver 1"]),
        ({"cards": None, "cards_fault": "no driver"}, "cards", ["n1: Ray counts 2 GPUs, no driver"]),
    ],
)
def test_what_is_wrong_on_one_node_is_one_finding_that_names_it(
    wrong: dict[str, str | None], name: str, words: list[str]
) -> None:
    (found,) = findings_of(judge(WELL, [answer("n0"), answer("n1", **wrong)], "10.0.0.1"))
    assert found.what.startswith(f"{name}: ") and "n0" not in found.what
    assert all(word in found.what for word in words)
    assert found.remedy


def test_nodes_that_are_alike_are_well_and_a_head_that_only_serves_hosts_no_rank() -> None:
    head = answer("head", {}, cards="", checkpoint=None, checkpoint_fault="no weights")
    checks = {check.name: check for check in judge(WELL, [head, answer("n0"), answer("n1")], "10.0.0.1")}
    assert [check for check in checks.values() if check.remedy] == []
    assert checks["cards"].said == "4 x NVIDIA H100 80GB HBM3"
    assert checks["nodes"].said == "3, of which 2 host ranks: 4 GPUs, 32 cores"
    assert checks["checkpoint"].said == f"{DIGEST} on all nodes that host ranks"
    unnamed = {name: said for name, said in WELL.items() if name not in ("checkpoint", "model")}
    assert "checkpoint" not in {check.name for check in judge(unnamed, [head], "10.0.0.1")}


def test_a_node_that_says_nothing_is_named_and_nothing_else_is_said_of_it() -> None:
    silent = NodeAnswer("n1", {"CPU": 16}, {}, "no answer within 60 s")
    (found,) = findings_of(judge(WELL, [answer("n0"), silent], "10.0.0.1"))
    assert (found.what, found.remedy) == ("nodes: n1: no answer within 60 s", SILENT)


def test_a_server_may_be_without_weights_but_not_without_the_rest() -> None:
    """Nodes are compared with each other then."""
    here = {name: said for name, said in WELL.items() if name != "checkpoint"} | {"checkpoint_fault": "no weights"}
    nodes = [answer("n0"), answer("n1")]
    assert [*findings_of(judge(here, nodes, "10.0.0.1"))] == []
    (found,) = findings_of(judge(here, [*nodes, answer("n2", checkpoint=OTHER_DIGEST)], "10.0.0.1"))
    assert found.what == f"checkpoint: {DIGEST} on n0, {OTHER_DIGEST} on n2"
    (found,) = findings_of(judge(here | {"model_fault": "no such folder"}, nodes, "10.0.0.1"))
    assert found.what == "checkpoint: here: no weights"


def test_a_server_needs_no_torch_but_every_node_that_hosts_ranks_does() -> None:
    here = WELL | {"torch": NOT_INSTALLED}
    head, nodes = answer("head", {}, torch=NOT_INSTALLED), [answer("n0"), answer("n1")]
    checks = {check.name: check for check in judge(here, [head, *nodes], "10.0.0.1")}
    assert [check for check in checks.values() if check.remedy] == []
    assert checks["torch"].said == "1.0 on all nodes that host ranks"
    (found,) = findings_of(judge(here, [head, *nodes, answer("n2", torch="2.0")], "10.0.0.1"))
    assert found.what == "torch: 1.0 on n0, 2.0 on n2"
    (found,) = findings_of(judge(here, [head, answer("n0", torch=NOT_INSTALLED)], "10.0.0.1"))
    assert found.what == "torch: not installed here, not installed on n0" and "ringlight[worker]" in found.remedy


@pytest.mark.parametrize("said", [b"", b"SSH-2.0", None])
def test_a_door_that_cannot_be_reached(said: bytes | None) -> None:
    """Nobody listens, or somebody else does."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        door = listener.getsockname()
        if said is None:
            listener.close()

        def answer_once() -> None:
            with listener.accept()[0] as other:
                other.recv(1024)
                other.sendall(said or b"")

        answering = Thread(target=answer_once)
        if said is not None:
            answering.start()
        told = examine_node(door, "word", ("ringlight",), ("", ""))
        if said is not None:
            answering.join()
    assert "door" not in told
    assert told["door_fault"] == (
        "somebody else answers there" if said is not None else "[Errno 111] Connection refused"
    )
    assert told["ringlight"] != "not installed"
