"""What is said where memory ran out: the least change that is predicted to fit, or nothing."""

from __future__ import annotations

from typing import Any

import pytest

from ringlight.core.layout import ParallelLayout
from ringlight.core.request import RequestDefaults
from ringlight.planner.advice import advice
from ringlight.planner.model_card import WAN22_TI2V_5B as SPEC

REQUEST = RequestDefaults().complete("a film", SPEC)
CARD: dict[str, Any] = {"device_type": "cuda", "dtype": "bfloat16", "vae_dtype": "float32"}


@pytest.mark.parametrize(
    ("gib", "layout", "part"),
    [
        (48, "u1r1", "--vae-dtype bfloat16 ("),
        (24, "u1r1", "--num-gpus"),
        (24, "u1r2", "--vae-dtype bfloat16 ("),
    ],
)
def test_the_least_change_is_named(gib: int, layout: str, part: str) -> None:
    said = advice(SPEC, REQUEST, ParallelLayout.parse(layout), CARD | {"memory_bytes": gib * 2**30}, 0)
    assert said is not None
    assert said.startswith("predicted to fit with ")
    assert part in said
    assert said.endswith(f"of {gib}.0 GiB)")


def test_ranks_on_a_cpu_share_its_memory() -> None:
    """So that more of them are no remedy, and each has its part."""
    machine = {"device_type": "cpu", "dtype": "float32", "vae_dtype": "float32", "memory_bytes": 120 * 2**30}
    said = advice(SPEC, REQUEST, ParallelLayout.parse("u1r2"), machine, 1)
    assert said is not None and "--num-gpus" not in said and said.endswith("of 60.0 GiB)")


def test_nothing_is_said_where_nothing_fits_or_nothing_is_known() -> None:
    assert advice(SPEC, REQUEST, ParallelLayout(), CARD | {"memory_bytes": 2**30}, 0) is None
    assert advice(SPEC, REQUEST, ParallelLayout(), CARD, 0) is None
    assert advice(SPEC, REQUEST, ParallelLayout(), {}, 0) is None
