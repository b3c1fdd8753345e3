"""The full-size VAE: seconds of a decode by dtype and chunk, whether chunks agree, and encoding one picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from torch import Tensor

from gpu import whole
from gpu.clock import Peak, median_timing, read_peak, start_peak, timed
from gpu.networks import (
    decode_flop_formula,
    executed_decode_flop,
    executed_encode_flop,
    make_vae,
)
from gpu.profile import profile_rows
from gpu.rates import Rates, allow_tf32
from gpu.report import Row, within
from gpu.scale import Scale, Video
from gpu.section import Section
from ringlight.families.wan.networks.causal import Stream
from ringlight.families.wan.networks.vae import WanVae
from ringlight.families.wan.recipe import spare_bytes
from ringlight.parallel.halo import Bands

CHUNKS = (1,)  # beside the one that follows memory
WHOLE_SECONDS = 14.0  # how long the decode that a pipeline would run may take before the rest is extrapolated
PART_SECONDS = 5.0  # and the others
SEARCH_SECONDS = 20.0  # what cuDNN's search may take
LATENT_STD = 0.5


@dataclass(frozen=True)
class Kind:
    """A way to compute. `rate` names the matrix-product rate it is held against, `bound` is the largest rms
    difference of a frame in [-1, 1] between decoding with different chunks."""

    name: str
    dtype: torch.dtype
    tf32: bool
    rate: str
    bound: float


KINDS = (
    Kind("bfloat16", torch.bfloat16, False, "bfloat16", 5e-2),
    Kind("float32 with TF32", torch.float32, True, "tf32", 1e-2),
)
TRUTH = Kind("float32", torch.float32, False, "float32", 1e-3)  # what both are held against; nobody decodes so


@dataclass(frozen=True)
class Decoding:
    """Seconds by chunk of one decode, which may have stopped early."""

    first_seconds: float
    chunks: list[tuple[int, float]]  # latent frames in it, seconds
    num_latents: int

    @property
    def done(self) -> int:
        return 1 + sum(count for count, _ in self.chunks)

    @property
    def per_latent(self) -> float:
        """Seconds of a later latent frame: the median over chunks."""
        return median(seconds / count for count, seconds in self.chunks) if self.chunks else float("nan")

    @property
    def total(self) -> float:
        """Seconds of the whole: measured, or what was measured and the rest at the median."""
        measured = self.first_seconds + sum(seconds for _, seconds in self.chunks)
        missing = self.num_latents - self.done
        return measured + missing * self.per_latent if missing else measured

    def __str__(self) -> str:
        whole = self.done == self.num_latents
        how = "measured whole" if whole else f"from {self.done} of {self.num_latents} latent frames"
        return f"{self.total:.2f} s ({how}); first {self.first_seconds:.3f} s, later {self.per_latent:.4f} s each"


def run(section: Section, scale: Scale) -> None:
    """Decode in every dtype, then what chunks and precision do to the frames, then encode."""
    rates = Rates(section.earlier)
    *_, large = scale.videos
    for kind in KINDS:
        networks: list[WanVae] = []
        section.attempt(f"build the VAE, {kind.name}", partial(_build, networks, scale, kind))
        if not networks:
            continue
        for video in reversed(scale.videos):
            section.attempt(
                f"decode {video}, {kind.name}", partial(_time_chunks, networks[0], scale, rates, kind, video)
            )
        label = f"chunks agree at {large}, {kind.name}"
        section.attempt(label, partial(_compare_chunks, label, networks[0], scale, kind))
        label = f"encode a picture {large.height}x{large.width}, {kind.name}"
        section.attempt(label, partial(_time_encode, label, networks[0], scale, rates, kind))
        label = f"profile of a later latent frame of {large}, {kind.name}"
        section.attempt(label, partial(_profile, label, networks[0], scale, kind), on_error="no result")
        networks.clear()
    section.attempt("decode, precision", partial(_compare_kinds, scale))
    section.attempt(
        "a whole generation, from its parts", partial(whole.add_up, section, scale, [kind.name for kind in KINDS])
    )


def run_search(section: Section, scale: Scale, rates: Rates) -> None:
    """What cuDNN's own search for the fastest convolution gains; at the small size, because it tries slow ones too."""
    video, *_ = scale.videos
    for kind in KINDS:
        label = f"decode {video}, {kind.name}, chunk 1"
        check = partial(_time_search, label, scale, rates, kind, video)
        needs_seconds = 0.0 if scale.self_test else SEARCH_SECONDS
        section.attempt(f"{label}, cudnn.benchmark", check, needs_seconds=needs_seconds)


