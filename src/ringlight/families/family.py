"""Family: what the house asks of a folder of models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ringlight.core.checkpoint import Checkpoint
from ringlight.core.lora import LoraFile
from ringlight.core.request import RequestDefaults
from ringlight.core.stored_network import Shape, StoredNetwork
from ringlight.families.model import ModelSpec

Documents = Mapping[str, Mapping[str, Any]]  # JSON by its name in Diffusers layout, such as `vae/config.json`
Configs = Mapping[str, Mapping[str, Any]]  # each network's config.json, by the network's folder


class SingleFiles(NamedTuple):
    """Readers for single files without any JSON beside them, by their headers.

    `kind_of` says which network they hold, by its folder's name, `in_our_names` gives its tensors the names of
    diffusers, and `numbers_of` its config.json by kind and shapes. `documents` says what else there is of a model with
    these networks, given each one's config.json and the names of the transformer's file and folder: its
    `model_index.json` and scheduler; None where it is of another family. `convert` names the module that writes such a
    checkpoint as a folder in Diffusers layout.
    A family that `must_be_named` has files like those of another, which it was trained from.
    """

    kind_of: Callable[[StoredNetwork], str | None]
    in_our_names: Callable[[StoredNetwork], StoredNetwork]
    numbers_of: Callable[[str, Mapping[str, Shape]], dict[str, Any]]
    documents: Callable[[Configs, str], Documents | None]
    convert: str
    must_be_named: bool = False


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """Row of the table of families. `name` is the folder's, `kind` what people call its models.

    `pipelines` are the classes of diffusers that its checkpoints name. `is_of_family` looks at a checkpoint's
    `model_index.json`, and `read` at the rest of its JSON, which may raise InvalidCheckpoint. `defaults` are what a
    request to a model may leave out, `cards` the models that are known without a checkpoint. `recipe` names the class
    of the workshop that makes videos (families/recipe.py), `demo` the module that writes checkpoints of random weights,
    and `trained_demo` the folder beside the card with one that has learned to make films, where there is one.
    Without `single_files` its checkpoints are folders in Diffusers layout alone. `read_lora` matches a LoRA's file, or
    its folder, with a model, and raises InvalidCheckpoint where it does not fit; without it none is applied.
    """

    name: str
    kind: str
    pipelines: tuple[str, ...]
    is_of_family: Callable[[dict[str, Any]], bool]
    read: Callable[[Checkpoint, dict[str, Any]], ModelSpec]
    defaults: Callable[[ModelSpec], RequestDefaults]
    cards: tuple[ModelSpec, ...]
    recipe: str
    demo: str
    trained_demo: Path | None = None
    single_files: SingleFiles | None = None
    read_lora: Callable[[Path, ModelSpec], LoraFile] | None = None
