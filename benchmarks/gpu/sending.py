"""A layer of one of two ranks whose link is as slow as asked: how much of the link each way of sending hides."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from statistics import median

import msgspec
import torch
from torch import Tensor, nn

from gpu.clock import show_seconds, synchronize
from gpu.networks import make_transformer, random_text
from gpu.report import Row, within
from gpu.scale import MAX_TEXT_ROWS, Scale, Video
from gpu.transformer import DTYPE, TIMES
from gpu.wire import Wire, in_place_of_transfers, make_wire
from ringlight.core.layout import ParallelLayout
from ringlight.kernels.attention.kernel import AttentionKernel, choose_kernel
from ringlight.parallel.attention import sequence_attention
from ringlight.parallel.link import Link
from ringlight.parallel.mesh import ParallelMesh
from ringlight.parallel.shard import SequenceShard

LAYERS = 6
LEAD = 1  # layers before the first one timed: none is under way before them
SAMPLES = 3
RATIOS = {"1:4": 0.25, "5:11": 5 / 11, "1:1": 1.0}  # seconds of a hop over seconds of a layer without a link
SLICES = (2, 4, 8)
GIGA = 1e9
WIRE_BOUND = 1e-2  # bfloat16, of the result

Steps = Callable[[int], Generator[None, None, Tensor]]  # a forward in so many slices


@dataclass(frozen=True)
class Way:
    """A way of sending keys and values to the other rank."""

    name: str
    num_slices: int = 1
    at_once: bool = False
    branches: int = 1  # forwards that take turns


WAYS = (
    Way("wait at once", at_once=True),
    Way("K, V first"),
    *(Way(f"ahead in {num_slices} slices", num_slices) for num_slices in SLICES),
    Way("two branches in turns", branches=2),
)


@dataclass(frozen=True)
class Layer:
    """Seconds of one layer, and bytes and seconds that the link carried for it."""

    seconds: float
    link_bytes: float
    link_seconds: float


def compare(scale: Scale) -> Iterator[Row]:
    """Rank 0 of a ring of two, the largest video; the other rank's keys and values are our own.

    All layers share the weights of one: the time is that of a whole network's, the memory is not.
    """
    network = make_transformer(msgspec.structs.replace(scale.transformer, num_layers=1), scale.device, DTYPE)
    network.blocks = nn.ModuleList(LAYERS * list(network.blocks))
    video = scale.videos[-1]
    assert scale.num_tokens(video) % 2 == 0, "both ranks have parts of one shape"
    mesh = ParallelMesh.of(ParallelLayout(ring=2), 0, Link())
    kernel = choose_kernel(scale.device, DTYPE, scale.transformer.attention_head_dim)
    latents = torch.randn(1, *scale.latent_shape(video), device=scale.device)
    timesteps = torch.tensor(TIMES["T2V"], device=scale.device)
    with torch.inference_mode():
        keys = network.text_keys(random_text(scale.transformer, scale.device), MAX_TEXT_ROWS)

    def steps(num_slices: int) -> Generator[None, None, Tensor]:
        return network.steps(latents, timesteps, keys, kernel, mesh, num_slices)

    wire = make_wire(scale.device)
    yield from _compare(steps, wire, scale.device, video)
    yield _check_wire(scale, wire, mesh, kernel)


@torch.inference_mode()
def _compare(steps: Steps, wire: Wire, device: torch.device, video: Video) -> Iterator[Row]:
    label = f"layer of {video} on 2 ranks"
    bare: dict[int, Layer] = {}
    for num_slices in (1, *SLICES):
        bare[num_slices] = _time(steps, wire, Way("no link", num_slices), device)
        name = "one slice" if num_slices == 1 else f"{num_slices} slices"
        seconds = bare[num_slices].seconds
        measured = f"{show_seconds(seconds)}; {seconds / bare[1].seconds:.3f} of one slice"
        yield Row(f"{label}, no link, {name}", measured, numbers={"seconds": seconds})
    for ratio_name, ratio in RATIOS.items():
        wire.bytes_per_second = None
        bare[1] = _time(steps, wire, Way("no link"), device)  # again: a device's clock falls as it grows warm
        wire.bytes_per_second = bare[1].link_bytes / (ratio * bare[1].seconds)
        for way in WAYS:
            row = f"{label}, hop : layer {ratio_name}, {way.name}"
            yield _way_row(row, _time(steps, wire, way, device), bare[1], bare[way.num_slices], wire.bytes_per_second)


@torch.inference_mode()
def _check_wire(scale: Scale, wire: Wire, mesh: ParallelMesh, kernel: AttentionKernel) -> Row:
    """Every key there twice, as the wire brings them back, must attend as every key once: the wire brings what was
    sent, and what waits for it waits. A second round, so that no buffer holds the right answer beforehand."""
    spec, shard = scale.transformer, SequenceShard(mesh, scale.num_tokens(scale.videos[-1]))
    errors = []
    for num_slices in (1, *SLICES):
        attention = sequence_attention(shard, kernel, num_slices)
        for _ in range(2):
            shape = (1, shard.stop, spec.num_attention_heads, spec.attention_head_dim)
            q, k, v = (torch.randn(shape, device=scale.device).to(DTYPE) for _ in range(3))
            with in_place_of_transfers(wire):
                for part in attention.parts:
                    attention.offer(part, q[:, part], k[:, part], v[:, part])
                attention.attend()
                found = torch.cat([out for _, out in attention.outputs(is_last=True)], dim=1).float()
            truth = kernel(q, k, v)[0].float()
            errors.append((found - truth).square().mean().sqrt() / truth.square().mean().sqrt())
    worst = float(torch.stack(errors).max())  # a NaN is worse than all
    label = "what the link of chosen rate brings is what was sent"
    return within(label, f"rms difference {worst:.2g} of the result", f"{WIRE_BOUND:g}", worst <= WIRE_BOUND)


def _way_row(label: str, layer: Layer, bare: Layer, bare_alike: Layer, asked_rate: float) -> Row:
    """`bare` is a layer in one slice without a link, `bare_alike` one in as many slices as this."""
    hidden, hidden_alike = (1 - (layer.seconds - other.seconds) / layer.link_seconds for other in (bare, bare_alike))
    rate = layer.link_bytes / layer.link_seconds
    measured = (
        f"{show_seconds(layer.seconds)}, {layer.seconds / bare.seconds:.2f} of no link; "
        f"link {show_seconds(layer.link_seconds)} at {rate / GIGA:.3g} GB/s ({asked_rate / GIGA:.3g} asked), "
        f"{hidden:.0%} hidden ({hidden_alike:.0%} beside as many slices without a link)"
    )
    numbers = {
        "seconds": layer.seconds,
        "seconds_without_link": bare.seconds,
        "seconds_without_link_as_sliced": bare_alike.seconds,
        "link_seconds": layer.link_seconds,
        "link_bytes": layer.link_bytes,
        "bytes_per_second": rate,
        "asked_bytes_per_second": asked_rate,
        "hidden": hidden,
        "hidden_beside_as_sliced": hidden_alike,
    }
    return Row(label, measured, numbers=numbers)


def _time(steps: Steps, wire: Wire, way: Way, device: torch.device) -> Layer:
    """The median of some forwards, after one more; seconds and bytes of a layer within each."""
    taken = []
    for _ in range(1 + SAMPLES):
        synchronize(device)
        with in_place_of_transfers(wire, way.at_once):
            taken.append(_layer_seconds([steps(way.num_slices) for _ in range(way.branches)], device))
        num_bytes, link_seconds = wire.take_rate()
        num_layers = way.branches * LAYERS
        layer = Layer(taken[-1], num_bytes / num_layers, link_seconds / num_layers)
    return Layer(median(taken[1:]), layer.link_bytes, layer.link_seconds)


def _layer_seconds(forwards: list[Generator[None, None, Tensor]], device: torch.device) -> float:
    """Seconds from one layer's attention to the next one's, of each of the forwards that take turns. They pause before
    each: there the time is noted, on CUDA by the device. What comes after the last pause is not run."""
    moments = []
    for _ in range(LAYERS):
        for forward in forwards:
            next(forward)
        moments.append(_moment(device))
    for forward in forwards:
        forward.close()
    synchronize(device)
    return _between(moments[LEAD], moments[-1]) / (LAYERS - 1 - LEAD) / len(forwards)


def _moment(device: torch.device) -> torch.cuda.Event | float:
    """Now, to the device's own clock where it has one."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _between(start: torch.cuda.Event | float, stop: torch.cuda.Event | float) -> float:
    if isinstance(start, torch.cuda.Event):
        assert isinstance(stop, torch.cuda.Event)
        return float(start.elapsed_time(stop)) / 1000
    assert isinstance(stop, float)
    return stop - start
