"""Assembly of a checkpoint without a folder in Diffusers layout: of single files, as people have them.

What is named is a YAML card that says which file is which part; a folder of files, such as ComfyUI's or one in Wan's
original layout; or a transformer's file, with the other parts around it. Which network a file holds is told by its
header, and so are the numbers of its config.json; what no header tells is as in the family's published models.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ringlight.core.checkpoint import INDEX, TOKENIZER, TOKENIZER_FILE, Checkpoint
from ringlight.core.config import read_settings_file
from ringlight.core.errors import InvalidCheckpoint, InvalidInstallation, InvalidSetting
from ringlight.core.foreign import PICKLE_SUFFIXES, instead_of
from ringlight.core.gguf_file import SUFFIX
from ringlight.core.presence import listed, read_json, require_file
from ringlight.core.stored_network import StoredNetwork, read_network
from ringlight.core.weights import OPTIONAL, REQUIRED, STEMS, TRANSFORMERS, weight_files
from ringlight.families.experts import HIGH, LOW, expert_of, name_of_both, other_expert
from ringlight.families.family import Configs, Documents, Family, SingleFiles

CARD_SUFFIXES = (".yaml", ".yml")
FILE_SUFFIXES = (".safetensors", SUFFIX)
BOTH = "name both in a YAML card (transformer for high noise, transformer_2 for low)"
CONFIG, MODEL_FAMILY = "config", "model_family"  # of a card, beside the parts
TRANSFORMER, LOW_NOISE = TRANSFORMERS  # the second is of models with an expert for low noise
IMAGE_ENCODER = "image_encoder"
# Folders in which parts lie beside others: ComfyUI's.
BESIDE = ("diffusion_models", "unet", "text_encoders", "clip", "clip_vision", "vae", "split_files")
FITS = {  # of a network a number of its config.json, and of the transformer's the one that must be the same
    "vae": ("z_dim", "out_channels"),
    "text_encoder": ("d_model", "text_dim"),
    IMAGE_ENCODER: ("hidden_size", "image_dim"),
}
TOKENIZER_PLACES = ("", "tokenizer", "google/umt5-xxl", "text_encoder", "text_encoders", "clip")
TOKENIZER_COMMAND = "hf download Wan-AI/Wan2.1-T2V-1.3B-Diffusers tokenizer/tokenizer.json --local-dir ."


class Found(NamedTuple):
    """A network that some files hold, in our names, and the numbers of its config.json."""

    place: Path
    kind: str
    stored: StoredNetwork
    config: dict[str, Any]


def assemble(place: Path, families: Sequence[Family], model_family: str = "") -> Checkpoint:
    """The checkpoint of a card, a folder of single files, or a transformer's file.

    `model_family` names the family, where files cannot tell it. Raises InvalidCheckpoint with what was seen.
    """
    known = {family.name: family.single_files for family in families if family.single_files is not None}
    if place.suffix in CARD_SUFFIXES and not os.path.isdir(place):
        return _of_card(place, known, model_family)
    beside = place if os.path.isdir(place) else _above(place.parent)
    seen, others = _look_through(_candidates(beside) if beside == place else [place, *_candidates(beside)], known)
    if beside != place:
        _require_transformer(place, seen, others)
        seen = _with_its_partner(place, seen)
    seen = _fitting(_experts(seen))
    networks = {kind: _only_one(place, kind, seen) for kind in _kinds(seen)}
    if missing := _missing(networks):
        raise InvalidCheckpoint(
            f"{place}: no {' and no '.join(missing)} among its files; {_seen(seen, others)}{_pickled(beside)}; put it "
            "there, or name all parts in a YAML card (docs/checkpoints.md)"
        )
    tokenizer = _tokenizer_around(beside, networks["text_encoder"].place)
    return _together(place, networks, tokenizer, known, model_family, {})


def has_files(folder: Path) -> bool:
    """Whether a folder has single files that may be parts of a checkpoint."""
    return next(_candidates(folder), None) is not None


def _of_card(path: Path, known: Mapping[str, SingleFiles], model_family: str) -> Checkpoint:
    """Checkpoint of the parts that a card names, relative to the card's folder."""
    require_file(path)
    try:
        said = {name.replace("-", "_"): value for name, value in read_settings_file(path).items()}
    except InvalidSetting as error:
        raise InvalidCheckpoint(str(error)) from None
    names = (*STEMS, TOKENIZER, MODEL_FAMILY, CONFIG)
    for name, value in said.items():
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(names)}"
            raise InvalidCheckpoint(f"{path}: names no part {name!r}; {hint}")
        if not isinstance(value, dict if name == CONFIG else str):
            raise InvalidCheckpoint(f"{path}: {name} must be {'a map' if name == CONFIG else 'a text'}, not {value!r}")
    if missing := [name for name in (*REQUIRED, TOKENIZER) if name not in said]:
        raise InvalidCheckpoint(f"{path}: must name {', '.join(missing)} too")
    networks = {}
    for kind in [name for name in STEMS if name in said]:
        place = path.parent / said[kind]
        if not os.path.lexists(place):
            raise InvalidCheckpoint(f"{path}: {kind}: {place}: no such file or folder")
        networks[kind] = _named(kind, place, known)
    if missing := _missing(networks):
        raise InvalidCheckpoint(f"{path}: must name {', '.join(missing)} too: {_numbers(networks[TRANSFORMER])}")
    tokenizer = path.parent / said[TOKENIZER]
    file = tokenizer / TOKENIZER_FILE if os.path.isdir(tokenizer) else tokenizer
    require_file(file)
    return _together(path, networks, file, known, model_family or said.get(MODEL_FAMILY, ""), said.get(CONFIG, {}))


