"""The state of a job in a file, from which another process resumes denoising.

That is the latents, and what the sampler remembers of earlier steps, the state of its generator included: safetensors,
with JSON in its metadata for what is not a tensor. Nothing is pickled. What is continued from it ends with the very
latents of a run that never stopped.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ringlight.core.files import into_place
from ringlight.core.output import part_path
from ringlight.parallel.collective import collective
from ringlight.parallel.control import Control
from ringlight.pipelines.trace import Tracer
from ringlight.samplers.sampler import Sampler

logger = logging.getLogger(__name__)

SAVING_RANK = 0
FORMAT = 4
TENSOR = "tensor in this file"
Work = tuple[int, dict[str, Tensor], dict[str, str]]  # a step, and what `pack` has made of it
NUMBERS = ("step", "num_slices", "decode_chunk")  # of a DenoisingProgress, beside its latents


@dataclass(frozen=True)
class DenoisingProgress:
    """Progress of denoising after some steps: latents (1, z, T, h, w), float32.

    `num_slices` and `decode_chunk` are the portions of work that the job began with, and keeps: others round otherwise.
    Only where weights are placed within a budget, fewer latent frames are decoded at a time if there is no room now.
    """

    step: int
    num_slices: int
    decode_chunk: int
    latents: Tensor


class StateFile:
    """Reader and writer of one job's state. Rank 0 has the file; the other ranks receive its content from it.

    A state that cannot be used, because it is damaged or another job's (another model or layout since the server
    started anew, say), is logged and left alone: the job was promised, so it is made from the start. Where a state
    cannot be saved, that is logged once, and the job goes on.
    """

    def __init__(
        self,
        path: Path,
        save_seconds: float,
        identity: str,
        job_id: str,
        control: Control,
        tracer: Tracer,
        put_in_place: Callable[[Iterable[tuple[Path, Path]]], object] = into_place,
    ) -> None:
        """Prepare the file.

        `identity` names all that a state depends on; at most every `save_seconds` of the job's turns there is a new
        one, and one at the end of each turn. `put_in_place` takes it from its part file to where it belongs.
        """
        self._path = path
        self._part = part_path(path, job_id)
        self._save_seconds = save_seconds
        self._identity = f"{FORMAT} {identity}"
        self._put_in_place = put_in_place
        self._control = control
        self._events, self._clock = tracer.events, tracer.clock
        self._thread: threading.Thread | None = None
        self._due: Work | None = None  # what is written once the thread is done with what it has
        self._due_lock = threading.Lock()
        self._next_save = -math.inf
        self._last_step: int | None = None  # of what was written last, or tried to be
        self._saves = control.rank == SAVING_RANK
        self._has_warned = self._is_writing = False

    @collective
    def begin(self, fresh: DenoisingProgress, sampler: Sampler) -> DenoisingProgress:
        """Load the progress to resume from, on all ranks together, and restore the sampler's memory.

        Without a usable state that is the `fresh` progress, of no step, which is saved as the first one.
        """
        content = self._control.broadcast(self._usable() if self._control.rank == SAVING_RANK else b"")
        if content:
            progress, memory = unpack(content, self._identity, fresh.latents.device)
            sampler.remember(memory)
            self._last_step = progress.step
            return progress
        self.save(fresh, sampler)
        return fresh

    def save(self, progress: DenoisingProgress, sampler: Sampler) -> None:
        """Take a copy, and write it in a thread, if one is due: before all steps, after the last, and now and then.

        One that is due now and then, while the one before is still being written, waits for a later step.
        """
        if not self._saves:
            return
        is_first_or_last = progress.step in (0, sampler.num_steps)
        if is_first_or_last or (self._clock.now() >= self._next_save and not self._is_writing):
            self._write_soon(progress, sampler)

    def settle(self, progress: DenoisingProgress, sampler: Sampler) -> None:
        """Take a copy of exactly this state, and write it in a thread: others have the turn now, for an unknown time.

        A disk that has refused it already is not asked again.
        """
        if self._saves and progress.step != self._last_step:
            self._write_soon(progress, sampler)

    def wait(self) -> None:
        """Return once nothing is being written."""
        if self._thread is not None:
            self._thread.join()

    def _write_soon(self, progress: DenoisingProgress, sampler: Sampler) -> None:
        """Write a copy of this once the one before is written; of several that wait for that, the last alone."""
        self._next_save = self._clock.now() + self._save_seconds
        self._last_step = progress.step
        work = (progress.step, *pack(progress, sampler.memory(), self._identity))
        with self._due_lock:
            self._due = work
            if not self._is_writing:
                self._is_writing = True
                self._thread = threading.Thread(target=self._write_all, name="state", daemon=True)
                self._thread.start()

    def _write_all(self) -> None:
        """Run the thread: write until nothing is due."""
        while True:
            with self._due_lock:
                work, self._due = self._due, None
                self._is_writing = work is not None
            if work is None:
                return
            self._write(*work)

    def _usable(self) -> bytes:
        """The file's content if it is whole and this job's, else nothing."""
        try:
            content = self._path.read_bytes()
            unpack(content, self._identity, torch.device("cpu"))
            return content
        except FileNotFoundError:
            return b""
        except (OSError, ValueError) as error:
            logger.warning("%s: not used, the job begins anew: %s", self._path, error)
            return b""

    def _write(self, step: int, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
        try:
            self._part.write_bytes(content_of(tensors, metadata))
            self._put_in_place([(self._part, self._path)])
        except OSError as error:
            self._part.unlink(missing_ok=True)
            if not self._has_warned:
                logger.warning("%s: not saved, a repeat would begin earlier: %s", self._path, error)
            self._has_warned = True
            return
        self._events.state_saved(step)


def pack(
    progress: DenoisingProgress, memory: dict[str, Any], identity: str
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Copies of all tensors in the memory of the host, and the metadata that go with them."""
    tensors = {"latents": _copy(progress.latents)}
    names = _take_tensors(memory, "memory", tensors)
    numbers = {name: getattr(progress, name) for name in NUMBERS}
    plain = {**numbers, "memory": names}
    return tensors, {"identity": identity, "plain": json.dumps(plain)}


