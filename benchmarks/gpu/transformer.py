"""The full-size transformer: seconds of a forward, what it consists of, and bfloat16 against float32.

B batch, S tokens, C channels, H heads, D head width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from gpu.clock import Peak, Timing, median_timing, read_peak, show_seconds, start_peak, timed
from gpu.networks import executed_forward_flop, forward_flop_formula, make_transformer, random_text
from gpu.profile import profile_rows
from gpu.rates import Rates, allow_tf32
from gpu.report import Row, within
from gpu.scale import MAX_TEXT_ROWS, Scale, Video
from gpu.section import Section
from ringlight.core.portions import SLICE_TOKENS
from ringlight.families.wan.networks.conditioning import Modulation, TextKeys
from ringlight.families.wan.networks.rope import rope_frequencies, rotate_
from ringlight.families.wan.networks.transformer import TransformerBlock, WanTransformer, rms_norm
from ringlight.kernels.attention.kernel import AttentionKernel, choose_kernel
from ringlight.parallel.mesh import ParallelMesh

DTYPE = torch.bfloat16
BFLOAT16_BOUND = 0.05  # rms difference of a forward from float32, over the rms of the result
TIMES = {"T2V": (900.0,), "I2V": (0.0, 900.0)}


def run(section: Section, scale: Scale) -> None:
    """The device's own rates; then build, time and take apart the transformer."""
    rates = Rates()
    section.attempt("matrix-product rates", partial(rates.measure, scale))
    networks: list[WanTransformer] = []
    section.attempt("build the transformer", partial(_build, networks, scale))
    if not networks:
        return
    network = networks[0]
    for video in scale.videos:
        for kind, times in TIMES.items():
            label = f"forward {kind} {video}"
            section.attempt(label, partial(_time_forward, label, network, scale, rates, video, times))
    for video in reversed(scale.videos):
        section.attempt(f"parts of a forward, {video}", partial(_time_parts, network, scale, rates, video))
    label = f"profile of a forward {scale.videos[-1]}"
    section.attempt(label, partial(_profile, label, network, scale), on_error="no result")
    networks.clear()
    del network
    section.attempt("forward, bfloat16 against float32", partial(_compare_dtypes, scale))


def _build(networks: list[WanTransformer], scale: Scale) -> Iterator[Row]:
    start_peak(scale.device)
    seconds = timed(lambda: networks.append(make_transformer(scale.transformer, scale.device, DTYPE)), scale.device)
    count = sum(parameter.numel() for parameter in networks[0].parameters())
    yield Row(
        "build the transformer",
        f"{seconds:.2f} s, {count / 1e9:.3f} G parameters, {read_peak(scale.device)}",
        numbers={"seconds": seconds},
    )


@torch.inference_mode()
def _time_forward(
    label: str, network: WanTransformer, scale: Scale, rates: Rates, video: Video, times: tuple[float, ...]
) -> Iterator[Row]:
    forward = forward_of(network, scale, video, times)
    cold_seconds = timed(forward, scale.device)
    start_peak(scale.device)
    timing = median_timing(forward, scale.device)
    yield _rate_row(label, scale, rates, video, timing, read_peak(scale.device), cold_seconds)


@torch.inference_mode()
def _profile(label: str, network: WanTransformer, scale: Scale) -> Iterator[Row]:
    yield from profile_rows(label, forward_of(network, scale, scale.videos[-1], TIMES["T2V"]), scale.device)


def _rate_row(
    label: str, scale: Scale, rates: Rates, video: Video, timing: Timing, peak: Peak, cold_seconds: float
) -> Row:
    tokens = scale.num_tokens(video)
    executed = executed_forward_flop(scale, video)
    parts = [f"{timing} for {tokens} tokens"]
    if scale.is_real:
        formula = forward_flop_formula(tokens)
        parts.append(f"by the model's formula {rates.show(formula, timing.seconds, 'bfloat16')}")
    parts.append(f"products run {rates.show(executed, timing.seconds, 'bfloat16')}")
    parts += [str(peak), f"first call {cold_seconds:.2f} s"]
    numbers = {
        "seconds": timing.seconds,
        "num_tokens": tokens,
        "formula_flop": forward_flop_formula(tokens) if scale.is_real else None,
        "executed_flop": executed,
        "peak_allocated_bytes": peak.allocated_bytes,
        "peak_reserved_bytes": peak.reserved_bytes,
        "first_call_seconds": cold_seconds,
    }
    return Row(label, "; ".join(parts), numbers=numbers)


