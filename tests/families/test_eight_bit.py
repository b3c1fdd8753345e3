"""Weights in eight bits, in every format that people have: the same frames as of the arithmetic by hand, to the bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import gguf
import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor

from ringlight.core.config import EngineConfig
from ringlight.core.eight_bit import EightBit, is_scale, scale_of
from ringlight.core.errors import InvalidCheckpoint
from ringlight.core.layout import AskedLayout, ParallelLayout
from ringlight.core.plan import JobPlan, Placement
from ringlight.core.request import RequestDefaults
from ringlight.engine.engine import Engine
from ringlight.families.table import read_model, recognised
from ringlight.families.wan.convert import convert
from ringlight.families.wan.networks.transformer import WanTransformer
from ringlight.families.wan.recipe import WanRecipe
from ringlight.families.wan.work.transformer import BLOCK_WEIGHTS
from ringlight.kernels.widening import WidenedLinear
from ringlight.models.loading import fill_random, materialise
from ringlight.parallel.mesh import ParallelMesh
from ringlight.planner.hardware import RunSettings
from ringlight.planner.memory import loaded_by_rank
from tests.cli.commands import here
from tests.families.test_wan21 import make_request
from tests.families.written import (
    FILES,
    Change,
    Tensors,
    by_hand,
    card,
    fp8_scaled,
    in_original_names,
    is_matrix,
    names_of,
    quantised,
    rewritten,
    single_files,
    tensors_of,
    widened_by_hand,
    write,
)
from tests.ours import final_latents, frames, load_pipeline, new_tracer
from tests.parallel.ranks import on_ranks
from tests.pipelines.test_placed import placed
from tests.quick import first_quick

E4M3, E5M2, INT8 = torch.float8_e4m3fn, torch.float8_e5m2, torch.int8


def as_bytes(text: bytes) -> Tensor:
    return torch.tensor(list(text), dtype=torch.uint8)


def comfy_quant(name: str, tensors: Tensors) -> Tensors:
    """As it writes it of late."""
    if name == "vae":
        return tensors
    out = quantised(tensors, E5M2)
    text = json.dumps({"format": "float8_e5m2", "full_precision_matrix_mult": True}).encode()
    matrices = [each for each in out if out[each].itemsize == 1]
    return out | {f"{each.removesuffix('weight')}comfy_quant": as_bytes(text) for each in matrices}


def rows(dtype: torch.dtype) -> Change:
    """As LightX2V has it: a scale for each row."""
    return lambda name, tensors: tensors if name == "vae" else quantised(tensors, dtype, per_row=True)


def plain(dtype: torch.dtype) -> Change:
    """Without scales: all matrices are cast, and with them the token table."""

    def change(name: str, tensors: Tensors) -> Tensors:
        cast = {each for each, tensor in tensors.items() if is_matrix(each, tensor) or each == "shared.weight"}
        return {each: tensor.to(dtype) if each in cast else tensor for each, tensor in tensors.items()}

    return change


def modelopt(name: str, tensors: Tensors) -> Tensors:
    """As NVIDIA's tool exports it, in Diffusers layout: with scales of what is computed with."""
    if name != "transformer":
        return tensors
    out = quantised(tensors, E4M3)
    unused = {f"{each.removesuffix('weight')}input_scale": torch.ones(()) for each in out if out[each].itemsize == 1}
    return out | unused | {"blocks.0.ffn.net.2.input_quantizer._amax": torch.ones(())}


def some(name: str, tensors: Tensors) -> Tensors:
    """One block's matrices as they were, and one of q, k and v: such matrices are widened when they are loaded."""
    out = rows(INT8)(name, tensors)
    if name == "transformer":
        for each in [*(each for each in tensors if "blocks.0.ffn" in each), "blocks.1.attn1.to_k.weight"]:
            out[each] = tensors[each]
            out.pop(f"{each.removesuffix('weight')}weight_scale", None)
    return out


FORMATS = {
    "fp8_scaled": (fp8_scaled, "scale_weight"),
    "comfy_quant": (comfy_quant, "weight_scale"),
    "fp8 by rows": (rows(E4M3), "weight_scale"),
    "int8 by rows": (rows(INT8), "weight_scale"),
    "e4m3": (plain(E4M3), "weight_scale"),
    "e5m2": (plain(E5M2), "weight_scale"),
    "some": (some, "weight_scale"),
}


