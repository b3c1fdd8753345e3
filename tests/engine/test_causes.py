"""Of several signs that ranks are out of step: which one began it."""

from __future__ import annotations

import itertools
import signal

import pytest

from ringlight.core.errors import OutOfMemory, WorkerError
from ringlight.core.messages import GroupBroken, WorkerFailed
from ringlight.engine.causes import Sign, is_cause, likeliest_cause
from ringlight.engine.rank import RankDeath

KILLED = RankDeath("the worker process died (signal 9)", -signal.SIGKILL)
ABORTED = RankDeath("the worker process died (signal 6)", -signal.SIGABRT)
ENDED = RankDeath("the worker process died (exit status 1), by a signal of some kind", 1)
HANGS = RankDeath("the worker closed its connection and hangs", None)
FOLLOWED = GroupBroken(rank=1, code=WorkerError.code, message="rank 0 no longer answers", is_cause=False)
BEGAN = GroupBroken(rank=0, code=OutOfMemory.code, message="does not fit", is_cause=True)
REFUSED = WorkerFailed(code="invalid_checkpoint", message="weights: missing")


@pytest.mark.parametrize("sign", [KILLED, BEGAN, REFUSED])
def test_what_surely_began_it(sign: Sign) -> None:
    """Whatever else there is, and in whatever order it was heard."""
    assert is_cause(sign)
    for signs in itertools.permutations([sign, FOLLOWED, ABORTED, ENDED]):
        assert likeliest_cause(signs) is sign


@pytest.mark.parametrize("sign", [ABORTED, ENDED, HANGS])
def test_an_end_that_may_follow_from_another_ranks(sign: RankDeath) -> None:
    """Libraries abort a process that has lost another: what a rank says of that counts, where one says anything."""
    assert not is_cause(sign)
    assert likeliest_cause([sign, FOLLOWED]) is FOLLOWED
    assert likeliest_cause([sign]) is sign
