"""Generations whose weights lie on the host against those that have them on the device: the same to the bit.

A lane whose copies come late takes the place of a GPU's, so that all ways that a GPU goes are gone here.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from torch import Tensor

from ringlight.core.config import EngineConfig
from ringlight.core.host import LEFT_BYTES
from ringlight.core.layout import ParallelLayout
from ringlight.core.plan import JobPlan, Placement
from ringlight.core.request import RequestDefaults, RequestLimits, VideoRequest
from ringlight.engine.host_memory import HostMemory
from ringlight.families.wan import loaded
from ringlight.families.wan.recipe import WanRecipe
from ringlight.families.wan21_t2v.demo import DEMO as WAN21
from ringlight.parallel.mesh import ParallelMesh
from ringlight.residency.residency import Residency
from tests.ours import CPU, frames, load_pipeline, new_tracer
from tests.parallel.ranks import on_ranks
from tests.quick import first_quick
from tests.residency.exchanges import AtOnce, Late
from tests.residency.lanes import LateLane

LAYERS = 3  # of the tiny demo checkpoint
PLACEMENTS = first_quick(
    [
        (Placement(streamed_blocks=LAYERS, streams_decoder=True), True),
        (Placement(), False),
        (Placement(streamed_blocks=1), True),
        (Placement(streamed_blocks=LAYERS, frames_at_once=2), False),
        (Placement(streamed_blocks=2, streams_decoder=True), False),
    ]
)


@cache
def placed(folder: Path, dtype: torch.dtype = torch.float32, as_a_gpu: bool = False) -> WanRecipe:
    """A pipeline whose weights lie on the host, once a process."""
    config = EngineConfig(model_path=str(folder), device="cpu")
    recipe = WanRecipe(config, RequestLimits(), CPU, dtype, torch.float32, shelf=-1)
    if as_a_gpu:
        feed_late(recipe)
    return recipe


def feed_late(recipe: WanRecipe) -> LateLane:
    """Have a pipeline's weights come by a lane, and late."""
    networks, lane = recipe.networks, LateLane()
    assert networks.residency is not None
    networks.residency = Residency(networks.residency.source, lane)
    networks.encoder.stream_from(networks.residency)
    return lane


def request_for(recipe: WanRecipe, image: bytes | None = None, **changes: Any) -> VideoRequest:
    asked = {"width": 64, "height": 96, "num_frames": 9, "num_inference_steps": 2, "seed": 7, "image": image}
    return RequestDefaults(negative_prompt="blurry").complete("a lighthouse in the fog", recipe.spec, **asked | changes)


@cache
def resident_frames(folder: Path, image: bytes | None, dtype: torch.dtype = torch.float32) -> Tensor:
    recipe = load_pipeline(folder, dtype)
    with TemporaryDirectory() as output:
        return frames(recipe, request_for(recipe, image), Path(output))


@pytest.mark.slow
@pytest.mark.parametrize("as_a_gpu", [False, True])
@pytest.mark.parametrize(("placement", "take_turns"), PLACEMENTS)
def test_wherever_weights_are_kept_the_frames_are_the_same(
    tiny: Path, tmp_path: Path, photograph: Path, placement: Placement, take_turns: bool, as_a_gpu: bool
) -> None:
    image = photograph.read_bytes()
    recipe = placed(tiny, as_a_gpu=as_a_gpu)
    plan = JobPlan(placement=placement, take_turns=take_turns)
    made = frames(recipe, request_for(recipe, image), tmp_path, plan)
    assert torch.equal(made, resident_frames(tiny, image))


