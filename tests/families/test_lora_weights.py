"""Weights with LoRAs, wherever they lie: those of a merge by hand to the bit, and after them those that were loaded."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from ringlight.core.errors import InvalidCheckpoint
from ringlight.core.lora import Lora
from ringlight.families.lora_library import LoraLibrary
from ringlight.families.wan import loaded as loaded_module
from ringlight.kernels.adapter import Adapter
from ringlight.kernels.linear import Linear
from ringlight.models.adapters import read_adapters
from ringlight.models.loading import HasSlots, here
from tests.families.hand_merged import (
    BFLOAT16,
    FLOAT32,
    adapt,
    hand_made,
    loaded,
    require_equal,
    small_and_large,
    summed,
    weights_of,
)
from tests.families.written import tensors_of, write
from tests.loras import write_lora
from tests.ours import new_tracer


@pytest.mark.parametrize("family", ["tiny_i2v21", pytest.param("tiny", marks=pytest.mark.slow)])
def test_every_weight_is_as_merged_by_hand(family: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Matrices, of which some are joined, kernels, biases, norms and tables; of one LoRA, another, both, and none."""
    checkpoint: Path = request.getfixturevalue(family)
    base = tensors_of(checkpoint, "transformer")
    one = hand_made(tmp_path / "one.safetensors", checkpoint)
    few = [name for name in base if "to_v" in name or name == "proj_out.bias"]
    other = hand_made(tmp_path / "other.safetensors", checkpoint, seed=1, strength=-0.5, only=few)
    whole = hand_made(
        tmp_path / "whole.safetensors",
        checkpoint,
        seed=2,
        whole=["patch_embedding.weight"],
        only=["patch_embedding.weight"],
    )
    recipe = loaded(checkpoint)
    assert {*one.file.deltas} and len(one.file.deltas) + len(one.file.differences) == len(base)
    for loras in ((one,), (other,), (one, other), (other, whole), (whole, one), ()):
        adapt(recipe, *loras)
        require_equal(weights_of(recipe), summed(base, loras))
    packed = [each for each in recipe.transformer.modules() if isinstance(each, Linear)]
    assert all(each._packed is not None and not each.weight.numel() for each in packed)


def test_in_bfloat16_what_is_small_comes_on_the_fly(tiny21: Path, tmp_path: Path) -> None:
    """And leaves the weight as it was; what is large is merged and rounded once."""
    base = {name: slot.float() for name, slot in weights_of(loaded(tiny21, BFLOAT16)).items()}
    recipe, (large, small) = loaded(tiny21, BFLOAT16), small_and_large(tmp_path, tiny21)
    before = weights_of(recipe)
    report = adapt(recipe, large, small)
    expected = {name: each.to(before[name].dtype) for name, each in summed(base, [large]).items()}
    require_equal(weights_of(recipe), expected)
    assert [each.how for each in report.loras] == ["merged", "on the fly: small"]
    assert [each.largest for each in report.loras] == [pytest.approx(0.2, rel=0.3), pytest.approx(0.003, rel=0.3)]
    both = hand_made(tmp_path / "both.safetensors", tiny21, seed=1, size=0.003)
    names = {each.weight for each in both.file.deltas}
    kept = {name for name in names if "time_embedder" in name}  # of which products are in float32
    (told,) = adapt(recipe, both).loras
    merged = len(kept) + len(both.file.differences)
    assert told.how == f"{merged} merged, {len(names) - len(kept)} on the fly: small"
    assert (told.name, told.sha256, told.strength, told.target) == ("both", f"{1:064x}"[:12], 0.8, "both")
    # Together with a large one of the same weights it is no longer small.
    adapt(recipe, hand_made(tmp_path / "all.safetensors", tiny21), both)
    assert not any(linear.added for linear in recipe.transformer.modules() if isinstance(linear, Linear))
    adapt(recipe)
    require_equal(weights_of(recipe), before)


@pytest.mark.slow
def test_each_expert_has_its_own(tiny_t2v_a14b: Path, tmp_path: Path) -> None:
    """As the target of each says; what is of the other one would make another video."""
    checkpoint = tiny_t2v_a14b
    high = hand_made(tmp_path / "high.safetensors", checkpoint, target="high")
    low = hand_made(tmp_path / "low.safetensors", checkpoint, seed=1, target="low")
    both = hand_made(tmp_path / "both.safetensors", checkpoint, seed=2)
    bases = [tensors_of(checkpoint, name) for name in ("transformer", "transformer_2")]
    recipe = loaded(checkpoint)
    for loras in ((high, low), (low,), (both, high), (both,), ()):
        report = adapt(recipe, *loras)
        for number, base in enumerate(bases):
            own = [lora for lora in loras if number in lora.lora.experts]
            require_equal(weights_of(recipe, number), summed(base, own))
        assert [each.how for each in report.loras] == ["merged"] * len(loras)


def test_a_switch_reads_again_what_was_changed_alone(tiny21: Path, tmp_path: Path) -> None:
    """Nothing for the first LoRAs where weights lie plain; of packed ones, those that are changed."""
    names = ["blocks.0.attn1.to_k.weight", "blocks.1.ffn.net.2.bias"]
    one = hand_made(tmp_path / "one.safetensors", tiny21, only=names)
    base, read = tensors_of(tiny21, "transformer"), list[str]()

    def refill(network: HasSlots) -> None:
        for name, slot in here(network.checkpoint_slots()).items():
            read.append(name)
            slot.copy_(base[name])

    for dtype, before in ((BFLOAT16, []), (FLOAT32, [f"blocks.0.attn1.to_{each}.weight" for each in "qkv"])):
        recipe = loaded(tiny21, dtype)
        (transformer,) = recipe.networks.adapted
        shapes = {name: place.shape for name, place in transformer.places.items()}
        transformer.switch_on_device([read_adapters(one.file, 0.8, shapes)], refill)
        assert read == before
        read.clear()
        transformer.switch_on_device([], refill)
        assert sorted(read) == sorted({*names, *before})
        read.clear()
        transformer.switch_on_device([], refill)
        assert read == []


