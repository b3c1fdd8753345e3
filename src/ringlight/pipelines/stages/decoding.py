"""Decoding: latents to frames, every rank a band of rows, as a stream into the output."""

from __future__ import annotations

import torch
from torch import Tensor

from ringlight.core.errors import NumericalError
from ringlight.core.portions import decoded_latents, most_latents
from ringlight.core.spec import VaeSpec
from ringlight.models.finite import not_finite
from ringlight.models.wan.causal import Stream
from ringlight.models.wan.vae import WanVae
from ringlight.parallel.collectives import gather_parts
from ringlight.parallel.halo import Bands, Gathering
from ringlight.parallel.mesh import Axis
from ringlight.pipelines.output import FrameConverter, FrameWriter
from ringlight.pipelines.trace import JobEvents

WRITING_RANK = 0


def decode(
    latents: Tensor,
    vae: WanVae,
    chunk: int,
    convert: FrameConverter,
    writer: FrameWriter | None,
    events: JobEvents,
    axis: Axis,
) -> None:
    """Decode (1, z, T, h, w) latents, which all ranks have, and hand whole frames to rank 0's writer as they come.

    The first latent frame comes alone; the others `chunk` at a time (0: as many as memory of all ranks allows).
    `convert` makes what the writer takes; ranks other than 0 have no writer. What it raises, all ranks raise, by way of
    the events: NumericalError where frames of some rank are not finite.
    """
    _, _, num_latents, height, width = latents.shape
    spec, bands = vae.spec, Bands(height, axis)
    num_frames = (num_latents - 1) * spec.scale_factor_temporal + 1
    chunk = min(chunk or _common_chunk(vae, bands, width, latents.device), most_latents(spec, bands.sizes[0], width))
    band_ZThw = bands.own(latents[0], dim=2)
    stream = vae.start_decoding(bands, width, num_latents)
    delivery = Delivery(writer, bands, spec.scale_factor_spatial)
    for start in (0, *range(1, num_latents, chunk)):
        events.check_cancelled(delivery.problem)  # nothing is under way here, so ranks may leave together
        delivery.depart()
        stop = min(start + chunk, num_latents) if start else 1
        if bands.size:
            frames = vae.decode_next(band_ZThw[:, start:stop], stream, first=start == 0)
            delivery.take(convert(frames))
        delivery.arrive()
        events.frames_decoded((stop - 1) * spec.scale_factor_temporal + 1, num_frames)
    events.check_cancelled(delivery.problem)
    delivery.depart()
    delivery.arrive()
    events.check_cancelled(delivery.problem or broken_frames(stream))


def broken_frames(stream: Stream) -> NumericalError | None:
    """What to report of frames that are not finite. Asked once, after the last portion: the device is waited for."""
    return not_finite("Decoding", "frames", torch.stack(stream.extremes)) if stream.extremes else None


class Delivery:
    """Frames on their way to rank 0's writer: the bands of one portion travel while the next one is decoded.

    Where one rank has all rows nothing travels, and a portion is written as soon as it is taken.
    """

    def __init__(self, writer: FrameWriter | None, bands: Bands, scale: int) -> None:
        """`scale`: rows of frames per latent row."""
        self.problem: Exception | None = None
        self._writer, self._bands, self._scale = writer, bands, scale
        self._next: Tensor | None = None
        self._under_way: Gathering | None = None

    def depart(self) -> None:
        """Send what was taken last on its way."""
        if self._next is not None:
            self._under_way = Gathering(self._next, self._bands, 1, (WRITING_RANK,), "frames", self._scale)
            self._next = None

    def take(self, frames_FhWC: Tensor) -> None:
        """This rank's rows of the next portion."""
        if self._bands.are_split:
            self._next = frames_FhWC
        else:
            self._write(frames_FhWC)

    def arrive(self) -> None:
        """Wait for what is under way; where all of it has come to, write it."""
        if self._under_way is not None:
            frames = self._under_way.wait()
            self._under_way = None
            if frames is not None:
                self._write(frames)

    def _write(self, frames_FHWC: Tensor) -> None:
        """An error is kept for the next boundary: the others still count on this rank to decode with them."""
        assert self._writer is not None, "the rank that frames come to has a writer"
        try:
            self._writer.write(frames_FHWC)
        except Exception as error:  # raised by all ranks at the next boundary
            self.problem = error


def _common_chunk(vae: WanVae, bands: Bands, columns: int, device: torch.device) -> int:
    """The smallest of what all ranks would choose by their memory: bands must be decoded in the same portions."""
    chunk = chunk_for_memory(vae.spec, vae.dtype, device, bands.sizes[0] * columns)
    return least_of_all(chunk, bands.axis, device) if device.type == "cuda" else chunk


def least_of_all(value: int, axis: Axis, device: torch.device) -> int:
    """The smallest of the values that the ranks of an axis have."""
    return int(gather_parts(torch.tensor([value], device=device), [1] * axis.size, axis, dim=0).min())


def chunk_for_memory(spec: VaeSpec, dtype: torch.dtype, device: torch.device, latent_pixels: int) -> int:
    """How many latent frames to decode at a time: on CUDA as many as a quarter of free memory holds, up to 8.

    On a CPU one: more at a time gained nothing there (docs/log.md).
    """
    if device.type != "cuda":
        return 1
    free_bytes, _ = torch.cuda.mem_get_info(device)
    reserved_slack = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    # The widest activations: full resolution before unpatching, five of them alive at once.
    pixels = latent_pixels * (spec.scale_factor_spatial // spec.patch_size) ** 2
    per_latent = 5 * pixels * spec.scale_factor_temporal * spec.decoder_dim * spec.dim_mult[1] * dtype.itemsize
    return decoded_latents(free_bytes + reserved_slack, per_latent)
