"""Wan2.2-A14B as people have it: two single files in eight bits, told apart by their names or by a card."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ringlight.core.config import EngineConfig
from ringlight.core.errors import InvalidCheckpoint
from ringlight.families.assembly import assemble
from ringlight.families.experts import expert_of, name_of_both, other_expert
from ringlight.families.table import FAMILIES, model_defaults, read_model, recognised
from ringlight.families.wan.convert import convert
from ringlight.families.wan.recipe import WanRecipe
from ringlight.families.work import Work
from ringlight.kernels.widening import WidenedLinear
from ringlight.planner.hardware import RunSettings
from ringlight.planner.memory import loaded_by_rank
from tests.families.videos import fitted, make_request, png
from tests.families.written import (
    EXPERTS,
    Tensors,
    card,
    files_of,
    fp8_scaled,
    in_original_names,
    quantised,
    refusal,
    rewritten,
    single_files,
    tensors_of,
    widened_by_hand,
    write,
)
from tests.oracle import load_oracle
from tests.ours import final_latents, load_pipeline

HIGH, LOW = EXPERTS.values()


@pytest.fixture(scope="module")
def i2v(tiny_i2v_a14b: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Wan2.2-I2V-A14B in fp8_scaled files, and a card of it. Read-only."""
    folder = single_files(tiny_i2v_a14b, tmp_path_factory.mktemp("i2v"), fp8_scaled)
    card(tiny_i2v_a14b, folder)
    return folder


