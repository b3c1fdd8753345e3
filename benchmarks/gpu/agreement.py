"""Whether ranks that share one device get what one rank gets: forwards, guidance, the VAE's bands, a generation.

Every rank computes the result of one rank too, and holds its own against it. In float32, TensorFloat-32 off, they may
differ by rounding; in bfloat16 ranks may be no further from float32 than one rank is. Networks have the real width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import safetensors.torch
import torch
from torch import Tensor

from gpu.group import Finding, run_group
from gpu.networks import make_transformer, make_vae, random_text
from gpu.parity import PROMPT, SEED, Frames, Unheard, Unmeasured, device_name
from gpu.picture import picture
from gpu.report import Row, within
from gpu.scale import MAX_TEXT_ROWS, Scale
from gpu.section import Section, release_memory
from gpu.transformer import TIMES
from gpu.vae import random_latents
from ringlight.core.config import EngineConfig, read_defaults
from ringlight.core.layout import ParallelLayout
from ringlight.core.request import RequestLimits
from ringlight.families.wan.networks.transformer import WanTransformer
from ringlight.families.wan.networks.vae import WanVae
from ringlight.families.wan.recipe import WanRecipe
from ringlight.families.wan22_ti2v.demo import DEMO
from ringlight.kernels.attention.kernel import choose_kernel
from ringlight.parallel.link import Link
from ringlight.parallel.mesh import ParallelMesh
from ringlight.parallel.turns import in_turns
from ringlight.pipelines.stages.decoding import decode
from ringlight.pipelines.stages.denoising import Guided
from ringlight.pipelines.stages.image_encoding import encode_image
from ringlight.pipelines.trace import Tracer

LAYERS = 2
DTYPES = (torch.float32, torch.bfloat16)  # the truth first
BOUND = 2e-5  # of the largest value, float32
BFLOAT16_RATIO = 1.1
GENERATION_BOUND = 1e-3  # of latents after a few steps, largest difference
GUIDANCE_SCALE = 5.0
LEFT_SECONDS = 2.0  # of the section, in which to tell what ranks had found that had not ended
LAYOUTS = {2: ("u1r2", "u2r1"), 4: ("u1r4", "u2r2", "u4r1")}
SLICES = {2: (2, 4, 8), 4: (4,)}  # beside one piece
BRANCHES = {2: "c2u1r1", 4: "c2u1r2"}

Compute = Callable[[ParallelMesh], Tensor | None]  # a result on a mesh; None on ranks that have none


def compare(scale: Scale, num_ranks: int, section: Section) -> Iterator[Row]:
    """A row for each check, the worst of all ranks in it."""
    for found in run_group(scale, num_ranks, checks, section.seconds_left - LEFT_SECONDS):
        worst = max(found, key=lambda finding: math.inf if math.isnan(finding.error) else finding.error)
        name = f"{worst.name}, {num_ranks} ranks against one"
        numbers = {"error": worst.error, "one_rank_error": worst.one_rank, "seconds_since_start": worst.seconds}
        if worst.one_rank is not None:
            held = worst.error <= BFLOAT16_RATIO * worst.one_rank
            measured = f"rms {worst.error:.3g} from float32, one rank {worst.one_rank:.3g}"
            yield within(name, measured, f"{BFLOAT16_RATIO:g} of one rank's", held, **numbers)
        else:
            bound = GENERATION_BOUND if worst.name.startswith("generation") else BOUND
            measured = f"max {worst.error:.2g} of the largest value"
            yield within(name, measured, f"{bound:g}", worst.error <= bound, **numbers)


def checks(scale: Scale, rank: int, num_ranks: int, link: Link) -> Iterator[Finding]:
    """What one rank of a group finds. All ranks find the same things in the same order."""

    def mesh(layout: str) -> ParallelMesh:
        return ParallelMesh.of(ParallelLayout.parse(layout), rank, link)

    yield from _check_transformer(scale, num_ranks, mesh)
    release_memory()
    yield from _check_vae(scale, mesh(LAYOUTS[num_ranks][0]))
    release_memory()
    layouts = scale.some((*LAYOUTS[num_ranks], BRANCHES[num_ranks]))
    yield from _check_generations(scale, [mesh(layout) for layout in layouts])


@torch.inference_mode()
def _check_transformer(scale: Scale, num_ranks: int, mesh: Callable[[str], ParallelMesh]) -> Iterator[Finding]:
    """Forwards in every layout and number of slices, two branches in turns, and guidance over branches."""
    spec = msgspec.structs.replace(scale.transformer, num_layers=LAYERS)
    networks = {dtype: make_transformer(spec, scale.device, dtype, rounded=True) for dtype in DTYPES}
    forward, turns, guided = (
        {dtype: partial(run, network, scale) for dtype, network in networks.items()}
        for run in (_forward, _both_in_turns, _guided)
    )
    alone, alone_in_turns = _all_alone(forward), _all_alone(turns)
    for layout in LAYOUTS[num_ranks]:
        for num_slices in (1, *scale.some(SLICES[num_ranks])):
            ways = {dtype: partial(run, num_slices=num_slices) for dtype, run in forward.items()}
            how = f"{num_slices} slices ahead" if num_slices > 1 else "in one piece"
            yield from _findings(f"forward {layout}, {how}", ways, alone, mesh(layout))
        yield from _findings(f"two branches in turns, {layout}", turns, alone_in_turns, mesh(layout))
    branches = BRANCHES[num_ranks]
    yield from _findings(f"guidance {branches}", guided, _all_alone(guided), mesh(branches))


@torch.inference_mode()
def _check_vae(scale: Scale, mesh: ParallelMesh) -> Iterator[Finding]:
    """The decoder with its stage, all frames going to rank 0, and the encoder with its own."""
    networks = {dtype: make_vae(scale.vae, scale.device, dtype, rounded=True) for dtype in DTYPES}
    video = scale.bands_video
    for name, run in (("decode", _decode), ("encode", _encode)):
        ways = {dtype: partial(run, network, scale) for dtype, network in networks.items()}
        label = f"{name} {video.height}x{video.width}, bands"
        yield from _findings(label, ways, _all_alone(ways), mesh)


def _findings(
    name: str, ways: Mapping[torch.dtype, Compute], alone: Mapping[torch.dtype, Tensor], mesh: ParallelMesh
) -> Iterator[Finding]:
    """float32 against one rank's; bfloat16 and one rank's bfloat16 against one rank's float32."""
    exact, half = DTYPES
    truth = alone[exact]
    found, rough = ways[exact](mesh), ways[half](mesh)
    error = 0.0 if found is None else _largest(found, truth)
    yield Finding(name=f"{name}, float32", error=error)
    one_rank = _rms(alone[half], truth)
    error = 0.0 if rough is None else _rms(rough, truth)
    yield Finding(name=f"{name}, bfloat16", error=error, one_rank=one_rank)


