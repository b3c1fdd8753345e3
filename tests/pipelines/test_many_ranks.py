"""Whole generations over real ranks against one rank: same request, same video."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from ringlight.core.layout import ParallelLayout
from ringlight.core.picture import fit_picture
from ringlight.core.plan import SIMPLEST, JobPlan
from ringlight.core.request import RequestDefaults, VideoRequest
from ringlight.families.model import ModelSpec
from ringlight.families.wan.networks.transformer import WanTransformer
from ringlight.families.wan.recipe import WanRecipe
from ringlight.families.wan.work.transformer import TransformerSpec
from ringlight.models.loading import fill_random, materialise
from ringlight.parallel.mesh import ParallelMesh
from tests.ours import as_png, final_latents, frames, load_pipeline, new_tracer
from tests.parallel.ranks import on_ranks

pytestmark = pytest.mark.slow

LAYOUTS = [ParallelLayout.parse(name) for name in ("u1r2", "u2r1", "u1r3", "u2r2", "c2u1r1", "c2u1r2")]
SIZES = [  # width, height, frames: 125, 35 and 12 tokens, which most numbers of ranks do not divide
    (160, 160, 17),
    (224, 160, 1),
    (64, 96, 5),
]
LONG = (224, 224, 17)  # 245 tokens
by_name = pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)


def make_request(spec: ModelSpec, size: tuple[int, int, int], image: bytes | None, **fields: Any) -> VideoRequest:
    width, height, num_frames = size
    given = {"negative_prompt": "blurry", "num_inference_steps": 4, "seed": 7, "guidance_scale": 5.0} | fields
    return RequestDefaults().complete(
        "a violin player", spec, image=image, width=width, height=height, num_frames=num_frames, **given
    )


def picture_of(photograph: Path, size: tuple[int, int, int]) -> bytes:
    return as_png(fit_picture(Image.open(photograph), size[0], size[1]))


@cache
def latents_alone(checkpoint: Path, request: VideoRequest, dtype: torch.dtype = torch.float32) -> Tensor:
    """What one rank makes of a request, once for all layouts."""
    with TemporaryDirectory() as folder:
        return final_latents(load_pipeline(checkpoint, dtype), request, Path(folder))


@cache
def frames_alone(checkpoint: Path, request: VideoRequest) -> Tensor:
    """Frames that one rank makes of a request, once for all layouts."""
    with TemporaryDirectory() as folder:
        return frames(load_pipeline(checkpoint), request, Path(folder))


def generation(
    pipeline: WanRecipe, request: VideoRequest, path: Path, plan: JobPlan = SIMPLEST
) -> Callable[[ParallelMesh], Tensor]:
    """Work for a rank: the generation. Rank 0 writes it to `path`."""
    return generations(pipeline, {path: request}, plan)


def generations(
    pipeline: WanRecipe, requests: dict[Path, VideoRequest], plan: JobPlan = SIMPLEST
) -> Callable[[ParallelMesh], Tensor]:
    """Work for a rank: generations one after another, each written to its path by rank 0."""

    def work(mesh: ParallelMesh) -> Tensor:
        for path, request in requests.items():
            paths = pipeline.run(request, path, "job", new_tracer(), mesh, plan)
            assert paths == ([str(path)] if mesh.world.rank == 0 else [])
        return torch.zeros(1)

    return work


@pytest.mark.parametrize(
    ("layout", "with_image"),
    [
        *(pytest.param(layout, False, id=f"{layout.name}-t2v") for layout in LAYOUTS),
        *(pytest.param(layout, True, id=f"{layout.name}-i2v") for layout in LAYOUTS if layout.num_ranks != 4),
    ],
)
def test_latents_and_frames_within_2e_5_of_one_rank(
    tiny: Path, spec: ModelSpec, photograph: Path, tmp_path: Path, layout: ParallelLayout, with_image: bool
) -> None:
    """Frames of one size, without a picture: what decodes the latents cannot tell whether there was one, and bands of
    all heights are tested by themselves."""
    pipeline, many = load_pipeline(tiny), tmp_path / "many"
    many.mkdir()
    requests = [make_request(spec, size, picture_of(photograph, size) if with_image else None) for size in SIZES]
    work = {many / f"{number}.safetensors": request for number, request in enumerate(requests)}
    if not with_image:
        work[many / "frames.npy"] = requests[0]
    on_ranks(layout, generations(pipeline, work))
    for path, request in work.items():
        if path.suffix == ".npy":
            shared, alone = torch.from_numpy(np.load(path)), frames_alone(tiny, request)
        else:
            shared, alone = load_file(path)["latents"], latents_alone(tiny, request)
            if layout.sp == 1 and not with_image:
                assert torch.equal(shared, alone), "guidance over branches is bitwise one rank's"
        assert shared.shape == alone.shape
        assert (shared - alone).abs().max() < 2e-5


@pytest.mark.parametrize(
    ("name", "num_slices", "take_turns"),
    [
        ("u1r2", 1, True),
        ("u1r2", 2, True),
        ("u1r2", 8, True),
        ("u2r1", 2, True),
        ("u2r1", 4, False),
        ("u2r2", 4, True),
        ("u2r2", 8, True),
    ],
)
def test_sent_ahead_and_in_turns_it_is_the_same_video(
    tiny: Path, spec: ModelSpec, tmp_path: Path, name: str, num_slices: int, take_turns: bool
) -> None:
    request = make_request(spec, LONG, None)
    latents = latents_alone(tiny, request)
    plan = JobPlan(num_slices=num_slices, take_turns=take_turns)
    work = generation(load_pipeline(tiny), request, tmp_path / "many.safetensors", plan)
    on_ranks(ParallelLayout.parse(name), work)
    assert (load_file(tmp_path / "many.safetensors")["latents"] - latents).abs().max() < 2e-5


@pytest.mark.parametrize("name", ["u1r2", "u2r1"])  # branches on ranks of their own compute what one rank does
def test_bfloat16_is_no_further_from_float32_than_one_rank(
    tiny: Path, spec: ModelSpec, tmp_path: Path, name: str
) -> None:
    requests = {tmp_path / f"{seed}.safetensors": make_request(spec, LONG, None, seed=seed) for seed in range(3)}
    on_ranks(ParallelLayout.parse(name), generations(load_pipeline(tiny, torch.bfloat16), requests))
    one, many = 0.0, 0.0
    for path, request in requests.items():
        exact = latents_alone(tiny, request)
        one += float((latents_alone(tiny, request, torch.bfloat16) - exact).norm())
        many += float((load_file(path)["latents"] - exact).norm())
    assert many <= 1.1 * one


def thin_transformer() -> WanTransformer:
    """One block of two narrow heads: for sizes as they are asked for in earnest."""
    thin = TransformerSpec(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=48,
        out_channels=48,
        text_dim=32,
        freq_dim=64,
        ffn_dim=64,
        num_layers=1,
    )
    with torch.device("meta"):
        transformer = WanTransformer(thin)
    materialise(transformer, torch.device("cpu"), torch.float32, WanTransformer.KEPT_IN_FLOAT32)
    fill_random(transformer, seed=0)
    transformer.optimise_layout()
    return transformer


@pytest.mark.parametrize("size", [(832, 480, 81), (1280, 704, 25)], ids=str)
def test_sizes_in_earnest_on_a_thin_model(tiny: Path, spec: ModelSpec, size: tuple[int, int, int]) -> None:
    """8,190 tokens divide neither by 4 nor by 8."""
    width, height, num_frames = size
    transformer, kernel = thin_transformer(), load_pipeline(tiny).kernel
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(1, *spec.latent_shape(num_frames, height, width), generator=generator)
    text = torch.randn(20, 32, generator=generator)

    def forward(mesh: ParallelMesh, num_slices: int = 1) -> Tensor:
        keys = transformer.text_keys(text, 512)
        return transformer(latents, torch.tensor([417.0]), keys, kernel, mesh, num_slices)

    alone = forward(ParallelMesh.alone())
    for name, num_slices in (("u1r2", 1), ("u2r1", 1), ("u2r2", 1), ("u1r4", 1), ("u1r4", 4), ("u2r2", 4)):
        for result in on_ranks(ParallelLayout.parse(name), lambda mesh, n=num_slices: forward(mesh, n)):
            torch.testing.assert_close(result, alone, rtol=0, atol=2e-5)
