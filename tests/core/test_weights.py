"""Files of weights without torch: links, variants, what is no checkpoint in Diffusers layout, and what is cut short."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from ringlight.core.checkpoint import Checkpoint
from ringlight.core.errors import InvalidCheckpoint
from ringlight.core.stored_network import require_whole
from ringlight.core.weights import checkpoint_weights, read_header, weight_files
from ringlight.families.table import read_model
from tests.core.checkpoints import copy_json, link_all

STEM = "diffusion_pytorch_model"
FILE = f"{STEM}.safetensors"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0a1b\nsize 9\n"
INSTEAD = "hf download Wan-AI/Wan2.2-TI2V-5B-Diffusers"


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    """A checkpoint of links to another, which may be damaged."""
    return link_all(tiny, tmp_path / "checkpoint")


def read(folder: Path) -> None:
    """All that the front looks at before a worker starts."""
    read_model(folder)
    require_whole(Checkpoint(place=folder), with_weights=True)


def refusal(folder: Path) -> str:
    with pytest.raises(InvalidCheckpoint) as caught:
        read(folder)
    message = str(caught.value)
    assert str(folder) in message and "\n" not in message
    return message


def write_tensor(path: Path, name: str = "a", kept: int = 0) -> None:
    """A safetensors file of one number, or the first bytes of it."""
    header = json.dumps({name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    content = struct.pack("<Q", len(header)) + header + bytes(4)
    path.write_bytes(content[:kept] if kept else content)


def test_links_of_every_kind_are_followed(folder: Path, tiny: Path, tmp_path: Path) -> None:
    """A farm of links; a blob in a shared store behind another link; a part that is a link to one's own fine-tune."""
    read(folder)
    store = tmp_path / "store"
    store.symlink_to(tiny / "vae")
    (folder / "vae" / FILE).unlink()
    (folder / "vae" / FILE).symlink_to(store / FILE)
    (folder / "transformer").rename(tmp_path / "finetune")
    (folder / "transformer").symlink_to(tmp_path / "finetune")
    read(folder)


@pytest.mark.parametrize("file", [f"transformer/{FILE}", "vae/config.json", "tokenizer/tokenizer.json"])
def test_links_that_lead_nowhere_are_called_so_in_all_files_alike(folder: Path, tmp_path: Path, file: str) -> None:
    path = folder / file
    path.unlink()
    path.symlink_to(tmp_path / "unmounted" / "blob")
    said = refusal(folder)
    assert f"{path} is a link to {tmp_path / 'unmounted' / 'blob'}, which is not there; mend the link" in said
    path.unlink()
    path.symlink_to(path.name)
    assert f"{path} is a link that leads back to itself" in refusal(folder)
    path.unlink()
    path.write_text(POINTER)
    said = refusal(folder)
    assert f"{path}: a git-lfs pointer" in said and "`git lfs pull`" in said
    path.unlink()
    path.mkdir()
    assert f"{path}: a folder in the place of a file" in refusal(folder)


@pytest.mark.parametrize("part", ["transformer", "vae", "tokenizer", ""])
def test_folders_whose_link_leads_nowhere_are_called_so(folder: Path, tmp_path: Path, part: str) -> None:
    path = folder / part
    path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "unmounted")
    assert f"{path} is a link to {tmp_path / 'unmounted'}, which is not there" in refusal(folder)


def test_all_that_is_missing_is_named_at_once(folder: Path) -> None:
    for name in ("transformer", "vae"):
        (folder / name / FILE).unlink()
    (folder / "tokenizer" / "tokenizer.json").unlink()
    said = refusal(folder)
    assert all(f"{name}: no such file" in said for name in (f"transformer/{FILE}", f"vae/{FILE}", "tokenizer.json"))


def test_without_weights_only_the_tokenizer_is_looked_at(tiny: Path, tmp_path: Path) -> None:
    folder = copy_json(tiny, tmp_path / "json")
    require_whole(Checkpoint(place=folder), with_weights=False)
    with pytest.raises(InvalidCheckpoint):
        require_whole(Checkpoint(place=folder), with_weights=True)


@pytest.mark.parametrize("kept", [0, 7, 8, 30, -4, -1])
def test_files_cut_short_are_named_before_a_worker_starts(folder: Path, tiny: Path, kept: int) -> None:
    content = (tiny / "vae" / FILE).read_bytes()
    (folder / "vae" / FILE).unlink()
    (folder / "vae" / FILE).write_bytes(content[:kept])
    assert f"vae/{FILE}: not a readable safetensors file" in refusal(folder)


def test_headers_are_read_as_they_are(tmp_path: Path, tiny: Path) -> None:
    write_tensor(tmp_path / "x.safetensors")
    assert {name: tensor.shape for name, tensor in read_header(tmp_path / "x.safetensors").tensors.items()} == {
        "a": (1,)
    }
    assert len(read_header(tiny / "transformer" / FILE).tensors) > 50
    with (tmp_path / "x.safetensors").open("ab") as file:
        file.write(b"more")
    with pytest.raises(InvalidCheckpoint, match="tells of"):
        read_header(tmp_path / "x.safetensors")


