"""Frames on their way to the host: pageable copies that the device waits for, against two pinned buffers in turn."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gpu.report import Row
from gpu.scale import Scale
from gpu.transformer import DTYPE
from gpu.turns import take_turns

PORTIONS = 6  # of frames, one after another
PRODUCTS = 4  # matrix products that stand for decoding one portion


class Decoding:
    """Work on the device, and the frames of one latent frame that it is supposed to have made."""

    def __init__(self, scale: Scale) -> None:
        video, size = scale.videos[-1], scale.matmul_size
        shape = (scale.vae.scale_factor_temporal, video.height, video.width, 3)
        self.frames = torch.randint(0, 256, shape, dtype=torch.uint8, device=scale.device)
        self._left, self._right = (torch.randn(size, size, device=scale.device, dtype=DTYPE) for _ in range(2))

    def work(self) -> None:
        for _ in range(PRODUCTS):
            torch.mm(self._left, self._right)


class Buffers:
    """Two places on the host that frames go to in turn: one is read while the other is filled. Pinned on CUDA."""

    def __init__(self, frames: Tensor) -> None:
        self._on_cuda = frames.is_cuda
        self._hosts = [torch.empty(frames.shape, dtype=frames.dtype, pin_memory=self._on_cuda) for _ in range(2)]
        if self._on_cuda:
            self._stream = torch.cuda.Stream(frames.device)
            self._filled = [torch.cuda.Event() for _ in range(2)]

    def take(self, number: int, frames: Tensor) -> None:
        """Begin to copy; the one before must have been read."""
        host = self._hosts[number % 2]
        if not self._on_cuda:
            host.copy_(frames)
            return
        self._stream.wait_stream(torch.cuda.current_stream(frames.device))
        with torch.cuda.stream(self._stream):
            host.copy_(frames, non_blocking=True)
            self._filled[number % 2].record(self._stream)

    def read(self, number: int) -> int:
        """Read what was taken then, as an encoder would."""
        if self._on_cuda:
            self._filled[number % 2].synchronize()
        return int(self._hosts[number % 2].numpy()[0, 0, 0, 0])


def compare(scale: Scale) -> Iterator[Row]:
    decoding = Decoding(scale)
    buffers = Buffers(decoding.frames)

    def work_alone() -> None:
        for _ in range(PORTIONS):
            decoding.work()

    def pageable() -> None:
        for _ in range(PORTIONS):
            decoding.work()
            int(decoding.frames.cpu().numpy()[0, 0, 0, 0])

    def pinned() -> None:
        for number in range(PORTIONS):
            decoding.work()
            buffers.take(number, decoding.frames)
            if number:
                buffers.read(number - 1)
        buffers.read(PORTIONS - 1)

    ways = {"pageable": pageable, "two pinned buffers": pinned, "no copies": work_alone}
    megabytes = decoding.frames.nbytes / 1e6
    yield from take_turns(f"{PORTIONS} portions of {megabytes:.1f} MB to the host", ways, scale.device)
