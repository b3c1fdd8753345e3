"""Stills of the trained demo checkpoint show what their prompts ask for, and a pipeline that is wrong does not pass.

The gate is strict with places and colours and lenient with shapes. A still has all that prompts,
guidance and negative prompts can do to a picture, at a tenth of a film's time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from torch import Tensor

from ringlight.bench.judge import Frames, judge, look_at
from ringlight.core.request import VideoRequest
from ringlight.families.table import FAMILIES
from ringlight.families.wan import recipe
from tests.ours import frames, load_pipeline

FILM = next(family.trained_demo for family in FAMILIES if family.trained_demo is not None)
PROMPTS = (
    "a red ball rises over green ground",
    "a red box rises over sand",
    "an orange ball falls over sand",
    "a yellow ball rises at night",
    "a yellow cone rises over green ground",
    "a green ball rises over green ground",
    "a green box rises over sand",
    "a blue ball falls at night",
    "a blue ball rises over green ground",
    "a purple ball rises over sand",
    "a purple cone rises at night",
    "a red ball falls at night",
)
MOST_WRONG = {"place": 1, "colour": 1, "shape": 4}  # of twelve; 0, 0 and 2 are

pytestmark = pytest.mark.slow

Still = Callable[..., Frames]


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Still:
    """What makes a still of a prompt."""
    folder = tmp_path_factory.mktemp("stills")
    pipeline = load_pipeline(FILM)

    def make(prompt: str, seed: int, guidance_scale: float = 2.0, negative_prompt: str = "") -> Frames:
        request = VideoRequest(
            prompt=prompt,
            negative_prompt=negative_prompt,
            width=256,
            height=160,
            num_frames=1,
            num_inference_steps=10,
            guidance_scale=guidance_scale,
            flow_shift=5.0,
            seed=seed,
        )
        return np.rint(255 * frames(pipeline, request, folder).numpy()).astype(np.uint8)

    return cache(make)


def wrong(make: Still, gate: bool = False, **fields: float) -> Counter[str]:
    """How many stills lack the place, the colour and the shape that their prompts ask for. The `gate` stops once it is
    sure."""
    found = Counter[str]()
    for seed, prompt in enumerate(PROMPTS):
        found.update(name for name, right in judge(make(prompt, seed, **fields), prompt).right.items() if not right)
        if gate and refuses(found):
            break
    return found


def refuses(found: Counter[str]) -> bool:
    return any(found[name] > most for name, most in MOST_WRONG.items())


def swapped(texts: list[Tensor]) -> list[Tensor]:
    """The branches of guidance, each with the other's text."""
    return texts[::-1]


def first_half(texts: list[Tensor]) -> list[Tensor]:
    """Text keys of the first half of each prompt, as if one of two ranks had kept its own alone."""
    return [text[: (len(text) + 1) // 2] for text in texts]


def last_quarter(texts: list[Tensor]) -> list[Tensor]:
    return [text[3 * len(text) // 4 :] for text in texts]


def test_colours_and_places_follow_prompts(still: Still) -> None:
    found = wrong(still)
    assert not refuses(found), found


@pytest.mark.parametrize("fault", [swapped, first_half, last_quarter])
def test_the_gate_refuses_a_pipeline_that_is_wrong(
    still: Still, monkeypatch: pytest.MonkeyPatch, fault: Callable[[list[Tensor]], list[Tensor]]
) -> None:
    right = recipe.encode_text
    monkeypatch.setattr(recipe, "encode_text", lambda *asked: fault(right(*asked)))
    found = wrong(still.__wrapped__, gate=True)
    assert refuses(found), found


def test_guidance_up_to_1_is_none_and_more_of_it_follows_the_prompt(still: Still) -> None:
    guided, free = wrong(still), wrong(still, guidance_scale=1.0)
    assert guided["colour"] <= free["colour"] + 1, (guided, free)
    prompt = PROMPTS[0]
    assert (still(prompt, 0, guidance_scale=0.0) == still(prompt, 0, guidance_scale=1.0)).all()
    assert (still(prompt, 0, guidance_scale=1.0) != still(prompt, 0)).mean() > 0.1


def test_a_negative_prompt_keeps_out_what_it_says(still: Still) -> None:
    """Of boxes whose colour is left open fewer have the usual one where the negative prompt names that. And guidance
    away from the prompt itself is none."""
    asked = "a box rises over snow"

    def colours(negative_prompt: str = "") -> Counter[str | None]:
        return Counter(look_at(still(asked, seed, 4.0, negative_prompt)).colour for seed in range(6))

    usual, before = max(((name, count) for name, count in colours().items() if name), key=lambda found: found[1])
    assert colours(asked.replace("a box", f"a {usual} box"))[usual] < before / 2
    assert (still(asked, 0, 4.0, asked) == still(asked, 0, 1.0)).all()
