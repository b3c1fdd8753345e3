"""Jobs that make way for each other, where their weights come and go, or are changed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ringlight.core.config import EngineConfig
from ringlight.core.plan import JobPlan, Placement
from ringlight.core.request import RequestLimits
from ringlight.families.wan.recipe import WanRecipe
from tests.families.hand_merged import BFLOAT16, adapt, few_steps, loaded, small_and_large
from tests.families.videos import make_request
from tests.ours import CPU, final_latents, load_pipeline
from tests.pipelines.test_placed import feed_late
from tests.pipelines.turning import in_turns, jobs_of, require_the_same


@pytest.mark.slow
@pytest.mark.parametrize("as_a_gpu", [None, False, True])
def test_two_experts_take_turns(tiny_t2v_a14b: Path, tmp_path: Path, as_a_gpu: bool | None) -> None:
    """While each of two jobs is at its own; within a budget one has room on the device, and none between turns."""
    config = EngineConfig(model_path=str(tiny_t2v_a14b), device="cpu")
    resident = load_pipeline(tiny_t2v_a14b)
    recipe, plan = resident, JobPlan(take_turns=True)
    if as_a_gpu is not None:
        recipe = WanRecipe(config, RequestLimits(), CPU, torch.float32, torch.float32, shelf=-1)
        plan = JobPlan(placement=Placement(streamed_blocks=1), take_turns=True)
    lane = feed_late(recipe) if as_a_gpu else None
    jobs = jobs_of(tmp_path, [make_request(recipe.spec, num_frames=frames) for frames in (5, 1)], plan)
    live: list[int] = []
    in_turns(recipe, jobs, between=lambda job: live.append(lane.live_bytes if lane is not None else 0))
    require_the_same(recipe, tmp_path, jobs)
    assert not any(live)
    for job in jobs:
        assert torch.equal(load_file(job.output)["latents"], final_latents(resident, job.request, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("shelf", [None, -1])
def test_each_goes_on_with_its_own_loras(tiny21: Path, tmp_path: Path, shelf: int | None) -> None:
    """Merged and on the fly, where weights lie on the device and where they come; `adapt` goes before each turn."""
    recipe = loaded(tiny21, BFLOAT16) if shelf is None else loaded(tiny21, BFLOAT16, shelf=shelf, as_a_gpu=True)
    plan = JobPlan() if shelf is None else JobPlan(placement=Placement(streamed_blocks=2))
    large, small = small_and_large(tmp_path, tiny21)
    jobs = jobs_of(tmp_path, [few_steps(recipe)] * 3, plan)
    loras = dict(zip([job.output for job in jobs], [(), (small,), (large, small)], strict=True))
    in_turns(recipe, jobs, between=lambda job: adapt(recipe, *loras[job.output]))
    made = [load_file(job.output)["latents"] for job in jobs]
    for job, latents in zip(jobs, made, strict=True):
        adapt(recipe, *loras[job.output])
        assert torch.equal(latents, final_latents(recipe, job.request, tmp_path, plan))
    adapt(recipe)
    assert all((each - made[0]).abs().max() > 1e-3 for each in made[1:])