def _build(networks: list[WanVae], scale: Scale, kind: Kind) -> Iterator[Row]:
    start_peak(scale.device)
    seconds = timed(lambda: networks.append(make_vae(scale.vae, scale.device, kind.dtype)), scale.device)
    yield Row(
        f"build the VAE, {kind.name}", f"{seconds:.2f} s, {read_peak(scale.device)}", numbers={"seconds": seconds}
    )


def _time_chunks(vae: WanVae, scale: Scale, rates: Rates, kind: Kind, video: Video) -> Iterator[Row]:
    """The chunk that follows memory, whole; at the largest size also fixed chunks."""
    allow_tf32(kind.tf32)
    _, _, rows, columns = scale.latent_shape(video)
    chosen = _chunk_for_memory(vae, scale, rows, columns)
    label = f"decode {video}, {kind.name}, chunk"
    yield _decode_row(f"{label} {chosen} (follows memory)", vae, scale, rates, kind, video, chosen, WHOLE_SECONDS)
    if video != scale.videos[-1]:
        return
    for chunk in CHUNKS:
        if chunk != chosen:
            yield _decode_row(f"{label} {chunk}", vae, scale, rates, kind, video, chunk, PART_SECONDS)


def _time_search(label: str, scale: Scale, rates: Rates, kind: Kind, video: Video) -> Iterator[Row]:
    allow_tf32(kind.tf32)
    vae = make_vae(scale.vae, scale.device, kind.dtype)
    yield _decode_row(label, vae, scale, rates, kind, video, 1, PART_SECONDS)
    torch.backends.cudnn.benchmark = True
    try:
        yield _decode_row(f"{label}, cudnn.benchmark", vae, scale, rates, kind, video, 1, PART_SECONDS)
    finally:
        torch.backends.cudnn.benchmark = False


@torch.inference_mode()
def _profile(label: str, vae: WanVae, scale: Scale, kind: Kind) -> Iterator[Row]:
    allow_tf32(kind.tf32)
    latents = random_latents(scale, scale.videos[-1])
    stream = start_stream(vae, latents)
    vae.decode_next(latents[:, :1], stream, True)
    yield from profile_rows(label, partial(vae.decode_next, latents[:, 1:2], stream, False), scale.device)


@torch.inference_mode()
def _decode_row(
    label: str, vae: WanVae, scale: Scale, rates: Rates, kind: Kind, video: Video, chunk: int, limit_seconds: float
) -> Row:
    latents = random_latents(scale, video)
    cold = decode_timed(vae, latents[:, : _warm_up_length(latents.shape[1], chunk)], chunk, limit_seconds)
    start_peak(scale.device)
    decoding = decode_timed(vae, latents, chunk, limit_seconds)
    peak = read_peak(scale.device)
    first, later = executed_decode_flop(scale, video)
    executed = first + later * (decoding.num_latents - 1)
    parts = [str(decoding)]
    if scale.is_real:
        formula = rates.show(decode_flop_formula(scale, video), decoding.total, kind.rate)
        parts.append(f"by the model's formula {formula}")
    parts += [f"products run {rates.show(executed, decoding.total, kind.rate)}", str(peak)]
    parts.append(f"first time {cold.total:.2f} s for {cold.done}")
    return Row(label, "; ".join(parts), numbers=_numbers(decoding, chunk, executed, peak))


def _numbers(decoding: Decoding, chunk: int, executed: float, peak: Peak) -> dict[str, object]:
    return {
        "total_seconds": decoding.total,
        "measured_whole": decoding.done == decoding.num_latents,
        "first_seconds": decoding.first_seconds,
        "seconds_per_later_latent": decoding.per_latent,
        "chunk": chunk,
        "chunk_seconds": decoding.chunks,
        "executed_flop": executed,
        "peak_allocated_bytes": peak.allocated_bytes,
        "peak_reserved_bytes": peak.reserved_bytes,
    }


def decode_timed(vae: WanVae, latents_ZTHW: Tensor, chunk: int, limit_seconds: float) -> Decoding:
    """Decode chunk by chunk, each timed; no further chunk is begun once `limit_seconds` are spent."""
    device = latents_ZTHW.device
    stream = start_stream(vae, latents_ZTHW)
    num_latents = latents_ZTHW.shape[1]
    first_seconds = timed(partial(vae.decode_next, latents_ZTHW[:, :1], stream, True), device)
    chunks: list[tuple[int, float]] = []
    for start in range(1, num_latents, chunk):
        if first_seconds + sum(seconds for _, seconds in chunks) > limit_seconds:
            break
        part = latents_ZTHW[:, start : start + chunk]
        chunks.append((part.shape[1], timed(partial(vae.decode_next, part, stream, False), device)))
    return Decoding(first_seconds, chunks, num_latents)