@pytest.fixture(scope="module")
def t2v(tiny_t2v_a14b: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Wan2.2-T2V-A14B in files. Read-only."""
    return single_files(tiny_t2v_a14b, tmp_path_factory.mktemp("t2v"))


def distilled(pipeline: WanRecipe, photograph: Path, folder: Path) -> Tensor:
    """Latents of a photograph by the sampler of distilled models, without guidance."""
    small = {"width": 80, "height": 48, "num_frames": 5, "seed": 7, "sampler": "lightx2v-4step"}
    request = model_defaults(pipeline.spec).complete("a cat", pipeline.spec, image=png(photograph), **small)
    assert (request.guidance_scale, request.num_inference_steps) == (1.0, 4)
    assert Work.of(pipeline.spec, request).calls_by_expert == (2, 2)
    return final_latents(pipeline, request, folder)


@pytest.mark.parametrize(
    ("name", "noise", "other"),
    [
        ("wan2.2_i2v_high_noise_14B_fp8_scaled.safetensors", "high", "wan2.2_i2v_low_noise_14B_fp8_scaled.safetensors"),
        ("Wan2_2-I2V-A14B-LOW_fp8_e4m3fn_scaled_KJ.safetensors", "low", None),
        ("LowNoise/Wan2.2-I2V-A14B-LowNoise-Q8_0.gguf", "low", "HighNoise/Wan2.2-I2V-A14B-HighNoise-Q8_0.gguf"),
        ("high_noise_model/diffusion_pytorch_model.safetensors.index.json", "high", None),
        ("wan2.1_t2v_14B_high_quality.safetensors", "", None),
        ("overflow/wan_slow.safetensors", "", None),
    ],
)
def test_names_tell_experts(name: str, noise: str, other: str | None) -> None:
    place = Path("/models") / name
    assert expert_of(place) == noise
    assert expert_of(other_expert(place)) == {"high": "low", "low": "high", "": ""}[noise]
    names = {name_of_both(each.stem) for each in (place, other_expert(place))}
    assert len(names) == 1 and not (noise and noise in names.pop().lower())
    if other is not None:
        assert other_expert(place) == Path("/models") / other


def test_two_files_of_one_shape_are_experts(t2v: Path, i2v: Path) -> None:
    """With what published models have that no file says."""
    found, pictures = read_model(t2v), read_model(i2v)
    assert (found.family, found.boundary_ratio, found.scheduler.flow_shift) == ("wan22_t2v_a14b", 0.875, 12.0)
    assert (pictures.family, pictures.boundary_ratio, pictures.scheduler.flow_shift) == ("wan22_i2v_a14b", 0.9, 5.0)
    assert (pictures.needs_picture, pictures.takes_last_picture, found.takes_picture) == (True, True, False)
    assert model_defaults(found).guidance_scale_2 == 3.0
    for name in (HIGH, LOW):  # either of them stands for both
        assert read_model(t2v / name).name == "wan2.2_14B_fp8_scaled"
        assert read_model(t2v / name).fingerprint == found.fingerprint
    assert read_model(i2v, "wan22_i2v_a14b") == pictures


def test_the_partner_is_found_among_others(t2v: Path, i2v: Path, tmp_path: Path) -> None:
    """ComfyUI's folder has all models at once."""
    folder = shutil.copytree(t2v, tmp_path / "models")
    for name in (HIGH, LOW):
        shutil.copy(i2v / name, folder / name.replace("wan2.2", "wan2.2_i2v"))
    assert "name the one that is meant" in refusal(folder)
    assert read_model(folder / LOW).family == "wan22_t2v_a14b"
    assert read_model(folder / HIGH.replace("wan2.2", "wan2.2_i2v")).family == "wan22_i2v_a14b"
    place = folder / "diffusion_models"
    for noise, name in (("High", HIGH), ("Low", LOW)):  # as GGUF is packed
        (place / f"{noise}Noise").mkdir()
        (folder / name).rename(place / f"{noise}Noise" / f"{noise[0]}.safetensors")
    assert read_model(place / "HighNoise" / "H.safetensors").family == "wan22_t2v_a14b"


def test_an_expert_alone_is_refused_with_what_is_missing(t2v: Path, i2v: Path, tmp_path: Path) -> None:
    """It would make a video of half of the noise."""
    folder = shutil.copytree(t2v, tmp_path / "t2v")
    (folder / LOW).unlink()
    for place in (folder, folder / HIGH):
        said = refusal(place)
        assert "by its name one of two experts, for high noise" in said and Path(LOW).name in said
    assert read_model(folder, "wan21_t2v").family == "wan21_t2v"  # whole, whatever it is called
    assert "one of the two experts of a wan22_t2v_a14b, and the other is missing" in refusal(folder, "wan22_t2v_a14b")
    folder = shutil.copytree(i2v, tmp_path / "i2v")
    (folder / LOW).unlink()
    (folder / HIGH).rename(folder / "diffusion_models" / "wan.safetensors")
    said = refusal(folder)
    assert "one of the two experts of a wan22_i2v_a14b, and the other is missing (transformer (in_channels=36" in said
    assert "transformer_2 for low" in said


def test_a_card_says_which_is_which(tiny_i2v_a14b: Path, i2v: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(i2v, tmp_path / "files")
    assert "the expert for low noise" in refusal(card(tiny_i2v_a14b, folder, transformer=LOW, transformer_2=HIGH))
    assert "by its name one of two experts" in refusal(card(tiny_i2v_a14b, folder, transformer_2=...))
    names = [f"diffusion_models/{name}.safetensors" for name in "ab"]
    for expert, name in zip((HIGH, LOW), names, strict=True):
        (folder / expert).rename(folder / name)
    assert "several that may be its transformer (a.safetensors, b.safetensors)" in refusal(folder)
    said = {"transformer": names[0], "transformer_2": names[1]}
    assert read_model(card(tiny_i2v_a14b, folder, **said)).family == "wan22_i2v_a14b"
    boundary = {"model_index.json": {"boundary_ratio": 0.8}}
    assert read_model(card(tiny_i2v_a14b, folder, **said, config=boundary)).boundary_ratio == 0.8


def test_experts_of_two_models_are_none(i2v: Path, t2v: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(t2v, tmp_path / "files")
    shutil.copy(i2v / LOW, folder / LOW)
    assert "of no family that is known" in refusal(folder)
    assert "by its name one of two experts" in refusal(folder / HIGH)  # which has no partner there


def test_files_that_may_be_of_two_families_have_to_be_named(t2v: Path) -> None:
    (known,) = (each for each in FAMILIES if each.name == "wan22_t2v_a14b")
    families = [known, type(known)(**{name: getattr(known, name) for name in known.__struct_fields__} | {"name": "x"})]
    with pytest.raises(InvalidCheckpoint, match=r"may be of wan22_t2v_a14b or x \(.*; say which by --model-family"):
        assemble(t2v, families)
    assert assemble(t2v, families, "x").json("model_index.json")["_class_name"] == "WanPipeline"


@pytest.mark.slow
def test_the_latents_are_those_of_the_arithmetic_by_hand(
    tiny_i2v_a14b: Path, i2v: Path, tmp_path: Path, photograph: Path
) -> None:
    """In four steps of two experts in eight bits, which are held so, and planned so."""
    pipeline = load_pipeline(i2v / "wan.yaml")
    plain = load_pipeline(rewritten(tiny_i2v_a14b, tmp_path / "plain", widened_by_hand(fp8_scaled, "scale_weight")))
    right = distilled(plain, photograph, tmp_path)
    assert torch.equal(distilled(pipeline, photograph, tmp_path), right)
    for each in (pipeline, plain):
        (planned,) = loaded_by_rank(each.spec, 1, RunSettings(dtype="float32"))
        assert planned == each.loaded.num_bytes
    for expert in pipeline.networks.experts:
        linear = [each for each in expert.modules() if isinstance(each, WidenedLinear) and each.held]
        assert {each.numbers.dtype for each in linear} == {torch.float8_e4m3fn}
    told = recognised(pipeline.checkpoint)
    assert told["transformer_2"] == "fp8_scaled (float8_e4m3fn, a scale for each tensor), original names"
    assert told["scheduler"].startswith("flow_shift 5, boundary_ratio 0.9")
    turned = shutil.copytree(i2v, tmp_path / "turned")
    for name, other in ((HIGH, "a"), (LOW, "b")):
        (turned / name).rename(turned / other)
    (turned / "a").rename(turned / LOW)
    (turned / "b").rename(turned / HIGH)
    assert (distilled(load_pipeline(turned / "wan.yaml"), photograph, tmp_path) - right).abs().max() > 1e-3


@pytest.mark.slow
def test_what_experts_have_not_alike_is_widened(tiny_t2v_a14b: Path, t2v: Path, tmp_path: Path) -> None:
    """They share one plan: of an expert in int8 and one in bfloat16 nothing is held in eight bits."""

    def one(name: str, tensors: Tensors) -> Tensors:
        return quantised(tensors, torch.int8) if name == "transformer" else tensors

    pipeline = load_pipeline(card(tiny_t2v_a14b, single_files(tiny_t2v_a14b, tmp_path / "one", one)))
    plain = load_pipeline(rewritten(tiny_t2v_a14b, tmp_path / "plain", widened_by_hand(one, "weight_scale")))
    request = make_request(plain.spec, width=64, height=48, num_frames=5, num_inference_steps=2)
    assert torch.equal(final_latents(pipeline, request, tmp_path), final_latents(plain, request, tmp_path))
    (planned,) = loaded_by_rank(pipeline.spec, 1, RunSettings(dtype="float32"))
    assert planned == pipeline.loaded.num_bytes == plain.loaded.num_bytes


@pytest.mark.slow
def test_diffusers_reads_what_is_converted(tiny_i2v_a14b: Path, tmp_path: Path, photograph: Path) -> None:
    folder = single_files(tiny_i2v_a14b, tmp_path / "files")
    convert(EngineConfig(model_path=str(card(tiny_i2v_a14b, folder))), tmp_path / "wan")
    for name in files_of(tiny_i2v_a14b):
        stored, ours = tensors_of(tiny_i2v_a14b, name), tensors_of(tmp_path / "wan", name)
        assert stored.keys() == ours.keys() and all(torch.equal(ours[each], stored[each]) for each in stored)
    spec = read_model(tmp_path / "wan")
    assert spec.family == "wan22_i2v_a14b"
    request = make_request(spec, num_frames=5, num_inference_steps=4, guidance_scale=1.0, image=png(photograph))
    theirs = load_oracle(tmp_path / "wan").latents(request, fitted(photograph))
    ours = final_latents(load_pipeline(tmp_path / "wan"), request, tmp_path)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_shards_in_the_folders_of_the_original_layout(tiny_t2v_a14b: Path, t2v: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(t2v, tmp_path / "Wan2.2-T2V-A14B")
    for name, file in EXPERTS.items():
        (folder / file).unlink()
        tensors = in_original_names(tiny_t2v_a14b, name, tensors_of(tiny_t2v_a14b, name))
        place = folder / re.sub(r".*(high|low)_noise.*", r"\1_noise_model", file)
        write(place / "diffusion_pytorch_model.safetensors", tensors)
        (place / "config.json").write_text('{"model_type": "t2v", "dim": 128, "num_heads": 4}')
    found = read_model(folder)
    assert (found.family, found.transformer.num_attention_heads) == ("wan22_t2v_a14b", 4)