def forward_of(network: WanTransformer, scale: Scale, video: Video, times: tuple[float, ...]) -> Callable[[], Tensor]:
    """A call of the network on random latents of a video's size."""
    device = scale.device
    kernel = choose_kernel(device, network.dtype, scale.transformer.attention_head_dim)
    generator = torch.Generator(device).manual_seed(1)
    latents = torch.randn(1, *scale.latent_shape(video), generator=generator, device=device)
    torch.manual_seed(2)
    keys = network.text_keys(random_text(scale.transformer, device), MAX_TEXT_ROWS)
    return partial(network, latents, torch.tensor(times, device=device), keys, kernel, ParallelMesh.alone())


@dataclass(frozen=True)
class BlockInputs:
    """What one block works on: hidden states before it, rotations, modulation, text, and q, k, v as it makes them."""

    block: TransformerBlock
    kernel: AttentionKernel
    x_BSC: Tensor  # noqa: N815 - the shape in the name
    frequencies: Tensor
    modulation: Modulation
    keys: TextKeys
    qkv: tuple[Tensor, Tensor, Tensor]

    @property
    def slices(self) -> list[slice]:
        """The slices of the tokens in which a forward runs what follows attention."""
        tokens = self.x_BSC.shape[1]
        return [slice(start, min(start + SLICE_TOKENS, tokens)) for start in range(0, tokens, SLICE_TOKENS)]

    def before(self) -> object:
        return self.block.qkv(self.x_BSC, 0, self.modulation, self.frequencies)

    def after(self) -> None:
        """All that follows self-attention; q stands for its result."""
        for part in self.slices:
            attended = self.qkv[0][:, part].flatten(2)
            self.block.finish_(self.x_BSC[:, part], attended, part.start, self.modulation, self.keys, self.kernel)

    def whole(self) -> None:
        self.before()
        self.kernel(*self.qkv)
        self.after()


def block_inputs(network: WanTransformer, scale: Scale, video: Video) -> BlockInputs:
    """The first block of a network, with random hidden states of a video's length."""
    block = network.blocks[0]
    assert isinstance(block, TransformerBlock)
    device, spec, tokens = scale.device, scale.transformer, scale.num_tokens(video)
    x_BSC = torch.randn(1, tokens, spec.inner_dim, device=device)
    frequencies = rope_frequencies(scale.grid(video), spec.attention_head_dim, device)
    modulation = Modulation(0.1 * torch.randn(1, 6, spec.inner_dim, device=device), (tokens,))
    keys = network.text_keys(random_text(spec, device), MAX_TEXT_ROWS)[0]
    kernel = choose_kernel(device, network.dtype, spec.attention_head_dim)
    qkv = block.qkv(x_BSC, 0, modulation, frequencies)
    return BlockInputs(block, kernel, x_BSC, frequencies, modulation, keys, qkv)