def made(pipeline: WanRecipe, folder: Path, plan: JobPlan | None = None) -> Tensor:
    request = make_request(pipeline.spec, width=64, height=48, num_frames=5, num_inference_steps=2)
    return frames(pipeline, request, folder, plan or JobPlan())


def kinds_of(pipeline: WanRecipe) -> set[torch.dtype]:
    """Of the numbers that are held in eight bits."""
    networks = (pipeline.transformer, pipeline.prompts.encoder)
    linear = [each for network in networks for each in network.modules() if isinstance(each, WidenedLinear)]
    return {each.numbers.dtype for each in linear if each.held is not None}


@pytest.mark.slow
@pytest.mark.parametrize("kind", first_quick(list(FORMATS)))
def test_every_format_makes_the_latents_of_the_arithmetic_by_hand(tiny21: Path, tmp_path: Path, kind: str) -> None:
    change, scale_name = FORMATS[kind]
    pipeline = load_pipeline(card(tiny21, single_files(tiny21, tmp_path / "files", change)))
    plain = load_pipeline(rewritten(tiny21, tmp_path / "plain", widened_by_hand(change, scale_name)))
    request = make_request(plain.spec, width=64, height=48, num_frames=5, num_inference_steps=2)
    assert torch.equal(final_latents(pipeline, request, tmp_path), final_latents(plain, request, tmp_path))
    assert len(kinds_of(pipeline)) == 1
    # In memory they are what they are in the file, with a scale for each row, and the plan knows of it.
    if kind != "some":
        matrices = [
            tensor
            for name in ("transformer", "text_encoder")
            for each, tensor in tensors_of(tiny21, name).items()
            if is_matrix(each, tensor)
        ]
        saved = sum(3 * tensor.numel() - 4 * len(tensor) for tensor in matrices)
        assert plain.loaded.num_bytes - pipeline.loaded.num_bytes == saved
    for each in (pipeline, plain):
        (planned,) = loaded_by_rank(each.spec, 1, RunSettings(dtype="float32"))
        assert planned == each.loaded.num_bytes
    assert pipeline.spec.fingerprint != plain.spec.fingerprint


def test_folders_in_diffusers_layout_likewise(tiny21: Path, tmp_path: Path) -> None:
    folder = rewritten(tiny21, tmp_path / "modelopt", modelopt)
    config = folder / "transformer" / "config.json"
    numbers = json.loads(config.read_text())
    config.write_text(json.dumps(numbers | {"quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8"}}))
    plain = load_pipeline(rewritten(tiny21, tmp_path / "plain", widened_by_hand(modelopt, "weight_scale")))
    pipeline = load_pipeline(folder)
    assert kinds_of(pipeline) == {E4M3}
    request = make_request(plain.spec, width=64, height=48, num_frames=5, num_inference_steps=2)
    assert torch.equal(final_latents(pipeline, request, tmp_path), final_latents(plain, request, tmp_path))
    for said in ({"quant_method": "bitsandbytes"}, {"quant_method": "modelopt", "quant_algo": "NVFP4"}):
        config.write_text(json.dumps(numbers | {"quantization_config": said}))
        with pytest.raises(InvalidCheckpoint, match=f"quantised by {said['quant_method']}"):
            read_model(folder)


