"""LoRA files of every naming kind, matched with a model by their headers: what is added, told, and refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers.loaders.lora_conversion_utils as theirs
import msgspec
import pytest
import safetensors.torch
import torch

from ringlight.core.checkpoint import Checkpoint
from ringlight.core.eight_bit import KINDS as EIGHT_BITS
from ringlight.core.errors import InvalidCheckpoint
from ringlight.core.lora import LoraFile, lora_file
from ringlight.core.peft_config import CONFIG_FILE, METADATA_KEY
from ringlight.core.weights import network_files
from ringlight.families.family import Family
from ringlight.families.lora_library import hashed
from ringlight.families.model import ModelSpec
from ringlight.families.table import MODELS, family_of, read_lora, read_model
from ringlight.families.wan.lora_names import LoraNames
from ringlight.families.wan.networks.transformer import WanTransformer
from ringlight.families.wan.original import transformer_names
from ringlight.families.wan.work.shapes import weight_shapes
from ringlight.families.wan.work.transformer import TransformerSpec
from tests.loras import KINDS, Tensors, write_lora

SOME = re.compile(r"attn1\.to_q|attn2\.(to_k|to_out\.0|add_v_proj)|ffn\.net")
WHOLE = re.compile(
    r"patch_embedding|proj_out|time_proj\.bias|scale_shift_table|norm2|norm_added_k|attn1\.(norm_q\.weight|to_q\.bias)"
)


def some(module: str) -> bool:
    return SOME.search(module) is not None


def first(module: str) -> bool:
    return module.startswith("blocks.0.attn1")


def changed(spec: ModelSpec, **numbers: Any) -> ModelSpec:
    """The model with other numbers of its transformer."""
    assert isinstance(spec.transformer, TransformerSpec)
    return msgspec.structs.replace(spec, transformer=msgspec.structs.replace(spec.transformer, **numbers))


def added_by(file: LoraFile) -> Tensors:
    """What a matched file adds at strength 1, worked out by hand."""
    stored = safetensors.torch.load_file(file.path)
    added: Tensors = {}
    for delta in file.deltas:
        down, up = (stored[name].float().flatten(1) for name in (delta.down, delta.up))
        assert delta.rank == len(down)
        added[delta.weight] = delta.scale * (up @ down)
    for each in file.differences:
        added[each.weight] = added.get(each.weight, 0) + stored[each.stored].float()
    return added


def refusal(path: Path, spec: ModelSpec) -> str:
    with pytest.raises(InvalidCheckpoint) as caught:
        read_lora(path, spec)
    said = str(caught.value)
    assert "\n" not in said and said.startswith(str(path))
    return said


@pytest.mark.parametrize("name", MODELS)
def test_shapes_that_are_known_without_torch_are_the_networks(name: str) -> None:
    transformer = MODELS[name].transformer
    assert isinstance(transformer, TransformerSpec)
    small = msgspec.structs.replace(transformer, num_layers=2)
    with torch.device("meta"):
        slots = WanTransformer(small).checkpoint_slots()
    assert {name: tuple(slot.shape) for name, slot in slots.items()} == weight_shapes(small)


def test_no_name_is_of_two_modules() -> None:
    """Underscores in the place of dots could make one name of two."""
    table = transformer_names(40).modules
    names = LoraNames(40)
    for style in (str, lambda name: name.replace(".", "_")):
        spelled: dict[str, str] = {}
        for original, ours in table.items():
            for name in (original, ours):
                assert spelled.setdefault(style(name), ours) == ours
    for original, ours in table.items():
        for name in (f"lora_unet_{original.replace('.', '_')}", f"diffusion_model.{original}", f"transformer.{ours}"):
            found = names.read(f"{name}.lora_down.weight")
            assert found is not None and (found.module, found.part) == (ours, "down"), name


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_adds_what_was_trained(tiny_i2v21: Path, tmp_path: Path, kind: str) -> None:
    """A fractional alpha is kept, and biases, norms, tables, convolutions have differences of their own."""
    place = tmp_path / ("lora" if KINDS[kind].alpha == "config" else "lora.safetensors")
    written = write_lora(
        place, tiny_i2v21 / "transformer", kind, alpha=0.5, modules=some, whole=lambda name: bool(WHOLE.search(name))
    )
    file = read_lora(place, read_model(tiny_i2v21))
    added = added_by(file)
    assert added.keys() == written.added.keys()
    for name, tensor in written.added.items():
        assert torch.equal(added[name].flatten(), tensor.flatten()), name
    alpha = "alpha 0.5/4" if KINDS[kind].alpha else "rank 4 without alpha"
    assert file.told == f"18 of 36 modules, {alpha}, {len(file.differences)} whole differences" and not file.left_out
    assert file.num_bytes == sum(
        tensor.numel() * tensor.itemsize
        for name, tensor in safetensors.torch.load_file(lora_file(place)).items()
        if not name.endswith(".alpha")
    )


@pytest.mark.parametrize(
    ("kind", "convert"),
    [
        ("comfy", theirs._convert_non_diffusers_wan_lora_to_diffusers),
        ("lightx2v", theirs._convert_non_diffusers_wan_lora_to_diffusers),
        ("kohya", theirs._convert_musubi_wan_lora_to_diffusers),
    ],
)
def test_what_diffusers_makes_of_original_names_is_the_same(
    tiny_i2v21: Path, tmp_path: Path, kind: str, convert: Callable[[Tensors], Tensors]
) -> None:
    place = tmp_path / "lora.safetensors"
    write_lora(place, tiny_i2v21 / "transformer", kind, alpha=2)
    converted = {
        name.removeprefix("transformer."): each for name, each in convert(safetensors.torch.load_file(place)).items()
    }
    added = added_by(read_lora(place, read_model(tiny_i2v21)))
    assert len(converted) == 2 * len(added)
    for name, tensor in added.items():
        module = name.removesuffix(".weight")
        product = converted[f"{module}.lora_B.weight"] @ converted[f"{module}.lora_A.weight"]
        torch.testing.assert_close(tensor, product, rtol=2e-6, atol=1e-8)


def test_alphas_differ_by_module_and_by_dtype(tiny: Path, spec: ModelSpec, tmp_path: Path) -> None:
    dtypes = {"q": torch.float16, "k": torch.bfloat16, "v": torch.float64, "o": torch.int64}

    def change(tensors: Tensors) -> Tensors:
        alphas = {f"diffusion_model.blocks.0.self_attn.{name}.alpha": dtype for name, dtype in dtypes.items()}
        return tensors | {
            name: torch.full((1,) if place else (), place + 1, dtype=dtype)
            for place, (name, dtype) in enumerate(alphas.items())
        }

    place = tmp_path / "lora.safetensors"
    write_lora(place, tiny / "transformer", alpha=1, modules=first, change=change)
    file = read_lora(place, spec)
    scales = {delta.weight: delta.scale for delta in file.deltas}
    names = ("to_q", "to_k", "to_v", "to_out.0")
    assert [scales[f"blocks.0.attn1.{name}.weight"] for name in names] == [0.25, 0.5, 0.75, 1.0]
    assert "4 kinds of alpha and rank, ranks 4 to 4, alpha/rank 0.25 to 1" in file.told


def test_two_ranks_are_told_apart(tiny: Path, spec: ModelSpec, tmp_path: Path) -> None:
    one = write_lora(tmp_path / "a.safetensors", tiny / "transformer", rank=4, alpha=1, modules=first)
    both = safetensors.torch.load_file(one.path)
    other = write_lora(
        tmp_path / "b.safetensors", tiny / "transformer", rank=8, modules=lambda name: "ffn.net.2" in name
    )
    safetensors.torch.save_file(both | safetensors.torch.load_file(other.path), tmp_path / "c.safetensors")
    assert "alpha 1/4 of 4, rank 8 without alpha of" in read_lora(tmp_path / "c.safetensors", spec).told


def test_peft_may_scale_by_the_root_and_by_patterns(tiny: Path, spec: ModelSpec, tmp_path: Path) -> None:
    write_lora(tmp_path / "lora", tiny / "transformer", "peft", alpha=8, modules=first)
    before = hashed(read_lora(tmp_path / "lora", spec))
    config = json.loads((tmp_path / "lora" / CONFIG_FILE).read_text())
    config |= {"use_rslora": True, "alpha_pattern": {"to_q": 1}}
    (tmp_path / "lora" / CONFIG_FILE).write_text(json.dumps(config))
    file = read_lora(tmp_path / "lora", spec)
    scales = {delta.weight.removeprefix("blocks.0.attn1."): delta.scale for delta in file.deltas}
    assert (scales["to_q.weight"], scales["to_k.weight"]) == (0.5, 4.0)
    assert "alpha 8/sqrt(4) of 3, alpha 1/sqrt(4) of 1" in file.told
    assert hashed(file).sha256 != before.sha256  # which is that of what the file does


def test_what_is_added_to_a_convolution_may_be_a_product(tiny: Path, spec: ModelSpec, tmp_path: Path) -> None:
    dim, *inputs = weight_shapes(spec.transformer)["patch_embedding.weight"]  # type: ignore[arg-type]
    named = "diffusion_model.patch_embedding.lora"
    pair = {f"{named}_A.weight": torch.randn(4, *inputs), f"{named}_B.weight": torch.randn(dim, 4, 1, 1, 1)}
    safetensors.torch.save_file(pair, tmp_path / "lora.safetensors")
    file = read_lora(tmp_path / "lora.safetensors", spec)
    assert file.deltas[0].weight == "patch_embedding.weight"
    assert file.told.startswith("0 of ") and "1 outside of blocks" in file.told


def test_an_image_branch_is_left_out_where_there_is_none(tiny_i2v21: Path, tmp_path: Path) -> None:
    """LoRAs of Wan2.1-I2V on models of Wan2.2 and on T2V, as people use them: and it is said."""
    model = read_model(tiny_i2v21)
    without = msgspec.structs.replace(changed(model, image_dim=None, added_kv_proj_dim=None), image_encoder=None)
    place = tmp_path / "lora.safetensors"
    written = write_lora(place, tiny_i2v21 / "transformer", alpha=1, whole=lambda name: "norm_added_k" in name)
    file = read_lora(place, without)
    assert added_by(file).keys() == {name for name in written.added if "added" not in name and "add_" not in name}
    assert file.left_out == "21 tensors of an image branch left out, which this model has not"
    assert file.told == f"30 of 30 modules, alpha 1/4, {file.left_out}"
    write_lora(place, tiny_i2v21 / "transformer", modules=lambda name: "add_k" in name)
    assert "all of it is of an image branch" in refusal(place, without)


def drop(ending: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: each for name, each in tensors.items() if not name.endswith(ending)}


BLOCK = "diffusion_model.blocks.0"
Q = f"{BLOCK}.self_attn.q"


def with_(name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Callable[[Tensors], Tensors]:
    return lambda tensors: tensors | {name: torch.ones(shape).to(dtype)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            with_(f"{BLOCK}.self_attn.qq.lora_down.weight", 4, 8),
            "not of this model: diffusion_model.blocks.0.self_attn.qq",
        ),
        (with_("diffusion_model.blocks.9.ffn.0.lora_up.weight", 8, 4), "it was made for 10 blocks of"),
        (drop("self_attn.q.lora_up.weight"), f"without the other half of its pair: {Q}.alpha, {Q}.lora_down.weight"),
        (with_(f"{BLOCK}.ffn.0.alpha"), f"without the other half of its pair: {BLOCK}.ffn.0.alpha"),
        (with_(f"{Q}.lora_down.weight", 4, 7), f"{Q}.lora_down.weight 4x7: 4x"),
        (with_(f"{Q}.lora_up.weight", 7, 4), f"{Q}.lora_up.weight 7x4: "),
        (with_(f"{Q}.lora_down.weight"), f"{Q}.lora_down.weight one number: 1x"),
        (with_(f"{Q}.lora_down.weight", 0, 8), "of another shape"),
        (
            with_(f"{BLOCK}.self_attn.k.lora_up.weight", 8, 5),
            f"of another shape: {BLOCK}.self_attn.k.lora_up.weight 8x5",
        ),
        (with_(f"{BLOCK}.norm3.diff", 7), f"of another shape: {BLOCK}.norm3.diff 7: "),
        (with_(f"{BLOCK}.norm3.diff_m", 7), f"not of this model: {BLOCK}.norm3.diff_m"),
        (with_(f"{BLOCK}.self_attn.norm_q.diff_b", 7), "the model has no blocks.0.attn1.norm_q.bias"),
        (with_(f"{BLOCK}.norm3.lora_A.weight", 4, 8), "without the other half of its pair"),
        (with_("transformer.blocks.0.attn1.to_q.lora_A.weight", 4, 8), "the same tensor under two names"),
        (with_(f"{Q}.lora_up.weight", 8, 4, dtype=torch.int8), f"in a dtype that is not read: {Q}.lora_up.weight I8"),
        (with_(f"{Q}.alpha", 2), f"an alpha that is no number, or 0: {Q}.alpha"),
        (lambda tensors: tensors | {f"{Q}.alpha": torch.tensor(torch.inf)}, "an alpha that is no number, or 0"),
        (lambda tensors: tensors | {f"{Q}.alpha": torch.tensor(0.0)}, "an alpha that is no number, or 0"),
        (with_(f"{Q}.dora_scale", 8), f"is DoRA ({Q}.dora_scale), which is not applied; merge it into the checkpoint"),
        (with_("base_model.model.blocks.0.attn1.to_q.lora_magnitude_vector.default.weight", 8), "is DoRA"),
        (with_(f"{Q}.lokr_w1", 2, 2), "is LoKr"),
        (with_("lora_unet_blocks_0_self_attn_q.hada_w1_a", 2, 2), "is LoHa"),
        (with_("lora_te1_encoder_layers_0.lora_down.weight", 2, 2), "is a LoRA of the text encoder"),
        (with_("lora_transformer_2_blocks_0_attn1_to_q.lora_up.weight", 2, 2), "is a LoRA that names a second expert"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_names(
    tiny: Path, spec: ModelSpec, tmp_path: Path, change: Callable[[Tensors], Tensors], words: str
) -> None:
    place = tmp_path / "lora.safetensors"
    write_lora(place, tiny / "transformer", alpha=1, modules=first, change=change)
    assert words in refusal(place, spec)


def test_all_that_is_wrong_is_said_at_once(tiny: Path, spec: ModelSpec, tmp_path: Path) -> None:
    place = tmp_path / "lora.safetensors"
    write_lora(place, tiny / "transformer", alpha=1, change=drop(".lora_up.weight"))
    said = refusal(place, changed(spec, num_layers=2))
    assert f"does not fit {spec.name}: it was made for 3 blocks of" in said
    assert said.count("not of this model: ") == said.count("without the other half of its pair: ") == 1
    assert said.count(" more") == 2 and len(said) < 2500


def test_a_checkpoint_is_no_lora(tiny: Path, tiny21: Path, spec: ModelSpec, tmp_path: Path) -> None:
    for name, words in (("transformer", "the weights of a transformer"), ("vae", "the weights of a vae")):
        (file,) = network_files(Checkpoint(place=tiny), name)
        assert f"is no LoRA but {words} (" in refusal(file, spec)
    write = safetensors.torch.save_file
    write({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    assert "is no LoRA but 1 tensors of something else (a)" in refusal(tmp_path / "other.safetensors", spec)
    (tmp_path / "half.safetensors").write_bytes(b"half")
    assert "not a readable safetensors file" in refusal(tmp_path / "half.safetensors", spec)


def test_a_peft_config_of_another_file_is_found_out(tiny: Path, spec: ModelSpec, tmp_path: Path) -> None:
    write_lora(tmp_path / "lora", tiny / "transformer", "peft", rank=4, alpha=8, modules=first)
    file, config = lora_file(tmp_path / "lora"), tmp_path / "lora" / CONFIG_FILE
    for said, words in (
        ({"r": 16, "lora_alpha": 8}, "of another rank than its PEFT config says: base_model.model.blocks.0"),
        ({"r": 4, "lora_alpha": 8, "use_dora": True}, "is DoRA, as PEFT says"),
        ({"r": 4, "peft_type": "LOHA"}, "is LOHA, as PEFT says"),
        ({"r": 4, "lora_alpha": 0}, "an alpha that is no number, or 0"),
    ):
        config.write_text(json.dumps(said))
        assert words in refusal(file, spec)


def test_a_whole_difference_of_eight_bits_is_refused(tiny: Path, spec: ModelSpec, tmp_path: Path) -> None:
    place = tmp_path / "lora.safetensors"
    write_lora(place, tiny / "transformer", modules=first, whole=lambda name: name == "blocks.1.ffn.net.2.weight")
    assert len(read_lora(place, spec).differences) == 1
    assert "held in eight bits: diffusion_model.blocks.1.ffn.2.diff" in refusal(
        place, changed(spec, held={"down": EIGHT_BITS["F8_E4M3"]})
    )


def test_metadata_that_is_none_is_refused(tiny: Path, spec: ModelSpec, tmp_path: Path) -> None:
    written = write_lora(tmp_path / "a.safetensors", tiny / "transformer", "diffusers", modules=first)
    tensors = safetensors.torch.load_file(written.path)
    safetensors.torch.save_file(tensors, written.path, {METADATA_KEY: "{"})
    assert f"its {METADATA_KEY} is no JSON" in refusal(written.path, spec)


def test_a_family_may_have_no_loras(spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ringlight.families import table

    family: Family = msgspec.structs.replace(family_of(spec), read_lora=None)
    monkeypatch.setattr(table, "FAMILIES", (family,))
    assert "LoRAs are not applied to models of the family wan22_ti2v" in refusal(tmp_path / "a.safetensors", spec)
