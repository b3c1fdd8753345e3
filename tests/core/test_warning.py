"""What has no effect is told: fields that only guidance reads, in a request without guidance."""

from __future__ import annotations

from typing import Any

import pytest

from ringlight.core.config import EngineConfig
from ringlight.core.request import RequestDefaults, RequestLimits
from ringlight.core.warning import without_guidance
from ringlight.engine.door import Door
from ringlight.families.lora_library import LoraLibrary
from ringlight.families.table import known_model

A14B = known_model("Wan2.2-T2V-A14B")
USUAL = RequestDefaults(negative_prompt="blurry", guidance_scale=4, guidance_scale_2=3)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, []),
        ({"guidance_scale": 1}, []),
        ({"sampler": "lightx2v-4step"}, []),  # which brings its guidance for both experts
        ({"guidance_scale": 1.5, "guidance_scale_2": 1, "negative_prompt": "grey"}, []),
        ({"guidance_scale": 1, "guidance_scale_2": 1}, []),
        ({"guidance_scale": 1, "negative_prompt": "blurry"}, []),
        ({"guidance_scale": 1, "negative_prompt": " "}, []),
        ({"guidance_scale": 1, "guidance_scale_2": 3}, [("guidance_scale_2", "3")]),
        ({"sampler": "lightx2v-4step", "guidance_scale_2": 3.5}, [("guidance_scale_2", "3.5")]),
        ({"guidance_scale": 0, "negative_prompt": "grey"}, [("negative_prompt", "4 characters")]),
    ],
    ids=str,
)
def test_what_only_guidance_reads_is_told_where_there_is_none(
    given: dict[str, Any], told: list[tuple[str, str]]
) -> None:
    request = USUAL.complete("a boat", A14B, **given)
    found = [*without_guidance(request, USUAL)]
    door = Door(A14B, USUAL, RequestLimits(), LoraLibrary(EngineConfig(model_path=""), A14B))
    assert [*door.warnings(request, (None, None))] == found
    assert [(each.param, each.given) for each in found] == told
    for each in found:
        scale = f"{request.guidance_scale:g}"
        assert each.code == "without_guidance" and each.used == "nothing"
        assert each.message == (
            f"{each.param} has no effect: with a guidance_scale of {scale} there is no guidance, which begins above 1"
        )
