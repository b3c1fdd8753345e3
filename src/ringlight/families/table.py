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
from ringlight.core.checkpoint import INDEX, Checkpoint, find_checkpoint
from ringlight.core.config import EngineConfig, read_defaults, read_examples
from ringlight.core.errors import InvalidCheckpoint, InvalidSetting
from ringlight.core.lora import LoraFile
from ringlight.core.plain import in_words, plain
from ringlight.core.presence import broken_link, require_files, trouble_with
from ringlight.core.request import RequestDefaults
from ringlight.core.stored_network import read_network
from ringlight.core.weights import network_files, networks_of
from ringlight.families.assembly import CARD_SUFFIXES, FILE_SUFFIXES, assemble, has_files
from ringlight.families.family import Family
from ringlight.families.fastwan.card import FAMILY as FASTWAN
from ringlight.families.model import ModelSpec
from ringlight.families.wan21_flf2v.card import FAMILY as WAN21_FLF2V
from ringlight.families.wan21_i2v.card import FAMILY as WAN21_I2V
from ringlight.families.wan21_t2v.card import FAMILY as WAN21_T2V
from ringlight.families.wan22_i2v_a14b.card import FAMILY as WAN22_I2V_A14B
from ringlight.families.wan22_t2v_a14b.card import FAMILY as WAN22_T2V_A14B
from ringlight.families.wan22_ti2v.card import FAMILY as WAN22_TI2V

FAMILIES: tuple[Family, ...] = (
    WAN22_TI2V,
    WAN21_T2V,
    FASTWAN,
    WAN21_I2V,
    WAN21_FLF2V,
    WAN22_T2V_A14B,
    WAN22_I2V_A14B,
)
MODELS = {card.name: card for family in FAMILIES for card in family.cards}  # that are known without a checkpoint

JSON_FILES = (
    INDEX,
    "transformer/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "scheduler/scheduler_config.json",
)


def checkpoint_of(config: EngineConfig) -> Checkpoint:
    """The checkpoint that a configuration names. Raises InvalidCheckpoint."""
    return checkpoint_at(find_checkpoint(config.model_path), config.model_family)


def checkpoint_at(place: Path, model_family: str = "") -> Checkpoint:
    """Checkpoint at a place: a folder in Diffusers layout, or one that is put together from single files.

    `model_family` names the family, for files that cannot tell it. Raises InvalidCheckpoint, which says what is there
    instead.
    """
    if not os.path.isdir(place):  # unlike Path.is_dir, False for names that no file system takes
        return _file_at(place, model_family)
    if not os.access(place, os.R_OK | os.X_OK):
        raise InvalidCheckpoint(f"{place}: not readable by the user that this process runs as")
    if os.path.lexists(place / INDEX):
        return Checkpoint(place=place)
    if (place.parent / INDEX).exists():
        whole = place.parent
        raise InvalidCheckpoint(f"{place}: holds one part of a checkpoint; name the folder of the whole, {whole}")
    if has_files(place):
        return assemble(place, FAMILIES, model_family)
    if found := foreign.name_of_folder(place):
        raise InvalidCheckpoint(f"{place}: {found}")
    return Checkpoint(place=place)


def _file_at(place: Path, model_family: str) -> Checkpoint:
    if place.suffix in (*CARD_SUFFIXES, *FILE_SUFFIXES) and os.path.isfile(place):
        return assemble(place, FAMILIES, model_family)
    if os.path.isfile(place):
        raise InvalidCheckpoint(f"{place}: no such folder: it is {foreign.name_of_file(place)}")
    said = broken_link(place) or "no such folder"
    raise InvalidCheckpoint(f"{place}: {said}; --model-path names a checkpoint: its folder, or a file of it")


def read_model(place: Path, model_family: str = "") -> ModelSpec:
    """Read the model of a checkpoint. Raises InvalidCheckpoint with the file and the remedy in one line."""
    return model_of(checkpoint_at(place, model_family), model_family)