def _alone(run: Compute) -> Tensor:
    result = run(ParallelMesh.alone())
    assert result is not None
    return result


def _all_alone(ways: Mapping[torch.dtype, Compute]) -> dict[torch.dtype, Tensor]:
    return {dtype: _alone(run) for dtype, run in ways.items()}


def _largest(found: Tensor, truth: Tensor) -> float:
    return float((found.float() - truth).abs().max() / truth.abs().max())


def _rms(found: Tensor, truth: Tensor) -> float:
    return float((found.float() - truth).square().mean().sqrt())


def _inputs(network: WanTransformer, scale: Scale) -> dict[str, Any]:
    """What a forward takes, the same on all ranks; image-to-video, whose tokens have two times."""
    generator = torch.Generator(scale.device).manual_seed(5)
    latents = torch.randn(1, *scale.latent_shape(scale.shared_video), generator=generator, device=scale.device)
    kernel = choose_kernel(scale.device, network.dtype, scale.transformer.attention_head_dim)
    return {"latents": latents, "timesteps": torch.tensor(TIMES["I2V"], device=scale.device), "kernel": kernel}


def _texts(scale: Scale) -> list[Tensor]:
    torch.manual_seed(6)
    return [random_text(scale.transformer, scale.device) for _ in range(2)]


def _forward(network: WanTransformer, scale: Scale, mesh: ParallelMesh, num_slices: int = 1) -> Tensor:
    inputs = _inputs(network, scale)
    keys = network.text_keys(_texts(scale)[0], MAX_TEXT_ROWS)
    velocity: Tensor = network(inputs["latents"], inputs["timesteps"], keys, inputs["kernel"], mesh, num_slices)
    return velocity.float()


def _both_in_turns(network: WanTransformer, scale: Scale, mesh: ParallelMesh) -> Tensor:
    inputs = _inputs(network, scale)
    branches = [
        network.steps(
            inputs["latents"],
            inputs["timesteps"],
            network.text_keys(text, MAX_TEXT_ROWS),
            inputs["kernel"],
            mesh,
        )
        for text in _texts(scale)
    ]
    return torch.cat(in_turns(*branches)).float()


def _guided(network: WanTransformer, scale: Scale, mesh: ParallelMesh) -> Tensor:
    inputs = _inputs(network, scale)
    guided = Guided(network, inputs["kernel"], mesh, _texts(scale), MAX_TEXT_ROWS, GUIDANCE_SCALE)
    return guided.predict(inputs["latents"], inputs["timesteps"])


def _decode(vae: WanVae, scale: Scale, mesh: ParallelMesh) -> Tensor | None:
    """All frames on rank 0, two latent frames at a time."""
    latents = random_latents(scale, scale.bands_video).unsqueeze(0)
    writer = Frames() if mesh.world.rank == 0 else None
    decode(latents, vae, 2, Tensor.float, writer, Unheard(), mesh.world)
    return torch.cat(writer.parts) if writer is not None else None


def _encode(vae: WanVae, scale: Scale, mesh: ParallelMesh) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    video = scale.bands_video
    image = torch.rand(1, video.height, video.width, 3, generator=generator).mul_(2).sub_(1)
    return encode_image(image, vae, scale.device, mesh.world, Unheard())


def _check_generations(scale: Scale, meshes: list[ParallelMesh]) -> Iterator[Finding]:
    """A tiny image-to-video with guidance from a checkpoint's files, text encoder over the ranks too: its latents."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        DEMO.write(folder, "tiny")
        truth = _generate(folder, scale, ParallelMesh.alone())
        for mesh in meshes:
            found = _generate(folder, scale, mesh)
            error = 0.0 if found is None or truth is None else _largest(found, truth)
            yield Finding(name=f"generation {mesh.layout.name}, latents, float32", error=error)


def _generate(folder: Path, scale: Scale, mesh: ParallelMesh) -> Tensor | None:
    """The latents, on rank 0 alone."""
    config = EngineConfig(model_path=str(folder), device=device_name(scale.device), tf32=False)
    pipeline = WanRecipe(config, RequestLimits(), scale.device, torch.float32, torch.float32, mesh.world)
    fields = scale.demos["tiny"] | {"image": picture()}
    request = read_defaults(folder).complete(PROMPT, pipeline.spec, seed=SEED, **fields)
    output = folder / "latents.safetensors"
    if not pipeline.run(request, output, "ranks", Tracer(scale.device, Unmeasured(), Unheard()), mesh):
        return None
    latents: Tensor = safetensors.torch.load_file(output)["latents"]
    return latents
