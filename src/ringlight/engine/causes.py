"""Causes: of the signs that ranks are out of step, the one that began it."""

from __future__ import annotations

from collections.abc import Sequence

from ringlight.core import messages
from ringlight.core.errors import WorkerError
from ringlight.engine.rank import RankDeath

Sign = WorkerError | messages.GroupBroken | messages.WorkerFailed  # that ranks are out of step


def is_cause(sign: Sign) -> bool:
    """Whether a sign is surely the first cause: a rank says so, or was killed."""
    match sign:
        case messages.GroupBroken():
            return sign.is_cause
        case RankDeath():
            return sign.ending.is_cause
    return isinstance(sign, messages.WorkerFailed)


def likeliest_cause(signs: Sequence[Sign]) -> Sign:
    """First cause of a breakdown: a sure one, else what a rank reports, else whichever sign came first."""
    said = (sign for sign in signs if isinstance(sign, messages.GroupBroken))
    return next(filter(is_cause, signs), None) or next(said, signs[0])
