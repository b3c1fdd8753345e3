"""Checkpoints as people have them: single files in original names, put together by a folder or a card."""

from __future__ import annotations

import json
import shutil
from operator import attrgetter
from pathlib import Path
from pkgutil import resolve_name

import msgspec
import pytest
import torch
from diffusers import WanTransformer3DModel

from ringlight.core.config import EngineConfig
from ringlight.core.errors import InvalidCheckpoint
from ringlight.core.stored_network import require_whole
from ringlight.families.digest import digest
from ringlight.families.family import Family
from ringlight.families.table import FAMILIES, MODELS, checkpoint_at, family_of, known_model, read_model
from ringlight.families.wan.convert import convert
from ringlight.families.wan.headers import LATENTS_MEAN, numbers_of
from ringlight.families.wan.networks.image_encoder import ImageEncoder
from ringlight.families.wan.networks.transformer import WanTransformer
from ringlight.families.wan.networks.vae import WanVae
from ringlight.families.wan.original import text_encoder_names, transformer_names, vae_names
from ringlight.families.wan.work.image_encoder import CLIP_VIT_H, ImageEncoderSpec
from ringlight.families.wan.work.transformer import TransformerSpec
from ringlight.families.wan.work.vae import VaeSpec
from tests.cli.commands import here, ringlight
from tests.families.test_wan21 import make_request
from tests.families.written import FILES, card, files_of, in_original_names, refusal, single_files, tensors_of, write
from tests.ours import final_latents, frames, load_pipeline
from tests.quick import first_quick


