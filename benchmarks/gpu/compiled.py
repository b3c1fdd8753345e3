"""A transformer block through torch.compile against the same block run as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import msgspec
import torch
from torch import Tensor

from gpu.clock import median_timing, show_seconds, timed
from gpu.networks import make_transformer
from gpu.report import Row
from gpu.scale import Scale, Video
from gpu.section import Section
from gpu.transformer import DTYPE, BlockInputs, block_inputs
from ringlight.families.wan.networks.transformer import WanTransformer

Run = Callable[[], Tensor]

COMPILE_SECONDS = 20.0


def run(section: Section, scale: Scale) -> None:
    """The largest video first: it is the one that counts. An error is reported and fails nothing."""
    for video in reversed(scale.some(scale.videos)):
        name = f"torch.compile of a block, {video}"
        check = partial(_compare, name, scale, video)
        section.attempt(name, check, on_error="no result", needs_seconds=0.0 if scale.self_test else COMPILE_SECONDS)


def _compare(name: str, scale: Scale, video: Video) -> Iterator[Row]:
    """One block, made outside inference mode as the pipeline makes it."""
    spec = msgspec.structs.replace(scale.transformer, num_layers=1)
    yield from _time_both(name, make_transformer(spec, scale.device, DTYPE), scale, video)


@torch.inference_mode()
def _time_both(name: str, network: WanTransformer, scale: Scale, video: Video) -> Iterator[Row]:
    """The two parts around self-attention, each compiled for its own static shapes; attention stays a kernel call."""
    torch.compiler.reset()
    inputs = block_inputs(network, scale, video)
    compile_part = partial(torch.compile, dynamic=False, backend=scale.compile_backend)
    block = inputs.block
    before: tuple[Run, Run] = (partial(_before, inputs, block.qkv), partial(_before, inputs, compile_part(block.qkv)))
    after: tuple[Run, Run] = (
        partial(_after, inputs, block.finish_),
        partial(_after, inputs, compile_part(block.finish_)),
    )
    for part, (eager, fast) in (("before attention", before), ("after attention", after)):
        first_seconds = timed(fast, scale.device)
        error = _difference(eager(), fast())
        plain = median_timing(eager, scale.device, limit_seconds=2.0).seconds
        quick = median_timing(fast, scale.device, limit_seconds=2.0).seconds
        measured = (
            f"{show_seconds(quick)} against {show_seconds(plain)}, {quick / plain:.0%}; "
            f"compiling took {first_seconds:.1f} s; rms difference {error:.2g} of the result"
        )
        yield Row(f"{name}: {part}", measured, numbers={"compiled_seconds": quick, "eager_seconds": plain})


def _before(inputs: BlockInputs, qkv: Callable[..., tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """q, as a block's first part gives it."""
    q, _, _ = qkv(inputs.x_BSC, 0, inputs.modulation, inputs.frequencies)
    return q


def _after(inputs: BlockInputs, finish: Callable[..., None]) -> Tensor:
    """The hidden states after a block, from a copy. All tokens share one modulation here, so every slice may call
    itself the first: a changing start would be compiled anew each time."""
    x_BSC = inputs.x_BSC.clone()
    for part in inputs.slices:
        attended = inputs.qkv[0][:, part].flatten(2)
        finish(x_BSC[:, part], attended, 0, inputs.modulation, inputs.keys, inputs.kernel)
    return x_BSC


def _difference(found: Tensor, truth: Tensor) -> float:
    delta = (found.float() - truth.float()).square().mean().sqrt()
    return float(delta / truth.float().square().mean().sqrt())
