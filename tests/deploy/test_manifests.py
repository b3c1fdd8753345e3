"""What is given to Kubernetes: it is what its schemas allow, its parts fit together, and its commands are ours.

Pods, volumes, services and policies are held to Kubernetes's own schemas; of RayCluster and LeaderWorkerSet, whose
definitions belong to others, what is used of them is written down beside this file. No cluster has run these.
"""

from __future__ import annotations

import copy
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from ringlight.core.settings import ServeSettings
from tests.house.test_deploy import DEPLOY, MARGIN_SECONDS, options

KUBERNETES = "1.34"
FILES = {"RayCluster": DEPLOY / "ray/raycluster.yaml", "LeaderWorkerSet": DEPLOY / "kubernetes/leaderworkerset.yaml"}
OURS = Path(__file__).parent
BOTH = pytest.mark.parametrize("kind", FILES)


def documents(kind: str) -> list[dict[str, Any]]:
    """All documents of the file that has this kind."""
    return list(yaml.safe_load_all(FILES[kind].read_text(encoding="utf-8")))


def named(kind: str, within: str) -> dict[str, Any]:
    """The one document of a kind."""
    (found,) = (each for each in documents(within) if each["kind"] == kind)
    return found


def templates(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The pod templates of a RayCluster or LeaderWorkerSet: of its head or leader, and of its workers."""
    spec = document["spec"]
    if document["kind"] == "RayCluster":
        (group,) = spec["workerGroupSpecs"]
        return {"head": spec["headGroupSpec"]["template"], "worker": group["template"]}
    template = spec["leaderWorkerTemplate"]
    return {"head": template["leaderTemplate"], "worker": template["workerTemplate"]}


def check_pod(template: dict[str, Any]) -> None:
    """Raise ValidationError for what Kubernetes would refuse, or would not know."""
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": template["spec"]}
    assert template.keys() == {"spec"}
    kubernetes_validate.validate(pod, KUBERNETES, strict=True)


@cache
def schema_of(kind: str) -> Any:
    return yaml.safe_load((OURS / f"{kind.lower()}.schema.yaml").read_text(encoding="utf-8"))


def check(document: dict[str, Any]) -> None:
    """Raise ValidationError for what would be refused, or not known."""
    if document["kind"] not in FILES:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
        return
    jsonschema.validate(document, schema_of(document["kind"]))
    for template in templates(document).values():
        check_pod(template)


def container(template: dict[str, Any]) -> dict[str, Any]:
    (only,) = template["spec"]["containers"]
    return dict(only)


def commands() -> Iterator[list[str]]:
    """The command lines of `ringlight`, without its name."""
    cluster = templates(named("RayCluster", "RayCluster"))
    (script,) = container(cluster["head"])["args"]
    yield shlex.split(re.findall(r"^exec ringlight (.+)$", script, flags=re.MULTILINE)[0])
    for template in templates(named("LeaderWorkerSet", "LeaderWorkerSet")).values():
        yield container(template)["args"]


@BOTH
def test_everything_is_as_the_schemas_have_it(kind: str) -> None:
    for document in documents(kind):
        check(document)
    assert {each["kind"] for each in documents(kind)} == {"PersistentVolumeClaim", "Service", "NetworkPolicy", kind}


MISTAKES = {
    "a field of a pod that is misspelt": ("head", ["spec", "terminationGracePeriod"], 90),
    "one of a container": ("worker", ["spec", "containers", 0, "volumeMount"], []),
    "a port that is a text": ("head", ["spec", "containers", 0, "ports", 0, "containerPort"], "8898"),
    "a probe that is none": ("head", ["spec", "containers", 0, "livenessProbe", "httpGet", "route"], "/livez"),
}


@BOTH
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_pod_is_found(kind: str, mistake: str) -> None:
    document = copy.deepcopy(named(kind, kind))
    of, path, value = MISTAKES[mistake]
    place: Any = templates(document)[of]
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(kubernetes_validate.ValidationError):
        check(document)


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("RayCluster", ["spec", "authOption"], {"mode": "token"}),
        ("RayCluster", ["spec", "authOptions", "mode"], "tokens"),
        ("RayCluster", ["spec", "headGroupSpec", "rayStartParams", "num-gpus"], 0),
        ("RayCluster", ["spec", "workerGroupSpecs", 0, "maxReplicas"], "4"),
        ("LeaderWorkerSet", ["spec", "leaderWorkerTemplate", "restartPolicy"], "Never"),
        ("LeaderWorkerSet", ["spec", "leaderWorkerTemplate", "groupSize"], 2),
    ],
)
def test_a_mistake_beside_the_pods_is_found(kind: str, path: list[Any], value: Any) -> None:
    document = copy.deepcopy(named(kind, kind))
    place: Any = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        check(document)


def test_commands_have_flags_that_exist() -> None:
    found = list(commands())
    assert len(found) == 3
    for command, *arguments in found:
        assert command == "serve"
        known = {flag for flags in options().values() for flag in flags}
        given = {argument.partition("=")[0] for argument in arguments if argument.startswith("--")}
        assert given <= known
    assert found[1] == found[2], "nodes with other flags are refused"
    assert {"--nnodes=$(LWS_GROUP_SIZE)", "--node-rank=$(LWS_WORKER_INDEX)"} <= set(found[1])
    assert "--dist-init-addr=$(LWS_LEADER_ADDRESS):29500" in found[1]


@BOTH
def test_the_head_serves_and_is_watched_and_may_drain(kind: str) -> None:
    head = templates(named(kind, kind))["head"]
    serving = container(head)
    assert {"name": "api", "containerPort": ServeSettings().port} in serving["ports"]
    for probe, path in (("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
        assert serving[probe]["httpGet"] == {"path": path, "port": "api"}
    assert head["spec"]["terminationGracePeriodSeconds"] >= ServeSettings().drain_timeout + MARGIN_SECONDS
    assert "RINGLIGHT_API_KEY_FILE" in {variable["name"] for variable in serving["env"]}, "others reach it"
    mounts = {mount["mountPath"]: mount["name"] for mount in serving["volumeMounts"]}
    assert mounts["/data"] == "data" and "/etc/ringlight" in mounts


@BOTH
def test_pods_have_the_volumes_that_they_mount(kind: str) -> None:
    claims = {each["metadata"]["name"] for each in documents(kind) if each["kind"] == "PersistentVolumeClaim"}
    used = set()
    for template in templates(named(kind, kind)).values():
        volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
        mounts = {mount["mountPath"]: mount["name"] for mount in container(template)["volumeMounts"]}
        assert set(mounts.values()) == set(volumes)
        assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
        used |= {
            each["persistentVolumeClaim"]["claimName"]
            for each in volumes.values()
            if len(each) == 2 and "persistentVolumeClaim" in each
        }
        assert template["spec"]["enableServiceLinks"] is False
    assert used == claims


@BOTH
def test_head_and_workers_have_one_image_one_model_and_one_user(kind: str) -> None:
    found = [template["spec"] for template in templates(named(kind, kind)).values()]
    images = {each["containers"][0]["image"] for each in found}
    assert len(images) == 1 and re.fullmatch(r"ringlight:\d+\.\d+\.\d+", images.pop())
    users = {each["securityContext"]["runAsUser"] for each in found}
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    assert [f"--uid {user} " in dockerfile for user in users] == [True]
    models = [mount for each in found for mount in each["containers"][0]["volumeMounts"] if mount["name"] == "models"]
    assert models[0] == models[1] and models[0]["readOnly"]


@BOTH
def test_the_service_and_the_policy_mean_these_pods(kind: str) -> None:
    service, policy = named("Service", kind), named("NetworkPolicy", kind)
    name = named(kind, kind)["metadata"]["name"]
    label = {"RayCluster": "ray.io/cluster", "LeaderWorkerSet": "leaderworkerset.sigs.k8s.io/name"}[kind]
    assert service["spec"]["selector"][label] == policy["spec"]["podSelector"]["matchLabels"][label] == name
    assert len(service["spec"]["selector"]) == 2, "of the pods the one that serves"
    assert service["spec"]["ports"][0]["targetPort"] == "api"
    assert service["metadata"]["name"] not in (name, "ringlight")
    others, api = policy["spec"]["ingress"]
    assert others["from"][0]["podSelector"]["matchLabels"] == {label: name} and "ports" not in others
    assert api == {"ports": [{"port": "api"}]}


def test_ray_asks_for_a_token_and_the_head_hosts_no_rank() -> None:
    spec = named("RayCluster", "RayCluster")["spec"]
    assert spec["authOptions"] == {"mode": "token"}
    head, (group,) = spec["headGroupSpec"], spec["workerGroupSpecs"]
    assert (head["rayStartParams"]["num-gpus"], head["rayStartParams"]["num-cpus"]) == ("0", "0")
    port = int(group["rayStartParams"]["node-manager-port"])
    worker = container(group["template"])
    assert all(worker[probe]["tcpSocket"]["port"] == port for probe in ("livenessProbe", "readinessProbe"))
    assert 1 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    assert spec["enableInTreeAutoscaling"] and spec["autoscalerOptions"]["version"] == "v2"


def test_every_rank_has_a_card() -> None:
    """As many as the flags say: of the cluster a replica on each node, of the set one on all."""
    ray, first, second = (
        int(next(word for word in shlex.join(command).replace("=", " ").split("--num-gpus ")[1].split()))
        for command in commands()
    )
    cards = {
        kind: container(templates(named(kind, kind))["worker"])["resources"]["limits"]["nvidia.com/gpu"]
        for kind in FILES
    }
    assert ray == cards["RayCluster"]
    size = named("LeaderWorkerSet", "LeaderWorkerSet")["spec"]["leaderWorkerTemplate"]["size"]
    assert first == second == size * cards["LeaderWorkerSet"]
