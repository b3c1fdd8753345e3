"""Ratios: how many times as long one who was measured takes as the other, round by round, for they took turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Literal

import msgspec

from ringlight.bench.chance import by_round, is_noise
from ringlight.bench.sending import Sample

Measure = Literal["Latency", "Total"]
Verdict = Literal["faster", "slower", "noise", "too few rounds"]


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """A column's seconds over those of the column that it is `beside`, for a kind of request.

    `seconds` and `beside_seconds` are medians of all their requests, and `ratio` is of these; `low` and `high` are the
    least and the largest ratio of medians within a round. The verdict is on the medians of rounds, by `is_noise`.
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
    found = [
        [
            (sample.round, value)
            for sample in samples
            if (sample.column, sample.kind) == (name, kind) and (value := read(sample))
        ]
        for name in names
    ]
    own, other = map(by_round, found)
    if not (rounds := own.keys() & other.keys()):
        return None
    whole = [median(value for number, value in each if number in rounds) for each in found]
    in_rounds = [own[number] / other[number] for number in rounds]
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
        verdict=_verdict([*own.values()], [*other.values()]),
    )


def _verdict(own: Sequence[float], other: Sequence[float]) -> Verdict:
    noise = is_noise(own, other)
    if noise is None:
        return "too few rounds"
    return "noise" if noise else "faster" if max(own) < min(other) else "slower"