def model_of(checkpoint: Checkpoint, model_family: str = "") -> ModelSpec:
    """Read a checkpoint's JSON, and the headers of its weights.

    Raises InvalidCheckpoint, also if it is not of the family that is named.
    """
    place = checkpoint.place
    require_files(place, [name for name in JSON_FILES if name not in checkpoint.documents])
    index = checkpoint.json(INDEX)
    for family in FAMILIES:
        if family.is_of_family(index):
            spec = family.read(checkpoint, index)
            if model_family not in ("", spec.family):
                raise InvalidCheckpoint(f"{place}: is of the family {spec.family}, not {model_family}")
            return spec
    known = in_words(family.kind for family in FAMILIES)
    pipelines = {name for family in FAMILIES for name in family.pipelines}
    if (found := index.get("_class_name")) not in pipelines:
        raise InvalidCheckpoint(f"{place}: holds a {found}, not a WanPipeline; Ringlight runs {known} checkpoints")
    told = ", ".join(f"{name}={index.get(name)}" for name in ("expand_timesteps", "boundary_ratio"))
    raise InvalidCheckpoint(f"{place}: a Wan checkpoint of another kind ({told}); Ringlight runs {known}")


def recognised(checkpoint: Checkpoint) -> dict[str, str]:
    """Facts on a checkpoint's weights by network: original names, eight-bit formats, guesses on single files."""
    spec = model_of(checkpoint)
    files, told = family_of(spec).single_files, {}
    for name in networks_of(checkpoint) if files is not None else ():
        paths = network_files(checkpoint, name)
        if files is not None and not any(map(trouble_with, paths)):
            told[name] = ", ".join(files.in_our_names(read_network(paths)).told)
    if INDEX in checkpoint.documents:
        boundary = f", boundary_ratio {plain(spec.boundary_ratio, 3)}" if spec.boundary_ratio is not None else ""
        told["scheduler"] = (
            f"flow_shift {plain(spec.scheduler.flow_shift, 3)}{boundary} (a card's config may say another)"
        )
    return {name: words for name, words in told.items() if words}


def family_of(spec: ModelSpec) -> Family:
    """The family of a model."""
    return family_named(spec.family)


def family_named(name: str) -> Family:
    """A family by the name of its folder. Raises InvalidSetting naming the nearest."""
    families = {family.name: family for family in FAMILIES}
    if name not in families:
        raise InvalidSetting(f"there is no family {name!r} of models ({_nearest(name, families)})")
    return families[name]


def model_defaults(spec: ModelSpec, place: Path | None = None) -> RequestDefaults:
    """Defaults of requests: those beside the checkpoint, else the family's.

    Raises InvalidCheckpoint.
    """
    usual = family_of(spec).defaults(spec)
    return usual if place is None else read_defaults(Checkpoint(place=place).folder, usual)


def model_examples(place: Path) -> tuple[str, ...]:
    """Prompts that the model is good at, from the file beside the checkpoint. Raises InvalidCheckpoint."""
    return read_examples(Checkpoint(place=place).folder)


def read_lora(path: Path, spec: ModelSpec) -> LoraFile:
    """Read a LoRA's file, or its folder, and match it with a model by its header.

    Raises InvalidCheckpoint with all that does not fit.
    """
    read = family_of(spec).read_lora
    if read is None:
        raise InvalidCheckpoint(f"{path}: LoRAs are not applied to models of the family {spec.family}")
    return read(path, spec)


def known_model(name: str) -> ModelSpec:
    """A model that is known without a checkpoint. Raises InvalidSetting naming the nearest."""
    if name not in MODELS:
        raise InvalidSetting(f"model {name!r} is not known without its checkpoint ({_nearest(name, MODELS)})")
    return MODELS[name]


def _nearest(name: str, known: Iterable[str]) -> str:
    """Name that was probably meant, else all that there are."""
    names = list(known)
    near = difflib.get_close_matches(name, names, 1)
    return f"nearest: {near[0]}" if near else f"there are {', '.join(names)}"
