"""Frames from a device to a writer: while one portion is copied to the host and written, the next one is decoded.

F frames, H rows, W columns, C channels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ringlight.pipelines.output import FrameWriter

Arriving = Callable[[], Tensor]  # waits until frames are whole in the host's memory, and gives them


class Landing:
    """Queue of portions to a writer in their order: a CPU's at once, another device's after the next one is decoded.

    So a device always has work that is queued already, and nobody waits for it but for a portion that it is done with.
    """

    def __init__(self, writer: FrameWriter, copies: Callable[[Tensor], Arriving] | None = None) -> None:
        """Prepare the queue. `copies` begins to bring frames of a device to the host (None: through pinned buffers)."""
        self._writer = writer
        self._copies = copies or PinnedBuffers()
        self._arriving: Arriving | None = None

    def take(self, frames_FHWC: Tensor) -> None:
        """Take the next portion. Raises what the writer raises, of this portion or the one before."""
        if frames_FHWC.device.type == "cpu":
            self._writer.write(frames_FHWC)
            return
        before, self._arriving = self._arriving, self._copies(frames_FHWC)
        if before is not None:
            self._writer.write(before())

    def finish(self) -> None:
        """Write what is still arriving."""
        before, self._arriving = self._arriving, None
        if before is not None:
            self._writer.write(before())


class PinnedBuffers:
    """Two page-locked buffers of the host by turns, which a GPU copies to by itself, after what it computes.

    The copy is in the order of the stream that made the frames, so their memory may be used again behind it. Each
    portion that has arrived is copied out of its buffer, for a writer keeps some.
    """

    def __init__(self) -> None:
        self._buffers: list[Tensor | None] = [None, None]

    def __call__(self, frames: Tensor) -> Arriving:
        """Begin to copy frames. The copy before the last must have been waited for."""
        self._buffers.reverse()
        buffer = self._buffers[0]
        if buffer is None or buffer.numel() < frames.numel() or buffer.dtype != frames.dtype:
            buffer = self._buffers[0] = torch.empty(frames.numel(), dtype=frames.dtype, pin_memory=True)
        there = buffer[: frames.numel()].view(frames.shape)
        there.copy_(frames, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record(torch.cuda.current_stream(frames.device))

        def wait() -> Tensor:
            arrived.synchronize()
            return there.clone()

        return wait