def _named(kind: str, place: Path, known: Mapping[str, SingleFiles]) -> Found:
    """Network that a card names for a kind. Raises InvalidCheckpoint if it is another, or none."""
    if place.suffix in PICKLE_SUFFIXES:
        raise InvalidCheckpoint(f"{place}: pickled weights, which can run code; {instead_of([place.name])}")
    stored = read_network(weight_files(place, STEMS.get(kind, STEMS[TRANSFORMER])))
    found = _recognised(place, stored, known)
    if found is None:
        raise InvalidCheckpoint(f"{place}: no {kind} that is known: {_what_is_in(stored)}")
    if kind == LOW_NOISE and found.kind == TRANSFORMER:
        return found._replace(kind=LOW_NOISE)
    if found.kind != kind:
        raise InvalidCheckpoint(f"{place}: named as the {kind}, and holds a {found.kind}: {_what_is_in(stored)}")
    return found


def _candidates(folder: Path) -> Iterator[Path]:
    """Yield files and folders below a folder that may be networks; shards count as their folder."""
    for each in _places(folder):
        index = next(iter(sorted(each.glob("*.safetensors.index.json"))), None)
        if index is not None:
            yield index
            continue
        yield from sorted(path for path in each.iterdir() if path.suffix in FILE_SUFFIXES)


def _places(folder: Path) -> list[Path]:
    inside = [folder / name for name in BESIDE]
    inside += [folder / "split_files" / name for name in BESIDE]
    places = [folder, *(each for each in inside if each.is_dir())]
    of_experts = [path for each in places for path in sorted(each.iterdir()) if _is_of_expert(path) and path.is_dir()]
    return [*places, *of_experts]


def _is_of_expert(folder: Path) -> bool:
    """Whether a folder is named like one of two experts, as in Wan's original layout."""
    return bool(expert_of(Path(folder.name)))


def _above(folder: Path) -> Path:
    """Folder around ComfyUI's folder for a kind of part, and around that of an expert."""
    folder = folder.parent if _is_of_expert(folder) else folder
    return folder.parent if folder.name in BESIDE else folder


def _look_through(places: Iterable[Path], known: Mapping[str, SingleFiles]) -> tuple[list[Found], dict[Path, str]]:
    """Networks among some files, and the reasons why the others are none."""
    seen, others = [], {}
    for place in dict.fromkeys(places):
        try:
            stored = read_network(weight_files(place, ""))
            found = _recognised(place, stored, known)
        except (InvalidCheckpoint, InvalidInstallation) as error:
            others[place] = str(error)
            continue
        if found is None:
            others[place] = f"{place.name} is none that is known: {_what_is_in(stored)}"
        else:
            seen.append(found)
    return seen, others


def _recognised(place: Path, stored: StoredNetwork, known: Mapping[str, SingleFiles]) -> Found | None:
    for files in dict.fromkeys(known.values()):
        kind = files.kind_of(stored)
        if kind is not None:
            renamed = files.in_our_names(stored)
            try:
                config = files.numbers_of(kind, renamed.shapes)
            except InvalidCheckpoint as error:
                raise InvalidCheckpoint(f"{place}: {error}") from None
            return Found(place, kind, renamed, config | _config_beside(place, kind))
    return None


