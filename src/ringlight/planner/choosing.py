"""Choosing: the layout of an engine, by what is predicted on its machine."""

from __future__ import annotations

from ringlight.core.layout import AskedLayout, LayoutChoice, ParallelLayout, candidates, decide
from ringlight.core.plain import plain
from ringlight.core.request import VideoRequest
from ringlight.families.work import Work
from ringlight.planner.machine import Machine
from ringlight.planner.prediction import Prediction, predict

ALIKE = 0.05  # layouts this close cannot be told apart by a model; the rule of core/layout decides


def choose(typical: Work, asked: AskedLayout, machine: Machine | None, num_nodes: int = 1) -> LayoutChoice:
    """Choose the layout on which a typical request is predicted to be over first, with all that is asked for, and why.

    Those that do not fit count only where none does. Over several nodes, whose links differ, and on a machine that is
    not known, the rule of `core.layout.decide` chooses. Raises InvalidLayout where nothing has what is asked for.
    """
    heads, guidance = typical.spec.transformer.num_attention_heads, typical.request.uses_guidance
    rule = decide(asked, num_heads=heads, guidance=guidance, num_nodes=num_nodes)
    if machine is None or num_nodes > 1:
        return rule
    options = [
        layout
        for layout in candidates(asked, num_heads=heads)
        if layout.cfg == rule.layout.cfg or guidance  # branches of nothing are a sequence's ranks
    ]
    if len(options) == 1:
        return rule
    found = {layout: predict(typical, layout, machine) for layout in options}
    fitting = [layout for layout in options if found[layout].fits] or options
    ranked = sorted(fitting, key=lambda layout: found[layout].total_seconds)
    least = found[ranked[0]].total_seconds
    alike = [layout for layout in ranked if found[layout].total_seconds <= (1 + ALIKE) * least]
    best = rule.layout if rule.layout in alike else ranked[0]
    why = f"{rule.reason}; " if best == rule.layout else f"{best.name}: "
    return LayoutChoice(layout=best, reason=why + _comparison(typical.request, best, ranked, found, machine))


def _comparison(
    typical: VideoRequest,
    best: ParallelLayout,
    ranked: list[ParallelLayout],
    found: dict[ParallelLayout, Prediction],
    machine: Machine,
) -> str:
    """Predicted seconds of the best layout and of the second best, in words."""
    others = [layout for layout in ranked if layout != best]
    said = f"predicted {plain(found[best].total_seconds, 3)} s for {typical.extent} on {machine.basis}"
    if not others:
        return f"{said}, where it fits"
    return f"{said} ({others[0].name} {plain(found[others[0]].total_seconds, 3)} s)"
