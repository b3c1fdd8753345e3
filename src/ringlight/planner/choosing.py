"""Choosing: the layout of an engine, by what is predicted on its machine."""

from __future__ import annotations

import msgspec

from ringlight.core.layout import AskedLayout, LayoutChoice, ParallelLayout, candidates, decide
from ringlight.core.request import VideoRequest
from ringlight.core.spec import ModelSpec
from ringlight.planner.hardware import Hardware, RunSettings
from ringlight.planner.prediction import Prediction, predict

ALIKE = 0.05  # layouts this close cannot be told apart by a model; the rule of core/layout decides


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


def choose(
    spec: ModelSpec, typical: VideoRequest, asked: AskedLayout, machine: Machine | None, num_nodes: int = 1
) -> LayoutChoice:
    """The layout with all that is asked for on which a typical request is predicted to be over first, and why.

    Those that do not fit count only where none does. Over several nodes, whose links differ, and on a machine that is
    not known, the rule of `core.layout.decide` chooses. Raises InvalidLayout where nothing has what is asked for.
    """
    heads = spec.transformer.num_attention_heads
    rule = decide(asked, num_heads=heads, guidance=typical.uses_guidance, num_nodes=num_nodes)
    if machine is None or num_nodes > 1:
        return rule
    options = [
        layout
        for layout in candidates(asked, num_heads=heads)
        if layout.cfg == rule.layout.cfg or typical.uses_guidance  # branches of nothing are a sequence's ranks
    ]
    if len(options) == 1:
        return rule
    found = {layout: machine.predict(spec, typical, layout) for layout in options}
    fitting = [layout for layout in options if found[layout].fits] or options
    ranked = sorted(fitting, key=lambda layout: found[layout].total_seconds)
    least = found[ranked[0]].total_seconds
    alike = [layout for layout in ranked if found[layout].total_seconds <= (1 + ALIKE) * least]
    best = rule.layout if rule.layout in alike else ranked[0]
    why = f"{rule.reason}; " if best == rule.layout else f"{best.name}: "
    return LayoutChoice(layout=best, reason=why + _comparison(typical, best, ranked, found, machine))


def _comparison(
    typical: VideoRequest,
    best: ParallelLayout,
    ranked: list[ParallelLayout],
    found: dict[ParallelLayout, Prediction],
    machine: Machine,
) -> str:
    """What is predicted of the best, and of the next after it."""
    others = [layout for layout in ranked if layout != best]
    said = f"predicted {found[best].total_seconds:.3g} s for {_asked_for(typical)} on {machine.basis}"
    return f"{said} ({others[0].name} {found[others[0]].total_seconds:.3g} s)" if others else f"{said}, where it fits"


def _asked_for(request: VideoRequest) -> str:
    return f"{request.width}x{request.height} with {request.num_frames} frames"