def content_of(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """Contents of a file with these tensors and metadata."""
    content: bytes = safetensors.torch.save(tensors, metadata | {"checksum": checksum(tensors, metadata["plain"])})
    return content


def unpack(content: bytes, identity: str, device: torch.device) -> tuple[DenoisingProgress, dict[str, Any]]:
    """Read the progress and sampler memory of a file. Raises ValueError unless it is whole and of this identity."""
    try:
        tensors = safetensors.torch.load(content)
        length = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    except (safetensors.SafetensorError, ValueError) as error:
        raise ValueError(f"damaged: {error}") from None
    if metadata.get("identity") != identity:
        raise ValueError("it is of another request, model, precision or layout, or of a version with other numerics")
    if metadata.get("checksum") != checksum(tensors, metadata.get("plain", "")):
        raise ValueError("damaged: the checksum is another")
    plain = json.loads(metadata["plain"])
    progress = DenoisingProgress(
        latents=tensors["latents"].to(device, copy=True), **{name: plain[name] for name in NUMBERS}
    )
    return progress, _give_tensors(plain["memory"], tensors, device)


def checksum(tensors: dict[str, Tensor], plain: str) -> str:
    """CRC-32 of all values."""
    found = zlib.crc32(plain.encode())
    for _, tensor in sorted(tensors.items()):
        found = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, found)
    return f"{found:08x}"


def _take_tensors(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Replace the tensors in `value` by names; copies of them go into `tensors`."""
    if isinstance(value, Tensor):
        tensors[name] = _copy(value)
        return {TENSOR: name, "on_host": value.device.type == "cpu"}
    if isinstance(value, dict):
        return {key: _take_tensors(part, f"{name}.{key}", tensors) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_take_tensors(part, f"{name}.{i}", tensors) for i, part in enumerate(value)]
    return value


def _give_tensors(value: Any, tensors: dict[str, Tensor], device: torch.device) -> Any:
    """The reverse of `_take_tensors`; what was not in the memory of the host goes to `device`. Tuples become lists."""
    if isinstance(value, dict) and TENSOR in value:
        return tensors[value[TENSOR]].to("cpu" if value["on_host"] else device, copy=True)
    if isinstance(value, dict):
        return {key: _give_tensors(part, tensors, device) for key, part in value.items()}
    return [_give_tensors(part, tensors, device) for part in value] if isinstance(value, list) else value


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()