@pytest.fixture(scope="module")
def files21(tiny21: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Wan2.1 as ComfyUI has it, and a card of it. Read-only."""
    folder = single_files(tiny21, tmp_path_factory.mktemp("files21"))
    card(tiny21, folder)
    return folder


@pytest.mark.parametrize("name", ["Wan2.1-T2V-14B", "Wan2.1-FLF2V-14B-720P", "Wan2.2-TI2V-5B"])
def test_every_tensor_has_one_original_name_and_comes_back_from_it(name: str) -> None:
    spec = known_model(name)
    assert isinstance(spec.transformer, TransformerSpec) and isinstance(spec.vae, VaeSpec)
    with torch.device("meta"):
        transformer, vae = WanTransformer(spec.transformer), WanVae(spec.vae)
    is_residual = name.startswith("Wan2.2")
    for network, table in (
        (transformer, transformer_names(spec.transformer.num_layers)),
        (vae, vae_names(4, 2, is_residual)),
    ):
        ours = set(network.checkpoint_slots())
        theirs = {table.original(each) for each in ours}
        assert len(theirs) == len(ours)
        assert {table.ours(each) for each in theirs} == ours
        assert not any(each.startswith(("condition_embedder", "decoder.up_blocks", "proj_out")) for each in theirs)
    shapes = {each: tuple(slot.shape) for each, slot in vae.checkpoint_slots().items()}
    assert len(shapes) == (196 if is_residual else 194)
    numbers = numbers_of("vae", shapes)
    assert {key: numbers[key] for key in ("base_dim", "z_dim", "is_residual", "temperal_downsample")} == {
        "base_dim": spec.vae.base_dim,
        "z_dim": spec.vae.z_dim,
        "is_residual": is_residual,
        "temperal_downsample": [False, True, True],
    }
    assert (numbers["scale_factor_spatial"], numbers["scale_factor_temporal"]) == (16 if is_residual else 8, 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_headers_of_every_published_model_tell_it(name: str) -> None:
    """One family alone knows its networks, and has the flow shift and the boundary that were published."""
    card = MODELS[name]
    assert isinstance(card.transformer, TransformerSpec) and isinstance(card.vae, VaeSpec)
    with torch.device("meta"):
        transformer = WanTransformer(card.transformer)
        networks = {"transformer": transformer, "vae": WanVae(card.vae)}
        networks |= {"transformer_2": transformer} if card.has_experts else {}
        if card.image_encoder is not None:
            networks["image_encoder"] = ImageEncoder(CLIP_VIT_H, with_last=True)
    configs = {"text_encoder": {"d_model": 4096}}
    for part, network in networks.items():
        shapes = {each: tuple(slot.shape) for each, slot in network.checkpoint_slots().items()}
        configs[part] = numbers_of(part.removesuffix("_2"), shapes)
    assert msgspec.convert(configs["transformer"], TransformerSpec) == card.transformer
    if card.image_encoder is not None:
        assert msgspec.convert(configs["image_encoder"], ImageEncoderSpec) == card.image_encoder
    own = family_of(card)
    # What was trained from another model has its files, and has to be named.
    asked = [own] if own.single_files.must_be_named else [e for e in FAMILIES if not e.single_files.must_be_named]
    found = {each.name: each.single_files.documents(configs, f"{name}.safetensors") for each in asked}
    assert [each for each, documents in found.items() if documents is not None] == [card.family]
    said = found[card.family]
    assert said["model_index.json"].get("boundary_ratio") == card.boundary_ratio
    if not own.single_files.must_be_named:  # FastWan's sampler has a shift of its own
        assert said["scheduler/scheduler_config.json"]["flow_shift"] == card.scheduler.flow_shift


def test_names_are_those_of_wans_own_code() -> None:
    """Some of each kind, from the tables of its repositories."""
    transformer = transformer_names(2)
    for theirs, ours in {
        "blocks.1.cross_attn.o.weight": "blocks.1.attn2.to_out.0.weight",
        "blocks.0.self_attn.norm_k.weight": "blocks.0.attn1.norm_k.weight",
        "blocks.0.norm3.bias": "blocks.0.norm2.bias",
        "blocks.0.modulation": "blocks.0.scale_shift_table",
        "head.modulation": "scale_shift_table",
        "head.head.bias": "proj_out.bias",
        "time_projection.1.weight": "condition_embedder.time_proj.weight",
        "blocks.1.cross_attn.k_img.weight": "blocks.1.attn2.add_k_proj.weight",
    }.items():
        assert transformer.ours(theirs) == ours and transformer.original(ours) == theirs
    assert transformer.ours("blocks.2.modulation") == "blocks.2.modulation"  # of no block here
    vae = vae_names(4, 2, is_residual=False)
    assert vae.ours("decoder.upsamples.7.resample.1.weight") == "decoder.up_blocks.1.upsamplers.0.resample.1.weight"
    assert vae.ours("encoder.downsamples.10.residual.2.bias") == "encoder.down_blocks.10.conv1.bias"
    residual = vae_names(4, 2, is_residual=True)
    assert (
        residual.ours("decoder.upsamples.1.upsamples.3.time_conv.bias")
        == "decoder.up_blocks.1.upsampler.time_conv.bias"
    )
    text = text_encoder_names(1)
    assert text.ours("blocks.0.ffn.gate.0.weight") == "encoder.block.0.layer.1.DenseReluDense.wi_0.weight"


def test_diffusers_reads_the_same_names(tiny21: Path, tmp_path: Path) -> None:
    """Its own converter, of a single file in the names that our table gives."""
    tensors = tensors_of(tiny21, "transformer")
    path = write(tmp_path / "wan.safetensors", in_original_names(tiny21, "transformer", tensors))
    config = str(tiny21 / "transformer")
    theirs = WanTransformer3DModel.from_single_file(str(path), config=config, local_files_only=True)
    found = theirs.state_dict()
    assert found.keys() == tensors.keys() and all(torch.equal(found[name], tensors[name]) for name in tensors)


@pytest.mark.slow
def test_a_card_of_single_files_makes_the_same_frames(tiny21: Path, files21: Path, tmp_path: Path) -> None:
    pipeline = load_pipeline(files21 / "wan.yaml")
    known = load_pipeline(tiny21)
    assert (pipeline.spec.transformer, pipeline.spec.vae) == (known.spec.transformer, known.spec.vae)
    request = make_request(known.spec, num_inference_steps=2)
    assert torch.equal(frames(pipeline, request, tmp_path), frames(known, request, tmp_path))


@pytest.mark.slow
def test_files_of_wan22_make_the_same_latents_and_frames(tiny: Path, tmp_path: Path) -> None:
    folder = single_files(tiny, tmp_path)
    pipeline, known = load_pipeline(card(tiny, folder)), load_pipeline(tiny)
    assert pipeline.spec.family == "wan22_ti2v"
    request = make_request(known.spec, width=64, height=64, num_inference_steps=1)
    assert torch.equal(final_latents(pipeline, request, tmp_path), final_latents(known, request, tmp_path))
    assert torch.equal(frames(pipeline, request, tmp_path), frames(known, request, tmp_path))


def test_numbers_come_from_headers_and_the_rest_from_published_models(files21: Path, tiny21: Path) -> None:
    """Of a folder alone: heads are 128 wide, latents as of the published VAE."""
    found, known = read_model(files21), read_model(tiny21)
    assert isinstance(found.vae, VaeSpec) and isinstance(found.transformer, TransformerSpec)
    assert found.family == "wan21_t2v"
    assert (found.transformer.num_attention_heads, found.transformer.attention_head_dim) == (1, 128)
    assert found.vae.latents_mean == LATENTS_MEAN[16]
    assert found.transformer.inner_dim == known.transformer.inner_dim
    assert found.text_encoder.layers == known.text_encoder.layers
    assert read_model(files21 / FILES["transformer"]) == found.__class__(
        **{name: getattr(found, name) for name in found.__struct_fields__ if name != "name"}, name="wan_fp"
    )


def test_the_original_config_says_how_wide_a_head_is(files21: Path, tmp_path: Path) -> None:
    shutil.copytree(files21, tmp_path / "files")
    (tmp_path / "files" / "diffusion_models" / "config.json").write_text(
        json.dumps({"model_type": "t2v", "dim": 128, "num_heads": 4})
    )
    assert read_model(tmp_path / "files").transformer.num_attention_heads == 4


def test_digests_tell_other_weights(files21: Path, tmp_path: Path) -> None:
    shutil.copytree(files21, tmp_path / "files")
    place = tmp_path / "files" / "wan.yaml"
    before = digest(checkpoint_at(place), with_weights=True)
    assert before == digest(checkpoint_at(files21 / "wan.yaml"), with_weights=True)
    file = tmp_path / "files" / FILES["vae"]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert digest(checkpoint_at(place), with_weights=True) != before


def test_of_several_vaes_the_one_that_fits_is_taken(files21: Path, tiny: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(files21, tmp_path / "files")
    other = write(folder / "vae" / "wan2.2.safetensors", in_original_names(tiny, "vae", tensors_of(tiny, "vae")))
    assert read_model(folder).vae.z_dim == 16
    shutil.copy(folder / FILES["vae"], folder / "vae" / "another.safetensors")
    said = refusal(folder)
    assert "several that may be its vae (another.safetensors, wan_vae.safetensors)" in said and other.exists()


@pytest.mark.parametrize("missing", ["vae", "text_encoder", "transformer"])
def test_what_is_missing_is_said_with_what_was_seen(files21: Path, tmp_path: Path, missing: str) -> None:
    folder = shutil.copytree(files21, tmp_path / "files")
    (folder / FILES[missing]).unlink()
    (folder / "Wan2.1_VAE.pth").touch()
    write(folder / "vae" / "lora.safetensors", {"lora_unet.a": torch.zeros(1), "b": torch.zeros(1)})
    said = refusal(folder)
    assert f"no {missing} among its files" in said
    assert "lora.safetensors is none that is known: 2 tensors, such as b, lora_unet.a" in said
    assert "wan_2.1_vae.safetensors of Comfy-Org" in said and "YAML card" in said


def test_files_that_are_not_needed_may_be_anything(files21: Path, tmp_path: Path) -> None:
    """A folder of ComfyUI's has models of other families in it, and downloads that are not whole."""
    folder = shutil.copytree(files21, tmp_path / "files")
    (folder / "vae" / "half.safetensors").write_bytes(b"half")
    assert read_model(folder).family == "wan21_t2v"
    (folder / FILES["vae"]).unlink()
    assert "half.safetensors: not a readable safetensors file" in refusal(folder)


def test_a_tokenizer_is_asked_for_with_the_command_that_gets_it(files21: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(files21, tmp_path / "files")
    (folder / "tokenizer.json").unlink()
    assert "no tokenizer.json" in (said := refusal(folder)) and "`hf download" in said


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vae": ...}, "must name vae too"),
        ({"vea": "x"}, "names no part 'vea'; did you mean vae?"),
        ({"vae": "nowhere.safetensors"}, "nowhere.safetensors: no such file or folder"),
        ({"vae": FILES["text_encoder"]}, "named as the vae, and holds a text_encoder"),
        ({"vae": 7}, "vae must be a text, not 7"),
        ({"tokenizer": "none.json"}, "none.json: no such file"),
        ({"config": {"vea": {}}}, "config: there is no vea"),
        ({"config": {"transformer": {"attention_head_dim": 31}}}, "attention_head_dim"),
        ({"model_family": "wan22_ti2v"}, "a model not of wan22_ti2v: transformer (in_channels=16"),
        ({"model_family": "wan"}, "there is no family 'wan'; there are"),
    ],
)
def test_cards_are_refused_with_the_reason(
    files21: Path, tiny21: Path, tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    folder = shutil.copytree(files21, tmp_path / "files")
    assert words in refusal(card(tiny21, folder, **changes))


def test_other_files_are_refused_by_what_they_hold(files21: Path, tiny21: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(files21, tmp_path / "files")
    transformer, vae = folder / FILES["transformer"], folder / FILES["vae"]
    assert "holds a vae; --model-path names the transformer's file" in refusal(vae)
    assert "named as pickle" not in refusal(card(tiny21, folder, vae="Wan2.2_VAE.pth"))
    (folder / "Wan2.2_VAE.pth").touch()
    assert "wan2.2_vae.safetensors of Comfy-Org" in refusal(card(tiny21, folder, vae="Wan2.2_VAE.pth"))
    assert "is of the family wan21_t2v, not wan22_ti2v" in refusal(tiny21, "wan22_ti2v")
    tensors = in_original_names(tiny21, "transformer", tensors_of(tiny21, "transformer"))
    write(transformer, tensors | {"vace_blocks.0.after_proj.bias": torch.zeros(1)})
    assert "is of VACE (vace_...)" in refusal(folder)
    write(transformer, tensors | {"blocks.0.attn1.to_q.weight": torch.zeros(1)})
    assert "are the same tensor under two names" in refusal(folder)
    write(transformer, {"blocks.0.lora_A": torch.zeros(1)})
    assert "no transformer: wan_fp.safetensors is none that is known: 1 tensors, such as blocks.0.lora_A" in refusal(
        transformer
    )


def test_what_a_network_has_not_is_refused_when_it_is_loaded(files21: Path, tiny21: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(files21, tmp_path / "files")
    tensors = in_original_names(tiny21, "transformer", tensors_of(tiny21, "transformer"))
    tensors["blocks.0.extra.weight"] = tensors.pop("blocks.1.self_attn.q.bias")
    write(folder / FILES["transformer"], tensors)
    with pytest.raises(InvalidCheckpoint) as caught:
        load_pipeline(folder / "wan.yaml")
    assert "missing blocks.1.attn1.to_q.bias; not of this model blocks.0.extra.weight" in str(caught.value)


def test_a_part_may_be_a_folder_in_diffusers_layout(files21: Path, tiny21: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(files21, tmp_path / "files")
    place = card(tiny21, folder, vae=str(tiny21 / "vae"), tokenizer=str(tiny21 / "tokenizer"))
    assert read_model(place).vae == read_model(tiny21).vae
    assert EngineConfig(model_path=str(place)).model_family == ""


def test_what_was_trained_from_another_model_has_to_be_named(files21: Path) -> None:
    """FastWan's files are those of a Wan in all that headers tell."""
    assert read_model(files21 / "wan.yaml").family == "wan21_t2v"
    assert read_model(files21 / "wan.yaml", "fastwan").family == "fastwan"


@pytest.mark.slow
@pytest.mark.parametrize("family", first_quick(FAMILIES), ids=lambda family: family.name)
def test_every_kind_of_model_comes_back_from_its_files(family: Family, tmp_path: Path) -> None:
    """Converted from a card of them: of the same family and numbers, and with the same weights to the bit."""
    resolve_name(f"{family.demo}:DEMO").write(tmp_path / "demo", "tiny")
    files = single_files(tmp_path / "demo", tmp_path / "files")
    said = {"model_family": family.name} if family.single_files.must_be_named else {}
    convert(EngineConfig(model_path=str(card(tmp_path / "demo", files, **said))), tmp_path / "wan")
    found, known = read_model(tmp_path / "wan"), read_model(tmp_path / "demo")
    assert found.family == family.name and found.scheduler.flow_shift == known.scheduler.flow_shift
    for name in ("transformer", "vae.decoder", "vae.encoder", "text_encoder", "image_encoder", "boundary_ratio"):
        assert attrgetter(name)(found) == attrgetter(name)(known), name
    require_whole(checkpoint_at(tmp_path / "wan"), with_weights=True)
    for name in files_of(tmp_path / "demo"):
        stored, ours = tensors_of(tmp_path / "demo", name), tensors_of(tmp_path / "wan", name)
        assert stored.keys() == ours.keys() and all(torch.equal(ours[each], stored[each]) for each in stored)


@pytest.mark.slow
def test_converting_writes_what_diffusers_reads(files21: Path, tiny21: Path, tmp_path: Path) -> None:
    """Tensor by tensor, and nothing where anything is wrong or there already."""
    folder = tmp_path / "written" / "wan"
    done = ringlight("convert", files21 / "wan.yaml", folder)
    assert (done.code, done.out.strip()) == (0, str(folder)), done.err
    assert "transformer: original names" in done.err
    assert [path.name for path in folder.parent.iterdir()] == ["wan"]
    for name in FILES:
        stored, ours = tensors_of(tiny21, name), tensors_of(folder, name)
        assert stored.keys() == ours.keys() and all(torch.equal(ours[each], stored[each]) for each in stored)
    theirs = WanTransformer3DModel.from_pretrained(str(folder / "transformer"), local_files_only=True)
    assert theirs.config.num_layers == 3
    assert read_model(folder).vae == read_model(tiny21).vae
    again = here("convert", files21 / "wan.yaml", folder)
    assert again.code == 3 and "is there already and would be overwritten" in again.err
    (tmp_path / ".other.part").mkdir()
    assert "remove it" in here("convert", files21 / "wan.yaml", tmp_path / "other").err
    lacking = shutil.copytree(files21, tmp_path / "files")
    tensors = in_original_names(tiny21, "vae", tensors_of(tiny21, "vae"))
    tensors.pop("conv1.bias")
    write(lacking / FILES["vae"], tensors)
    with pytest.raises(InvalidCheckpoint, match=r"missing quant_conv\.bias"):
        convert(EngineConfig(model_path=str(lacking / "wan.yaml")), tmp_path / "none")
    assert not (tmp_path / "none").exists()
