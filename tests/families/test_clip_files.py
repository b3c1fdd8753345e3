"""Wan2.1-I2V and FLF2V in single files: with an image encoder beside the others, in the names that people have."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from ringlight.core.config import EngineConfig
from ringlight.families.table import model_defaults, read_model, recognised
from ringlight.families.wan.convert import convert
from ringlight.planner.hardware import RunSettings
from ringlight.planner.memory import loaded_by_rank
from tests.families.videos import fitted, make_request, png
from tests.families.written import FILES, IMAGE_ENCODER, card, files_of, refusal, single_files, tensors_of, write
from tests.oracle import load_oracle
from tests.ours import final_latents, load_pipeline


@pytest.fixture(scope="module")
def i2v(tiny_i2v21: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Wan2.1-I2V in files, and a card of it. Read-only."""
    folder = single_files(tiny_i2v21, tmp_path_factory.mktemp("i2v21"))
    card(tiny_i2v21, folder)
    return folder


def test_a_model_with_an_image_branch_has_its_encoder_beside_it(i2v: Path, tiny_flf2v: Path, tmp_path: Path) -> None:
    found = read_model(i2v)
    assert (found.family, found.needs_picture, found.takes_last_picture) == ("wan21_i2v", True, False)
    assert found.image_encoder is not None and found.image_encoder.num_tokens == 257
    ends = read_model(single_files(tiny_flf2v, tmp_path))
    assert (ends.family, ends.needs_last_picture, ends.scheduler.flow_shift) == ("wan21_flf2v", True, 16.0)
    assert read_model(tmp_path, "wan21_flf2v") == ends
    assert "a model not of wan21_i2v" in refusal(tmp_path, "wan21_i2v")
    assert "is of the family wan21_flf2v, not wan21_i2v" in refusal(tiny_flf2v, "wan21_i2v")


def test_the_name_tells_480p_from_720p(i2v: Path, tmp_path: Path) -> None:
    """Which is all that does; without it the smaller one is taken, and its shift said."""
    folder = shutil.copytree(i2v, tmp_path / "files")
    for name, flow_shift, height in (("wan_fp", 3.0, 480), ("wan2.1_i2v_720p_14B_fp8", 5.0, 720)):
        place = (folder / FILES["transformer"]).with_name(f"{name}.safetensors")
        (folder / FILES["transformer"]).rename(place)
        found = read_model(place)
        assert (found.scheduler.flow_shift, model_defaults(found).height) == (flow_shift, height)
        place.rename(folder / FILES["transformer"])
    assert read_model(i2v / "wan.yaml").scheduler.flow_shift == 3.0
    assert recognised(load_pipeline(i2v / "wan.yaml").checkpoint)["scheduler"].startswith("flow_shift 3 ")


def test_image_encoders_are_known_by_all_names_that_people_have(tiny_i2v21: Path, i2v: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(i2v, tmp_path / "files")
    tensors = tensors_of(tiny_i2v21, "image_encoder")
    extra = {
        "visual_projection.weight": torch.zeros(8, 64),
        "vision_model.embeddings.position_ids": torch.arange(257)[None],
    }
    write(folder / IMAGE_ENCODER, tensors | extra)
    right = load_pipeline(i2v / "wan.yaml").networks.image_encoder
    ours = load_pipeline(folder / "wan.yaml").networks.image_encoder
    assert right is not None and ours is not None
    assert all(torch.equal(a, b) for a, b in zip(right.parameters(), ours.parameters(), strict=True))
    write(folder / IMAGE_ENCODER, {name.removeprefix("vision_model."): tensor for name, tensor in tensors.items()})
    assert read_model(folder).image_encoder == read_model(i2v).image_encoder
    convert(EngineConfig(model_path=str(folder / "wan.yaml")), tmp_path / "wan")
    assert tensors_of(tmp_path / "wan", "image_encoder").keys() == tensors.keys()
    write(folder / IMAGE_ENCODER, {"visual.cls_embedding": torch.zeros(1, 1, 64)})
    for said in (refusal(folder), refusal(folder / "wan.yaml")):
        assert "in the names of open-clip (visual...), which is not read; take clip_vision/clip_vision_h" in said
    (folder / IMAGE_ENCODER).unlink()
    (folder / "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth").touch()
    said = refusal(folder)
    assert "no image_encoder among its files" in said and "take clip_vision/clip_vision_h.safetensors" in said
    assert "must name image_encoder too" in refusal(card(tiny_i2v21, folder, image_encoder=...))


def test_encoders_of_other_models_are_left_where_they_are(tiny21: Path, i2v: Path, tmp_path: Path) -> None:
    """ComfyUI's folder has image encoders for other things, and text encoders of other families."""
    folder = single_files(tiny21, tmp_path)
    shutil.copytree(i2v / "clip_vision", folder / "clip_vision")
    t5 = tensors_of(tiny21, "text_encoder")
    positions = "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight"
    write(folder / "text_encoders" / "t5xxl_fp16.safetensors", {name: t5[name] for name in t5 if name != positions})
    assert read_model(folder).family == "wan21_t2v"


@pytest.mark.slow
def test_diffusers_reads_what_is_converted(tiny_i2v21: Path, i2v: Path, tmp_path: Path, photograph: Path) -> None:
    """Its whole pipeline, with what makes pictures for the image encoder; and the plan knows of all bytes."""
    convert(EngineConfig(model_path=str(i2v / "wan.yaml")), tmp_path / "wan", "float32")
    for name in files_of(tiny_i2v21):
        stored, ours = tensors_of(tiny_i2v21, name), tensors_of(tmp_path / "wan", name)
        assert stored.keys() == ours.keys() and all(torch.equal(ours[each], stored[each]) for each in stored)
    processor = "image_processor/preprocessor_config.json"
    assert json.loads((tmp_path / "wan" / processor).read_text()) == json.loads((tiny_i2v21 / processor).read_text())
    pipeline = load_pipeline(i2v / "wan.yaml")
    (planned,) = loaded_by_rank(pipeline.spec, 1, RunSettings(dtype="float32"))
    assert planned == pipeline.loaded.num_bytes
    request = make_request(pipeline.spec, num_frames=5, guidance_scale=1.0, image=png(photograph))
    theirs = load_oracle(tmp_path / "wan").latents(request, fitted(photograph))
    torch.testing.assert_close(final_latents(pipeline, request, tmp_path), theirs, rtol=0, atol=1e-4)
