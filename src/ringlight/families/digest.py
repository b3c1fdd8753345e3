"""A few digits for a whole checkpoint, by which machines tell whether they have the same one."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ringlight.core.checkpoint import TOKENIZER, Checkpoint
from ringlight.core.errors import InvalidCheckpoint
from ringlight.core.stored_network import require_whole
from ringlight.core.weights import network_files, networks_of
from ringlight.families.table import model_of

SAMPLE_BYTES = 2**16


def digest(checkpoint: Checkpoint, with_weights: bool) -> str:
    """Compute twelve digits for a checkpoint: its numbers, tokenizer, and size, head, middle and tail of its weights.

    Cheap on tens of gigabytes, and no fine-tune of a model passes for the model. Raises InvalidCheckpoint.
    """
    found = hashlib.sha256(model_of(checkpoint).fingerprint.encode())
    require_whole(checkpoint, with_weights)
    tokenizer = checkpoint.part(TOKENIZER)
    try:
        for path in sorted(filter(Path.is_file, tokenizer.glob("*"))) if tokenizer.is_dir() else [tokenizer]:
            found.update(path.name.encode() + path.read_bytes())
        for name in networks_of(checkpoint) if with_weights else ():
            for path in network_files(checkpoint, name):
                found.update(f"{name}/{path.name}".encode() + _sample(path))
    except OSError as error:
        raise InvalidCheckpoint(f"{error.filename}: not readable: {error.strerror}") from None
    return found.hexdigest()[:12]


def _sample(path: Path) -> bytes:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        sample = size.to_bytes(8)
        for start in (0, size // 2, max(0, size - SAMPLE_BYTES)):
            file.seek(start)
            sample += file.read(SAMPLE_BYTES)
    return sample