@pytest.mark.parametrize("variant", ["fp16", "bf16"])
def test_a_variant_is_taken_where_there_is_nothing_plain(tmp_path: Path, variant: str) -> None:
    (tmp_path / f"{STEM}.{variant}.safetensors").touch()
    assert [path.name for path in weight_files(tmp_path, STEM)] == [f"{STEM}.{variant}.safetensors"]
    (tmp_path / FILE).touch()
    assert [path.name for path in weight_files(tmp_path, STEM)] == [FILE]


def test_a_variant_in_shards_is_taken_by_its_index(tmp_path: Path) -> None:
    shards = [f"model.fp16-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for name in shards:
        (tmp_path / name).touch()
    (tmp_path / "model.safetensors.index.fp16.json").write_text(
        json.dumps({"weight_map": dict(zip("ab", shards, strict=True))})
    )
    assert [path.name for path in weight_files(tmp_path, "model")] == shards


@pytest.mark.parametrize(
    ("names", "command"),
    [
        ([f"{STEM}.bf16.safetensors", f"{STEM}.fp16.safetensors"], f"ln -s {STEM}.bf16.safetensors {FILE}"),
        (
            [f"{STEM}.fp16.safetensors", f"{STEM}.safetensors.index.bf16.json"],
            f"ln -s {STEM}.fp16.safetensors {FILE}",
        ),
    ],
)
def test_of_several_variants_one_has_to_be_chosen(tmp_path: Path, names: list[str], command: str) -> None:
    for name in names:
        (tmp_path / name).write_text("{}")
    with pytest.raises(InvalidCheckpoint) as caught:
        weight_files(tmp_path, STEM)
    assert "bf16" in str(caught.value) and "fp16" in str(caught.value) and f"`{command}`" in str(caught.value)
    _, link, source, name = command.split()
    (tmp_path / name).symlink_to(source)
    assert link == "-s" and [path.name for path in weight_files(tmp_path, STEM)] == [FILE]


def test_what_ranks_compare_are_the_files_that_are_read(folder: Path) -> None:
    before = checkpoint_weights(Checkpoint(place=folder))
    (folder / "vae" / f"{STEM}.fp16.safetensors").touch()
    assert checkpoint_weights(Checkpoint(place=folder)) == before


def touch(*names: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()

    return make


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (touch("config.json", "Wan2.2_VAE.pth"), ["Wan's original layout, pickled (Wan2.2_VAE.pth)", INSTEAD]),
        (touch("models_t5_umt5-xxl-enc-bf16.pth"), ["Wan's original layout", INSTEAD]),
        (touch("diffusion_models/README.md"), ["ComfyUI", "no safetensors", INSTEAD]),
        (touch("Wan2.2-TI2V-5B-Q8_0.gguf"), ["Q8_0.gguf: not a readable GGUF file"]),
        (touch("wan2.2_ti2v_5B_fp16.safetensors"), ["wan2.2_ti2v_5B_fp16.safetensors: not a readable safetensors"]),
        (touch("split_files/diffusion_models/wan.safetensors"), ["wan.safetensors: not a readable safetensors file"]),
        (touch("wan/model_index.json", "other/README.md"), ["holds folders of checkpoints", "(wan)"]),
        (touch("models--Wan-AI--Wan2.2/x", "models--a--b/x"), ["a cache of the Hugging Face hub", "Wan-AI/Wan2.2"]),
        (touch("README.md"), ["model_index.json: no such file", "download the folder whole"]),
    ],
    ids=["original", "original encoder", "comfy", "gguf", "files", "comfy split", "above", "cache", "nothing"],
)
def test_what_is_no_checkpoint_is_called_by_its_name(
    tmp_path: Path, make: Callable[[Path], None], words: list[str]
) -> None:
    make(tmp_path / "model")
    said = refusal(tmp_path / "model")
    assert all(word in said for word in words), said


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("wan2.2_ti2v_5B_fp16.safetensors", ["not a readable safetensors file"]),
        ("Wan2.2-Q8_0.gguf", ["not a readable GGUF file"]),
        ("Wan2.2_VAE.pth", ["pickled weights", "wan2.2_vae.safetensors of Comfy-Org"]),
        ("model_index.json", ["--model-path names a checkpoint's folder", "YAML card"]),
    ],
)
def test_a_single_file_is_called_by_its_kind(tmp_path: Path, name: str, words: list[str]) -> None:
    (tmp_path / name).touch()
    said = refusal(tmp_path / name)
    assert all(word in said for word in words), said


def test_one_part_of_a_checkpoint_is_told_the_whole(folder: Path) -> None:
    assert f"holds one part of a checkpoint; name the folder of the whole, {folder}" in refusal(folder / "vae")


def test_a_part_in_another_form_is_told_so(folder: Path) -> None:
    (folder / "transformer" / FILE).unlink()
    (folder / "transformer" / "wan-Q8_0.gguf").touch()
    assert "transformer: holds GGUF files (wan-Q8_0.gguf)" in refusal(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_may_not_be_read_is_told_so(folder: Path, tiny: Path) -> None:
    (folder / "vae" / FILE).unlink()
    write_tensor(folder / "vae" / FILE)
    (folder / "vae" / FILE).chmod(0)
    assert "not readable: Permission denied" in refusal(folder)
