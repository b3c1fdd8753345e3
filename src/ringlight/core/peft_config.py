"""PeftConfig: how strong a LoRA's trainer made each of its products, where that is written beside the tensors.

PEFT writes an `adapter_config.json` into the folder of an `adapter_model.safetensors`, and diffusers the same numbers
into the file's own metadata.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ringlight.core.errors import InvalidCheckpoint
from ringlight.core.presence import read_json
from ringlight.core.weights import FileHeader

CONFIG_FILE = "adapter_config.json"
METADATA_KEY = "lora_adapter_metadata"
TRANSFORMER = "transformer."  # in front of its keys, as diffusers packs those of several networks
KIND = "LORA"

Said = TypeVar("Said", int | None, float | None)


class PeftConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Rank and alpha of all modules, and patterns of names of those that have others.

    `is_beside`: it stands in a file of its own.
    """

    peft_type: str = KIND
    r: int | None = None
    lora_alpha: float | None = None
    rank_pattern: dict[str, int] = {}
    alpha_pattern: dict[str, float] = {}
    use_rslora: bool = False
    use_dora: bool = False
    is_beside: bool = False

    def rank(self, module: str) -> int | None:
        """The rank that a module has, by its name in the file."""
        return _by_pattern(self.rank_pattern, module, self.r)

    def alpha(self, module: str) -> float | None:
        """Alpha of a module; None if it is not given."""
        return _by_pattern(self.alpha_pattern, module, self.lora_alpha)


def read_peft_config(path: Path, header: FileHeader) -> PeftConfig | None:
    """Read the PEFT settings in a LoRA's file, or beside one that is alone in its folder. Raises InvalidCheckpoint."""
    if METADATA_KEY in header.metadata:
        said = _json(path, header.metadata[METADATA_KEY])
        return _config(path, {name.removeprefix(TRANSFORMER): value for name, value in said.items()})
    beside = path.parent / CONFIG_FILE
    if beside.is_file() and [each.name for each in path.parent.glob("*.safetensors")] == [path.name]:
        return msgspec.structs.replace(_config(path, read_json(beside)), is_beside=True)
    return None


def _config(path: Path, said: dict[str, Any]) -> PeftConfig:
    known = {name: value for name, value in said.items() if value is not None and name != "is_beside"}
    try:
        config = msgspec.convert(known, PeftConfig)
        for pattern in (*config.rank_pattern, *config.alpha_pattern):
            re.compile(pattern)
    except (msgspec.ValidationError, re.error) as error:
        raise InvalidCheckpoint(f"{path}: what PEFT wrote of it is not understood: {error}") from None
    numbers = (*config.alpha_pattern.values(), config.lora_alpha or 1.0)
    if not all(map(math.isfinite, numbers)):
        raise InvalidCheckpoint(f"{path}: what PEFT wrote of it has an alpha that is no number")
    return config


def _json(path: Path, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidCheckpoint(f"{path}: its {METADATA_KEY} is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidCheckpoint(f"{path}: its {METADATA_KEY} is no JSON object")
    return value


def _by_pattern(patterns: Mapping[str, Said], module: str, usual: Said) -> Said:
    """Value for a module as PEFT looks it up: by the first pattern that matches the end of its name in whole parts."""
    return next((value for key, value in patterns.items() if re.match(rf"(?:.*\.)?(?:{key})$", module)), usual)
