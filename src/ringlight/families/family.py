"""Family: what the house asks of a folder of models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from ringlight.core.request import RequestDefaults
from ringlight.families.model import ModelSpec


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the table. `name` is the folder's, `kind` what people call its models.

    `pipelines` are the classes of diffusers that its checkpoints name. `is_of_family` looks at a checkpoint's
    `model_index.json`, and `read` at the rest of its JSON, which may raise InvalidCheckpoint. `defaults` are what a
    request to a model may leave out, `cards` the models that are known without a checkpoint. `recipe` names the class
    of the workshop that makes videos (families/recipe.py), `demo` the module that writes checkpoints of random weights.
    """

    name: str
    kind: str
    pipelines: tuple[str, ...]
    is_of_family: Callable[[dict[str, Any]], bool]
    read: Callable[[Path, dict[str, Any]], ModelSpec]
    defaults: Callable[[ModelSpec], RequestDefaults]
    cards: tuple[ModelSpec, ...]
    recipe: str
    demo: str
