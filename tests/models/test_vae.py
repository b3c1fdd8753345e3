"""The VAE against diffusers' on the same weights, as a stream in any portions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ringlight.core.picture import fit_picture
from ringlight.core.portions import HISTORY, MAX_ELEMENTS
from ringlight.families.layers.convolution import Convolution
from ringlight.families.wan.networks import causal
from ringlight.families.wan.networks.causal import CausalConv, RmsNorm, Stream
from ringlight.families.wan.networks.vae import WanVae
from ringlight.models.loading import fill_random, materialise
from ringlight.parallel.halo import Bands
from tests.oracle import load_oracle
from tests.ours import CPU, load_pipeline
from tests.quick import first_quick

SHAPES = [(1, 2, 2), (1, 6, 10), (2, 6, 4), (5, 4, 6), (4, 10, 2)]  # latent frames, height, width


def random_latents(shape: tuple[int, int, int]) -> Tensor:
    return torch.randn(48, *shape, generator=torch.Generator().manual_seed(sum(shape)))


def decode(vae: WanVae, latents_ZTHW: Tensor, portions: list[int], max_elements: int = MAX_ELEMENTS) -> Tensor:
    """Frames in 0..1, decoded in portions of latent frames."""
    _, num_latents, rows, columns = latents_ZTHW.shape
    stream = vae.start_decoding(Bands.alone(rows), columns, num_latents, CPU, max_elements=max_elements)
    parts = latents_ZTHW.split(portions, dim=1)
    frames = [vae.decode_next(part, stream, first=i == 0) for i, part in enumerate(parts)]
    return torch.cat(frames).float().div(2).add(0.5)


@pytest.mark.parametrize("shape", first_quick((shape,) for shape in reversed(SHAPES)), ids=str)
def test_decode_within_2e_5_of_diffusers(tiny: Path, shape: tuple[int, int, int]) -> None:
    latents = random_latents(shape)
    ours = decode(load_pipeline(tiny).vae, latents, [1] * shape[0])
    theirs = load_oracle(tiny).decode(latents.unsqueeze(0))
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() < 2e-5


@pytest.mark.parametrize("portions", first_quick([[1, 2, 2], [1, 4], [1, 3, 1], [1, 1, 3]]), ids=str)
def test_portions_do_not_change_the_frames(tiny: Path, portions: list[int]) -> None:
    vae, latents = load_pipeline(tiny).vae, random_latents((5, 4, 6))
    one_by_one = decode(vae, latents, [1] * 5)
    assert (decode(vae, latents, portions) - one_by_one).abs().max() < 2e-5


def test_a_portion_brings_nothing_to_the_device(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a copy waits until all that was queued is done: frames of one portion would not leave under the next."""
    vae, latents = load_pipeline(tiny).vae, random_latents((2, 2, 2))
    decode(vae, latents, [1, 1])
    monkeypatch.setattr(torch, "tensor", None)
    decode(vae, latents, [1, 1])


def test_forgotten_history_would_show(tiny: Path) -> None:
    """A planted bug: every latent frame decoded as if it were the second."""
    vae, latents = load_pipeline(tiny).vae, random_latents((3, 4, 6))
    right = decode(vae, latents, [1, 1, 1])
    wrong = decode(vae, latents[:, [0, 2]], [1, 1])
    assert (right[-4:] - wrong[-4:]).abs().max() > 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("scale", [1e3, 1.0, 1e-6, 1e-20, 0.0])
def test_the_norm_of_cuda_is_that_of_a_cpu(dtype: torch.dtype, scale: float) -> None:
    """Down to no length at all, and no less exact in bfloat16."""
    generator = torch.Generator().manual_seed(5)
    norm = RmsNorm(96)
    norm.gamma = torch.nn.Parameter((1 + torch.randn(96, generator=generator) / 4).to(dtype))
    x = (scale * torch.randn(2, 5, 4, 96, generator=generator)).to(dtype)
    written, fused = norm.into(x, torch.empty_like(x)), norm.fused(x)
    assert fused.dtype == written.dtype == dtype
    exact = torch.nn.functional.normalize(x.double(), dim=-1) * 96**0.5 * norm.gamma.double()
    errors = [float((found.double() - exact).norm()) for found in (fused, written)]
    assert errors[0] <= 1.1 * errors[1] + 1e-6 * float(exact.norm())


