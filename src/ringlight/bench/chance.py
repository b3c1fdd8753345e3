"""Chance: whether two sides differ by more than equal ones would, judged by medians of rounds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

MOST_BY_CHANCE = 1 / 20
RULE = (
    "Two sides differ by more than chance where no median of a round of one lies within the range of the other's, and "
    "equal sides would be so far apart in at most 1 of 20 comparisons: that takes four rounds of each. Where they "
    "overlap, with two rounds or more of each, it is noise; all else is too few rounds to tell."
)


def by_round(values: Iterable[tuple[int, float]]) -> dict[int, float]:
    """Median of each round's values, by the round's number."""
    found: dict[int, list[float]] = {}
    for number, value in values:
        found.setdefault(number, []).append(value)
    return {number: statistics.median(of_round) for number, of_round in found.items()}


def is_noise(one: Sequence[float], other: Sequence[float]) -> bool | None:
    """Whether two sides differ by no more than chance, by a value for each round; None where too few rounds tell.

    If both sides are equal, each way to deal the values out between them is as likely as any other, and in two of these
    ways all values of one side lie below those of the other (the permutation test).
    """
    if max(min(one), min(other)) <= min(max(one), max(other)):
        return True if min(len(one), len(other)) > 1 else None
    by_chance = 2 / math.comb(len(one) + len(other), len(one))
    return False if by_chance <= MOST_BY_CHANCE else None
