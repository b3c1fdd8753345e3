"""Reading weights: whole checkpoints in every layout, and damaged ones refused in one line that says what to do."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ringlight.core.errors import InvalidCheckpoint
from ringlight.families.model import ModelSpec
from ringlight.families.wan.networks.text_encoder import load_tokenizer
from ringlight.families.wan22_ti2v.demo import DEMO
from ringlight.models.loading import WeightFiles, fill_random, load_weights
from tests.core.checkpoints import cached
from tests.worker.weights import FILE, INDEX, STEM, Slots, copy, empty_transformer, load, rewrite


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    """The transformer's folder of a checkpoint that may be damaged."""
    return copy(tiny, tmp_path / "checkpoint")


@pytest.fixture(scope="module")
def sharded_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded") / "tiny"
    DEMO.write(folder, "tiny", shard_bytes=2 * 2**20)
    return folder


@pytest.fixture
def sharded(sharded_checkpoint: Path, tmp_path: Path) -> Path:
    """The transformer's folder of a checkpoint in shards that may be damaged."""
    shutil.copytree(sharded_checkpoint / "transformer", tmp_path / "sharded" / "transformer")
    return tmp_path / "sharded" / "transformer"


def refusal(folder: Path, spec: ModelSpec) -> str:
    """The one line that loading this folder ends with; it names a path in it."""
    with pytest.raises(InvalidCheckpoint) as caught:
        load(folder, spec)
    message = str(caught.value)
    assert str(folder) in message
    assert "\n" not in message
    return message.replace(str(folder), "")


def test_every_tensor_comes_to_its_place(folder: Path, spec: ModelSpec) -> None:
    slots = load(folder, spec).checkpoint_slots()
    stored = safetensors.torch.load_file(folder / FILE)
    assert slots.keys() == stored.keys()
    assert all(torch.equal(slots[name], stored[name]) for name in stored)


def test_shards_hold_the_same_weights(folder: Path, sharded: Path, spec: ModelSpec) -> None:
    assert len(list(sharded.glob("*.safetensors"))) > 2
    whole, parts = load(folder, spec).checkpoint_slots(), load(sharded, spec).checkpoint_slots()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_weights_are_stored_in_the_dtype_of_the_network(folder: Path, spec: ModelSpec) -> None:
    network = empty_transformer(spec, torch.bfloat16)
    load_weights(network, WeightFiles(folder))
    stored = safetensors.torch.load_file(folder / FILE)
    for name, slot in network.checkpoint_slots().items():
        kept = any(part in name for part in ("time_embedder", "scale_shift_table", "norm2"))
        assert slot.dtype == (torch.float32 if kept else torch.bfloat16)
        assert torch.equal(slot, stored[name].to(slot.dtype))


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2], ids=str
)
def test_files_of_other_kinds_of_number_load_too(folder: Path, spec: ModelSpec, dtype: torch.dtype) -> None:
    def convert(tensors: dict[str, Tensor]) -> None:
        tensors.update({name: tensor.to(dtype) for name, tensor in tensors.items()})

    rewrite(folder / FILE, convert)
    slots = load(folder, spec).checkpoint_slots()
    stored = safetensors.torch.load_file(folder / FILE)
    assert all(torch.equal(slots[name], stored[name].float()) for name in stored)


@pytest.mark.parametrize("kept", [0, 4, 8, 1000, 0.5, -1])
def test_a_file_cut_short_is_named(folder: Path, spec: ModelSpec, kept: float) -> None:
    size = (folder / FILE).stat().st_size
    os.truncate(folder / FILE, int(size * kept) if isinstance(kept, float) else kept % size)
    message = refusal(folder, spec)
    assert FILE in message
    assert "download" in message


@pytest.mark.parametrize(
    "content",
    [
        b"<!DOCTYPE html><title>404</title>" * 10,
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        struct.pack("<Q", 2**60) + b"{}",
        struct.pack("<Q", 7) + b"nothing",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 58) + b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,999999]}}'[:58],
    ],
    ids=["a web page", "a pointer of git-lfs", "an endless header", "no JSON", "no object", "offsets beyond the end"],
)
def test_a_file_that_holds_something_else_is_named(folder: Path, spec: ModelSpec, content: bytes) -> None:
    (folder / FILE).write_bytes(content)
    assert FILE in refusal(folder, spec)