@torch.inference_mode()
def _time_parts(network: WanTransformer, scale: Scale, rates: Rates, video: Video) -> Iterator[Row]:
    """One block of a forward and its parts, each alone; times the number of layers is what a forward spends on it."""
    inputs = block_inputs(network, scale, video)
    spec, tokens = scale.transformer, inputs.x_BSC.shape[1]
    attention_flop = 4.0 * tokens**2 * spec.inner_dim
    matmul_flop = 2.0 * tokens * (6 * spec.inner_dim**2 + 2 * spec.inner_dim * spec.ffn_dim)
    whole = median_timing(inputs.whole, scale.device).seconds
    parts: list[tuple[str, Callable[[], object], float]] = [
        ("whole block", inputs.whole, attention_flop + matmul_flop),
        ("before attention: norm, q k v, RMS norms, rotation", inputs.before, 2.0 * tokens * 3 * spec.inner_dim**2),
        ("after attention: all the rest, by slices", inputs.after, 0.0),
        ("matrix products alone, as sliced", partial(_products, inputs), matmul_flop),
        ("cross-attention alone, as sliced", partial(_cross_attention, inputs), 0.0),
        ("float32: two modulated norms, one layer norm", partial(_norms, inputs), 0.0),
        ("float32: RMS norms of three, rotation of two", partial(_rotations, inputs), 0.0),
        ("float32: two gated sums, one sum", partial(_sums, inputs), 0.0),
        (f"self-attention alone, {inputs.kernel.name}", partial(inputs.kernel, *inputs.qkv), attention_flop),
    ]
    for name, run_part, flop in parts:
        timing = median_timing(run_part, scale.device, limit_seconds=2.0)
        measured = f"{timing}; x{spec.num_layers} {show_seconds(spec.num_layers * timing.seconds)}"
        measured += f"; {timing.seconds / whole:.0%} of the block"
        measured += f"; {rates.show(flop, timing.seconds, 'bfloat16')}" if flop else ""
        yield Row(f"block {video}: {name}", measured, numbers={"seconds": timing.seconds, "flop": flop or None})


def _products(inputs: BlockInputs) -> None:
    block = inputs.block
    hidden = inputs.qkv[0].flatten(2)
    block.attn1.to_qkv(hidden)
    for part in inputs.slices:
        sliced = hidden[:, part]
        for linear in (block.attn1.to_out, block.attn2.to_q, block.attn2.to_out):
            linear(sliced)
        block.ffn.down(block.ffn.up(sliced))


def _cross_attention(inputs: BlockInputs) -> None:
    for part in inputs.slices:
        inputs.keys.attend(inputs.qkv[0][:, part], inputs.kernel)


def _norms(inputs: BlockInputs) -> None:
    block, x = inputs.block, inputs.x_BSC
    dtype = inputs.qkv[0].dtype
    inputs.modulation.norm(x, 0, 0, dtype, block.eps)
    F.layer_norm(x, x.shape[-1:], block.norm2.weight, block.norm2.bias, block.eps).to(dtype)
    inputs.modulation.norm(x, 0, 3, dtype, block.eps)


def _rotations(inputs: BlockInputs) -> None:
    attention, (q, k, _) = inputs.block.attn1, inputs.qkv
    for tensor, weight in ((q, attention.norm_q), (k, attention.norm_k)):
        normed = rms_norm(tensor.flatten(2), weight, attention.eps)
        rotate_(normed.unflatten(-1, (attention.heads, -1)), inputs.frequencies).to(q.dtype)
    rms_norm(q.flatten(2), inputs.block.attn2.norm_q, attention.eps).to(q.dtype)


def _sums(inputs: BlockInputs) -> None:
    update = inputs.qkv[0].flatten(2)
    inputs.modulation.add_gated_(inputs.x_BSC, update, 0, gate=2)
    inputs.x_BSC.add_(update)
    inputs.modulation.add_gated_(inputs.x_BSC, update, 0, gate=5)


@torch.inference_mode()
def _compare_dtypes(scale: Scale) -> Iterator[Row]:
    """The same weights in bfloat16 and float32 (TensorFloat-32 off), on a short video, on the device."""
    allow_tf32(False)
    first, *_ = scale.videos
    video = Video(first.height, first.width, 9)
    results = []
    for dtype in (torch.float32, DTYPE):
        network = make_transformer(scale.transformer, scale.device, dtype)
        results.append(forward_of(network, scale, video, TIMES["I2V"])().float())
        del network
    truth, found = results
    error = float((found - truth).square().mean().sqrt() / truth.square().mean().sqrt())
    label = f"forward {video}, bfloat16 against float32"
    yield within(label, f"rms difference {error:.2g} of the result", f"{BFLOAT16_BOUND:g}", error <= BFLOAT16_BOUND)
