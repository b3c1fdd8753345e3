"""Videos with LoRAs: the same wherever weights are kept, on the fly as merged, over ranks and from job to job."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ringlight.core.config import EngineConfig
from ringlight.core.host import LEFT_BYTES
from ringlight.core.layout import AskedLayout, ParallelLayout
from ringlight.core.lora import Lora
from ringlight.core.plan import JobPlan, Placement
from ringlight.engine.engine import Engine
from ringlight.families.lora_library import LoraLibrary
from ringlight.families.wan import loaded as loaded_module
from ringlight.families.work import Work
from ringlight.parallel.mesh import ParallelMesh
from tests.families.hand_merged import (
    BFLOAT16,
    FLOAT32,
    adapt,
    few_steps,
    hand_made,
    loaded,
    merged_by_hand,
    require_equal,
    small_and_large,
    weights_of,
)
from tests.families.test_eight_bit import rows
from tests.families.videos import make_request
from tests.families.written import Tensors, rewritten, widened_by_hand
from tests.loras import write_lora
from tests.oracle import load_oracle
from tests.ours import final_latents, load_pipeline, new_tracer
from tests.parallel.ranks import on_ranks
from tests.pipelines.test_agreements import computed
from tests.quick import first_quick


@pytest.mark.slow
def test_on_the_fly_makes_what_a_merge_makes(tiny21: Path, tmp_path: Path) -> None:
    """To what bfloat16 tells apart; and not what no LoRA makes."""
    large, small = small_and_large(tmp_path, tiny21)
    recipe, merged = loaded(tiny21, BFLOAT16), load_pipeline(merged_by_hand(tiny21, tmp_path / "merged", large, small))
    request = few_steps(recipe)
    adapt(recipe, large, small)
    expected = final_latents(merged, request, tmp_path)
    assert (final_latents(recipe, request, tmp_path) - expected).abs().max() < 0.1
    adapt(recipe)
    none = final_latents(recipe, request, tmp_path)
    assert (none - expected).abs().max() > 0.5
    assert torch.equal(none, final_latents(load_pipeline(tiny21, BFLOAT16), request, tmp_path))


@cache
def resident(checkpoint: Path, dtype: torch.dtype) -> Tensor:
    """Latents with a small LoRA and a large one, of weights that all lie on the device."""
    recipe = loaded(checkpoint, dtype)
    with TemporaryDirectory() as folder:
        adapt(recipe, *small_and_large(Path(folder), checkpoint))
        return final_latents(recipe, few_steps(recipe), Path(folder))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "as_a_gpu", "streamed", "take_turns"),
    [
        (FLOAT32, False, 2, True),
        (BFLOAT16, True, 2, True),
        *(
            pytest.param(dtype, as_a_gpu, streamed, turns, marks=pytest.mark.slow)
            for dtype, as_a_gpu, streamed, turns in (
                (FLOAT32, True, 3, False),
                (BFLOAT16, False, 0, False),
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


@pytest.mark.slow
def test_each_expert_makes_its_steps_with_its_own(tiny_t2v_a14b: Path, tmp_path: Path) -> None:
    """Resident and streamed as of a checkpoint in which they are merged, to the bit."""
    checkpoint = tiny_t2v_a14b
    high = hand_made(tmp_path / "high.safetensors", checkpoint, target="high")
    low = hand_made(tmp_path / "low.safetensors", checkpoint, seed=1, target="low")
    recipe = loaded(checkpoint)
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


@pytest.mark.slow
def test_a_job_that_is_broken_off_within_a_step_leaves_them_as_they_were(tiny_t2v_a14b: Path, tmp_path: Path) -> None:
    """Each expert's, with blocks on their way."""
    loras = [hand_made(tmp_path / f"{name}.safetensors", tiny_t2v_a14b, target=name) for name in ("high", "low")]
    recipe = loaded(tiny_t2v_a14b, shelf=-1, as_a_gpu=True)
    adapt(recipe, *loras)
    request = few_steps(recipe, num_inference_steps=4)
    plan = JobPlan(placement=Placement(streamed_blocks=2), take_turns=True, blocks_per_agreement=1)
    made = final_latents(recipe, request, tmp_path, plan)
    step = 2 * recipe.spec.transformer.num_layers
    for cancel_after in (1, 3 * step + 1):  # of the first expert's blocks, and of the second's
        assert computed(recipe, request, tmp_path, plan, cancel_after) == cancel_after + 1
        assert torch.equal(final_latents(recipe, request, tmp_path, plan), made)


@pytest.mark.slow
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


@pytest.mark.slow
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
def test_an_engine_of_two_ranks_switches_between_jobs(tiny21: Path, tmp_path: Path) -> None:
    """What ranks share stays as it is; the report of each job says what it was made with."""
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


@pytest.mark.slow
def test_latents_within_1e_4_of_diffusers_with_the_weights_merged(tiny21: Path, tmp_path: Path) -> None:
    """Of a file as people have them, with an alpha and whole differences; without it they are far from that."""
    whole = {"blocks.1.norm2.weight", "blocks.2.attn2.to_v.bias"}
    path = tmp_path / "speed.safetensors"
    written = write_lora(path, tiny21 / "transformer", rank=4, alpha=1.0, whole=whole.__contains__, size=0.3)

    def merged(name: str, tensors: Tensors) -> Tensors:
        added = written.added if name == "transformer" else {}
        return {each: tensor + 0.75 * added[each] if each in added else tensor for each, tensor in tensors.items()}

    recipe = loaded(tiny21, lora=(f"{path}:0.75",))
    request = few_steps(recipe)
    theirs = load_oracle(rewritten(tiny21, tmp_path / "merged", merged)).latents(request)
    assert (final_latents(recipe, request, tmp_path) - theirs).abs().max() > 0.1
    recipe.adapt(recipe.always_on, new_tracer())
    torch.testing.assert_close(final_latents(recipe, request, tmp_path), theirs, rtol=0, atol=1e-4)