def _config_beside(place: Path, kind: str) -> dict[str, Any]:
    """Config of a config.json beside a network: all of it in Diffusers layout, the heads' width in the original one."""
    folder = place if os.path.isdir(place) else place.parent
    if not os.path.isfile(folder / "config.json"):
        return {}
    said = read_json(folder / "config.json")
    if (os.path.isdir(place) and "_class_name" in said) or "architectures" in said:
        return said
    heads, dim = said.get("num_heads"), said.get("dim")
    if kind == TRANSFORMER and isinstance(heads, int) and isinstance(dim, int) and heads > 0 and dim % heads == 0:
        return {"num_attention_heads": heads, "attention_head_dim": dim // heads}
    return {}


def _experts(seen: Sequence[Found]) -> list[Found]:
    """Networks in which, of two experts by their names, the one for low noise is called transformer_2."""
    transformers = [each for each in seen if each.kind == TRANSFORMER]
    noise = [expert_of(each.place) for each in transformers]
    if sorted(noise) != [HIGH, LOW]:
        return list(seen)
    low = transformers[noise.index(LOW)]
    return [each._replace(kind=LOW_NOISE) if each is low else each for each in seen]


def _with_its_partner(place: Path, seen: Sequence[Found]) -> list[Found]:
    """Networks with only the named transformer, and with its partner if it is an expert.

    The partner is named like it but for the noise, or is the only one of the same numbers for the other noise.
    """
    (named,) = (each for each in seen if each.place == place)
    noise = {expert_of(place), ""}
    alike = [each for each in seen if each.kind == TRANSFORMER and each.config == named.config]
    others = [each for each in alike if expert_of(each.place) not in noise] if expert_of(place) else []
    called = [each for each in others if each.place == other_expert(place)]
    kept = [named.place, *(each.place for each in (called or others) if len(called or others) == 1)]
    return [each for each in seen if each.kind != TRANSFORMER or each.place in kept]


def _fitting(seen: Sequence[Found]) -> list[Found]:
    """Networks that fit the transformer, among several of a kind; if the kind is optional, no others."""
    transformers = [each.config for each in seen if each.kind == TRANSFORMER]
    if len(transformers) != 1:
        return list(seen)

    def fits(each: Found) -> bool:
        own, of_transformer = FITS.get(each.kind, ("", ""))
        return each.config.get(own) == transformers[0].get(of_transformer)

    fitting = [each for each in seen if fits(each)]
    settled = {*_kinds(fitting), *OPTIONAL}
    return [each for each in seen if each in fitting or each.kind not in settled]


def _missing(networks: Mapping[str, Found]) -> list[str]:
    """Networks that such a model has, and that are not there."""
    transformer = networks.get(TRANSFORMER)
    sees_tokens = transformer is not None and transformer.config.get("image_dim") is not None
    return [kind for kind in (*REQUIRED, *([IMAGE_ENCODER] if sees_tokens else [])) if kind not in networks]


def _kinds(seen: Iterable[Found]) -> list[str]:
    return list(dict.fromkeys(each.kind for each in seen))


def _only_one(place: Path, kind: str, seen: Sequence[Found]) -> Found:
    """Network of a kind. Raises InvalidCheckpoint if there are several."""
    found = [each for each in seen if each.kind == kind]
    if len(found) > 1:
        names = listed([each.place.name for each in found])
        one = "name the one that is meant" if kind == TRANSFORMER else "name all parts in a YAML card"
        raise InvalidCheckpoint(f"{place}: holds several that may be its {kind} ({names}); {one} (docs/checkpoints.md)")
    return found[0]


def _require_transformer(place: Path, seen: Sequence[Found], others: Mapping[Path, str]) -> None:
    """Raise InvalidCheckpoint unless the file that was named is a transformer."""
    if place in others:
        raise InvalidCheckpoint(f"{place}: no transformer: {others[place]}")
    for each in seen:
        if each.place == place and each.kind != TRANSFORMER:
            raise InvalidCheckpoint(
                f"{place}: holds a {each.kind}; --model-path names the transformer's file, its folder or a YAML card"
            )


def _together(
    place: Path,
    networks: Mapping[str, Found],
    tokenizer: Path,
    known: Mapping[str, SingleFiles],
    model_family: str,
    stated: Mapping[str, Any],
) -> Checkpoint:
    """Build one checkpoint of these networks; a card's JSON takes precedence over what headers tell."""
    parts = {kind: each.place for kind, each in networks.items()} | {TOKENIZER: tokenizer}
    configs = {kind: each.config | dict(_stated(place, stated, kind)) for kind, each in networks.items()}
    _require_experts(networks, model_family)
    around = _documents(place, networks, configs, known, model_family)
    documents = {f"{kind}/config.json": config for kind, config in configs.items()}
    for name, document in around.items():
        documents[name] = dict(document) | dict(_stated(place, stated, name.partition("/")[0]))
    if not os.path.isdir(place):
        documents[INDEX]["_name_or_path"] = name_of_both(place.stem) if LOW_NOISE in networks else place.stem
    if unknown := sorted(set(stated) - {name.partition("/")[0] for name in documents}):
        raise InvalidCheckpoint(f"{place}: config: there is no {listed(unknown)}")
    return Checkpoint(place=place, parts=parts, documents=documents)


def _require_experts(networks: Mapping[str, Found], model_family: str) -> None:
    """Raise InvalidCheckpoint for an expert alone, and for two whose names say that they are swapped."""
    first, second = networks[TRANSFORMER].place, networks.get(LOW_NOISE)
    noise = expert_of(first)
    if second is None and noise and not model_family:
        other = LOW if noise == HIGH else HIGH
        raise InvalidCheckpoint(
            f"{first}: by its name one of two experts, for {noise} noise; put the one for {other} noise beside it "
            f"({other_expert(first).name}), or {BOTH}, or say by --model-family that it is whole"
        )
    if second is not None and (noise, expert_of(second.place)) == (LOW, HIGH):
        raise InvalidCheckpoint(f"{first}: by its name the expert for low noise: {TRANSFORMER} is that for high noise")


def _stated(place: Path, stated: Mapping[str, Any], part: str) -> Mapping[str, Any]:
    said = stated.get(part, {})
    if not isinstance(said, dict):
        raise InvalidCheckpoint(f"{place}: config: {part} must be a map")
    return said


def _documents(
    place: Path,
    networks: Mapping[str, Found],
    configs: Configs,
    known: Mapping[str, SingleFiles],
    model_family: str,
) -> Documents:
    """Documents of the one family that knows a model of these networks.

    Raises InvalidCheckpoint if none or several know it.
    """
    if model_family and model_family not in known:
        raise InvalidCheckpoint(f"{place}: there is no family {model_family!r}; there are {', '.join(known)}")
    meant = {
        name: files
        for name, files in known.items()
        if (model_family == name if model_family or files.must_be_named else True)
    }
    called = "/".join(networks[TRANSFORMER].place.parts[-2:])
    found = {name: files.documents(configs, called) for name, files in meant.items()}
    fitting = {name: documents for name, documents in found.items() if documents is not None}
    if len(fitting) == 1:
        return next(iter(fitting.values()))
    told = "; ".join(_numbers(each) for each in networks.values())
    if fitting:
        raise InvalidCheckpoint(f"{place}: may be of {' or '.join(fitting)} ({told}); say which by --model-family")
    pair = {LOW_NOISE: configs[TRANSFORMER], **configs}
    halves = [name for name, files in meant.items() if files.documents(pair, called) is not None]
    if halves and LOW_NOISE not in networks:
        raise InvalidCheckpoint(
            f"{place}: one of the two experts of a {' or '.join(halves)}, and the other is missing ({told}); {BOTH}"
        )
    named = f"not of {model_family}" if model_family else f"of no family that is known ({', '.join(known)})"
    raise InvalidCheckpoint(f"{place}: a model {named}: {told}")


def _numbers(found: Found) -> str:
    """Numbers of a network that tell families apart."""
    shown = ("in_channels", "out_channels", "num_layers", "image_dim", "z_dim", "is_residual", "d_model", "hidden_size")
    told = ", ".join(f"{name}={value}" for name in shown if (value := found.config.get(name)) is not None)
    return f"{found.kind} ({told})"


def _tokenizer_around(folder: Path, text_encoder: Path) -> Path:
    """The tokenizer.json that lies with the parts. Raises InvalidCheckpoint."""
    folders = [*(folder / place for place in TOKENIZER_PLACES), text_encoder.parent]
    for each in folders:
        if os.path.lexists(each / TOKENIZER_FILE):
            return each / TOKENIZER_FILE
    raise InvalidCheckpoint(
        f"{folder}: no {TOKENIZER_FILE} in it, in its folder tokenizer or with the text encoder; all Wan models have "
        f"the same: `{TOKENIZER_COMMAND}` in {folder} gets it"
    )


def _seen(seen: Sequence[Found], others: Mapping[Path, str]) -> str:
    return "; ".join([*(f"{each.place.name} is a {each.kind}" for each in seen), *others.values()])


def _what_is_in(stored: StoredNetwork) -> str:
    """Number of tensors, and some of their names."""
    names = sorted(stored.tensors)
    return f"{len(names)} tensors, such as {listed(names[:3])}" if names else "no tensor"


def _pickled(folder: Path) -> str:
    """Hint at the pickles of a folder, with what to take instead."""
    names = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLE_SUFFIXES)
    return f"; {listed(names)}: pickled weights, which can run code: {instead_of(names)}" if names else ""
