"""Prompts to embeddings, against diffusers' way on the same weights; and what each of many ranks holds and reads."""

from __future__ import annotations

import json
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoTokenizer, UMT5EncoderModel

from ringlight.core.checkpoint import Checkpoint
from ringlight.core.errors import InvalidCheckpoint
from ringlight.core.portions import split_runs
from ringlight.families.wan.demo import TEXT_ENCODER
from ringlight.families.wan.networks.text_encoder import TextEncoder, clean_prompt, load_tokenizer, read_umt5
from ringlight.families.wan22_ti2v.demo import DEMO
from ringlight.models import loading as checkpoint_module
from ringlight.models.loading import fill_random
from ringlight.residency.weights import ALWAYS_THERE
from tests.models.text_encoders import axes, loaded, unfilled
from tests.oracle import load_oracle
from tests.ours import load_pipeline
from tests.quick import first_quick
from tests.worker.weights import rewrite

PROMPTS = {
    "empty": "",
    "short": "a cat",
    "escaped": "fish &amp;amp; chips,   at\n dawn",
    "chinese": "一只猫在雨中奔跑，电影感",
    "emoji and accents": "café 🐈 naïve",
    "far too long": "a wooden boat drifts across a calm lake at dawn " * 80,
}
UMT5_XXL = {"d_model": 4096, "d_ff": 10240, "num_heads": 64, "d_kv": 64, "num_layers": 24, "vocab_size": 256384}
TABLE, LAYER = "shared.weight", "encoder.block.{}.layer.0.SelfAttention.q.weight"
NORM = "encoder.final_layer_norm.weight"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small demo checkpoint, whose encoder has 6 layers."""
    folder = tmp_path_factory.mktemp("checkpoints") / "small"
    DEMO.write(folder, "small")
    return folder


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A tiny demo checkpoint that may be damaged."""
    DEMO.write(tmp_path / "tiny", "tiny")
    return tmp_path / "tiny"


