"""Wan2.2-A14B: two experts, each for its own share of the noise; against diffusers, over many ranks, taken up again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor

from ringlight.core.checkpoint import Checkpoint
from ringlight.core.config import EngineConfig
from ringlight.core.errors import InvalidCheckpoint, InvalidRequest
from ringlight.core.layout import AskedLayout, ParallelLayout
from ringlight.core.plan import SIMPLEST, JobPlan, Placement
from ringlight.core.request import RequestDefaults, RequestLimits, VideoRequest
from ringlight.core.stored_network import require_whole
from ringlight.core.weights import checkpoint_weights
from ringlight.engine import process
from ringlight.engine.engine import Engine
from ringlight.engine.jobs import Keep, Submission
from ringlight.families.model import ModelSpec
from ringlight.families.table import known_model, model_defaults, read_model
from ringlight.families.wan.recipe import WanRecipe
from ringlight.families.work import Work
from ringlight.parallel.mesh import ParallelMesh
from ringlight.pipelines.output import finish
from ringlight.pipelines.stages.image_encoding import encode_condition
from ringlight.pipelines.trace import Tracer
from ringlight.pipelines.turn import uninterrupted
from ringlight.planner.memory import checkpoint_bytes
from ringlight.worker.memory import ResidentMeter
from ringlight.worker.warming import smallest_requests
from tests.core.checkpoints import copy_json, edit
from tests.engine import faults
from tests.families.videos import make_request, png
from tests.forking import fork_rank
from tests.ours import CPU, Silent, final_latents, load_pipeline
from tests.parallel.ranks import on_ranks
from tests.pipelines.resuming import Broken, Watched, latents_in, run
from tests.pipelines.test_placed import feed_late
from tests.pipelines.test_preview import Album

T2V, I2V = known_model("Wan2.2-T2V-A14B"), known_model("Wan2.2-I2V-A14B")
STEPS = 6  # of which two are of low noise


def test_the_built_in_card_has_the_published_size() -> None:
    assert round(T2V.transformer.layers.parameters / 1e9, 3) == 14.288
    assert T2V.num_experts == 2
    one = known_model("Wan2.1-T2V-14B")
    assert checkpoint_bytes(T2V, 2) - checkpoint_bytes(one, 2) == one.transformer.layers.bytes(2)


def test_most_steps_of_its_defaults_are_of_high_noise() -> None:
    defaults = model_defaults(T2V)
    request = defaults.complete("a cat", T2V)
    assert (request.guidance_scales, request.flow_shift) == ((4.0, 3.0), 12.0)
    assert Work.of(T2V, request).calls_by_expert == (26, 14)


@pytest.mark.parametrize("card", [T2V, I2V], ids=lambda card: card.name)
def test_of_four_distilled_steps_two_are_of_high_noise(card: ModelSpec) -> None:
    """As the boundary_step_index of LightX2V's own configurations has it."""
    request = model_defaults(card).complete("a cat", card, sampler="lightx2v-4step")
    assert Work.of(card, request).calls_by_expert == (2, 2)
    request = model_defaults(card).complete("a cat", card, sigmas=[1.0, 0.95, 0.5])
    assert Work.of(card, request).calls_by_expert == (2, 1)


def test_one_guidance_is_both_experts(tiny_t2v_a14b: Path) -> None:
    """As diffusers has it: what is left out is the other one's, unless nothing is said at all."""
    spec = read_model(tiny_t2v_a14b)
    defaults = RequestDefaults(guidance_scale=4.0, guidance_scale_2=3.0)
    assert defaults.complete("a cat", spec).guidance_scales == (4.0, 3.0)
    assert defaults.complete("a cat", spec, guidance_scale=6.0).guidance_scales == (6.0, 6.0)
    assert defaults.complete("a cat", spec, guidance_scale_2=2.0).guidance_scales == (4.0, 2.0)
    assert defaults.complete("a cat", spec, guidance_scale=6.0, guidance_scale_2=2.0).guidance_scales == (6.0, 2.0)


def test_a_second_guidance_is_refused_where_there_is_one_transformer(tiny: Path) -> None:
    spec = read_model(tiny)
    assert "guidance_scale_2" not in make_request(spec).workload()
    with pytest.raises(InvalidRequest, match="one transformer") as caught:
        make_request(spec, guidance_scale_2=3.0, height=96, width=64).check(spec, RequestLimits())
    assert [problem.field for problem in caught.value.problems] == ["guidance_scale_2"]


@pytest.mark.slow
@pytest.mark.parametrize("planted", ["swapped", "one for all"])
def test_other_experts_make_another_video(tiny_t2v_a14b: Path, tmp_path: Path, planted: str) -> None:
    """So that parity is no accident."""
    pipeline = load_pipeline(tiny_t2v_a14b)
    request = make_request(pipeline.spec, num_inference_steps=STEPS)
    right = final_latents(pipeline, request, tmp_path)
    experts = pipeline.networks.experts
    try:
        pipeline.networks.experts = experts[::-1] if planted == "swapped" else [experts[0]] * 2
        assert (final_latents(pipeline, request, tmp_path) - right).abs().max() > 1e-2
    finally:
        pipeline.networks.experts = experts