def test_random_weights_are_filled_with_the_same_again(tiny21: Path, tmp_path: Path) -> None:
    recipe, (large, _) = loaded(tiny21, load_format="dummy"), small_and_large(tmp_path, tiny21)
    before = weights_of(recipe)
    for _ in range(2):
        adapt(recipe, large)
        require_equal(weights_of(recipe), summed(before, [large]))
    adapt(recipe)
    require_equal(weights_of(recipe), before)


def failing_at_third(works: Callable[..., None]) -> Callable[..., None]:
    calls = iter([works, works])

    def called(*given: Any) -> None:
        call = next(calls, None)
        if call is None:
            raise MemoryError
        call(*given)

    return called


def test_after_a_switch_that_failed_the_next_one_makes_good(
    tiny21: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it had reached: as if the disk had failed in the middle, and the memory of the device."""
    recipe = loaded(tiny21)
    base = tensors_of(tiny21, "transformer")
    one, other = (hand_made(tmp_path / f"{seed}.safetensors", tiny21, seed=seed) for seed in (1, 2))
    adapt(recipe, one)

    for place, name in ((loaded_module, "read_weights"), (Adapter, "merge_")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, failing_at_third(getattr(place, name)))
            with pytest.raises(MemoryError):
                adapt(recipe, other)
        adapt(recipe, one)
        require_equal(weights_of(recipe), summed(base, [one]))
    adapt(recipe)
    require_equal(weights_of(recipe), base)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_is_refused(tiny21: Path, tmp_path: Path, value: float) -> None:
    lora = hand_made(tmp_path / "lora.safetensors", tiny21, only=["proj_out.weight"])
    lora.stored["proj_out.weight.up"][3, 1] = value
    write(lora.file.path, lora.stored)
    with pytest.raises(InvalidCheckpoint, match=r"lora\.safetensors: proj_out\.weight\.up: NaN or infinity"):
        read_adapters(lora.file, 1.0, {})
    lora.file.path.unlink()
    with pytest.raises(InvalidCheckpoint, match=r"lora\.safetensors: cannot be read any more"):
        read_adapters(lora.file, 1.0, {})


@pytest.mark.parametrize("planted", ["alpha", "q and k"])
def test_what_is_read_wrongly_would_show(tiny21: Path, tmp_path: Path, planted: str) -> None:
    lora = hand_made(tmp_path / "lora.safetensors", tiny21)
    recipe = loaded(tiny21)
    if planted == "alpha":
        deltas = [msgspec.structs.replace(each, scale=each.scale / 8) for each in lora.file.deltas]
    else:
        other = {"to_q": "to_k", "to_k": "to_q"}
        deltas = [
            msgspec.structs.replace(each, weight=re.sub("to_[qk]", lambda found: other[found[0]], each.weight))
            for each in lora.file.deltas
        ]
    recipe.networks.adapt([(lora.lora, msgspec.structs.replace(lora.file, deltas=tuple(deltas)))])
    with pytest.raises(AssertionError):
        require_equal(weights_of(recipe), summed(tensors_of(tiny21, "transformer"), [lora]))


def test_a_recipe_takes_up_what_is_named(tiny21: Path, tmp_path: Path) -> None:
    """By files that are looked up and matched anew; each switch once, and told."""
    folder = tmp_path / "loras"
    whole = {"blocks.1.norm2.weight", "blocks.0.scale_shift_table"}
    style = write_lora(folder / "style.safetensors", tiny21 / "transformer", "kohya", rank=4, alpha=2.0)
    other = write_lora(folder / "other.safetensors", tiny21 / "transformer", whole=whole.__contains__, seed=1)
    recipe = loaded(tiny21, lora=(f"{folder}/style.safetensors:0.5",), lora_dir=(str(folder),))
    always = recipe.always_on
    asked = LoraLibrary(recipe.config, recipe.spec).resolve((Lora(name="other", strength=-1.0),))
    assert asked[: len(always)] == always and len(asked) == 2
    tracer, base = new_tracer(), tensors_of(tiny21, "transformer")
    report = recipe.adapt(asked, tracer)
    assert report is not None
    style_told, other_told = report.loras
    assert (style_told.name, style_told.strength, style_told.how) == ("style", 0.5, "merged")
    assert style_told.told == "30 of 30 modules, alpha 2/4"
    assert style_told.largest == pytest.approx(0.05, rel=0.3)
    assert (other_told.sha256, other_told.target) == (asked[1].sha256[:12], "both")
    expected = {
        name: weight + (0.5 * style.added.get(name, torch.zeros(())) - other.added.get(name, torch.zeros(())))
        for name, weight in base.items()
    }
    for name, found in weights_of(recipe).items():
        torch.testing.assert_close(found, expected[name], rtol=1e-6, atol=1e-6)
    assert [stage.name for stage in tracer.stages] == ["LoraSwitch"] and report.seconds > 0
    again = recipe.adapt(asked, tracer)
    assert again == msgspec.structs.replace(report, seconds=0.0) and len(tracer.stages) == 1
    write_lora(folder / "other.safetensors", tiny21 / "transformer", seed=2)
    with pytest.raises(InvalidCheckpoint, match="is another file than when the video was asked for"):
        recipe.adapt(asked[::-1], tracer)
    assert recipe.adapt((), tracer) is None
    require_equal(weights_of(recipe), base)
