"""Ratios: how many times as long one who was measured takes as the other, round by round, for they took turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Literal

import msgspec

from ringlight.bench.sending import Sample

Measure = Literal["Latency", "Total"]
Verdict = Literal["faster", "slower", "noise", "measured once"]


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """A column's seconds over those of the column that it is `beside`, for a kind of request.

    `seconds` and `beside_seconds` are medians of all their requests, and `ratio` is of these; `low` and `high` are the
    least and the largest ratio of medians within a round. It is `noise` where rounds of both overlap: some round of the
    slower one was as fast as some round of the faster.
    """

    column: str
    beside: str
    kind: int
    measure: Measure
    seconds: float
    beside_seconds: float
    ratio: float
    low: float
    high: float
    num_rounds: int
    verdict: Verdict


def ratios(samples: Sequence[Sample], held: Mapping[str, str], num_kinds: int) -> list[Ratio]:
    """Ratios of each column of `held` and its reference: what a client waits, what the worker needs."""
    read: dict[Measure, Callable[[Sample], float | None]] = {
        "Latency": lambda sample: sample.latency_seconds,
        "Total": lambda sample: None if sample.report is None else sample.report.total_seconds,
    }
    found = [
        _ratio(samples, (column, beside), kind, measure, seconds)
        for column, beside in held.items()
        for kind in range(num_kinds)
        for measure, seconds in read.items()
    ]
    return [ratio for ratio in found if ratio is not None]


def _ratio(
    samples: Sequence[Sample],
    names: tuple[str, str],
    kind: int,
    measure: Measure,
    read: Callable[[Sample], float | None],
) -> Ratio | None:
    """Ratio of two columns; None if they share no round."""
    own, other = (
        _by_round([sample for sample in samples if (sample.column, sample.kind) == (name, kind)], read)
        for name in names
    )
    rounds = sorted(own.keys() & other.keys())
    if not rounds:
        return None
    medians = [[median(each[number]) for number in rounds] for each in (own, other)]
    whole = [median([value for number in rounds for value in each[number]]) for each in (own, other)]
    in_rounds = [one / beside for one, beside in zip(*medians, strict=True)]
    return Ratio(
        column=names[0],
        beside=names[1],
        kind=kind,
        measure=measure,
        seconds=whole[0],
        beside_seconds=whole[1],
        ratio=whole[0] / whole[1],
        low=min(in_rounds),
        high=max(in_rounds),
        num_rounds=len(rounds),
        verdict=_verdict(*medians),
    )


def _by_round(samples: Sequence[Sample], read: Callable[[Sample], float | None]) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    for sample in samples:
        if (value := read(sample)) is not None and value > 0:
            found.setdefault(sample.round, []).append(value)
    return found


def _verdict(own: Sequence[float], other: Sequence[float]) -> Verdict:
    if len(own) < 2:
        return "measured once"
    if max(own) < min(other):
        return "faster"
    return "slower" if min(own) > max(other) else "noise"