@pytest.mark.parametrize("kind", first_quick([Late, AtOnce]))
def test_so_they_are_with_history_on_the_host(
    tiny: Path, tmp_path: Path, photograph: Path, kind: type[AtOnce], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the decoder's weights come and go as well."""
    image, exchange, recipe = photograph.read_bytes(), kind(), placed(tiny, as_a_gpu=True)
    monkeypatch.setattr(recipe.vae, "exchange", exchange)
    placement = Placement(streamed_blocks=1, streams_decoder=True, host_history=2, frames_at_once=1)
    made = frames(recipe, request_for(recipe, image), tmp_path, JobPlan(placement=placement))
    assert torch.equal(made, resident_frames(tiny, image))
    assert exchange.rooms
    assert exchange.taken
    report = recipe.weights_report()
    assert report is not None
    assert report.brought_bytes["history of frames"] == 4 * exchange.brought
    assert report.wait_seconds["history of frames"] == 0.25


@pytest.mark.slow
@pytest.mark.parametrize("as_a_gpu", [False, True])
def test_in_bfloat16(tiny: Path, tmp_path: Path, as_a_gpu: bool) -> None:
    recipe = placed(tiny, torch.bfloat16, as_a_gpu)
    plan = JobPlan(placement=Placement(streamed_blocks=2, streams_decoder=True), take_turns=True)
    made = frames(recipe, request_for(recipe), tmp_path, plan)
    assert torch.equal(made, resident_frames(tiny, None, torch.bfloat16))


@pytest.mark.slow
@pytest.mark.parametrize("as_a_gpu", [False, True])
def test_of_the_other_family(tmp_path: Path, as_a_gpu: bool) -> None:
    WAN21.write(tmp_path / "wan21", "tiny")
    recipe = placed(tmp_path / "wan21", as_a_gpu=as_a_gpu)
    plan = JobPlan(placement=Placement(streamed_blocks=2, streams_decoder=True), take_turns=True)
    made = frames(recipe, request_for(recipe), tmp_path, plan)
    assert torch.equal(made, resident_frames(tmp_path / "wan21", None))


@pytest.mark.slow
@pytest.mark.parametrize("load_format", ["auto", "dummy"])
def test_what_comes_is_what_is_planned_and_nothing_stays(tiny: Path, tmp_path: Path, load_format: str) -> None:
    """Each network once for all that it does, streamed blocks once a pass: with turns one pass for both branches."""
    config = EngineConfig(model_path=str(tiny), device="cpu", load_format=load_format)  # type: ignore[arg-type]
    recipe = WanRecipe(config, RequestLimits(), CPU, torch.float32, torch.float32, shelf=-1)
    lane = feed_late(recipe)
    parts = recipe.transformer.parts()
    block = parts.blocks[0].num_bytes
    once = 2 * parts.ends.num_bytes + sum(part.num_bytes for part in (*parts.blocks, *parts.texts))
    steps = 4
    brought = {}
    for turns in (True, False):
        plan = JobPlan(placement=Placement(streamed_blocks=LAYERS), take_turns=turns)
        frames(recipe, request_for(recipe, num_inference_steps=steps), tmp_path, plan)
        assert lane.live_bytes == 0
        report = recipe.weights_report()
        assert report is not None
        brought[turns] = report.brought_bytes["transformer"]
        assert report.wait_seconds["transformer"] > 0
        assert report.host_bytes > brought[turns] / 10
    for turns, passes in ((True, steps), (False, 2 * steps)):
        least = once + sum(part.num_bytes for part in parts.texts) + (passes - 1) * LAYERS * block
        in_vain = 3 * (block + parts.texts[0].num_bytes)  # at most: on its way to a pass that did not come
        assert least <= brought[turns] <= least + in_vain


class Loads:
    """What each rank of two has read of the weights, and made of a request, with one copy for both."""

    def __init__(self, folder: Path, output: Path, memory: HostMemory) -> None:
        self._folder, self._output, self._memory = folder, output, memory

    def __call__(self, mesh: ParallelMesh) -> Tensor:
        config = EngineConfig(model_path=str(self._folder), device="cpu")
        recipe = WanRecipe(
            config, RequestLimits(), CPU, torch.float32, torch.float32, mesh.world, self._memory.descriptor
        )
        plan = JobPlan(placement=Placement(streamed_blocks=2, streams_decoder=True), take_turns=True)
        recipe.run(request_for(recipe), self._output, "job", new_tracer(), mesh, plan)
        residency = recipe.networks.residency
        assert residency is not None
        return torch.tensor([recipe.networks.loaded_bytes, residency.source.num_bytes])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["u1r2", "u2r1", "c2u1r1"])
def test_ranks_share_one_copy_which_is_read_once(tiny: Path, tmp_path: Path, name: str) -> None:
    memory = HostMemory()
    output = tmp_path / "frames.npy"
    found = on_ranks(ParallelLayout.parse(name), Loads(tiny, output, memory))
    loaded_bytes, (host, other) = sum(int(each[0]) for each in found), (int(each[1]) for each in found)
    assert host == other
    assert host * 0.9 < loaded_bytes < host
    assert loaded_bytes == placed(tiny).networks.loaded_bytes
    again = on_ranks(ParallelLayout.parse(name), Loads(tiny, output, memory))  # as a replica that starts later
    assert [int(each[0]) for each in again] == [0, 0]
    memory.close()


@pytest.mark.slow
@pytest.mark.parametrize("as_a_gpu", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.6])
def test_for_want_of_room_networks_stay_in_their_files(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, as_a_gpu: bool
) -> None:
    """The text encoder first. Slower, and the same to the bit."""
    source = placed(tiny).networks.residency
    assert source is not None
    monkeypatch.setattr(loaded, "available_bytes", lambda: int(share * source.source.num_bytes) + LEFT_BYTES)
    config = EngineConfig(model_path=str(tiny), device="cpu")
    recipe = WanRecipe(config, RequestLimits(), CPU, torch.float32, torch.float32, shelf=-1)
    if as_a_gpu:
        feed_late(recipe)
    plan = JobPlan(placement=Placement(streamed_blocks=2, streams_decoder=True), take_turns=True)
    for _ in range(2):
        made = frames(recipe, request_for(recipe), tmp_path, plan)
        recipe.prompts.forget()
        assert torch.equal(made, resident_frames(tiny, None))
    report = recipe.weights_report()
    assert report is not None
    assert report.brought_bytes["text encoder"] > 0
    assert (report.brought_bytes["transformer"] > 0) >= (share == 0.0)