def test_a_decode_with_the_norm_of_cuda(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vae, latents = load_pipeline(tiny).vae, random_latents((2, 4, 6))
    written = decode(vae, latents, [1, 1])
    monkeypatch.setattr(causal, "FUSED_NORM_ON", ("cpu",))
    fused = decode(vae, latents, [1, 1])
    assert not torch.equal(fused, written), "two ways to compute"
    assert (fused - written).abs().max() < 2e-5


def test_two_streams_do_not_meet(tiny: Path) -> None:
    vae = load_pipeline(tiny).vae
    first, second = random_latents((2, 4, 6)), random_latents((2, 4, 6)).flip(-1)
    streams = [vae.start_decoding(Bands.alone(4), 6, 2, CPU) for _ in range(2)]
    mixed = [
        [vae.decode_next(latents[:, i : i + 1], stream, first=i == 0) for i in range(2)]
        for latents, stream in zip((first, second), streams, strict=True)
    ]
    assert torch.equal(torch.cat(mixed[1]).float().div(2).add(0.5), decode(vae, second, [1, 1]))


@pytest.mark.parametrize("frames", [1, 5, 9])
def test_encode_a_photograph_within_2e_5_of_diffusers(tiny: Path, photograph: Path, frames: int) -> None:
    """One picture; and several: the photograph moving through the frame."""
    width, height = 96, 64
    wide = fit_picture(Image.open(photograph), width + 8 * frames, height)
    pixels = torch.from_numpy(np.array(wide)).float() / 127.5 - 1
    video = torch.stack([pixels[:, 8 * i : 8 * i + width] for i in range(frames)])
    ours = load_pipeline(tiny).vae.encode(video)
    theirs = load_oracle(tiny).encode(video)
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() < 2e-5


def test_pairs_of_frames_are_the_plain_convolution() -> None:
    """Four products for two frames against six, in float64's company."""
    layer = Convolution(inputs=24, channels=16, kernel=(3, 3, 3), in_pairs=True)
    plain = CausalConv(layer).requires_grad_(False)
    paired = CausalConv(layer).requires_grad_(False)
    torch.nn.init.normal_(plain.weight, std=0.04)
    torch.nn.init.normal_(plain.bias)
    paired.load_state_dict(plain.state_dict())
    weight = plain.weight.double().clone()
    paired.lay_out()
    window = torch.randn(HISTORY + 6, 7, 9, 24)
    exact = torch.nn.functional.conv3d(
        window.double().permute(3, 0, 1, 2).unsqueeze(0), weight, plain.bias.double(), padding=(0, 1, 1)
    )[0].permute(1, 2, 3, 0)
    errors = []
    for conv in (plain, paired):
        stream = Stream([conv], Bands.alone(7), 9, window, one_frame=False)
        errors.append(float((conv.run(window, stream).double() - exact).abs().max()))
    assert paired.weight.shape[2] == 1, "the paired layout must be in use"
    assert errors[1] < 4e-6, errors


def test_slots_are_the_names_and_shapes_of_diffusers(tiny: Path) -> None:
    with torch.device("meta"):
        slots = WanVae(load_pipeline(tiny).spec.vae).checkpoint_slots()
    theirs = load_oracle(tiny).t2v.vae.state_dict()
    assert {name: tuple(slot.shape) for name, slot in slots.items()} == {
        name: tuple(tensor.shape) for name, tensor in theirs.items()
    }


@pytest.mark.slow
def test_histories_frame_by_frame_do_not_change_the_frames(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no tensor may be as long as a window: the same numbers, from more and smaller tensors."""
    monkeypatch.setattr(causal, "FUSED_NORM_ON", ("cpu",))  # the other one has no float64
    with torch.device("meta"):
        vae = WanVae(load_pipeline(tiny).vae.spec)
    materialise(vae, CPU, torch.float64)  # of float32, frames come in pairs
    fill_random(vae, 0)
    latents = random_latents((4, 4, 6))
    whole, cut = (decode(vae, latents, [1] * 4, max_elements) for max_elements in (MAX_ELEMENTS, 2**14))
    assert (whole - cut).abs().max() < 2e-5
    histories = vae.start_decoding(Bands.alone(4), 6, 4, CPU, max_elements=2**14)._history
    assert {len(history) for history in histories.values()} == {1, 2}
