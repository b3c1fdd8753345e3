"""Numbers of replicas as they are written."""

from __future__ import annotations

import pytest

from ringlight.core.errors import InvalidSetting
from ringlight.core.replicas import ReplicaRange
from ringlight.core.settings import ServeSettings


@pytest.mark.parametrize(("text", "found"), [("2", (2, 2)), ("1..8", (1, 8)), (" 0..1 ", (0, 1)), ("3..3", (3, 3))])
def test_a_number_and_a_range_are_read(text: str, found: tuple[int, int]) -> None:
    asked = ReplicaRange.parse(text)
    assert asked is not None
    assert (asked.least, asked.most) == found


def test_auto_leaves_the_number_to_the_room_that_there_is() -> None:
    assert ReplicaRange.parse("auto") is None
    assert ServeSettings(num_replicas="auto").replicas is None


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("0", "at least 1, not 0; 0..1 has one while it has work"),
        ("0..0", "0..1 has one while it has work"),
        ("8..1", "must begin with the smaller number"),
        ("many", r"a number \(2\), a range \(1..8\) or auto, not 'many'"),
        ("1-8", "a range"),
        ("-1", "a range"),
        ("1..", "a range"),
    ],
)
def test_what_is_no_number_of_replicas_is_refused_with_the_remedy(text: str, remedy: str) -> None:
    with pytest.raises(InvalidSetting, match=remedy):
        ServeSettings(num_replicas=text)


def test_a_range_is_written_as_it_is_read() -> None:
    assert [str(ReplicaRange.parse(text)) for text in ("4", "0..4")] == ["4", "0..4"]


@pytest.mark.parametrize("seconds", [-1.0, float("nan")])
def test_waits_are_numbers_of_seconds(seconds: float) -> None:
    for waits in ({"scale_up_wait": seconds}, {"scale_down_idle": seconds}):
        with pytest.raises(InvalidSetting, match="0 or more"):
            ReplicaRange(0, 1, **waits)