def test_a_folder_in_a_files_place_is_named(folder: Path, spec: ModelSpec) -> None:
    (folder / FILE).unlink()
    (folder / FILE).mkdir()
    assert FILE in refusal(folder, spec)


def test_missing_weights_and_missing_folders_are_named(folder: Path, spec: ModelSpec) -> None:
    (folder / FILE).unlink()
    assert FILE in refusal(folder, spec)
    shutil.rmtree(folder)
    assert "no such folder" in refusal(folder, spec)


class Trap:
    """Unpickling this makes a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self._path,)


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "model.pt", "weights.ckpt", FILE])
def test_pickled_weights_are_refused_and_never_run(folder: Path, spec: ModelSpec, tmp_path: Path, name: str) -> None:
    sprung = tmp_path / "sprung"
    trap = pickle.dumps(Trap(sprung))
    pickle.loads(trap)
    assert sprung.exists()  # the trap works
    sprung.unlink()
    (folder / FILE).unlink()
    (folder / name).write_bytes(trap)
    message = refusal(folder, spec)
    assert name in message
    assert "safetensors" in message
    assert not sprung.exists()


def test_missing_shards_are_listed(sharded: Path, spec: ModelSpec) -> None:
    first, second, *_ = sorted(sharded.glob("*.safetensors"))
    first.unlink()
    second.unlink()
    message = refusal(sharded, spec)
    assert first.name in message
    assert second.name in message


def test_a_shard_cut_short_is_named(sharded: Path, spec: ModelSpec) -> None:
    shard = sorted(sharded.glob("*.safetensors"))[1]
    os.truncate(shard, shard.stat().st_size - 1)
    assert shard.name in refusal(sharded, spec)


@pytest.mark.parametrize(
    "index",
    [
        "{",
        "[]",
        "{}",
        '{"weight_map": []}',
        '{"weight_map": {"a": 1}}',
        '{"weight_map": {"a": "../../elsewhere.safetensors"}}',
        '{"weight_map": {"a": "/etc/passwd"}}',
        '{"weight_map": {"a": "weights.bin"}}',
        '{"weight_map": {"a": ""}}',
    ],
)
def test_a_wrong_index_is_named(sharded: Path, spec: ModelSpec, index: str) -> None:
    (sharded / INDEX).write_text(index)
    assert INDEX in refusal(sharded, spec)


def test_an_index_without_weights_is_no_checkpoint(sharded: Path, spec: ModelSpec) -> None:
    (sharded / INDEX).write_text('{"weight_map": {}}')
    assert "missing" in refusal(sharded, spec)


def test_weights_are_followed_wherever_a_link_leads(folder: Path, spec: ModelSpec, tmp_path: Path) -> None:
    """To a store on another disk, file by file; and to a part that is one's own."""
    (folder / FILE).rename(tmp_path / "blob")
    (folder / FILE).symlink_to(tmp_path / "blob")
    load(folder, spec)
    folder.rename(tmp_path / "finetune")
    folder.symlink_to(tmp_path / "finetune")
    load(folder, spec)


def test_a_link_that_leads_nowhere_is_named(folder: Path, spec: ModelSpec) -> None:
    (folder / FILE).rename(folder / "other.safetensors")
    (folder / FILE).symlink_to("missing.safetensors")
    assert f"{FILE} is a link to /missing.safetensors, which is not there" in refusal(folder, spec)


def test_the_layout_of_a_hugging_face_cache_is_followed(
    tiny: Path, spec: ModelSpec, sharded_checkpoint: Path, tmp_path: Path
) -> None:
    """Also where its blobs lie on another disk."""
    whole = cached(tiny, tmp_path, "Wan-AI/Wan2.2", "b8fff7") / "transformer"
    parts = cached(sharded_checkpoint, tmp_path, "Wan-AI/Wan2.2", "c9aaa8") / "transformer"
    (whole.parents[2] / "blobs").rename(tmp_path / "disk")
    (whole.parents[2] / "blobs").symlink_to(tmp_path / "disk")
    expected = load(tiny / "transformer", spec).checkpoint_slots()
    for folder in (whole, parts):
        slots = load(folder, spec).checkpoint_slots()
        assert all(torch.equal(slots[name], expected[name]) for name in expected)


