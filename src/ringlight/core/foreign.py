"""What is taken for a checkpoint in Diffusers layout and is none, called by its name, with what to do instead."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
ORIGINAL_FILES = ("Wan2.2_VAE.pth", "Wan2.1_VAE.pth", "models_t5_umt5-xxl-enc-bf16.pth")
COMFY_FOLDERS = ("diffusion_models", "split_files", "text_encoders", "unet")
INSTEAD = "take Diffusers layout, such as `hf download Wan-AI/Wan2.2-TI2V-5B-Diffusers`"
VSA_GATE = ".to_gate_compress."  # of video sparse attention: it weighs coarse attention against fine
MAX_SHOWN = 4


def name_of_file(path: Path) -> str:
    """What a single file is that was named as a checkpoint, and the remedy."""
    if path.suffix == ".gguf":
        return f"a GGUF file, which Ringlight does not read; {INSTEAD}"
    if path.suffix == ".safetensors":
        return f"a single file of weights, as ComfyUI uses them, and no folder of a whole checkpoint; {INSTEAD}"
    if path.suffix in PICKLE_SUFFIXES:
        return f"a file of pickled weights, which can run code, and no folder of a checkpoint; {INSTEAD}"
    return "a file and no folder; --model-path names the folder of a checkpoint in Diffusers layout"


def name_of_folder(folder: Path) -> str | None:
    """What a folder without a model_index.json is, and the remedy; None where nobody can tell."""
    names = {path.name for path in folder.iterdir()}
    if names & set(ORIGINAL_FILES):
        return f"holds a model in Wan's original layout; {INSTEAD}"
    if ggufs := _with_suffix(folder, ".gguf"):
        return f"holds GGUF files ({ggufs}), which Ringlight does not read; {INSTEAD}"
    if names & set(COMFY_FOLDERS):
        return f"holds files for ComfyUI ({_shown(names & set(COMFY_FOLDERS))}); {INSTEAD}"
    if (folder.parent / "model_index.json").exists():
        return f"holds one part of a checkpoint; name the folder of the whole, {folder.parent}"
    if found := {path.parent.name for path in folder.glob("*/model_index.json")}:
        return f"holds folders of checkpoints; name one of them ({_shown(found)})"
    if found := {path.name.removeprefix("models--").replace("--", "/") for path in folder.glob("models--*")}:
        return f"holds a cache of the Hugging Face hub; name one of its models ({_shown(found)})"
    if weights := _with_suffix(folder, ".safetensors"):
        return f"holds single files of weights ({weights}) and no model_index.json; {INSTEAD}"
    return None


def _with_suffix(folder: Path, suffix: str) -> str:
    return _shown(path.name for path in folder.glob(f"*{suffix}"))


def _shown(names: Iterable[str]) -> str:
    found = sorted(names)
    return ascii(", ".join(found[:MAX_SHOWN]))[1:-1] + (" and more" if len(found) > MAX_SHOWN else "")


def name_of_weights(names: Iterable[str]) -> str | None:
    """What tensors of these names are that no network here has, and the remedy; None where nobody can tell."""
    if any(VSA_GATE in name for name in names):
        return (
            "trained for video sparse attention (VSA, its to_gate_compress weights), which is not computed here, and "
            "full attention would make another video; take a model that was trained for that, such as "
            "FastWan2.2-TI2V-5B-FullAttn"
        )
    return None
