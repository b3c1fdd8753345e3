"""What the operator asks of the engine, and the defaults of a request: given, else ringlight.json, else the card's."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from ringlight.core.config import (
    ALLOCATOR_SETTINGS,
    EngineConfig,
    NodesConfig,
    counts_in_bus_order,
    read_defaults,
    worker_environment,
)
from ringlight.core.errors import InvalidCheckpoint, InvalidLayout, InvalidSetting
from ringlight.core.layout import AskedLayout
from ringlight.core.request import RequestDefaults, VideoRequest
from ringlight.families.model import ModelSpec
from ringlight.families.table import read_model
from tests.core.checkpoints import copy_json, edit


def write(folder: Path, text: str) -> Path:
    (folder / "ringlight.json").write_text(text)
    return folder


def test_the_model_cards_defaults(spec: ModelSpec) -> None:
    request = RequestDefaults().complete("a cat", spec, seed=3)
    assert request == VideoRequest(
        prompt="a cat",
        negative_prompt="",
        width=1280,
        height=704,
        num_frames=121,
        fps=24,
        num_inference_steps=50,
        guidance_scale=5.0,
        flow_shift=spec.scheduler.flow_shift,
        seed=3,
    )


def test_what_is_given_wins_and_none_counts_as_left_out(spec: ModelSpec) -> None:
    defaults = RequestDefaults(width=512, height=320, flow_shift=3.0, seed=9)
    request = defaults.complete("a cat", spec, width=256, height=None, num_frames=None, guidance_scale=0.0, image=b"x")
    assert (request.width, request.height, request.num_frames) == (256, 320, 121)
    assert (request.guidance_scale, request.flow_shift, request.seed, request.image) == (0.0, 3.0, 9, b"x")


def test_a_seed_that_nobody_gave_is_drawn_and_named(spec: ModelSpec) -> None:
    seeds = {RequestDefaults().complete("a cat", spec).seed for _ in range(20)}
    assert len(seeds) == 20  # twice the same among 2**32: once in twenty million runs
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert RequestDefaults().complete("a cat", spec, seed=0).seed == 0


def test_flow_shift_is_the_schedulers_unless_given(tiny: Path, tmp_path: Path) -> None:
    folder = copy_json(tiny, tmp_path / "copy")
    edit(folder, "scheduler/scheduler_config.json", flow_shift=3.25)
    spec = read_model(folder)
    assert RequestDefaults().complete("a cat", spec).flow_shift == 3.25
    assert RequestDefaults().complete("a cat", spec, flow_shift=7.0).flow_shift == 7.0


def test_a_checkpoints_own_defaults(tmp_path: Path, tiny: Path) -> None:
    assert read_defaults(tmp_path) == RequestDefaults()
    assert read_defaults(write(tmp_path, "{}")) == RequestDefaults()
    stated = {"width": 64, "negative_prompt": "blurry", "flow_shift": 2, "guidance_scale": 4}
    read = read_defaults(write(tmp_path, json.dumps({"defaults": stated})))
    assert read == msgspec.structs.replace(
        RequestDefaults(), width=64, negative_prompt="blurry", flow_shift=2.0, guidance_scale=4.0
    )
    assert read_defaults(tiny).num_inference_steps == 8


def test_a_checkpoint_may_name_its_sampler_and_says_no_grid(tmp_path: Path) -> None:
    found = read_defaults(write(tmp_path, '{"defaults": {"sampler": "lightx2v-4step", "guidance_scale": 1.5}}'))
    assert (found.num_inference_steps, found.flow_shift, found.guidance_scale) == (4, 5.0, 1.5)
    found = read_defaults(write(tmp_path, '{"defaults": {"sigmas": [1, 0.5]}}'), found)
    assert (found.sampler, found.num_inference_steps, found.flow_shift) == ("lightx2v-4step", 2, 1.0)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"defaults": {"guidance": 4}}', "guidance"),
        ('{"default": {"width": 64}}', "default"),
        ('{"defaults": {"width": "wide"}}', "width"),
        ('{"defaults": {"num_frames": 17.5}}', "num_frames"),
        ('{"defaults": {"seed": [1]}}', "seed"),
        ('{"defaults": null}', "defaults"),
        ('{"defaults": 3}', "defaults"),
        ("[]", "defaults"),
        ('{"defaults": ', "defaults"),
        ("", "defaults"),
        ("[" * 100_000, "ringlight.json"),
        ('{"defaults": {"width": 64, "height": 64, "width": 32}}', "width stands there twice"),
        ('{"defaults": {}, "defaults": {}}', "defaults stands there twice"),
        ('{"defaults": {"flow_shift": NaN}}', "NaN"),
    ],
)
def test_wrong_defaults_are_refused_with_what_is_wrong(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(InvalidCheckpoint) as caught:
        read_defaults(write(tmp_path, text))
    message = str(caught.value)
    assert message.startswith(str(tmp_path / "ringlight.json"))
    assert named in message.removeprefix(str(tmp_path))
    assert "\n" not in message


def test_defaults_that_are_not_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "ringlight.json").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidCheckpoint, match=r"ringlight\.json"):
        read_defaults(tmp_path)
    (tmp_path / "ringlight.json").unlink()
    (tmp_path / "ringlight.json").mkdir()
    with pytest.raises(InvalidCheckpoint, match=r"ringlight\.json"):
        read_defaults(tmp_path)


def test_a_worker_inherits_the_environment_but_never_fetches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("SOMETHING_OF_OURS", "kept")
    environment = worker_environment()
    assert environment["HF_HUB_OFFLINE"] == environment["TRANSFORMERS_OFFLINE"] == "1"
    assert environment["SOMETHING_OF_OURS"] == "kept"


def test_a_worker_numbers_cards_as_their_driver_and_lets_segments_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUDA_DEVICE_ORDER", *ALLOCATOR_SETTINGS):
        monkeypatch.delenv(name, raising=False)
    assert worker_environment()["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert counts_in_bus_order()
    assert worker_environment()["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    assert worker_environment()["CUDA_DEVICE_ORDER"] == "FASTEST_FIRST"
    assert not counts_in_bus_order()


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF"])
def test_an_allocator_that_is_set_stays_as_it_is(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for each in ALLOCATOR_SETTINGS:
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, "max_split_size_mb:128")
    environment = worker_environment()
    assert {each: environment[each] for each in ALLOCATOR_SETTINGS if each in environment} == {
        name: "max_split_size_mb:128"
    }


def test_ranks_of_one_node_meet_on_the_loopback_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    assert worker_environment()["GLOO_SOCKET_IFNAME"] == "lo"
    assert "GLOO_SOCKET_IFNAME" not in worker_environment(num_nodes=2)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth1")
    assert worker_environment()["GLOO_SOCKET_IFNAME"] == worker_environment(2)["GLOO_SOCKET_IFNAME"] == "eth1"


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("10.0.0.1:29500", "10.0.0.1", 29500),
        ("gpu-0.cluster:1", "gpu-0.cluster", 1),
        ("[fd00::1]:65535", "fd00::1", 65535),
    ],
)
def test_nodes_meet_at_an_address(address: str, host: str, port: int) -> None:
    assert NodesConfig(nnodes=2, node_rank=1, dist_init_addr=address).host_and_port == (host, port)
    NodesConfig(dist_init_addr=address)  # one node needs none, and may have one


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ({"nnodes": 0}, ["nnodes", "at least 1", "0"]),
        ({"nnodes": 2}, ["nnodes 2", "--dist-init-addr HOST:PORT"]),
        ({"nnodes": 2, "node_rank": 2, "dist_init_addr": "a:1"}, ["node-rank 2", "0..1", "nnodes 2"]),
        ({"node_rank": 1}, ["node-rank 1", "0..0", "nnodes 1"]),
        ({"node_rank": -1}, ["node-rank -1", "0..0"]),
        *(
            ({"nnodes": 2, "dist_init_addr": wrong}, [f"dist-init-addr {wrong!r}", "HOST:PORT"])
            for wrong in ("here", "here:", ":29500", "here:0", "here:65536", "a:b:1", "tcp://a:1", "a b:1", "a:1\n")
        ),
    ],
    ids=str,
)
def test_nodes_that_cannot_be_are_refused(nodes: dict[str, object], words: list[str]) -> None:
    with pytest.raises(InvalidLayout) as caught:
        NodesConfig(**nodes)  # type: ignore[arg-type]
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"num_slices": -1}, "num-slices"),
        *(({"watchdog_timeout": wrong}, "watchdog-timeout") for wrong in (0.0, -1.0, float("nan"), float("inf"))),
        *(({"startup_timeout": wrong}, "startup-timeout") for wrong in (0.0, float("nan"), float("inf"))),
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, float], named: str) -> None:
    with pytest.raises(InvalidSetting, match=named):
        EngineConfig(model_path="anywhere", **settings)  # type: ignore[arg-type]


def test_a_worker_reads_what_was_asked() -> None:
    config = EngineConfig(
        model_path="anywhere",
        num_slices=4,
        watchdog_timeout=2.5,
        asked_layout=AskedLayout(num_gpus=4, ring_degree=2),
        nodes=NodesConfig(nnodes=2, node_rank=1, dist_init_addr="[fd00::1]:29500"),
    )
    assert msgspec.json.decode(msgspec.json.encode(config), type=EngineConfig) == config


@pytest.mark.parametrize(("given", "found"), [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7")])
def test_threads_of_workers_sleep_soon_unless_the_environment_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], found: str
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert worker_environment()["GOMP_SPINCOUNT"] == found


def test_a_policy_of_waiting_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert "GOMP_SPINCOUNT" not in worker_environment()
