"""The table of families, and what is found by it: the model of a checkpoint, of a name, and a model's family.

Layout of a checkpoint as Diffusers writes it: `model_index.json` beside one folder each for `transformer`, `vae`,
`text_encoder`, `tokenizer` and `scheduler`, with a `config.json` in each network's folder.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from pathlib import Path

from ringlight.core import foreign
from ringlight.core.config import read_defaults
from ringlight.core.errors import InvalidCheckpoint, InvalidSetting
from ringlight.core.presence import broken_link, read_json, require_files
from ringlight.core.request import RequestDefaults
from ringlight.families.family import Family
from ringlight.families.fastwan.card import FAMILY as FASTWAN
from ringlight.families.model import ModelSpec
from ringlight.families.wan21_t2v.card import FAMILY as WAN21_T2V
from ringlight.families.wan22_ti2v.card import FAMILY as WAN22_TI2V

FAMILIES: tuple[Family, ...] = (WAN22_TI2V, WAN21_T2V, FASTWAN)
MODELS = {card.name: card for family in FAMILIES for card in family.cards}  # that are known without a checkpoint

INDEX = "model_index.json"
JSON_FILES = (
    INDEX,
    "transformer/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "scheduler/scheduler_config.json",
)


def read_model(folder: Path) -> ModelSpec:
    """Read a checkpoint folder's JSON. Raises InvalidCheckpoint with the file and the remedy in one line."""
    _require_folder(folder)
    require_files(folder, JSON_FILES)
    index = read_json(folder / INDEX)
    for family in FAMILIES:
        if family.is_of_family(index):
            return family.read(folder, index)
    known = " and ".join(family.kind for family in FAMILIES)
    pipelines = {name for family in FAMILIES for name in family.pipelines}
    if (found := index.get("_class_name")) not in pipelines:
        raise InvalidCheckpoint(f"{folder}: holds a {found}, not a WanPipeline; Ringlight runs {known} checkpoints")
    told = ", ".join(f"{name}={index.get(name)}" for name in ("expand_timesteps", "boundary_ratio"))
    raise InvalidCheckpoint(f"{folder}: a Wan checkpoint of another kind ({told}); Ringlight runs {known}")


def family_of(spec: ModelSpec) -> Family:
    """The family of a model."""
    return family_named(spec.family)


def family_named(name: str) -> Family:
    """A family by the name of its folder. Raises InvalidSetting naming the nearest."""
    families = {family.name: family for family in FAMILIES}
    if name not in families:
        raise InvalidSetting(f"there is no family {name!r} of models ({_nearest(name, families)})")
    return families[name]


def model_defaults(spec: ModelSpec, folder: Path | None = None) -> RequestDefaults:
    """What a request may leave out: as the checkpoint in `folder` says, else as is usual of its family.

    Raises InvalidCheckpoint.
    """
    usual = family_of(spec).defaults(spec)
    return usual if folder is None else read_defaults(folder, usual)


def known_model(name: str) -> ModelSpec:
    """A model that is known without a checkpoint. Raises InvalidSetting naming the nearest."""
    if name not in MODELS:
        raise InvalidSetting(f"model {name!r} is not known without its checkpoint ({_nearest(name, MODELS)})")
    return MODELS[name]


def _nearest(name: str, known: Iterable[str]) -> str:
    """The name that was probably meant, else all that there are."""
    names = list(known)
    near = difflib.get_close_matches(name, names, 1)
    return f"nearest: {near[0]}" if near else f"there are {', '.join(names)}"


def _require_folder(folder: Path) -> None:
    """Raise InvalidCheckpoint, which says what it is instead, unless a checkpoint in Diffusers layout is there."""
    if os.path.isdir(folder):  # unlike Path.is_dir, False for names that no file system takes
        if not os.access(folder, os.R_OK | os.X_OK):
            raise InvalidCheckpoint(f"{folder}: not readable by the user that this process runs as")
        if not os.path.lexists(folder / INDEX) and (found := foreign.name_of_folder(folder)):
            raise InvalidCheckpoint(f"{folder}: {found}")
    elif os.path.isfile(folder):
        raise InvalidCheckpoint(f"{folder}: no such folder: it is {foreign.name_of_file(folder)}")
    else:
        said = broken_link(folder) or "no such folder"
        raise InvalidCheckpoint(f"{folder}: {said}; --model-path names a checkpoint in Diffusers layout")
