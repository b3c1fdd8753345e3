"""Causes: of the signs that ranks are out of step, the one that began it."""

from __future__ import annotations

from collections.abc import Sequence

from ringlight.core import messages
from ringlight.core.errors import WorkerError
from ringlight.engine.rank import RankDeath

Sign = WorkerError | messages.GroupBroken | messages.WorkerFailed  # that ranks are out of step


def is_cause(sign: Sign) -> bool:
    """Whether this surely began it: a rank that says so, or one that was killed."""
    match sign:
        case messages.GroupBroken():
            return sign.is_cause
        case RankDeath():
            return sign.ending.is_cause
    return isinstance(sign, messages.WorkerFailed)


def likeliest_cause(signs: Sequence[Sign]) -> Sign:
    """What began it: what surely did, else what a rank has said of it, else whichever came first."""
    said = (sign for sign in signs if isinstance(sign, messages.GroupBroken))
    return next(filter(is_cause, signs), None) or next(said, signs[0])
