"""What the operator asked of the engine, and the only reader of settings: environment and files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import msgspec

from ringlight.core.errors import InvalidCheckpoint
from ringlight.core.request import RequestDefaults

DeviceName = Literal["auto", "cpu", "cuda"]
DtypeName = Literal["auto", "float32", "bfloat16"]
VaeDtypeName = Literal["float32", "bfloat16"]
LoadFormat = Literal["auto", "dummy"]

DEFAULTS_FILE = "ringlight.json"


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How to run a model: asked by the operator, never written back into.

    `dtype` auto is bfloat16 on CUDA and float32 on a CPU. `load_format` dummy makes random weights on the device
    from the JSON alone. `num_threads` 0 leaves the choice to torch. `tf32` allows TensorFloat-32 in float32 matrix
    products and convolutions on CUDA. `decode_chunk` is the number of latent frames decoded at a time, 0 to follow
    from free memory. `startup_timeout_seconds` bounds loading.
    """

    model_path: str
    device: DeviceName = "auto"
    dtype: DtypeName = "auto"
    vae_dtype: VaeDtypeName = "float32"
    load_format: LoadFormat = "auto"
    num_threads: int = 0
    tf32: bool = True
    decode_chunk: int = 0
    prompt_cache_bytes: int = 256 * 2**20
    startup_timeout_seconds: float = 1800.0


class DefaultsFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a ringlight.json holds."""

    defaults: RequestDefaults = RequestDefaults()


def read_defaults(model_path: Path) -> RequestDefaults:
    """Request defaults of a checkpoint folder: its ringlight.json where it has one, else the model card's."""
    path = model_path / DEFAULTS_FILE
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return RequestDefaults()
    except OSError as error:
        raise InvalidCheckpoint(f"{path}: not readable: {error}") from None
    try:
        return msgspec.json.decode(content, type=DefaultsFile).defaults
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidCheckpoint(f'{path}: {error}; it holds {{"defaults": {{request field: value}}}}') from None


def worker_environment() -> dict[str, str]:
    """The environment of a worker process: ours, with what it must not do switched off."""
    return os.environ | {
        "HF_HUB_OFFLINE": "1",  # a checkpoint is a folder; nothing is ever fetched
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        "PYTHONUNBUFFERED": "1",
    }
