"""The diffusion transformer against diffusers' on the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ringlight.families.model import ModelSpec
from ringlight.families.wan.networks import transformer as module
from ringlight.families.wan.networks.conditioning import Modulation, TextKeys
from ringlight.families.wan.networks.transformer import WanTransformer
from ringlight.kernels.attention.kernel import load_kernel
from ringlight.kernels.linear import Linear
from ringlight.parallel.mesh import ParallelMesh
from tests.oracle import load_oracle
from tests.ours import load_pipeline

GRIDS = [(1, 2, 2), (3, 6, 10), (2, 10, 4), (5, 14, 6)]  # latent frames, height, width


def predict_both(
    folder: Path,
    grid: tuple[int, int, int],
    num_text: int,
    first_frame: bool = False,
    dtype: torch.dtype = torch.float32,
    expert: int = 0,
) -> tuple[Tensor, Tensor]:
    """(ours, diffusers') for the same random latents, text and timestep, and tokens of pictures where it knows them.

    With a `first_frame` at time 0 each token is told its time; else all are told one."""
    pipeline, oracle = load_pipeline(folder, dtype), load_oracle(folder, dtype)
    network, spec = pipeline.networks.experts[expert], pipeline.spec
    generator = torch.Generator().manual_seed(sum(grid))
    latents = torch.randn(1, spec.transformer.in_channels, *grid, generator=generator)
    text = torch.randn(num_text, spec.text_encoder.d_model, generator=generator)
    padded = torch.zeros(1, 512, spec.text_encoder.d_model)
    padded[0, :num_text] = text
    seen = None
    if (encoder := spec.image_encoder) is not None:
        num_pictures = 2 if spec.needs_last_picture else 1
        seen = torch.randn(num_pictures, encoder.num_tokens, encoder.hidden_size, generator=generator).to(dtype)
    times = torch.full((1, grid[0], grid[1] // 2, grid[2] // 2), 417.0)
    if first_frame:
        times[:, 0] = 0
    theirs = oracle.experts[expert](
        latents.to(dtype),
        times.flatten(1) if first_frame else times[:, 0, 0, 0],
        padded.to(dtype),
        encoder_hidden_states_image=seen,
        return_dict=False,
    )[0]
    distinct = torch.tensor([0.0, 417.0] if first_frame else [417.0])
    keys = network.text_keys(text.to(dtype), 512, image_LC=None if seen is None else seen.flatten(0, 1))
    return network(latents, distinct, keys, pipeline.kernel, ParallelMesh.alone()), theirs


def relative(difference: Tensor, to: Tensor) -> float:
    return float(difference.double().norm() / to.double().norm())


@pytest.mark.parametrize("first_frame", [False, True], ids=["t2v", "i2v"])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_forward_within_2e_6_of_diffusers(tiny: Path, grid: tuple[int, int, int], first_frame: bool) -> None:
    ours, theirs = predict_both(tiny, grid, 30, first_frame)
    assert ours.shape == theirs.shape
    assert relative(ours - theirs, theirs) < 2e-6


@pytest.mark.parametrize("num_text", [1, 2, 511, 512])
def test_any_length_of_prompt(tiny: Path, num_text: int) -> None:
    """Padding is one column that weighs as many; without padding there is none."""
    ours, theirs = predict_both(tiny, (2, 4, 6), num_text, first_frame=False)
    assert relative(ours - theirs, theirs) < 2e-6


@pytest.mark.parametrize("num_text", [1, 30, 511, 512])
def test_all_rows_of_text_are_as_good_as_merged_ones(tiny: Path, num_text: int) -> None:
    """On CUDA, where shapes stay the same whatever the prompt is."""
    pipeline = load_pipeline(tiny)
    latents, text = torch.randn(1, 48, 2, 4, 6), torch.randn(num_text, 64)
    merged, padded = (pipeline.transformer.text_keys(text, 512, merge_padding) for merge_padding in (True, False))
    assert {(keys.num_pad, keys.k_BLHD.shape[1], keys.v_BLHD.shape[1]) for keys in padded} == {(0, 512, 512)}
    assert {(keys.num_pad, keys.k_BLHD.shape[1]) for keys in merged} == {(512 - num_text, num_text)}
    ours, theirs = (
        pipeline.transformer(latents, torch.tensor([417.0]), keys, pipeline.kernel, ParallelMesh.alone())
        for keys in (padded, merged)
    )
    assert relative(ours - theirs, theirs) < 2e-6


def test_padding_is_merged_on_a_cpu_alone(spec: ModelSpec) -> None:
    """A device without memory stands for CUDA here, as where work is counted."""
    keys = {}
    for device in ("cpu", "meta"):
        with torch.device(device):
            network = WanTransformer(spec.transformer)
            keys[device] = network.text_keys(torch.zeros(30, spec.transformer.text_dim), 512)[0]
    assert [(key.num_pad, key.k_BLHD.shape[1]) for key in keys.values()] == [(482, 30), (0, 512)]


class Operations(TorchDispatchMode):
    """The names of all operations that run under it."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("ends", [(20,), (6, 20)], ids=["t2v", "i2v"])
def test_runs_of_tokens_are_normed_into_one_tensor(ends: tuple[int, ...]) -> None:
    """To put runs together afterwards would write all tokens twice."""
    x, rows = torch.randn(1, 20, 8), torch.randn(len(ends), 6, 8)
    with Operations() as operations:
        normed = Modulation(rows, ends).norm(x, 0, 3, torch.bfloat16, 1e-6)
    assert not any(name.startswith("cat") for name in operations.names)
    for row, run in Modulation(rows, ends).runs(0, 20):
        expected = torch.nn.functional.layer_norm(x[:, run], (8,), eps=1e-6) * (1 + row[4]) + row[3]
        torch.testing.assert_close(normed[:, run], expected.bfloat16(), rtol=1e-2, atol=1e-2)


def test_leaving_the_padding_out_would_show(tiny: Path) -> None:
    """A planted bug: cross-attention to the true rows alone."""
    pipeline = load_pipeline(tiny)
    latents, text = torch.randn(1, 48, 2, 4, 6), torch.randn(30, 64)
    right, wrong = (
        pipeline.transformer(
            latents,
            torch.tensor([417.0]),
            pipeline.transformer.text_keys(text, rows),
            pipeline.kernel,
            ParallelMesh.alone(),
        )
        for rows in (512, 30)
    )
    assert relative(right - wrong, right) > 1e-2


def test_slices_of_tokens_do_not_change_the_result(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Boundaries of slices within a frame, at its end and across the first frame's."""
    whole, _ = predict_both(tiny, (3, 6, 10), 30, first_frame=True)
    for tokens in (7, 15, 44):
        monkeypatch.setattr(module, "SLICE_TOKENS", tokens)
        sliced, _ = predict_both(tiny, (3, 6, 10), 30, first_frame=True)
        assert relative(sliced - whole, whole) < 1e-6


@pytest.mark.parametrize("first_frame", [False, True], ids=["t2v", "i2v"])
def test_bfloat16_is_no_further_from_float32_than_diffusers(tiny: Path, first_frame: bool) -> None:
    _, exact = predict_both(tiny, (3, 6, 10), 30, first_frame)
    ours, theirs = predict_both(tiny, (3, 6, 10), 30, first_frame, torch.bfloat16)
    assert relative(ours - exact, exact) <= 1.1 * relative(theirs - exact, exact)


def test_what_the_reference_keeps_in_float32_is_in_float32(tiny: Path) -> None:
    transformer = load_pipeline(tiny, torch.bfloat16).transformer
    kept = {name for name, parameter in transformer.named_parameters() if parameter.dtype == torch.float32}
    assert kept == {
        name
        for name, _ in transformer.named_parameters()
        if any(part in name for part in ("time_embedder", "scale_shift_table", "norm2"))
    }


def test_slots_are_the_names_and_shapes_of_diffusers(tiny: Path) -> None:
    with torch.device("meta"):
        slots = WanTransformer(load_pipeline(tiny).spec.transformer).checkpoint_slots()
    theirs = load_oracle(tiny).t2v.transformer.state_dict()
    assert {name: tuple(slot.shape) for name, slot in slots.items()} == {
        name: tuple(tensor.shape) for name, tensor in theirs.items()
    }


def test_packed_linear_map_is_the_plain_one() -> None:
    plain, packed = Linear(48, 80), Linear(48, 80)
    packed.load_state_dict(plain.state_dict())
    packed.requires_grad_(False).lay_out()
    x = torch.randn(3, 17, 48)
    torch.testing.assert_close(packed(x), plain(x), rtol=0, atol=2e-6)
    torch.testing.assert_close(packed.with_gelu(x), plain.with_gelu(x), rtol=0, atol=2e-6)


@pytest.mark.parametrize("spread", [1.0, 9.0])
def test_padding_is_as_exact_as_its_rows_in_bfloat16(spread: float) -> None:
    """One score stands for hundreds of rows: rounded to bfloat16 it would cost digits where scores are large."""
    generator = torch.Generator().manual_seed(3)
    q, rows = torch.randn(1, 64, 4, 32, generator=generator), torch.randn(1, 31, 4, 32, generator=generator)
    values = torch.randn(1, 31, 4, 32, generator=generator)
    q, rows, values = (spread * q).bfloat16(), rows.bfloat16(), values.bfloat16()
    repeats = torch.tensor([1] * 30 + [482])
    whole_k, whole_v = rows.repeat_interleave(repeats, dim=1), values.repeat_interleave(repeats, dim=1)
    exact, _ = load_kernel("reference")(q.double(), whole_k.double(), whole_v.double())
    ours = TextKeys(rows, values, num_pad=482).attend(q, load_kernel("flash_cpu"))
    plain, _ = load_kernel("flash_cpu")(q, whole_k, whole_v)
    assert relative(ours - exact, exact) <= 1.1 * relative(plain - exact, exact)


def test_forward_on_a_device_of_any_kind(spec: ModelSpec) -> None:
    """Meta tensors count a forward's work without doing it (benchmarks/gpu): portions are known for every device."""
    grid = (3, 6, 10)
    with torch.device("meta"):
        network = WanTransformer(spec.transformer)
        keys = network.text_keys(torch.empty(30, spec.transformer.text_dim), 512)
        latents = torch.empty(1, spec.transformer.in_channels, *grid)
        velocity = network(latents, torch.empty(2), keys, load_kernel("reference"), ParallelMesh.alone())
    assert velocity.device.type == "meta" and velocity.shape == latents.shape