@pytest.fixture(scope="module")
def umt5_xxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the real encoder, without weights."""
    folder = tmp_path_factory.mktemp("umt5-xxl")
    (folder / "config.json").write_text(json.dumps(TEXT_ENCODER | UMT5_XXL))
    return folder


def values_here(encoder: TextEncoder) -> int:
    return sum(parameter.numel() for parameter in encoder.network.parameters())


def names_here(encoder: TextEncoder) -> set[str]:
    return {name for name, slot in encoder.checkpoint_slots().items() if not slot.is_meta}


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS.keys())
def test_true_rows_are_those_of_the_padded_encoding(tiny: Path, prompt: str) -> None:
    """Ours holds the true rows only; diffusers' has zeros after them. Held to the largest of all values, some 4: each
    kind of CPU sums 512 rows in another order."""
    (ours,) = load_pipeline(tiny).prompts.encode([prompt])
    theirs = load_oracle(tiny).t2v.encode_prompt(prompt, do_classifier_free_guidance=False, max_sequence_length=512)[0]
    assert 1 <= len(ours) <= 512
    assert (ours - theirs[0, : len(ours)]).abs().max() < 1e-5 * theirs.abs().max()
    assert not theirs[0, len(ours) :].any()


@pytest.mark.parametrize("prompt", [*PROMPTS.values(), "a</s>b", " <pad> ", "\u202eabc", "e\u0301" * 900], ids=ascii)
def test_tokens_are_those_of_transformers(tiny: Path, prompt: str) -> None:
    theirs = AutoTokenizer.from_pretrained(str(tiny / "tokenizer"), local_files_only=True)
    ours = load_tokenizer(tiny / "tokenizer" / "tokenizer.json")
    ours.enable_truncation(512)
    cleaned = clean_prompt(prompt)
    assert ours.encode(cleaned).ids == theirs([cleaned], truncation=True, max_length=512).input_ids[0]


@pytest.mark.parametrize("length", first_quick([16, 1, 2, 130, 512]))
def test_the_network_is_that_of_transformers(small: Path, length: int) -> None:
    """In float32 to rounding; in bfloat16 as far from the truth as transformers' own is."""
    theirs = UMT5EncoderModel.from_pretrained(str(small / "text_encoder"), attn_implementation="eager")
    ours = loaded(small).network
    ids = torch.randint(0, ours.config.vocab_size, (1, length), generator=torch.Generator().manual_seed(length))

    def values(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        network, mask = ours.to(dtype), torch.ones_like(ids)
        (mine,) = network.encoder([network.embed(ids)], ALWAYS_THERE)
        return mine, theirs.to(dtype)(ids, attention_mask=mask).last_hidden_state

    with torch.no_grad():
        _, truth = values(torch.float64)
        found, expected = values(torch.float32)
        assert (found - expected).abs().max() < 1e-5 * truth.abs().max()
        found, expected = values(torch.bfloat16)
        assert (found - truth).square().mean() <= 1.1**2 * (expected - truth).square().mean()


@pytest.mark.parametrize(("field", "value"), [("d_model", "64"), ("num_layers", 0), ("feed_forward_proj", "relu")])
def test_another_network_is_told(damaged: Path, field: str, value: object) -> None:
    path = damaged / "text_encoder" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(InvalidCheckpoint, match=field):
        unfilled(damaged)


def test_prompts_are_cleaned_as_the_model_was_trained() -> None:
    assert clean_prompt("  a &amp;lt;b&amp;gt;\t c ") == "a <b> c"


@pytest.mark.parametrize("parts", range(1, 12))
@pytest.mark.parametrize("sizes", [[7], [1, 1, 1], [5, 1, 1, 1, 1, 1, 2], [1, 1, 1, 9], [3, 100, 3, 3]], ids=str)
def test_every_item_is_in_one_run_and_only_the_last_ranks_do_without(sizes: list[int], parts: int) -> None:
    runs = split_runs(sizes, parts)
    assert len(runs) == parts
    assert [item for run in runs for item in run] == list(range(len(sizes)))
    assert sorted(runs, key=bool, reverse=True) == runs
    assert max(sum(sizes[item] for item in run) for run in runs) <= sum(sizes) / parts + max(sizes)


@pytest.mark.slow
@pytest.mark.parametrize("parts", [2, 3, 4, 5])
def test_the_real_encoders_largest_share_is_the_smallest_there_is(umt5_xxl: Path, parts: int) -> None:
    """Among all ways to cut between whole layers; at two ranks 0.51 of the 5.68 G values."""
    config = read_umt5(Checkpoint(place=umt5_xxl, parts={"text_encoder": umt5_xxl}), {})
    num_values = [values_here(TextEncoder(config, None, 512, axis)) for axis in axes(parts)]
    table = UMT5_XXL["vocab_size"] * 4096
    layer = 4 * 4096 * 4096 + 3 * 4096 * 10240 + 32 * 64 + 2 * 4096
    sizes = [table, *[layer] * 23, layer + 4096]
    assert sum(num_values) == sum(sizes)
    cuts = ((0, *inner, len(sizes)) for inner in combinations(range(1, len(sizes)), parts - 1))
    assert max(num_values) == min(max(sum(sizes[a:b]) for a, b in pairwise(cut)) for cut in cuts)
    if parts == 2:
        assert max(num_values) / sum(sizes) < 0.51


@pytest.mark.parametrize("size", [1, 2, 3, 7, 9])
def test_ranks_hold_each_tensor_once(small: Path, size: int) -> None:
    whole = unfilled(small)
    ranks = [unfilled(small, axis) for axis in axes(size)]
    assert sum(map(values_here, ranks)) == values_here(whole)
    assert set.union(*map(names_here, ranks)) == names_here(whole)
    assert sum(len(names_here(rank)) for rank in ranks) == len(names_here(whole))
    assert all(parameter.device.type == "cpu" for rank in ranks for parameter in rank.network.parameters())
    assert TABLE in names_here(ranks[0])
    assert NORM in [names_here(rank) for rank in ranks if names_here(rank)][-1]
    if size == 2:
        assert max(map(values_here, ranks)) <= 0.6 * values_here(whole)


@pytest.mark.parametrize("fill", ["random", "weights"])
@pytest.mark.parametrize("size", first_quick([3, 2, 9]))
def test_each_tensor_is_that_of_the_whole_encoder(small: Path, size: int, fill: str) -> None:
    def filled(axis: Any = None) -> dict[str, Tensor]:
        if fill == "weights":
            return loaded(small, axis).checkpoint_slots()
        encoder = unfilled(small, axis)
        fill_random(encoder, seed=3)
        return encoder.checkpoint_slots()

    whole = filled()
    for axis in axes(size):
        slots = filled(axis)
        assert {name: slot.shape for name, slot in slots.items()} == {name: slot.shape for name, slot in whole.items()}
        assert all(torch.equal(slot, whole[name]) for name, slot in slots.items() if not slot.is_meta)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names of the tensors that have been read."""
    names: set[str] = set()

    class Recorded:
        """A safetensors file that remembers what is read from it."""

        def __init__(self, *args: Any, **options: Any) -> None:
            self._file: Any = safe_open(*args, **options)

        def __enter__(self) -> Recorded:
            self._file.__enter__()
            return self

        def __exit__(self, *error: object) -> None:
            self._file.__exit__(*error)

        def get_tensor(self, name: str) -> Tensor:
            names.add(name)
            tensor: Tensor = self._file.get_tensor(name)
            return tensor

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

    monkeypatch.setattr(checkpoint_module, "safe_open", Recorded)
    return names


@pytest.mark.parametrize("size", [1, 2, 3, 9])
def test_a_rank_reads_its_own_tensors_only(small: Path, read: set[str], size: int) -> None:
    for axis in axes(size):
        read.clear()
        assert read == set()
        assert names_here(loaded(small, axis)) == read


def test_the_table_may_stand_under_its_second_name(damaged: Path) -> None:
    before = loaded(damaged).checkpoint_slots()[TABLE]
    rewrite(
        damaged / "text_encoder" / "model.safetensors",
        lambda tensors: tensors.update({"encoder.embed_tokens.weight": tensors.pop(TABLE)}),
    )
    first, second = (loaded(damaged, axis) for axis in axes(2))
    assert torch.equal(first.checkpoint_slots()[TABLE], before)
    assert second.checkpoint_slots()[TABLE].is_meta


@pytest.mark.slow
@pytest.mark.parametrize("name", first_quick([LAYER.format(1), TABLE, LAYER.format(0), NORM]))
@pytest.mark.parametrize("damage", ["missing", "misshapen", "extra"])
def test_every_rank_finds_what_is_wrong_with_any_tensor(damaged: Path, name: str, damage: str) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensor = tensors.pop(name)
        if damage == "misshapen":
            tensors[name] = tensor[:-1].clone()
        elif damage == "extra":
            tensors.update({name: tensor, f"{name}.more": tensor.clone()})

    rewrite(damaged / "text_encoder" / "model.safetensors", change)
    messages = set()
    for axis in [*axes(1), *axes(2), *axes(5)]:
        with pytest.raises(InvalidCheckpoint, match=name) as caught:
            loaded(damaged, axis)
        messages.add(str(caught.value))
    assert len(messages) == 1
