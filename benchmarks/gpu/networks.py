"""Networks with random weights made on the device from numbers alone, and how many operations their work takes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import msgspec
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from gpu.scale import MAX_TEXT_ROWS, TRUE_TEXT_ROWS, Scale, Video
from ringlight.families.wan.networks.transformer import WanTransformer
from ringlight.families.wan.networks.vae import WanVae
from ringlight.families.wan.work.transformer import TransformerSpec
from ringlight.families.wan.work.vae import VaeSpec
from ringlight.kernels.attention.kernel import load_kernel
from ringlight.models.loading import fill_random, materialise
from ringlight.parallel.halo import Bands
from ringlight.parallel.mesh import ParallelMesh

META = torch.device("meta")
REAL_LATENT_PIXELS = 44 * 80  # of 704x1280, for which the decoder's formula is given


def make_transformer(
    spec: TransformerSpec, device: torch.device, dtype: torch.dtype, rounded: bool = False
) -> WanTransformer:
    """A transformer with random weights, laid out as the pipeline lays it out. `rounded`: the same in any dtype."""
    with META:
        transformer = WanTransformer(spec)
    materialise(transformer, device, dtype, WanTransformer.KEPT_IN_FLOAT32)
    fill_random(transformer, seed=0)
    if rounded:
        _round(transformer)
    transformer.optimise_layout()
    return transformer


def make_vae(spec: VaeSpec, device: torch.device, dtype: torch.dtype, rounded: bool = False) -> WanVae:
    """A VAE with random weights, laid out as the pipeline lays it out. `rounded`: the same in any dtype."""
    with META:
        vae = WanVae(spec)
    materialise(vae, device, dtype)
    fill_random(vae, seed=0)
    if rounded:
        _round(vae)
    vae.optimise_layout()
    return vae


def _round(network: nn.Module) -> None:
    """Make every weight one that bfloat16 holds."""
    for parameter in network.parameters():
        parameter.data.copy_(parameter.data.bfloat16())


def random_text(spec: TransformerSpec, device: torch.device) -> Tensor:
    """(77, text_dim) rows that stand for an encoded prompt."""
    return torch.randn(TRUE_TEXT_ROWS, spec.text_dim, device=device)


def forward_flop_formula(num_tokens: int) -> float:
    """The real model's operations in one forward: two for every weight of a block and token, and attention."""
    return 9.8e9 * num_tokens + 3.69e5 * num_tokens**2


def decode_flop_formula(scale: Scale, video: Video) -> float:
    """The real decoder's operations for one video as the original network multiplies."""
    _, frames, rows, columns = scale.latent_shape(video)
    return (20.6e12 + 66.35e12 * (frames - 1)) * rows * columns / REAL_LATENT_PIXELS


@cache
def executed_forward_flop(scale: Scale, video: Video) -> float:
    """Operations of the matrix products that one forward of our network runs, counted without running them."""
    counts = []
    for num_layers in (1, 2):
        with META:
            spec = msgspec.structs.replace(scale.transformer, num_layers=num_layers)
            network = WanTransformer(spec)
            latents = torch.empty(1, *scale.latent_shape(video))
            keys = network.text_keys(random_text(spec, META), MAX_TEXT_ROWS)
            counts.append(
                _count(network, latents, torch.empty(1), keys, load_kernel("reference"), ParallelMesh.alone())
            )
    return counts[0] + (scale.transformer.num_layers - 1) * (counts[1] - counts[0])


@cache
def executed_decode_flop(scale: Scale, video: Video) -> tuple[float, float]:
    """(first latent frame, each later one): operations of the convolutions and products that our decoder runs."""
    channels, _, rows, columns = scale.latent_shape(video)
    with META:
        vae = WanVae(scale.vae)
        vae.optimise_layout()
        frame = torch.empty(channels, 1, rows, columns)
        stream = vae.start_decoding(Bands.alone(rows), columns, num_latents=2, device=META)
        return (_count(vae.decode_next, frame, stream, True), _count(vae.decode_next, frame, stream, False))


@cache
def executed_encode_flop(scale: Scale, video: Video) -> float:
    """Operations of encoding one picture of the video's size."""
    with META:
        vae = WanVae(scale.vae)
        return _count(vae.encode, torch.empty(1, video.height, video.width, 3))


@torch.inference_mode()
def _count(run: Callable[..., object], *arguments: object) -> float:
    with FlopCounterMode(display=False) as counter:
        run(*arguments)
    return float(counter.get_total_flops())