def test_all_that_does_not_match_is_listed_at_once(folder: Path, spec: ModelSpec) -> None:
    def damage(tensors: dict[str, Tensor]) -> None:
        del tensors["blocks.1.attn1.to_k.weight"], tensors["proj_out.bias"]
        tensors["blocks.7.ffn.net.2.weight"] = torch.zeros(2)
        tensors["scale_shift_table"] = tensors["scale_shift_table"].flatten().clone()

    rewrite(folder / FILE, damage)
    message = refusal(folder, spec)
    assert "missing blocks.1.attn1.to_k.weight, proj_out.bias" in message
    assert "not of this model blocks.7.ffn.net.2.weight" in message
    assert "scale_shift_table [256], expected [1, 2, 128]" in message


def test_what_has_the_right_size_but_another_shape_is_refused(folder: Path, spec: ModelSpec) -> None:
    """A transposed square matrix has the same number of values, and would give a wrong video in silence."""

    def damage(tensors: dict[str, Tensor]) -> None:
        tensors["blocks.0.ffn.net.2.weight"] = tensors["blocks.0.ffn.net.2.weight"].T.contiguous()

    rewrite(folder / FILE, damage)
    assert "blocks.0.ffn.net.2.weight [512, 128], expected [128, 512]" in refusal(folder, spec)


def test_long_lists_are_cut(folder: Path, spec: ModelSpec) -> None:
    rewrite(folder / FILE, lambda tensors: [tensors.pop(name) for name in sorted(tensors)[:20]] and None)
    message = refusal(folder, spec)
    assert "and 12 more" in message
    assert len(message) < 1000


def test_nothing_is_loaded_from_a_checkpoint_that_does_not_match(folder: Path, spec: ModelSpec) -> None:
    rewrite(folder / FILE, lambda tensors: tensors.update({"extra": torch.zeros(1)}))
    network = empty_transformer(spec)
    with pytest.raises(InvalidCheckpoint, match="extra"):
        load_weights(network, WeightFiles(folder))
    assert not any(slot.any() for slot in network.checkpoint_slots().values())


def test_a_tied_tensor_may_stand_under_either_name(folder: Path, spec: ModelSpec) -> None:
    rewrite(folder / FILE, lambda tensors: tensors.update({"second": tensors.pop("proj_out.bias")}))
    assert "proj_out.bias" in refusal(folder, spec)
    network = empty_transformer(spec)
    load_weights(network, WeightFiles(folder, aliases={"second": "proj_out.bias"}))
    assert network.checkpoint_slots()["proj_out.bias"].any()
    rewrite(folder / FILE, lambda tensors: tensors.update({"proj_out.bias": tensors["second"].clone()}))
    load_weights(network, WeightFiles(folder, aliases={"second": "proj_out.bias"}))


def test_an_index_that_names_the_files_of_another_model_is_told(sharded: Path, spec: ModelSpec) -> None:
    index = json.loads((sharded / INDEX).read_text())
    names = sorted(set(index["weight_map"].values()))
    (sharded / INDEX).write_text(json.dumps({"weight_map": {"a": names[0]}}))
    assert "missing" in refusal(sharded, spec)