@pytest.mark.parametrize("break_after", [4, pytest.param(5, marks=pytest.mark.slow)])
def test_what_goes_on_is_bitwise_what_never_stopped(tiny_t2v_a14b: Path, tmp_path: Path, break_after: int) -> None:
    """Broken off just before the boundary, and just after it: the sampler's history crosses it."""
    pipeline, alone = load_pipeline(tiny_t2v_a14b), ParallelMesh.alone()
    request = make_request(pipeline.spec, num_inference_steps=STEPS)
    (tmp_path / "whole").mkdir()
    run(pipeline, request, tmp_path / "whole", alone, Watched(), keep=False)
    with pytest.raises(Broken):
        run(pipeline, request, tmp_path, alone, Watched(break_after))
    events = Watched()
    run(pipeline, request, tmp_path, alone, events)
    assert events.steps == list(range(break_after + 1, STEPS + 1))
    assert torch.equal(latents_in(tmp_path), latents_in(tmp_path / "whole"))


@pytest.mark.slow
def test_ranks_that_are_killed_at_the_boundary_are_started_anew_and_go_on(
    tiny_t2v_a14b: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One dies when the second expert has made its first step."""
    launches = iter([faults.fork_rank] * 2)  # of two ranks, once
    monkeypatch.setattr(process, "launch", lambda *how: next(launches, fork_rank)(*how))
    config = EngineConfig(
        model_path=str(tiny_t2v_a14b), device="cpu", num_threads=1, asked_layout=AskedLayout(num_gpus=2)
    )
    with Engine(config) as engine:
        request = make_request(engine.spec, num_inference_steps=STEPS, num_frames=5)
        request = msgspec.structs.replace(request, prompt="saved 1 step 4;kill 1 step 5")
        keep = Keep(state_file=str(tmp_path / "state.safetensors"), save_seconds=0.0, max_repeats=1)
        made = engine.submit(request, str(tmp_path / "killed.npy"), submission=Submission(keep=keep)).wait(120)
        assert 0 < made.resumed_from_step < STEPS  # how far rank 0 was, and its disk
        engine.submit(request, str(tmp_path / "whole.npy")).wait(120)
    assert (tmp_path / "killed.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


def previewed(pipeline: WanRecipe, request: VideoRequest, folder: Path, plan: JobPlan = SIMPLEST) -> dict[int, bytes]:
    """A preview of each step; the latents lie in the folder."""
    album = Album()
    tracer = Tracer(CPU, ResidentMeter(), album)
    making = pipeline.make(request, folder / "latents.safetensors", "job", tracer, plan=plan, preview_seconds=1e-9)
    made = uninterrupted(making)
    assert made is not None
    finish(made)
    return album.pictures


@pytest.mark.slow
def test_previews_are_made_of_both_experts_and_change_nothing(tiny_t2v_a14b: Path, tmp_path: Path) -> None:
    """Also where one expert at a time is on the device, and the decoder that pictures are fitted to is not there."""
    pipeline = load_pipeline(tiny_t2v_a14b)
    request = make_request(pipeline.spec, num_inference_steps=STEPS, num_frames=5)
    without = final_latents(pipeline, request, tmp_path)
    pictures = previewed(pipeline, request, tmp_path)
    assert torch.equal(latents_in(tmp_path), without)
    assert list(pictures) == list(range(1, STEPS + 1)) and len(set(pictures.values())) == STEPS
    config = EngineConfig(model_path=str(tiny_t2v_a14b), device="cpu")
    placed = WanRecipe(config, RequestLimits(), CPU, torch.float32, torch.float32, shelf=-1)
    feed_late(placed)
    plan = JobPlan(placement=Placement(streamed_blocks=1, streams_decoder=True))
    assert previewed(placed, request, tmp_path, plan) == pictures
    assert torch.equal(latents_in(tmp_path), without)


@pytest.mark.slow
@pytest.mark.parametrize("as_a_gpu", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_expert_at_work_alone_is_on_the_device(tiny_t2v_a14b: Path, tmp_path: Path, as_a_gpu: bool) -> None:
    """Each comes once, at the boundary the other one is given up; no bit of a latent is another one."""
    request = make_request(read_model(tiny_t2v_a14b), num_inference_steps=STEPS)
    resident = final_latents(load_pipeline(tiny_t2v_a14b), request, tmp_path)
    config = EngineConfig(model_path=str(tiny_t2v_a14b), device="cpu")
    recipe = WanRecipe(config, RequestLimits(), CPU, torch.float32, torch.float32, shelf=-1)
    lane = feed_late(recipe) if as_a_gpu else None
    made = final_latents(recipe, request, tmp_path, JobPlan(placement=Placement(streamed_blocks=1)))
    assert torch.equal(made, resident)
    if lane is None:
        return
    report = recipe.weights_report()
    assert report is not None
    one = sum(part.num_bytes for group in recipe.transformer.parts()[1:] for part in group)
    assert report.brought_bytes["transformer"] > one
    assert report.brought_bytes["transformer_2"] > one
    assert lane.live_bytes == 0
    assert lane.peak_bytes < 1.5 * one


def test_what_experts_must_have_is_named(tiny_t2v_a14b: Path, tmp_path: Path) -> None:
    folder = copy_json(tiny_t2v_a14b, tmp_path / "checkpoint")
    edit(folder, "transformer_2/config.json", num_layers=2)
    with pytest.raises(InvalidCheckpoint, match="other numbers"):
        read_model(folder)
    edit(folder, "model_index.json", boundary_ratio=87.5)
    with pytest.raises(InvalidCheckpoint, match="between 0 and 1"):
        read_model(folder)
    edit(folder, "model_index.json", boundary_ratio=0.875, transformer_2=[None, None])
    with pytest.raises(InvalidCheckpoint, match="names no transformer_2"):
        read_model(folder)


def test_a_missing_expert_is_named_before_a_worker_starts(tiny_t2v_a14b: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_t2v_a14b, tmp_path / "checkpoint"))
    require_whole(Checkpoint(place=folder), with_weights=True)
    assert sum("transformer_2" in path.parts for path in checkpoint_weights(Checkpoint(place=folder))) == 1
    (folder / "transformer_2" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(InvalidCheckpoint, match="transformer_2"):
        require_whole(Checkpoint(place=folder), with_weights=True)
    shutil.rmtree(folder / "transformer_2")
    with pytest.raises(InvalidCheckpoint, match="transformer_2"):
        read_model(folder)


def test_the_built_in_card_of_i2v_has_the_published_size() -> None:
    assert round(I2V.transformer.layers.parameters / 1e9, 3) == 14.289
    request = model_defaults(I2V).complete("a cat", I2V)
    assert (request.guidance_scales, request.flow_shift) == ((3.5, 3.5), 5.0)
    assert Work.of(I2V, request).calls_by_expert == (15, 25)


@pytest.mark.slow
@pytest.mark.parametrize("planted", ["latents before the mask", "mask turned round", "frames forgotten"])
def test_another_condition_makes_another_video(
    tiny_i2v_a14b: Path, tmp_path: Path, photograph: Path, monkeypatch: pytest.MonkeyPatch, planted: str
) -> None:
    pipeline = load_pipeline(tiny_i2v_a14b)
    request = make_request(pipeline.spec, image=png(photograph))
    right = final_latents(pipeline, request, tmp_path)

    def wrong(*arguments: Any) -> Tensor:
        made = encode_condition(*arguments)
        mask, latents = made[:, :4], made[:, 4:]
        if planted == "latents before the mask":
            return torch.cat([latents, mask], dim=1)
        if planted == "mask turned round":
            return torch.cat([mask.flip(2), latents], dim=1)
        return torch.cat([mask, latents[:, :, :1].expand_as(latents)], dim=1)

    monkeypatch.setattr("ringlight.families.wan.recipe.encode_condition", wrong)
    assert (final_latents(pipeline, request, tmp_path) - right).abs().max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_every_rank_has_the_condition_of_one_and_sends_what_the_layers_say(
    tiny_i2v_a14b: Path, photograph: Path, num_ranks: int
) -> None:
    vae, kinds = load_pipeline(tiny_i2v_a14b).vae, ("halo", "gather")
    picture = torch.rand(1, 8 * 7, 8 * 5, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1

    def made(mesh: ParallelMesh) -> Tensor:
        link = mesh.world.link
        link.reset()
        condition = encode_condition(picture, None, 9, vae, CPU, mesh.world, Silent())
        report = link.report()
        sent = [report[kind].sent_bytes if kind in report else 0 for kind in kinds]
        return torch.cat([condition.flatten().double(), torch.tensor(sent).double()])

    alone = made(ParallelMesh.alone())[:-2]
    for rank, found in enumerate(on_ranks(ParallelLayout(ring=num_ranks), made)):
        torch.testing.assert_close(found[:-2], alone, rtol=0, atol=2e-5)
        told = vae.spec.encoder.sent_bytes(num_ranks, rank, (7, 5), itemsize=4, num_latents=3)
        assert found[-2:].tolist() == [told[kind] for kind in kinds]


def test_a_picture_is_needed_and_may_follow(tiny_i2v_a14b: Path) -> None:
    spec, limits = read_model(tiny_i2v_a14b), RequestLimits()
    request = make_request(spec)
    with pytest.raises(InvalidRequest, match="--image-path") as caught:
        request.check(spec, limits)
    assert [problem.field for problem in caught.value.problems] == ["image"]
    request.check(spec, limits, follow=("image",))
    assert [video.image is None for video in smallest_requests(spec, limits)] == [False]


def test_more_pixels_than_the_encoder_counts_are_refused(tiny_i2v_a14b: Path) -> None:
    """All frames go through the encoder, four at a time with two before them."""
    spec = known_model("Wan2.2-I2V-A14B")
    limits = RequestLimits()
    make_request(spec, width=2560, height=1440, image=b"\0").check(spec, limits)
    with pytest.raises(InvalidRequest, match="pixels"):
        make_request(spec, width=2560, height=1472, image=b"\0").check(spec, limits)
    make_request(T2V, width=2560, height=1472).check(T2V, limits)
