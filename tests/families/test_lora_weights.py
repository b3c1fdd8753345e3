"""Weights with LoRAs, wherever they lie: those of a merge by hand to the bit, and after them those that were loaded."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ringlight.core.config import EngineConfig
from ringlight.core.errors import InvalidCheckpoint
from ringlight.core.host import LEFT_BYTES
from ringlight.core.layout import AskedLayout, ParallelLayout
from ringlight.core.lora import Lora
from ringlight.core.plan import JobPlan, Placement
from ringlight.core.request import RequestLimits, VideoRequest
from ringlight.engine import process
from ringlight.engine.engine import Engine
from ringlight.families.lora_library import LoraLibrary
from ringlight.families.wan import loaded as loaded_module
from ringlight.families.wan.recipe import WanRecipe
from ringlight.families.work import Work
from ringlight.kernels.adapter import Adapter
from ringlight.kernels.linear import Linear
from ringlight.parallel.mesh import ParallelMesh
from tests.families.hand_merged import HandMade, hand_made, merged_by_hand, summed
from tests.families.test_eight_bit import rows
from tests.families.videos import make_request
from tests.families.written import rewritten, tensors_of, widened_by_hand, write
from tests.forking import fork_rank
from tests.loras import write_lora
from tests.ours import CPU, final_latents, load_pipeline, new_tracer
from tests.parallel.ranks import on_ranks
from tests.pipelines.test_placed import feed_late
from tests.quick import first_quick

FLOAT32, BFLOAT16 = torch.float32, torch.bfloat16


def loaded(folder: Path, dtype: torch.dtype = FLOAT32, **how: Any) -> WanRecipe:
    """A pipeline of its own, for its weights are changed; `shelf` -1 has them on the host."""
    torch.set_num_threads(1)
    shelf, as_a_gpu = how.pop("shelf", None), how.pop("as_a_gpu", False)
    config = EngineConfig(model_path=str(folder), device="cpu", **how)
    recipe = WanRecipe(config, RequestLimits(), CPU, dtype, FLOAT32, shelf=shelf)
    if as_a_gpu:
        feed_late(recipe)
    return recipe


def few_steps(recipe: WanRecipe, **fields: Any) -> VideoRequest:
    return make_request(recipe.spec, **{"num_inference_steps": 2, "num_frames": 5} | fields)


def adapt(recipe: WanRecipe, *loras: HandMade) -> Any:
    return recipe.networks.adapt([lora.pair for lora in loras])


def weights_of(recipe: WanRecipe, expert: int = 0) -> dict[str, Tensor]:
    """By the checkpoint's names, as they lie at the moment."""
    network, found = recipe.networks.experts[expert], {}
    plain: dict[Linear, Tensor] = {}
    for module in network.modules():
        if isinstance(module, Linear) and module.held is None and not module.weight.numel():
            assert module._packed is not None
            plain[module] = module.weight.data
            module.weight.data = module._packed.to_dense()
    found = {name: slot.clone() for name, slot in network.checkpoint_slots().items()}
    for module, nothing in plain.items():
        module.weight.data = nothing
    return found


def require_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert not [name for name, each in expected.items() if not torch.equal(found[name], each)]


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


def small_and_large(folder: Path, checkpoint: Path, **how: Any) -> tuple[HandMade, ...]:
    """A LoRA that bfloat16 keeps, of most weights, and one that it would eat, of others."""
    names = [name for name in tensors_of(checkpoint, "transformer") if "attn1.to_k." in name or "ffn.net.0" in name]
    large = [name for name in tensors_of(checkpoint, "transformer") if name not in names]
    return (
        hand_made(folder / "large.safetensors", checkpoint, only=large, **how),
        hand_made(folder / "small.safetensors", checkpoint, seed=1, size=0.003, only=names, differences=False, **how),
    )


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


