"""Decoding: latents to frames, every rank a band of rows, as a stream into the output."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial

import torch
from torch import Tensor

from ringlight.core.errors import NumericalError
from ringlight.core.plan import Placement
from ringlight.models.finite import not_finite
from ringlight.parallel.collective import collective
from ringlight.parallel.halo import Bands, Gathering
from ringlight.parallel.mesh import Axis
from ringlight.pipelines.landing import Landing
from ringlight.pipelines.networks import Autoencoder, DecodingStream
from ringlight.pipelines.output import FrameConverter, FrameWriter
from ringlight.pipelines.trace import JobEvents

WRITING_RANK = 0


@collective
def decode(
    latents: Tensor,
    vae: Autoencoder,
    chunk: int,
    convert: FrameConverter,
    writer: FrameWriter | None,
    events: JobEvents,
    axis: Axis,
    placement: Placement | None = None,
) -> None:
    """Decode (1, z, T, h, w) latents, which all ranks have, and hand whole frames to rank 0's writer as they come.

    The first latent frame comes alone; the others `chunk` at a time, the same on all ranks. Of a `placement` it goes by
    what says where the decoder keeps its history, and how many frames go through its last levels at a time.
    `convert` makes what the writer takes; ranks other than 0 have no writer. What it raises, all ranks raise, by way of
    the events: NumericalError where frames of some rank are not finite.
    """
    _, _, num_latents, height, width = latents.shape
    spec, bands = vae.spec, Bands(height, axis)
    num_frames = (num_latents - 1) * spec.scale_factor_temporal + 1
    band_ZThw = bands.own(latents[0], dim=2)
    delivery = Delivery(writer, bands, spec.scale_factor_spatial)
    with closing(vae.start_decoding(bands, width, num_latents, latents.device, placement)) as stream:
        for start in (0, *range(1, num_latents, chunk)):
            events.boundary(delivery.problem)  # nothing is under way between ranks, so they may leave together
            delivery.depart()
            stop = min(start + chunk, num_latents) if start else 1
            if bands.size:
                frames = vae.decode_next(band_ZThw[:, start:stop], stream, first=start == 0)
                delivery.take(convert(frames))
            delivery.arrive()
            events.frames_decoded((stop - 1) * spec.scale_factor_temporal + 1, num_frames)
    events.boundary(delivery.problem)
    delivery.depart()
    delivery.arrive()
    delivery.finish()
    events.boundary(delivery.problem or broken_frames(stream))


def broken_frames(stream: DecodingStream) -> NumericalError | None:
    """Error for frames that are not finite.

    To be called once, after the last portion, because it waits for the device.
    """
    return not_finite("Decoding", "frames", torch.stack(stream.extremes)) if stream.extremes else None


class Delivery:
    """Frames on their way to rank 0's writer: the bands of one portion travel while the next one is decoded.

    Where one rank has all rows nothing travels, and a portion is written as soon as it is taken and lands.
    """

    def __init__(self, writer: FrameWriter | None, bands: Bands, scale: int) -> None:
        """Prepare the delivery. `scale`: rows of frames per latent row."""
        self.problem: Exception | None = None
        self._landing = None if writer is None else Landing(writer)
        self._bands, self._scale = bands, scale
        self._next: Tensor | None = None
        self._under_way: Gathering | None = None

    def depart(self) -> None:
        """Send the portion that was added last."""
        if self._next is not None:
            self._under_way = Gathering(self._next, self._bands, 1, (WRITING_RANK,), "frames", self._scale)
            self._next = None

    def take(self, frames_FhWC: Tensor) -> None:
        """Add this rank's rows of the next portion."""
        if self._bands.are_split:
            self._next = frames_FhWC
        else:
            self._land(frames_FhWC)

    def arrive(self) -> None:
        """Wait for what is under way, and write it on the rank that receives all of it."""
        if self._under_way is not None:
            frames = self._under_way.wait()
            self._under_way = None
            if frames is not None:
                self._land(frames)

    def finish(self) -> None:
        """Write what has come and is not written yet."""
        if self._landing is not None and self.problem is None:
            self._keeping_problems(self._landing.finish)

    def _land(self, frames_FHWC: Tensor) -> None:
        assert self._landing is not None, "the rank that frames come to has a writer"
        self._keeping_problems(partial(self._landing.take, frames_FHWC))

    def _keeping_problems(self, action: Callable[[], None]) -> None:
        """Keep an error for the next boundary: the others still count on this rank to decode with them."""
        try:
            action()
        except Exception as error:  # raised by all ranks at the next boundary
            self.problem = error
