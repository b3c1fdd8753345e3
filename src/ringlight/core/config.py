"""What the operator asked of the engine, and the only reader of settings: environment and files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import msgspec

from ringlight.core.errors import InvalidCheckpoint, InvalidSetting
from ringlight.core.request import RequestDefaults, RequestLimits

DeviceName = Literal["auto", "cpu", "cuda"]
DtypeName = Literal["auto", "float32", "bfloat16"]
VaeDtypeName = Literal["float32", "bfloat16"]
LoadFormat = Literal["auto", "dummy"]

DEFAULTS_FILE = "ringlight.json"
DEMO_NAME = "ringlight-demo"  # what a demo checkpoint's model_index.json calls it, with its size


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How to run a model: asked by the operator, never written back into.

    `dtype` auto is bfloat16 on CUDA and float32 on a CPU. `load_format` dummy makes random weights on the device
    from the JSON alone. `num_threads` 0 leaves the choice to torch. `tf32` allows TensorFloat-32 in float32
    convolutions on CUDA, as PyTorch itself does; float32 matrix products are always whole. `decode_chunk` is the number
    of latent frames decoded at a time, 0 to follow from free memory. `startup_timeout_seconds` bounds loading.
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


def read_limits() -> RequestLimits:
    """Limits from the environment (RINGLIGHT_MAX_PIXELS and so on, a field each). Raises InvalidSetting."""
    given = {
        field.name: value
        for field in msgspec.structs.fields(RequestLimits)
        if (value := os.environ.get(f"RINGLIGHT_{field.name.upper()}")) is not None
    }
    try:
        return msgspec.convert(given, RequestLimits, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidSetting(f"limits in the environment (RINGLIGHT_MAX_...): {error}") from None


def worker_environment() -> dict[str, str]:
    """The environment of a worker process: ours, with what it must not do switched off."""
    return os.environ | {
        "HF_HUB_OFFLINE": "1",  # a checkpoint is a folder; nothing is ever fetched
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        "PYTHONUNBUFFERED": "1",
        "PYTHONSAFEPATH": "1",  # nothing is imported from the folder we happen to be in
    }