SUPERBLOCK = 256  # numbers that a K kind packs together
HALVES = {"Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (-2,)}  # where its float16 scales stand among a superblock's bytes


def can_be(kind: gguf.GGMLQuantizationType, name: str, tensor: Tensor) -> bool:
    """Whether files have this tensor in a kind; in those of K kinds, narrower matrices are in others."""
    return is_matrix(name, tensor) and (kind.name not in HALVES or tensor.shape[1] % SUPERBLOCK == 0)


def packed(array: np.ndarray, kind: gguf.GGMLQuantizationType) -> np.ndarray:
    """A matrix in a kind; of K kinds, which the package reads and does not write, another matrix."""
    if kind.name not in HALVES:
        return gguf.quants.quantize(array, kind)
    _, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    shape = (len(array), array.shape[1] // SUPERBLOCK, block_bytes)
    raw = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for place in HALVES[kind.name]:
        raw[:, :, [place, place + 1]] = np.array([1e-4], np.float16).view(np.uint8)
    return raw.reshape(len(array), -1)


def write_gguf(path: Path, tensors: Tensors, kind: gguf.GGMLQuantizationType, architecture: str = "wan") -> Tensors:
    """A GGUF file with matrices of a kind; returns what its numbers stand for, by the package's own arithmetic."""
    writer, wide = gguf.GGUFWriter(path, architecture), {}
    for name, tensor in tensors.items():
        array = tensor.numpy()
        if array.ndim > 4:
            writer.add_array(f"comfy.gguf.orig_shape.{name}", list(array.shape))
            array = array.reshape(array.shape[0], -1)
        if can_be(kind, name, tensor):
            writer.add_tensor(name, numbers := packed(array, kind), raw_dtype=kind)
            wide[name] = torch.from_numpy(gguf.quants.dequantize(numbers, kind))
        else:
            writer.add_tensor(name, np.ascontiguousarray(array))
            wide[name] = tensor
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return wide


@pytest.mark.slow
@pytest.mark.parametrize("kind", first_quick(["Q8_0", "Q4_0", *HALVES]))
def test_gguf_makes_the_latents_of_its_own_arithmetic(tiny21: Path, tmp_path: Path, kind: str) -> None:
    """Q8_0 stays in eight bits with a scale for each 32 numbers; other kinds are widened when they are loaded."""
    folder = single_files(tiny21, tmp_path / "files")
    (folder / FILES["transformer"]).unlink()
    path = folder / FILES["transformer"].replace(".safetensors", ".gguf")
    tensors = in_original_names(tiny21, "transformer", tensors_of(tiny21, "transformer"))
    packing = gguf.GGMLQuantizationType[kind]
    wide = write_gguf(path, tensors, packing)
    pipeline = load_pipeline(card(tiny21, folder, transformer=str(path)))
    ours = names_of(tiny21, "transformer")
    plain = load_pipeline(
        rewritten(
            tiny21,
            tmp_path / "plain",
            lambda name, had: (
                {ours.ours(each): tensor for each, tensor in wide.items()} if name == "transformer" else had
            ),
        )
    )
    request = make_request(plain.spec, width=64, height=48, num_frames=5, num_inference_steps=2)
    assert torch.equal(final_latents(pipeline, request, tmp_path), final_latents(plain, request, tmp_path))
    assert kinds_of(pipeline) == ({INT8} if kind == "Q8_0" else set())
    (planned,) = loaded_by_rank(pipeline.spec, 1, RunSettings(dtype="float32"))
    assert planned == pipeline.loaded.num_bytes
    wide_gib = sum(tensor.numel() for name, tensor in tensors.items() if can_be(packing, name, tensor)) / 2**29
    widened = "" if kind == "Q8_0" else f", widened when it is loaded: {wide_gib:.3g} GiB in 16 bits"
    assert recognised(pipeline.checkpoint)["transformer"] == f"GGUF ({kind}{widened}), original names"
    said = here("plan", "--model-path", folder / "wan.yaml", "--gpu", "h200", "--size", "128x80").out
    assert f"transformer: GGUF ({kind}{widened})" in said
    write_gguf(path, {"a": torch.zeros(32, 32)}, gguf.GGMLQuantizationType.F32, "llama")
    with pytest.raises(InvalidCheckpoint, match="a GGUF file of llama, not of wan"):
        read_model(folder / "wan.yaml")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_weight_is_rounded_once_from_float32(tiny21: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    stored = rows(E4M3)("transformer", tensors_of(tiny21, "transformer"))
    wide = by_hand(stored)
    pipeline = load_pipeline(rewritten(tiny21, tmp_path / "rows", rows(E4M3)), dtype)
    linear = pipeline.transformer.get_submodule("blocks.0.attn1.to_qkv")
    assert isinstance(linear, WidenedLinear)
    names = [f"blocks.0.attn1.to_{each}.weight" for each in "qkv"]
    assert linear.weight.numel() == 0
    linear.widen()
    assert torch.equal(linear.weight, torch.cat([wide[name] for name in names]).to(dtype))
    linear.narrow()
    assert (linear.weight.numel(), linear.weight.dtype) == (0, dtype)


def test_converting_widens_and_rounds_once(tiny21: Path, tmp_path: Path) -> None:
    """What is in eight bits is written in bfloat16, the rest as it is stored."""
    folder = single_files(tiny21, tmp_path / "files", rows(E4M3))
    convert(EngineConfig(model_path=str(card(tiny21, folder))), tmp_path / "wan")
    made = tensors_of(tmp_path / "wan", "transformer")
    wide = by_hand(rows(E4M3)("transformer", tensors_of(tiny21, "transformer")))
    assert made.keys() == wide.keys()
    for name, tensor in wide.items():
        assert torch.equal(made[name], tensor.to(torch.bfloat16) if is_matrix(name, tensor) else tensor), name


@cache
def resident(folder: Path) -> Tensor:
    with TemporaryDirectory() as output:
        return made(load_pipeline(folder), Path(output))


@pytest.fixture(scope="module")
def scaled(tiny21: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Wan2.1 in fp8_scaled files. Read-only."""
    return card(tiny21, single_files(tiny21, tmp_path_factory.mktemp("scaled"), fp8_scaled))


@pytest.mark.slow
@pytest.mark.parametrize("as_a_gpu", first_quick([True, False]))
@pytest.mark.parametrize(("streamed", "take_turns"), first_quick([(3, True), (1, False)]))
def test_streamed_in_eight_bits_the_frames_are_the_same(
    scaled: Path, tmp_path: Path, streamed: int, take_turns: bool, as_a_gpu: bool
) -> None:
    """What lies on the host and what travels is what the file has; nothing stays widened when a stage is over."""
    recipe = placed(scaled, as_a_gpu=as_a_gpu)
    plan = JobPlan(placement=Placement(streamed_blocks=streamed), take_turns=take_turns)
    assert torch.equal(made(recipe, tmp_path, plan), resident(scaled))
    report, block = recipe.weights_report(), recipe.spec.transformer.layers.block
    assert report is not None
    parts = recipe.transformer.parts()
    assert 0 <= parts.blocks[0].num_bytes - block.forward_bytes(4) < 64 * len(parts.blocks[0].slots)
    modules = [each for each in recipe.transformer.modules() if isinstance(each, WidenedLinear) and each.held]
    assert modules and not any(each.weight.numel() for each in modules)


@pytest.mark.slow
def test_streamed_over_two_ranks_they_are_as_of_one(scaled: Path, tmp_path: Path) -> None:
    plan = JobPlan(placement=Placement(streamed_blocks=2), num_slices=2)

    def work(mesh: ParallelMesh) -> Tensor:
        recipe = placed(scaled, as_a_gpu=True)
        request = make_request(recipe.spec, width=64, height=48, num_frames=5, num_inference_steps=2)
        path = tmp_path / "frames.npy"
        return torch.tensor(len(recipe.run(request, path, "job", new_tracer(), mesh, plan)))

    placed(scaled, as_a_gpu=True)
    on_ranks(ParallelLayout(ring=2), work)
    assert (torch.from_numpy(np.load(tmp_path / "frames.npy")) - resident(scaled)).abs().max() < 2e-5


def test_what_is_recognised_is_said_before_anything_is_loaded(scaled: Path, tmp_path: Path) -> None:
    """And plans are made of the bytes that are really held."""
    done = here("serve", "--model-path", scaled, "--data-dir", tmp_path / "data", "--dry-run", "--device", "cpu")
    assert done.code == 0, done.err
    assert "files   text_encoder: fp8_scaled (float8_e4m3fn, a scale for each tensor), original names" in done.out
    assert "files   vae: original names" in done.out
    done = here(
        "plan", "--model-path", scaled, "--gpu", "h200", "--num-gpus", 1, "--size", "128x80", "--num-frames", 17
    )
    assert done.code == 0, done.err


@pytest.mark.slow
def test_an_engine_of_two_ranks_within_a_budget(scaled: Path, tmp_path: Path) -> None:
    """Its ranks share the host's copy, in eight bits; the report says what was recognised."""
    config = EngineConfig(
        model_path=str(scaled),
        device="cpu",
        num_threads=1,
        memory_budget="230MiB",
        memory_check=False,
        asked_layout=AskedLayout(num_gpus=2),
    )
    with Engine(config) as engine:
        engine.start()
        request = RequestDefaults(width=64, height=48, num_frames=5, num_inference_steps=2, seed=7).complete(
            "a violin player", engine.spec, negative_prompt="blurry"
        )
        report = engine.submit(request, str(tmp_path / "film.npy")).wait(120)
    weights = report.ranks[0].weights
    assert weights is not None
    assert weights.host_bytes < 1.2 * sum(file.stat().st_size for file in scaled.parent.rglob("*.safetensors")) + 2**20
    told = report.environment["files"]
    assert told["transformer"] == "fp8_scaled (float8_e4m3fn, a scale for each tensor), original names"
    assert told["vae"] == "original names"


SCALE = "blocks.0.self_attn.q.scale_weight"


def without(name: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.pop(name)


def with_(name: str, tensor: Tensor) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: tensor})


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (without(SCALE), "blocks.0.self_attn.q.weight is F8_E4M3 without a scale"),
        (with_(SCALE, torch.ones(2)), f"{SCALE} is F32 [2]: it must be one number for the tensor, or one for each of"),
        (with_(SCALE, torch.ones(2, 2)), f"{SCALE} is F32 [2, 2]"),
        (with_(SCALE, torch.ones((), dtype=torch.int32)), f"{SCALE} is I32 []"),
        (without("blocks.0.self_attn.q.weight"), f"{SCALE} is the scale of no weight in eight bits"),
        (with_("blocks.0.self_attn.q.weight_scale", torch.ones(())), "blocks.0.self_attn.q has two scales"),
        (
            with_("blocks.0.self_attn.q.comfy_quant", as_bytes(b'{"format": "nvfp4"}')),
            'is quantised in a way that is not read ({"format": "nvfp4"})',
        ),
        (
            with_(
                "blocks.0.self_attn.q.comfy_quant",
                as_bytes(b'{"format": "int8_tensorwise", "convrot": true}'),
            ),
            "is quantised in a way that is not read",
        ),
        (
            with_(
                "blocks.0.self_attn.q.comfy_quant",
                as_bytes(b'{"format": "float8_e5m2"}'),
            ),
            "blocks.0.self_attn.q.weight is F8_E4M3, and said to be float8_e5m2",
        ),
        (with_("blocks.0.self_attn.q.bias", torch.zeros(128, dtype=torch.uint8)), "is U8, no floating number"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    tiny21: Path, tmp_path: Path, damage: Callable[[Tensors], object], words: str
) -> None:
    folder = single_files(tiny21, tmp_path)
    tensors = fp8_scaled("transformer", tensors_of(tiny21, "transformer"))
    tensors = in_original_names(tiny21, "transformer", tensors)
    damage(tensors)
    write(folder / FILES["transformer"], tensors)
    with pytest.raises(InvalidCheckpoint) as caught:
        read_model(folder)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_scales_and_numbers_that_are_not_finite_are_found(tiny21: Path, tmp_path: Path, value: float) -> None:
    for name, damaged in {
        SCALE: torch.tensor(value),
        "blocks.0.self_attn.q.weight": torch.full((128, 128), value).to(E5M2),
    }.items():
        folder = single_files(tiny21, tmp_path / name)
        tensors = fp8_scaled("transformer", tensors_of(tiny21, "transformer"))
        tensors = in_original_names(tiny21, "transformer", tensors) | {name: damaged}
        for each in ("k", "v"):
            weight = f"blocks.0.self_attn.{each}.weight"
            tensors[weight] = tensors[weight].float().to(tensors["blocks.0.self_attn.q.weight"].dtype)
        write(folder / FILES["transformer"], tensors)
        with pytest.raises(InvalidCheckpoint, match="NaN or infinity among the weights") as caught:
            load_pipeline(card(tiny21, folder))
        assert "blocks.0.self_attn.q.weight" in str(caught.value)


def test_random_weights_in_eight_bits_are_as_large_as_others(tiny21: Path, tmp_path: Path) -> None:
    """`--load-format dummy` of such a checkpoint."""
    spec = read_model(rewritten(tiny21, tmp_path / "rows", rows(INT8)))
    for dtype in (torch.float32, torch.bfloat16):
        recipe_network = type(load_pipeline(tiny21).transformer)
        with torch.device("meta"):
            network = recipe_network(spec.transformer)  # type: ignore[arg-type]
        materialise(network, torch.device("cpu"), dtype, recipe_network.KEPT_IN_FLOAT32)
        fill_random(network, seed=1)
        linear = network.get_submodule("blocks.0.ffn.down")
        assert isinstance(linear, WidenedLinear)
        linear.widen()
        assert abs(float(linear.weight.float().std()) * linear.in_features**0.5 - 1) < 0.1


@pytest.mark.parametrize("name", BLOCK_WEIGHTS)
def test_a_file_may_have_any_one_kind_of_matrix_in_eight_bits(tiny21: Path, name: str) -> None:
    """The network then holds that one so, and no other."""
    spec = read_model(tiny21).transformer
    with torch.device("meta"):
        network = WanTransformer(msgspec.structs.replace(spec, held={name: EightBit("int8")}))  # type: ignore[arg-type]
    scales = {scale_of(f"blocks.0.{module}.weight") for module in BLOCK_WEIGHTS[name]}
    slots = network.checkpoint_slots()
    assert {each for each in slots if each.startswith("blocks.0.") and is_scale(each)} == scales
