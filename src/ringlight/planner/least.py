"""Least: the smallest budget of a layout with which a request takes hardly longer than with all on the device."""

from __future__ import annotations

import bisect
import math

from ringlight.core.layout import ParallelLayout
from ringlight.families.work import Work
from ringlight.planner.deciding import resident_plan
from ringlight.planner.decoding_cost import DecodingCosts
from ringlight.planner.denoising import denoising
from ringlight.planner.machine import Machine
from ringlight.planner.measured import as_measured
from ringlight.planner.memory import base_bytes, memory_by_rank, stages_before
from ringlight.planner.placing import decoding_options, denoising_options

ROUNDED = 0.01  # a loss below one percent is none: what both stages begin with comes over the bus once


class Least:
    """Trade-off of memory and seconds of a request on a layout: the memory that a rank needs for an allowed loss.

    Seconds are those of Denoising and Decoding together, beside what they take with all on the device, whether that
    fits or not. A new prompt's layers of the text encoder come over the bus whatever the budget: they are not counted.
    """

    def __init__(self, work: Work, layout: ParallelLayout, machine: Machine) -> None:
        self._case = work, layout, as_measured(work, layout, machine)
        resident = resident_plan(*self._case)
        costs = DecodingCosts(*self._case)
        self._resident_seconds = denoising(*self._case, resident).seconds + costs.of(resident).seconds
        self._resident_bytes = max(rank.peak_bytes for rank in memory_by_rank(*self._case, resident))
        before = stages_before(*self._case).values()
        self._before_bytes = base_bytes(machine) + max(stage.allocated_bytes + stage.slack_bytes for stage in before)
        self._denoised = list(denoising_options(*self._case, resident).values())
        options = decoding_options(*self._case, resident)
        self._decoded = [(option.peak_bytes, costs.of(option.plan).seconds) for option in options]

    def bytes(self, loss: float) -> int:
        """Smallest budget with which it is predicted to take at most `loss` (0.05: 5 %) longer."""
        peaks = {option.peak_bytes for options in self._denoised for option in options}
        budgets = sorted(peaks | {peak for peak, _ in self._decoded})
        most = (1 + max(loss, ROUNDED)) * self._resident_seconds
        first = bisect.bisect_left(budgets, True, key=lambda budget: self._seconds(budget) <= most)
        within = budgets[first:] or [self._resident_bytes]
        return min(max(self._before_bytes, within[0]), self._resident_bytes)

    def _seconds(self, budget: int) -> float:
        """Seconds of the quickest way within a budget."""
        fitting = [next((each for each in way if each.peak_bytes <= budget), None) for way in self._denoised]
        denoised = [denoising(*self._case, option.plan).seconds for option in fitting if option is not None]
        decoded = [seconds for peak, seconds in self._decoded if peak <= budget]
        return min(denoised, default=math.inf) + min(decoded, default=math.inf)