@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16])
def test_on_the_fly_makes_what_a_merge_makes(tiny21: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    """To what the dtype tells apart; and not what no LoRA makes."""
    large, small = small_and_large(tmp_path, tiny21)
    recipe, merged = loaded(tiny21, dtype), load_pipeline(merged_by_hand(tiny21, tmp_path / "merged", large, small))
    request = few_steps(recipe)
    adapt(recipe, large, small)
    made, expected = final_latents(recipe, request, tmp_path), final_latents(merged, request, tmp_path)
    tolerance = 2e-5 if dtype == FLOAT32 else 0.1
    assert (made - expected).abs().max() < tolerance
    adapt(recipe)
    none = final_latents(recipe, request, tmp_path)
    assert (none - expected).abs().max() > 0.5
    assert torch.equal(none, final_latents(load_pipeline(tiny21, dtype), request, tmp_path))


@cache
def resident(checkpoint: Path, dtype: torch.dtype) -> Tensor:
    """Latents with a small LoRA and a large one, of weights that all lie on the device."""
    recipe = loaded(checkpoint, dtype)
    with TemporaryDirectory() as folder:
        adapt(recipe, *small_and_large(Path(folder), checkpoint))
        return final_latents(recipe, few_steps(recipe), Path(folder))


@pytest.mark.parametrize(
    ("dtype", "as_a_gpu", "streamed", "take_turns"),
    [
        (FLOAT32, False, 2, True),
        (BFLOAT16, True, 2, True),
        *(
            pytest.param(dtype, as_a_gpu, streamed, turns, marks=pytest.mark.slow)
            for dtype, as_a_gpu, streamed, turns in (
                (FLOAT32, True, 3, False),
                (FLOAT32, False, 0, False),
                (BFLOAT16, False, 1, False),
                (BFLOAT16, True, 0, True),
            )
        ),
    ],
)
def test_wherever_weights_are_kept_the_latents_are_the_same(
    tiny21: Path, tmp_path: Path, dtype: torch.dtype, as_a_gpu: bool, streamed: int, take_turns: bool
) -> None:
    """The host's copy stays as it is: what comes after is what a fresh one makes."""
    recipe = loaded(tiny21, dtype, shelf=-1, as_a_gpu=as_a_gpu)
    request, plan = (
        few_steps(recipe),
        JobPlan(placement=Placement(streamed_blocks=streamed), take_turns=take_turns),
    )
    before = weights_of(recipe)
    large, small = small_and_large(tmp_path, tiny21)
    report = adapt(recipe, large, small)
    assert [each.how for each in report.loras] == ["merged", "merged" if dtype == FLOAT32 else "on the fly: small"]
    assert torch.equal(final_latents(recipe, request, tmp_path, plan), resident(tiny21, dtype))
    require_equal(weights_of(recipe), before)
    adapt(recipe)
    assert torch.equal(
        final_latents(recipe, request, tmp_path, plan),
        final_latents(load_pipeline(tiny21, dtype), request, tmp_path),
    )


@pytest.mark.slow
def test_what_stays_in_files_is_merged_each_time_it_is_read(
    tiny21: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaded_module, "available_bytes", lambda: LEFT_BYTES)
    plan = JobPlan(placement=Placement(streamed_blocks=2), take_turns=True)
    for as_a_gpu in (False, True):
        recipe = loaded(tiny21, BFLOAT16, shelf=-1, as_a_gpu=as_a_gpu)
        adapt(recipe, *small_and_large(tmp_path, tiny21))
        assert torch.equal(final_latents(recipe, few_steps(recipe), tmp_path, plan), resident(tiny21, BFLOAT16))


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
    adapt(recipe, high, low)
    request = few_steps(recipe, num_inference_steps=4)
    assert Work.of(recipe.spec, request).calls_by_expert == (3, 1)
    made = final_latents(recipe, request, tmp_path)
    placed = loaded(checkpoint, shelf=-1, as_a_gpu=True)
    adapt(placed, high, low)
    plan = JobPlan(placement=Placement(streamed_blocks=2))
    assert torch.equal(final_latents(placed, request, tmp_path, plan), made)
    merged = load_pipeline(merged_by_hand(checkpoint, tmp_path / "merged", high, low))
    assert torch.equal(final_latents(merged, request, tmp_path), made)
    adapt(recipe, high)
    assert (final_latents(recipe, request, tmp_path) - made).abs().max() > 0.01


@pytest.mark.parametrize(("dtype", "tolerance"), [(FLOAT32, 2e-5), pytest.param(BFLOAT16, 0.1, marks=pytest.mark.slow)])
def test_over_weights_in_eight_bits_it_comes_on_the_fly(
    tiny21: Path, tmp_path: Path, dtype: torch.dtype, tolerance: float
) -> None:
    """As if merged into what they stand for, resident and streamed; what they are held in stays as it is."""
    stored = rewritten(tiny21, tmp_path / "stored", rows(torch.float8_e4m3fn))
    wide = rewritten(tiny21, tmp_path / "wide", widened_by_hand(rows(torch.float8_e4m3fn), "weight_scale"))
    lora = hand_made(tmp_path / "lora.safetensors", tiny21)
    small = hand_made(tmp_path / "small.safetensors", tiny21, seed=1, size=0.004, differences=False)
    merged = load_pipeline(merged_by_hand(wide, tmp_path / "merged", lora, small))
    recipe = loaded(stored, dtype)
    before, request = weights_of(recipe), few_steps(recipe)
    report = adapt(recipe, lora, small)
    held = len(recipe.transformer.blocks) * 10
    assert all(f"{held} on the fly: 8-bit weights" in each.how for each in report.loras)
    after = weights_of(recipe)
    assert all(torch.equal(after[name], each) for name, each in before.items() if each.itemsize == 1)
    assert not torch.equal(after["blocks.0.attn1.to_q.bias"], before["blocks.0.attn1.to_q.bias"])
    made = final_latents(recipe, request, tmp_path)
    assert (made - final_latents(merged, request, tmp_path)).abs().max() < tolerance
    placed = loaded(stored, dtype, shelf=-1, as_a_gpu=True)
    adapt(placed, lora, small)
    plan = JobPlan(placement=Placement(streamed_blocks=2), take_turns=True)
    assert torch.equal(final_latents(placed, request, tmp_path, plan), made)
    adapt(recipe)
    require_equal(weights_of(recipe), before)


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
        adapt(loaded(tiny21), lora)
    lora.file.path.unlink()
    with pytest.raises(InvalidCheckpoint, match=r"lora\.safetensors: cannot be read any more"):
        adapt(loaded(tiny21), lora)


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
    with pytest.raises(InvalidCheckpoint, match="is another file than the one that the job was checked with"):
        recipe.adapt(asked[::-1], tracer)
    assert recipe.adapt((), tracer) is None
    require_equal(weights_of(recipe), base)


@pytest.mark.parametrize("name", first_quick(["u2r1", "u1r2", "c2u1r1"]))
def test_over_two_ranks_latents_are_as_of_one(tiny21: Path, tmp_path: Path, name: str) -> None:
    """Each rank merges for itself, the same."""
    recipe, loras = loaded(tiny21), small_and_large(tmp_path, tiny21)
    path, request = tmp_path / "ranks.safetensors", few_steps(recipe)

    def work(mesh: ParallelMesh) -> Tensor:
        adapt(recipe, *loras)
        recipe.run(request, path, "job", new_tracer(), mesh)
        return torch.cat([each.flatten() for each in weights_of(recipe).values()])

    first, second = on_ranks(ParallelLayout.parse(name), work)
    assert torch.equal(first, second)
    assert (load_file(path)["latents"] - resident(tiny21, FLOAT32)).abs().max() < 2e-5


@pytest.mark.slow
def test_an_engine_of_two_ranks_switches_between_jobs(
    tiny21: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ranks share stays as it is; the report of each job says what it was made with."""
    monkeypatch.setattr(process, "launch", fork_rank)
    write_lora(tmp_path / "style.safetensors", tiny21 / "transformer", rank=4, alpha=2.0)
    config = EngineConfig(
        model_path=str(tiny21),
        device="cpu",
        num_threads=1,
        memory_budget="230MiB",
        memory_check=False,
        lora_dir=(str(tmp_path),),
        asked_layout=AskedLayout(num_gpus=2),
    )
    with Engine(config) as engine:
        engine.start()
        plain = make_request(engine.spec, num_inference_steps=2, num_frames=5)
        loras = LoraLibrary(config, engine.spec).resolve((Lora(name="style", strength=-1.5),))
        styled = msgspec.structs.replace(plain, lora=loras)
        made, reports = [], []
        for number, request in enumerate((plain, styled, styled, plain)):
            path = tmp_path / f"{number}.safetensors"
            reports.append(engine.submit(request, str(path)).wait(120))
            made.append(load_file(path)["latents"])
    assert torch.equal(made[0], made[3]) and torch.equal(made[1], made[2])
    assert (made[0] - made[1]).abs().max() > 0.01
    assert [each.adapted is None for each in reports] == [True, False, False, True]
    first, second = reports[1].adapted, reports[2].adapted
    assert first is not None and second is not None
    assert first.seconds > 0 and second == msgspec.structs.replace(first, seconds=0.0)
    assert (
        f"| style ({loras[0].sha256[:12]}) | -1.5 | both | 30 of 30 modules, alpha 2/4 | merged | "
        in reports[1].table()
    )
    assert "LoRA" not in reports[0].table() and reports[0].workload_hash == reports[3].workload_hash
    assert reports[1].workload_hash != reports[0].workload_hash
    stages = [[stage.name for stage in each.stages] for each in reports]
    assert ["LoraSwitch" in each for each in stages] == [False, True, False, True]
    assert msgspec.json.decode(reports[1].to_json())["adapted"]["loras"][0]["name"] == "style"
