"""ParallelLayout: degrees and their names."""

from __future__ import annotations

import pytest

from ringlight.core.errors import InvalidLayout
from ringlight.core.layout import ParallelLayout


@pytest.mark.parametrize(
    ("degrees", "name", "num_ranks"),
    [
        ({}, "u1r1", 1),
        ({"ring": 2}, "u1r2", 2),
        ({"ulysses": 4}, "u4r1", 4),
        ({"ulysses": 2, "ring": 4}, "u2r4", 8),
        ({"cfg": 2}, "c2u1r1", 2),
        ({"cfg": 2, "ulysses": 3, "ring": 5}, "c2u3r5", 30),
    ],
)
def test_names_are_the_fields(degrees: dict[str, int], name: str, num_ranks: int) -> None:
    layout = ParallelLayout(**degrees)
    assert (layout.name, layout.num_ranks) == (name, num_ranks)


@pytest.mark.parametrize(
    ("degrees", "named"),
    [({"cfg": 0}, "cfg-degree"), ({"cfg": 3}, "cfg-degree"), ({"ulysses": 0}, "ulysses"), ({"ring": -1}, "ring")],
)
def test_impossible_degrees_are_refused(degrees: dict[str, int], named: str) -> None:
    with pytest.raises(InvalidLayout, match=named):
        ParallelLayout(**degrees)
