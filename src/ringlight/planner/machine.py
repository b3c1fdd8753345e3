"""Machine: what all ranks of an engine compute with, and how, as one thing to plan by."""

from __future__ import annotations

import msgspec

from ringlight.core.layout import ParallelLayout
from ringlight.core.request import VideoRequest
from ringlight.families.model import ModelSpec
from ringlight.planner.hardware import Hardware, RunSettings
from ringlight.planner.prediction import Prediction, predict


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What every rank of an engine computes with, and how. `basis` says in words where the figures come from;
    `most_ranks` is how many ranks an engine could have here.
    """

    hardware: Hardware
    settings: RunSettings
    basis: str
    most_ranks: int

    def predict(self, spec: ModelSpec, request: VideoRequest, layout: ParallelLayout) -> Prediction:
        """What a request takes here."""
        return predict(spec, request, layout, self.hardware, self.settings)
