"""FastWan: three steps of its own, without guidance, of either Wan; and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ringlight.core.checkpoint import Checkpoint
from ringlight.core.config import EngineConfig
from ringlight.core.errors import InvalidCheckpoint, InvalidRequest
from ringlight.core.layout import AskedLayout
from ringlight.core.request import RequestLimits
from ringlight.core.stored_network import require_whole
from ringlight.engine.engine import Engine
from ringlight.families.fastwan.demo import DEMO
from ringlight.families.table import known_model, model_defaults, read_model
from tests.core.checkpoints import copy_json, edit, link_all
from tests.ours import final_latents, load_pipeline
from tests.server.served import serve

DMD = {"_class_name": "WanDMDPipeline"}


@pytest.fixture(scope="session")
def fast(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny demo checkpoint of FastWan. Read-only: copy it before changing a file."""
    folder = tmp_path_factory.mktemp("checkpoints") / "fast"
    DEMO.write(folder, "tiny")
    return folder


@pytest.mark.parametrize("told", [True, ...])
def test_the_networks_tell_which_wan_it_is(tiny: Path, tiny21: Path, tmp_path: Path, told: object) -> None:
    """And not the index, which is whatever the pipeline of another project wrote."""
    five = copy_json(tiny, tmp_path / "5b")
    edit(five, "model_index.json", **DMD, expand_timesteps=told)
    small = copy_json(tiny21, tmp_path / "small")
    edit(small, "model_index.json", **DMD)
    found = [read_model(five), read_model(small)]
    assert [(spec.family, spec.takes_picture) for spec in found] == [("fastwan", True), ("fastwan", False)]
    sizes = [(usual.width, usual.height, usual.num_frames, usual.fps) for usual in map(model_defaults, found)]
    assert sizes == [(1280, 704, 121, 24), (832, 448, 61, 16)]


def test_three_steps_are_what_a_request_has_that_says_nothing(fast: Path) -> None:
    spec, defaults = read_model(fast), model_defaults(read_model(fast), fast)
    request = defaults.complete("a kite", spec)
    request.check(spec, RequestLimits())
    found = (request.sampler, request.num_inference_steps, request.flow_shift, request.uses_guidance)
    assert found == ("fastwan-3step", 3, 8.0, False)
    assert (request.width, request.num_frames) == (256, 17)  # as the demo's ringlight.json says
    with pytest.raises(InvalidRequest, match=r"num_inference_steps: 20 contradicts sampler fastwan-3step.*give sigmas"):
        defaults.complete("a kite", spec, num_inference_steps=20).check(spec, RequestLimits())
    own = defaults.complete("a kite", spec, sigmas=[1, 0.9, 0.7, 0.4])
    own.check(spec, RequestLimits())
    assert (own.num_inference_steps, own.sampler, own.uses_guidance) == (4, "fastwan-3step", False)


def test_published_models_are_known_by_name() -> None:
    for name in ("FastWan2.2-TI2V-5B", "FastWan2.1-T2V-1.3B", "FastWan2.1-T2V-14B"):
        spec = known_model(name)
        assert model_defaults(spec).num_inference_steps == 3
        assert spec.transformer == known_model(name.removeprefix("Fast")).transformer


def test_all_ranks_share_the_one_branch(fast: Path, tiny: Path) -> None:
    """What an engine chooses for a model without guidance has no branch that would have nothing to do."""
    asked = AskedLayout(num_gpus=2)
    branches = [
        Engine(EngineConfig(model_path=str(path), asked_layout=asked)).choice.layout.cfg for path in (tiny, fast)
    ]
    assert branches == [2, 1]


def test_two_experts_are_not_taken_for_one(fast: Path, tmp_path: Path) -> None:
    folder = copy_json(fast, tmp_path / "experts")
    edit(folder, "model_index.json", boundary_ratio=0.875)
    with pytest.raises(InvalidCheckpoint, match=r"boundary_ratio=0\.875"):
        read_model(folder)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("blocks.0.attn1.to_gate_compress.weight", r"VSA.*FastWan2\.2-TI2V-5B-FullAttn"),
        ("blocks.0.attn1.attn_op.local_attn.proj_l.weight", "SLA.*rCM"),
    ],
)
def test_sparse_attention_is_refused_by_name(fast: Path, tmp_path: Path, name: str, words: str) -> None:
    """A full attention with such weights would run, and make another video in silence."""
    folder = link_all(fast, tmp_path / "sparse")
    (path,) = (folder / "transformer").glob("*.safetensors")
    path.unlink()
    save_file({name: torch.zeros(2, 2)}, path)
    with pytest.raises(InvalidCheckpoint, match=f"transformer: .*{words}"):
        require_whole(Checkpoint(place=folder), with_weights=True)
    require_whole(Checkpoint(place=folder), with_weights=False)


def test_its_own_sampler_makes_what_the_base_model_makes_by_that_name(fast: Path, tiny: Path, tmp_path: Path) -> None:
    """The demo's weights are those of the 5B's demo: all that differs is what is usual."""
    spec, small = read_model(fast), {"width": 64, "height": 64, "num_frames": 5, "seed": 3}
    own = model_defaults(spec, fast).complete("a kite", spec, **small)
    named = model_defaults(read_model(tiny), tiny).complete("a kite", spec, **small, sampler="fastwan-3step")
    assert own == named
    latents = [final_latents(load_pipeline(path), request, tmp_path) for path, request in ((fast, own), (tiny, named))]
    assert torch.equal(*latents)


@pytest.mark.slow
def test_it_is_served_with_what_is_usual_of_it(fast: Path, tmp_path: Path) -> None:
    with serve(tmp_path, fast) as server:
        (model,) = server.http.get("/v1/models").json()["data"]
        usual = {field["name"]: field["default"] for field in model["fields"]}
        assert (usual["sampler"], usual["num_inference_steps"], usual["guidance_scale"]) == ("fastwan-3step", 3, 1)
        asked = {"prompt": "a kite", "size": "64x64", "num_frames": 5}
        made = server.wait(server.http.post("/v1/videos", json=asked).json()["id"])
        assert (made["sampler"], made["num_inference_steps"], made["guidance_scale"]) == ("fastwan-3step", 3, 1)
        report = server.http.get(f"/v1/videos/{made['id']}/report").json()
        assert report["workload"]["sampler"] == "fastwan-3step"
        assert len(report["step_seconds"]) == 3
        refused = server.http.post("/v1/videos", json=asked | {"num_inference_steps": 8})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "num_inference_steps")
        more = {"prompt": "on", "video": {"id": made["id"]}, "sampler": "lightx2v-4step"}
        extended = server.http.post("/v1/videos/extensions", json=more).json()
        assert (extended["sampler"], extended["num_inference_steps"], extended["flow_shift"]) == (
            "lightx2v-4step",
            4,
            5,
        )
        form = {"prompt": "a kite", "size": "64x64", "num_frames": "5", "sigmas[]": ["1", "0.8", "0.3"]}
        by_form = server.http.post("/v1/videos", data=form).json()
        assert (by_form["sigmas"], by_form["num_inference_steps"]) == ([1, 0.8, 0.3], 3)
        for video in (extended, by_form):
            server.wait(video["id"])
