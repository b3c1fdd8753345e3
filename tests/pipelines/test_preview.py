"""Previews: that they resemble what the decoder shows, come when they should, and change nothing."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from ringlight.core.layout import ParallelLayout
from ringlight.core.picture import fit_picture
from ringlight.core.request import RequestDefaults, VideoRequest
from ringlight.families.model import ModelSpec
from ringlight.families.wan.networks.vae import WanVae
from ringlight.parallel.halo import Bands
from ringlight.parallel.mesh import ParallelMesh
from ringlight.pipelines.output import finish
from ringlight.pipelines.preview import DETAIL, Painter, apply, fit
from ringlight.pipelines.stages.denoising import without_noise
from ringlight.pipelines.stages.timestep_preparation import prepare_timesteps
from ringlight.pipelines.trace import Tracer
from ringlight.pipelines.turn import uninterrupted
from ringlight.worker.memory import ResidentMeter
from tests.ours import CPU, Silent, as_png, final_latents, load_pipeline
from tests.parallel.ranks import on_ranks
from tests.quick import first_quick


class Album(Silent):
    """Keeps the previews."""

    def __init__(self) -> None:
        self.pictures: dict[int, bytes] = {}

    def preview_made(self, step: int, picture: bytes) -> None:
        self.pictures[step] = picture


def request_for(spec: ModelSpec, photograph: Path | None = None, num_frames: int = 9) -> VideoRequest:
    image = None if photograph is None else as_png(fit_picture(Image.open(photograph), 96, 64))
    return RequestDefaults().complete(
        "a cat", spec, width=96, height=64, num_frames=num_frames, num_inference_steps=4, seed=1, image=image
    )


def correlation(one: Tensor, other: Tensor) -> float:
    """-1 to 1, of all pixels (H, W, 3), the mean of each colour left out."""
    one, other = (picture - picture.mean(dim=(0, 1)) for picture in (one, other))
    return float((one * other).sum() / (one.norm() * other.norm()))


def decoded(vae: WanVae, latents_Z1HW: Tensor) -> Tensor:
    """The frame at the size of a preview."""
    _, _, rows, columns = latents_Z1HW.shape
    stream = vae.start_decoding(Bands.alone(rows), columns, 1, CPU)
    frame = vae.decode_next(latents_Z1HW, stream, first=True)[0].permute(2, 0, 1).unsqueeze(0)
    return interpolate(frame, (rows * DETAIL, columns * DETAIL), mode="area")[0].permute(1, 2, 0)


def straighten(vae: WanVae) -> dict[str, Tensor]:
    """Leave of the decoder's residual blocks the shortcuts alone, which are linear. Returns what was there."""
    before = {}
    for name, parameter in vae.decoder.named_parameters():
        if ".conv2." in name or ".proj." in name:
            before[name] = parameter.clone()
            parameter.zero_()
    return before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("is_straight", "least"), first_quick([(True, 0.6), (False, 0.3)]), ids=["nearly linear", "untrained"]
)
def test_a_preview_is_like_the_frame_of_a_photograph_that_it_was_not_fitted_to(
    tiny: Path, photograph: Path, is_straight: bool, least: float
) -> None:
    vae = load_pipeline(tiny).vae
    pixels = torch.from_numpy(np.array(Image.open(photograph))).float().div(127.5).sub(1)
    parts = [pixels[top : top + 256, left : left + 256] for top in (0, 256) for left in (0, 256)]
    latents = [vae.encode(part.unsqueeze(0)) for part in parts]
    before = straighten(vae) if is_straight else {}
    try:
        colours = fit(vae, CPU)
        frames = [decoded(vae, part) for part in latents]
    finally:
        for name, values in before.items():
            vae.decoder.get_parameter(name).copy_(values)
    previews = [apply(colours, part[:, 0]) for part in latents]
    own = [correlation(preview, frame) for preview, frame in zip(previews, frames, strict=True)]
    others = [correlation(previews[i - 1], frame) for i, frame in enumerate(frames)]
    assert min(own) > least
    assert all(mine > by_chance + 0.1 for mine, by_chance in zip(own, others, strict=True))


def test_the_estimate_is_the_schedulers_own(tiny: Path, spec: ModelSpec) -> None:
    generator = torch.Generator().manual_seed(2)
    sampler = prepare_timesteps(request_for(spec), spec.scheduler, generator, CPU)
    latents, noise = (torch.randn(1, 48, 3, 4, 6, generator=generator) for _ in range(2))
    for call in range(len(sampler.timesteps)):
        estimate = without_noise(latents, noise, sampler.sigmas[call])
        latents = sampler.step(call, noise, latents)
        assert torch.equal(estimate, sampler.memory()["predictions"][0])


@pytest.mark.slow
@pytest.mark.parametrize("num_frames", [1, 9])
@pytest.mark.parametrize("with_image", [False, True], ids=["t2v", "i2v"])
def test_previews_come_in_time_and_change_nothing(
    tiny: Path, spec: ModelSpec, photograph: Path, tmp_path: Path, with_image: bool, num_frames: int
) -> None:
    pipeline, request = load_pipeline(tiny), request_for(spec, photograph if with_image else None, num_frames)
    without = final_latents(pipeline, request, tmp_path)
    path = tmp_path / "latents.safetensors"
    before = path.read_bytes()
    for seconds, steps in ((1e-9, [1, 2, 3, 4]), (1e9, [1])):
        album = Album()
        tracer = Tracer(CPU, ResidentMeter(), album)
        making = pipeline.make(request, path, "job", tracer, ParallelMesh.alone(), preview_seconds=seconds)
        made = uninterrupted(making)
        assert made is not None
        finish(made)
        assert path.read_bytes() == before
        assert list(album.pictures) == steps
        for picture in map(io.BytesIO, album.pictures.values()):
            with Image.open(picture) as opened:
                assert (opened.format, opened.size) == ("JPEG", (96 // 16 * DETAIL, 64 // 16 * DETAIL))
    if with_image and num_frames == 1:  # all of it is given: there is nothing to guess
        assert album.pictures[1] == pipeline.painter.paint(without[0, :, 0])


def test_a_preview_is_at_most_320_pixels_wide(tiny: Path) -> None:
    painter = Painter(load_pipeline(tiny).vae)
    painter.fit(CPU)
    for rows, columns, size in ((44, 80, (320, 176)), (2, 200, (320, 3)), (3, 5, (20, 12))):
        with Image.open(io.BytesIO(painter.paint(torch.randn(48, rows, columns)))) as picture:
            assert picture.size == size


@pytest.mark.slow
def test_of_several_ranks_one_makes_them(tiny: Path, spec: ModelSpec, tmp_path: Path) -> None:
    pipeline, request = load_pipeline(tiny), request_for(spec)

    def work(mesh: ParallelMesh) -> Tensor:
        album = Album()
        tracer = Tracer(CPU, ResidentMeter(), album)
        uninterrupted(
            pipeline.make(request, tmp_path / "latents.safetensors", "job", tracer, mesh, preview_seconds=1e-9)
        )
        return torch.tensor(len(album.pictures))

    assert list(map(int, on_ranks(ParallelLayout.parse("u1r2"), work))) == [4, 0]
