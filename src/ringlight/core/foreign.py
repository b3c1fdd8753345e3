"""Foreign files that are taken for a checkpoint in Diffusers layout, by their names, with what to do instead."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ringlight.core.plain import in_words

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
CLIP = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
ORIGINAL_FILES = ("Wan2.2_VAE.pth", "Wan2.1_VAE.pth", "models_t5_umt5-xxl-enc-bf16.pth")
COMFY_FOLDERS = ("diffusion_models", "split_files", "text_encoders", "unet")
INSTEAD = "take Diffusers layout, such as `hf download Wan-AI/Wan2.2-TI2V-5B-Diffusers`"
SPARSE = {  # of attention that is not computed here: by a part of its weights' names, what it is, and what to take
    ".to_gate_compress.": ("video sparse attention (VSA, its to_gate_compress weights)", "FastWan2.2-TI2V-5B-FullAttn"),
    ".proj_l.": ("sparse-linear attention (SLA, its proj_l weights), as TurboWan's", "those of rCM"),
}
MAX_SHOWN = 4
REPLACEMENTS = {  # of the pickles of Wan's original layout: the same weights, in safetensors
    "Wan2.1_VAE.pth": "vae/wan_2.1_vae.safetensors of Comfy-Org/Wan_2.1_ComfyUI_repackaged",
    "Wan2.2_VAE.pth": "vae/wan2.2_vae.safetensors of Comfy-Org/Wan_2.2_ComfyUI_Repackaged",
    "models_t5_umt5-xxl-enc-bf16.pth": (
        "text_encoders/umt5_xxl_fp16.safetensors of Comfy-Org/Wan_2.1_ComfyUI_repackaged"
    ),
    CLIP: "clip_vision/clip_vision_h.safetensors of Comfy-Org/Wan_2.1_ComfyUI_repackaged",
}


def instead_of(pickles: Iterable[str]) -> str:
    """Advice on what to take instead of pickled weights."""
    known = [REPLACEMENTS[name] for name in pickles if name in REPLACEMENTS]
    return f"take {in_words(known)}" if known else "convert to safetensors"


def name_of_file(path: Path) -> str:
    """Description of a single file that cannot be a checkpoint, and the remedy."""
    if path.suffix in PICKLE_SUFFIXES:
        return f"a file of pickled weights, which can run code; {instead_of([path.name])}"
    return (
        "a file and no folder; --model-path names a checkpoint's folder, its transformer's safetensors file, or a "
        "YAML card of its parts"
    )


def name_of_folder(folder: Path) -> str | None:
    """Description of a folder that has neither a model_index.json nor single files, and the remedy; None if unknown."""
    names = {path.name for path in folder.iterdir()}
    if pickles := names & set(ORIGINAL_FILES):
        return f"holds a model in Wan's original layout, pickled ({_shown(pickles)}); {INSTEAD}"
    if names & set(COMFY_FOLDERS):
        return (
            f"holds folders for ComfyUI ({_shown(names & set(COMFY_FOLDERS))}), and no safetensors in them; {INSTEAD}"
        )
    if found := {path.parent.name for path in folder.glob("*/model_index.json")}:
        return f"holds folders of checkpoints; name one of them ({_shown(found)})"
    if found := {path.name.removeprefix("models--").replace("--", "/") for path in folder.glob("models--*")}:
        return f"holds a cache of the Hugging Face hub; name one of its models ({_shown(found)})"
    return None


def _shown(names: Iterable[str]) -> str:
    found = sorted(names)
    return ascii(", ".join(found[:MAX_SHOWN]))[1:-1] + (" and more" if len(found) > MAX_SHOWN else "")


def name_of_weights(names: Iterable[str]) -> str | None:
    """Description of tensors that no network here has, and the remedy; None if they are unknown."""
    known = list(names)
    for mark, (what, instead) in SPARSE.items():
        if any(mark in name for name in known):
            return (
                f"trained for {what}, which is not computed here, and full attention would make another video; take a "
                f"model that was trained for that, such as {instead}"
            )
    return None