@pytest.mark.parametrize("content", [None, "", "{}", "[1]", '{"version": "1.0", "model": {"type": "Unknown"}}'])
def test_a_tokenizer_that_cannot_be_read_is_named(tiny: Path, tmp_path: Path, content: str | None) -> None:
    folder = tmp_path / "tokenizer"
    shutil.copytree(tiny / "tokenizer", folder)
    load_tokenizer(folder / "tokenizer.json")
    if content is None:
        shutil.rmtree(folder)
    else:
        (folder / "tokenizer.json").write_text(content)
    with pytest.raises(InvalidCheckpoint) as caught:
        load_tokenizer(folder / "tokenizer.json")
    said = "no such folder" if content is None else "tokenizer not readable"
    assert str(caught.value).startswith(f"{folder / 'tokenizer.json'}: {said}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool])
def test_numbers_that_are_no_weights_are_refused(folder: Path, spec: ModelSpec, dtype: torch.dtype) -> None:
    rewrite(folder / FILE, lambda tensors: tensors.update({name: t.to(dtype) for name, t in tensors.items()}))
    said = "without a scale, which it must have" if dtype == torch.int8 else "no floating number"
    assert said in refusal(folder, spec)


def test_a_tensor_in_two_files_is_refused(sharded: Path, spec: ModelSpec) -> None:
    first, second, *_ = sorted(sharded.glob("*.safetensors"))
    twice = safetensors.torch.load_file(second)
    name = next(iter(safetensors.torch.load_file(first)))
    twice[name] = torch.zeros(1)
    safetensors.torch.save_file(twice, second)
    assert "stands in another file already" in refusal(sharded, spec)


def test_names_from_a_file_cannot_write_to_the_terminal(folder: Path, spec: ModelSpec) -> None:
    rewrite(folder / FILE, lambda tensors: tensors.update({"evil\n\x1b[31m" + "x" * 10_000: torch.zeros(1)}))
    said = refusal(folder, spec)
    assert "\x1b" not in said
    assert len(said) < 1000


KINDS = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2]


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        *((dtype, value) for dtype in KINDS for value in (torch.nan, torch.inf, -torch.inf)),
        (torch.float8_e4m3fn, torch.nan),
    ],
    ids=str,
)
def test_whatever_is_not_finite_is_found_in_files_of_every_kind(
    tmp_path: Path, dtype: torch.dtype, value: float
) -> None:
    """And the greatest finite values, whose sum would overflow, are not taken for it."""
    greatest = torch.full((64, 3), min(torch.finfo(dtype).max, torch.finfo(torch.float32).max))
    greatest[::2] *= -1
    stored = greatest.to(dtype)
    safetensors.torch.save_file({"a": stored}, tmp_path / FILE)
    network = Slots(a=torch.zeros(64, 3))
    load_weights(network, WeightFiles(tmp_path), piece_bytes=48)
    assert torch.equal(network.checkpoint_slots()["a"], stored.float())
    stored[37, 1] = value
    safetensors.torch.save_file({"a": stored}, tmp_path / FILE)
    with pytest.raises(InvalidCheckpoint, match=f"{FILE}: a: NaN or infinity"):
        load_weights(Slots(a=torch.zeros(64, 3)), WeightFiles(tmp_path), piece_bytes=48)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("blocks.1.attn1.to_q.weight", torch.nan),
        ("blocks.2.attn1.to_k.bias", -torch.nan),
        ("proj_out.weight", torch.inf),
        ("scale_shift_table", -torch.inf),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_are_not_finite_are_named_with_their_file(
    folder: Path, spec: ModelSpec, name: str, value: float, dtype: torch.dtype
) -> None:
    """PyTorch's fused attention makes zeros of NaN in queries and keys: the video would be wrong, and finite."""
    rewrite(folder / FILE, lambda tensors: tensors.update({each: t.to(dtype) for each, t in tensors.items()}))
    load(folder, spec)
    rewrite(folder / FILE, lambda tensors: tensors[name].view(-1)[-1:].fill_(value))
    said = refusal(folder, spec)
    assert said == f"/{FILE}: {name}: NaN or infinity among the weights; {said.rpartition('weights; ')[2]}"


def test_all_tensors_that_are_not_finite_are_named(sharded: Path, spec: ModelSpec) -> None:
    first, *_, last = sorted(sharded.glob("*.safetensors"))
    for path in (first, last):
        rewrite(path, lambda tensors: [tensor.fill_(torch.nan) for tensor in tensors.values()] and None)
    said = refusal(sharded, spec)
    assert first.name in said and last.name in said and "and " in said


