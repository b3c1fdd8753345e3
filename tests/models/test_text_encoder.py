"""Prompts to embeddings, against diffusers' way on the same weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringlight.models.wan.text_encoder import clean_prompt
from tests.oracle import load_oracle
from tests.ours import load_pipeline

PROMPTS = {
    "empty": "",
    "short": "a cat",
    "escaped": "fish &amp;amp; chips,   at\n dawn",
    "chinese": "一只猫在雨中奔跑，电影感",
    "emoji and accents": "café 🐈 naïve",
    "far too long": "a wooden boat drifts across a calm lake at dawn " * 80,
}


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS.keys())
def test_true_rows_are_those_of_the_padded_encoding(tiny: Path, prompt: str) -> None:
    """Ours holds the true rows only; diffusers' has zeros after them."""
    ours = load_pipeline(tiny).prompts.encode(prompt)
    theirs = load_oracle(tiny).t2v.encode_prompt(prompt, do_classifier_free_guidance=False, max_sequence_length=512)[0]
    assert 1 <= len(ours) <= 512
    assert (ours - theirs[0, : len(ours)]).abs().max() < 1e-5
    assert not theirs[0, len(ours) :].any()


def test_prompts_are_cleaned_as_the_model_was_trained() -> None:
    assert clean_prompt("  a &amp;lt;b&amp;gt;\t c ") == "a <b> c"
