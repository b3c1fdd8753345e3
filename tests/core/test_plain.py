"""Numbers in sentences are never written with an exponent."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

import ringlight
from ringlight.core.plain import coded, counted, in_words, plain


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (3000.0, "3000"),
        (3e6, "3000000"),
        (1234567.0, "1234567"),
        (86400 * 30, "2592000"),
        (0.25, "0.25"),
        (0, "0"),
        (-3e7, "-30000000"),
        (1e-5, "0.00001"),
        (1e-20, "0"),
        (math.inf, "inf"),
    ],
)
def test_a_number_in_full(number: float, text: str) -> None:
    assert plain(number) == text


@pytest.mark.parametrize(("number", "text"), [(1234.5, "1234"), (12.345, "12.3"), (0.012345, "0.0123"), (3e3, "3000")])
def test_a_measured_number_with_three_digits(number: float, text: str) -> None:
    assert plain(number, 3) == text


def test_items_stand_as_in_a_sentence() -> None:
    assert [in_words("abc"[:count]) for count in (1, 2, 3)] == ["a", "a and b", "a, b and c"]


def test_what_is_counted_has_its_number() -> None:
    assert [counted(number, "video") for number in (0, 1, 2)] == ["0 videos", "1 video", "2 videos"]


def test_a_code_and_its_message_are_said_once() -> None:
    said = [coded("cancelled", text) for text in ("cancelled", "", "by the operator")]
    assert said == ["cancelled", "cancelled", "cancelled: by the operator"]


def test_no_sentence_writes_seconds_with_an_exponent() -> None:
    """Of the kind of "3e+03 s": whoever prints seconds calls `plain`."""
    pattern = re.compile(r"(:[.0-9]*g\}|%[.0-9]*g) s\b")
    sources = Path(ringlight.__file__).parent.rglob("*.py")
    assert [path.name for path in sources if pattern.search(path.read_text())] == []
