"""The table of families: which one a checkpoint is of, and what is usual of its models."""

from __future__ import annotations

from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest

from ringlight.core.errors import InvalidCheckpoint, InvalidSetting
from ringlight.core.request import RequestDefaults
from ringlight.families.table import FAMILIES, MODELS, family_named, known_model, model_defaults, read_model
from tests.core.checkpoints import copy_json, edit


@pytest.fixture
def folder(tiny21: Path, tmp_path: Path) -> Path:
    return copy_json(tiny21, tmp_path / "checkpoint")


def test_every_family_has_what_its_row_names() -> None:
    for family in FAMILIES:
        assert family_named(family.name) is family
        assert isinstance(resolve_name(family.recipe), type)
        assert callable(resolve_name(f"{family.demo}:DEMO").write)
        assert family.cards
        assert all(card.family == family.name for card in family.cards)


def test_the_family_follows_from_the_index(tiny: Path, tiny21: Path) -> None:
    assert read_model(tiny).family == "wan22_ti2v"
    assert read_model(tiny21).family == "wan21_t2v"


@pytest.mark.parametrize(
    "changes",
    [
        {"is_residual": False, "in_channels": 3, "out_channels": 3, "scale_factor_spatial": 8},
        {"patch_size": None, "scale_factor_temporal": 4},
        {"decoder_base_dim": None},
    ],
)
def test_what_newer_files_say_of_the_vae_changes_nothing(folder: Path, changes: dict[str, Any]) -> None:
    before = read_model(folder)
    edit(folder, "vae/config.json", **changes)
    assert read_model(folder) == before


@pytest.mark.parametrize(
    ("file", "changes", "named"),
    [
        ("vae/config.json", {"is_residual": True}, "residual"),
        ("vae/config.json", {"patch_size": 2}, "patch_size"),
        ("transformer/config.json", {"in_channels": 36}, "36"),
        ("transformer/config.json", {"image_dim": 1280}, "image_dim"),
        ("model_index.json", {"boundary_ratio": 0.875}, "names no transformer_2"),
        ("model_index.json", {"_class_name": "WanVACEPipeline"}, r"WanVACEPipeline.*Wan2\.2-TI2V, .* and Wan2\.2-I2V"),
        ("model_index.json", {"expand_timesteps": True}, "Wan2.2-TI2V"),
    ],
)
def test_what_would_run_wrongly_is_named(folder: Path, file: str, changes: dict[str, Any], named: str) -> None:
    edit(folder, file, **changes)
    with pytest.raises(InvalidCheckpoint, match=named):
        read_model(folder)


def test_a_name_that_is_not_known_is_answered_with_the_nearest() -> None:
    assert known_model("Wan2.1-T2V-14B") is MODELS["Wan2.1-T2V-14B"]
    with pytest.raises(InvalidSetting, match=r"nearest: Wan2\.1-T2V-14B"):
        known_model("wan2.1-t2v-14b")
    with pytest.raises(InvalidSetting, match="nearest: wan21_t2v"):
        family_named("wan2.1_t2v")


def test_what_a_request_may_leave_out_is_its_familys(tiny21: Path) -> None:
    def extent(defaults: RequestDefaults) -> tuple[int, int, int, int]:
        return defaults.width, defaults.height, defaults.num_frames, defaults.fps

    assert extent(model_defaults(known_model("Wan2.2-TI2V-5B"))) == (1280, 704, 121, 24)
    assert extent(model_defaults(known_model("Wan2.1-T2V-1.3B"))) == (832, 480, 81, 16)
    assert extent(model_defaults(known_model("Wan2.1-T2V-14B"))) == (1280, 720, 81, 16)
    assert extent(model_defaults(read_model(tiny21), tiny21)) == (128, 80, 17, 16)