def test_what_is_too_large_for_the_networks_numbers_is_named(folder: Path, spec: ModelSpec) -> None:
    """It is finite in its file, and infinite where it would be used."""
    rewrite(folder / FILE, lambda tensors: tensors["proj_out.weight"].view(-1)[:1].fill_(3.4e38))
    load(folder, spec)
    with pytest.raises(InvalidCheckpoint, match=r"proj_out\.weight: NaN or infinity"):
        load_weights(empty_transformer(spec, torch.bfloat16), WeightFiles(folder))


class Largest(TorchDispatchMode):
    """The largest number of values that one operation makes or copies; views make none."""

    def __init__(self) -> None:
        super().__init__()
        self.made = self.copied = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.copy_.default:
            self.copied = max(self.copied, args[1].numel())
        elif isinstance(out, Tensor) and not any(_share(each, out) for each in args if isinstance(each, Tensor)):
            self.made = max(self.made, out.numel())
        return out


def _share(one: Tensor, other: Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


@pytest.mark.parametrize("piece_bytes", [2**14, 2**18])
def test_no_more_than_a_piece_passes_through_the_device(folder: Path, spec: ModelSpec, piece_bytes: int) -> None:
    """Beside the weights themselves: neither of a file nor of random numbers. Rows are never cut."""
    network = empty_transformer(spec)
    widest = max(slot[:1].numel() for slot in network.checkpoint_slots().values() if slot.dim())
    bound = max(piece_bytes // 4, widest)
    assert max(slot.numel() for slot in network.checkpoint_slots().values()) > bound
    with Largest() as loading:
        load_weights(network, WeightFiles(folder), piece_bytes)
    assert 0 < loading.copied <= bound
    with Largest() as filling:
        fill_random(network, 0, piece_bytes)
    assert 0 < filling.copied <= bound
    assert 0 < filling.made <= bound


def test_weights_are_the_same_in_pieces_of_any_size(folder: Path, spec: ModelSpec) -> None:
    whole = load(folder, spec).checkpoint_slots()
    network = empty_transformer(spec)
    load_weights(network, WeightFiles(folder), piece_bytes=2**12)
    slots = network.checkpoint_slots()
    assert all(torch.equal(whole[name], slots[name]) for name in whole)


def test_random_weights_follow_from_the_seed_alone(spec: ModelSpec) -> None:
    made = []
    for seed in (3, 3, 4):
        network = empty_transformer(spec)
        fill_random(network, seed, piece_bytes=2**14)
        made.append({name: slot.clone() for name, slot in network.checkpoint_slots().items()})
    first, again, other = made
    assert all(torch.equal(first[name], again[name]) for name in first)
    weight = first["blocks.0.ffn.net.0.proj.weight"]
    assert not torch.equal(weight, other["blocks.0.ffn.net.0.proj.weight"])
    assert weight.std().item() == pytest.approx(weight.shape[1] ** -0.5, rel=0.05)
    assert weight.unique().numel() > 0.9 * weight.numel()  # pieces do not repeat each other


def test_a_variant_holds_the_same_weights(folder: Path, sharded: Path, spec: ModelSpec) -> None:
    expected = load(folder, spec).checkpoint_slots()
    (folder / FILE).rename(folder / FILE.replace(".safetensors", ".fp16.safetensors"))
    (sharded / INDEX).rename(sharded / f"{STEM}.safetensors.index.fp16.json")
    for place in (folder, sharded):
        slots = load(place, spec).checkpoint_slots()
        assert all(torch.equal(slots[name], expected[name]) for name in expected)


def test_scaled_eight_bit_weights_are_not_taken_for_plain_ones(folder: Path, spec: ModelSpec) -> None:
    def scale(tensors: dict[str, Tensor]) -> None:
        tensors["scaled_fp8"] = torch.zeros(2).to(torch.float8_e4m3fn)
        tensors["blocks.0.ffn.net.2.scale_weight"] = torch.ones(1)

    rewrite(folder / FILE, scale)
    assert "blocks.0.ffn.net.2.scale_weight is the scale of no weight in eight bits" in refusal(folder, spec)
