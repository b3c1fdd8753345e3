"""Several ways to do the same, in turns: a device's clock falls as it grows warm, and all ways share what comes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import median

import torch

from gpu.clock import MAX_CALLS, SAMPLE_SECONDS, Run, Timing, timed
from gpu.report import Row

ROUNDS = 7


def take_turns(
    label: str,
    ways: Mapping[str, Run],
    device: torch.device,
    notes: Mapping[str, str] | None = None,
    limit_seconds: float = 6.0,
) -> Iterator[Row]:
    """A row for each way: the median of its samples, and of its ratios to the first way's sample of the same round.

    `notes` are told beside a way. No further round is begun once `limit_seconds` are spent.
    """
    calls = {}
    for name, run in ways.items():
        timed(run, device)
        calls[name] = max(1, min(MAX_CALLS, int(SAMPLE_SECONDS / max(timed(run, device), 1e-6))))
    taken: dict[str, list[float]] = {name: [] for name in ways}
    first, *_ = ways
    spent = 0.0
    for turn in range(ROUNDS):
        order = list(ways)
        for name in order if turn % 2 == 0 else reversed(order):
            taken[name].append(timed(ways[name], device, calls[name]))
            spent += calls[name] * taken[name][-1]
        if spent > limit_seconds:
            break
    for name, seconds in taken.items():
        timing = Timing(median(seconds), min(seconds), max(seconds), len(seconds))
        ratio = median(mine / its for mine, its in zip(seconds, taken[first], strict=True))
        told = [str(timing), *([] if name == first else [f"{ratio:.3f} of {first}"])]
        told += [notes[name]] if notes and name in notes else []
        yield Row(f"{label}: {name}", "; ".join(told), numbers={"seconds": timing.seconds, "ratio": ratio})
