"""ModelSpec: the arithmetic of the real model, and what is refused before a weight is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ringlight.core.errors import InvalidCheckpoint
from ringlight.core.scheduler import SchedulerSpec
from ringlight.families.model import ModelSpec
from ringlight.families.table import read_model
from tests.core.checkpoints import copy_json, edit

FILES = [
    "model_index.json",
    "transformer/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "scheduler/scheduler_config.json",
]


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    return copy_json(tiny, tmp_path / "checkpoint")


@pytest.fixture
def wan(folder: Path) -> ModelSpec:
    """The published Wan2.2-TI2V-5B, as its JSON has it."""
    edit(
        folder, "transformer/config.json", num_attention_heads=24, attention_head_dim=128, ffn_dim=14336, num_layers=30
    )
    edit(folder, "transformer/config.json", text_dim=4096)
    edit(folder, "vae/config.json", base_dim=160, decoder_base_dim=256)
    edit(folder, "text_encoder/config.json", d_model=4096, d_ff=10240, num_heads=64, d_kv=64, num_layers=24)
    return read_model(folder)


@pytest.mark.parametrize(
    ("height", "width", "num_frames", "num_tokens"),
    [(704, 1280, 121, 27_280), (704, 1280, 97, 22_000), (480, 832, 81, 8_190), (704, 1280, 25, 6_160)],
)
def test_the_real_models_tokens(wan: ModelSpec, height: int, width: int, num_frames: int, num_tokens: int) -> None:
    assert wan.num_tokens(num_frames, height, width) == num_tokens


def test_the_real_models_arithmetic(wan: ModelSpec) -> None:
    assert wan.size_multiple == (32, 32)
    assert wan.frame_multiple == 4
    assert wan.latent_shape(121, 704, 1280) == (48, 31, 44, 80)
    assert wan.token_grid(121, 704, 1280) == (31, 22, 40)
    assert wan.latent_shape(1, 32, 64) == (48, 1, 2, 4)
    assert wan.num_tokens(1, 32, 32) == 1
    assert wan.transformer.inner_dim == 3072
    assert wan.vae.decoder_dim == 256
    assert (wan.scheduler.class_name, wan.scheduler.flow_shift) == ("UniPCMultistepScheduler", 5.0)


def test_the_name_is_the_published_one_or_the_folders(folder: Path) -> None:
    edit(folder, "model_index.json", _name_or_path=...)
    assert read_model(folder).name == "checkpoint"
    edit(folder, "model_index.json", _name_or_path="Wan-AI/Wan2.2-TI2V-5B-Diffusers")
    assert read_model(folder).name == "Wan-AI/Wan2.2-TI2V-5B-Diffusers"


def test_without_a_width_of_its_own_the_decoder_has_the_encoders(folder: Path) -> None:
    edit(folder, "vae/config.json", base_dim=96, decoder_base_dim=...)
    assert read_model(folder).vae.decoder_dim == 96


@pytest.mark.parametrize(("class_name", "num_calls"), [("FlowMatchHeunDiscreteScheduler", 7), ("UniPC", 4)])
def test_heuns_method_asks_the_network_twice_a_step_but_in_the_last(class_name: str, num_calls: int) -> None:
    spec = SchedulerSpec(config={}, class_name=class_name, flow_shift=5.0, flow_shift_key="shift")
    assert spec.num_calls(4) == num_calls


def test_schedulers_that_call_it_shift(folder: Path) -> None:
    edit(
        folder,
        "scheduler/scheduler_config.json",
        _class_name="FlowMatchEulerDiscreteScheduler",
        flow_shift=...,
        shift=3,
    )
    scheduler = read_model(folder).scheduler
    assert (scheduler.class_name, scheduler.flow_shift, scheduler.flow_shift_key) == (
        "FlowMatchEulerDiscreteScheduler",
        3.0,
        "shift",
    )


def refusal(folder: Path) -> str:
    """The one line that reading this folder ends with."""
    with pytest.raises(InvalidCheckpoint) as caught:
        read_model(folder)
    message = str(caught.value)
    assert message.startswith(str(folder))
    assert "\n" not in message
    return message.removeprefix(str(folder))


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert "no such folder" in refusal(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    assert "no such folder" in refusal(tmp_path / "file")
    assert "no such folder" in refusal(tmp_path / ("a" * 300))


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_named(folder: Path, file: str) -> None:
    (folder / file).unlink()
    message = refusal(folder)
    assert file in message
    assert "no such file" in message


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[1, 2]", b"null", b"[" * 100_000])
def test_a_file_that_is_no_json_object_is_named(folder: Path, file: str, content: bytes) -> None:
    (folder / file).write_bytes(content)
    message = refusal(folder)
    assert file in message
    assert "JSON" in message


@pytest.mark.parametrize(
    ("file", "changes", "named"),
    [
        ("transformer/config.json", {"num_layers": "30"}, "num_layers"),
        ("transformer/config.json", {"num_layers": 2.5}, "num_layers"),
        ("transformer/config.json", {"num_layers": ...}, "num_layers"),
        ("transformer/config.json", {"ffn_dim": None}, "ffn_dim"),
        ("transformer/config.json", {"patch_size": [2, 2]}, "patch_size"),
        ("transformer/config.json", {"patch_size": "1x2x2"}, "patch_size"),
        ("vae/config.json", {"dim_mult": [1, "2", 4, 4]}, "dim_mult"),
        ("vae/config.json", {"latents_mean": {}}, "latents_mean"),
        ("vae/config.json", {"z_dim": ...}, "z_dim"),
        ("text_encoder/config.json", {"d_model": []}, "d_model"),
        ("text_encoder/config.json", {"num_layers": ...}, "num_layers"),
        ("scheduler/scheduler_config.json", {"_class_name": ...}, "_class_name"),
        ("scheduler/scheduler_config.json", {"_class_name": 7}, "_class_name"),
        ("scheduler/scheduler_config.json", {"flow_shift": ...}, "flow_shift"),
        ("scheduler/scheduler_config.json", {"flow_shift": "5"}, "flow_shift"),
        ("scheduler/scheduler_config.json", {"flow_shift": True}, "flow_shift"),
        ("scheduler/scheduler_config.json", {"flow_shift": 0}, "flow_shift"),
        ("scheduler/scheduler_config.json", {"flow_shift": float("nan")}, "flow_shift"),
    ],
)
def test_a_value_of_the_wrong_type_is_named(folder: Path, file: str, changes: dict[str, Any], named: str) -> None:
    edit(folder, file, **changes)
    message = refusal(folder)
    assert file in message
    assert named in message


@pytest.mark.parametrize(
    ("file", "changes", "named"),
    [
        ("transformer/config.json", {"num_layers": -1}, "num_layers"),
        ("transformer/config.json", {"num_attention_heads": 0}, "num_attention_heads"),
        ("transformer/config.json", {"patch_size": [1, 0, 2]}, "patch_size"),
        ("transformer/config.json", {"rope_max_seq_len": 0}, "rope_max_seq_len"),
        ("vae/config.json", {"scale_factor_spatial": 0}, "scale_factor_spatial"),
        ("vae/config.json", {"scale_factor_temporal": 0}, "scale_factor_temporal"),
        ("vae/config.json", {"patch_size": -2}, "patch_size"),
        ("vae/config.json", {"latents_std": [0.0] * 48}, "latents_std"),
    ],
)
def test_a_number_that_no_model_can_have_is_named(folder: Path, file: str, changes: dict[str, Any], named: str) -> None:
    edit(folder, file, **changes)
    message = refusal(folder)
    assert file.partition("/")[0] in message
    assert named in message


@pytest.mark.parametrize(
    ("file", "changes", "named"),
    [
        ("model_index.json", {"_class_name": "StableDiffusionPipeline"}, "StableDiffusionPipeline"),
        ("model_index.json", {"_class_name": ...}, "WanPipeline"),
        ("model_index.json", {"expand_timesteps": False}, "expand_timesteps"),
        ("model_index.json", {"expand_timesteps": ...}, "expand_timesteps"),
        ("model_index.json", {"boundary_ratio": 0.875}, "boundary_ratio"),
        ("transformer/config.json", {"image_dim": 1280}, "image_dim"),
        ("transformer/config.json", {"added_kv_proj_dim": 5120}, "added_kv_proj_dim"),
        ("transformer/config.json", {"qk_norm": "layer_norm"}, "layer_norm"),
        ("transformer/config.json", {"cross_attn_norm": False}, "cross_attn_norm"),
        ("transformer/config.json", {"patch_size": [2, 2, 2]}, "patch_size"),
        ("transformer/config.json", {"in_channels": 36}, "36"),
        ("transformer/config.json", {"out_channels": 16}, "48"),
        ("vae/config.json", {"is_residual": False}, "residual"),
        ("vae/config.json", {"attn_scales": [1.0]}, "attn_scales"),
        ("vae/config.json", {"latents_mean": [0.0] * 16}, "latents_mean"),
        ("vae/config.json", {"latents_std": [1.0] * 47}, "latents_std"),
        ("vae/config.json", {"temperal_downsample": [True, True]}, "temperal_downsample"),
        ("vae/config.json", {"dim_mult": [4, 2, 1, 1]}, "dim_mult"),
    ],
)
def test_another_architecture_is_named(folder: Path, file: str, changes: dict[str, Any], named: str) -> None:
    edit(folder, file, **changes)
    message = refusal(folder)
    assert named in message
    assert "Wan" in message


def test_all_that_differs_is_named_at_once(folder: Path) -> None:
    edit(folder, "transformer/config.json", qk_norm=None, image_dim=1280)
    edit(folder, "vae/config.json", is_residual=False)
    message = refusal(folder)
    assert all(word in message for word in ("qk_norm", "image_dim", "residual"))