def start_stream(vae: WanVae, latents_ZTHW: Tensor) -> Stream:
    """A new stream for these latents."""
    _, num_latents, rows, columns = latents_ZTHW.shape
    return vae.start_decoding(Bands.alone(rows), columns, num_latents, latents_ZTHW.device)


def _warm_up_length(num_latents: int, chunk: int) -> int:
    """Latent frames that bring every shape of the whole decode about: the first, one chunk, and its shorter last."""
    return min(num_latents, 1 + chunk + (num_latents - 1) % chunk)


@torch.inference_mode()
def _compare_chunks(label: str, vae: WanVae, scale: Scale, kind: Kind) -> Iterator[Row]:
    """The first frames of the largest video, with the chunk that follows memory against one at a time."""
    allow_tf32(kind.tf32)
    latents = random_latents(scale, scale.videos[-1])
    chunk = max(2, _chunk_for_memory(vae, scale, *latents.shape[-2:]))
    latents = latents[:, : 1 + chunk]
    worst = worst_frame(decode_frames(vae, latents, chunk), decode_frames(vae, latents, 1))
    yield within(label, f"chunk {chunk} against 1: {worst:.2g} rms", f"{kind.bound:g}", worst <= kind.bound, rms=worst)


@torch.inference_mode()
def _compare_kinds(scale: Scale) -> Iterator[Row]:
    """What precision costs: five frames of the smallest video against float32 without TensorFloat-32."""
    latents = random_latents(scale, scale.videos[0])[:, :2]
    frames = {}
    for kind in (TRUTH, *KINDS):
        allow_tf32(kind.tf32)
        frames[kind.name] = decode_frames(make_vae(scale.vae, scale.device, kind.dtype), latents, 1)
    truth = frames.pop(TRUTH.name)
    for name, found in frames.items():
        worst = worst_frame(found, truth)
        decibels = -20 * torch.tensor(worst / 2).log10().item()
        label = f"decode {scale.videos[0]}, {name} against float32"
        yield Row(label, f"worst frame {worst:.2g} rms of [-1, 1], {decibels:.1f} dB", numbers={"rms": worst})


@torch.inference_mode()
def _time_encode(label: str, vae: WanVae, scale: Scale, rates: Rates, kind: Kind) -> Iterator[Row]:
    allow_tf32(kind.tf32)
    video = scale.videos[-1]
    picture = torch.rand(1, video.height, video.width, 3, device=scale.device).mul_(2).sub_(1)
    start_peak(scale.device)
    timing = median_timing(partial(vae.encode, picture), scale.device, limit_seconds=PART_SECONDS)
    executed = executed_encode_flop(scale, video)
    rate = rates.show(executed, timing.seconds, kind.rate)
    measured = f"{timing}; products run {rate}; {read_peak(scale.device)}"
    yield Row(label, measured, numbers={"seconds": timing.seconds, "executed_flop": executed})


def _chunk_for_memory(vae: WanVae, scale: Scale, rows: int, columns: int) -> int:
    """What a pipeline with no other weights would choose."""
    return vae.spec.decoder.portion(rows, columns, vae.dtype.itemsize, spare_bytes(scale.device, [vae]))


def random_latents(scale: Scale, video: Video) -> Tensor:
    """Normalised latents (z, T, h, w) of a video's size."""
    generator = torch.Generator(scale.device).manual_seed(3)
    return LATENT_STD * torch.randn(scale.latent_shape(video), generator=generator, device=scale.device)


def decode_frames(vae: WanVae, latents_ZTHW: Tensor, chunk: int) -> Tensor:
    """All frames (F, H, W, 3) in [-1, 1], float32."""
    stream = start_stream(vae, latents_ZTHW)
    parts = [vae.decode_next(latents_ZTHW[:, :1], stream, True).float()]
    for start in range(1, latents_ZTHW.shape[1], chunk):
        parts.append(vae.decode_next(latents_ZTHW[:, start : start + chunk], stream, False).float())
    return torch.cat(parts)


def worst_frame(found_FHWC: Tensor, truth_FHWC: Tensor) -> float:
    """The largest root-mean-square difference of a frame."""
    return float((found_FHWC - truth_FHWC).square().mean(dim=(1, 2, 3)).sqrt().max())
