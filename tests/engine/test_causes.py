"""Of several signs that ranks are out of step: which one began it."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess

import pytest

from ringlight.core.errors import OutOfMemory, WorkerError
from ringlight.core.messages import GroupBroken, RankPlace, WorkerFailed
from ringlight.engine import process
from ringlight.engine.causes import Sign, is_cause, likeliest_cause
from ringlight.engine.process import LocalProcess
from ringlight.engine.rank import Ending, RankDeath

KILLED = RankDeath("the worker process died (signal 9)", Ending("signal 9", is_cause=True))
ENDED = RankDeath("the worker process died (exit status 1)", Ending("exit status 1"))
HANGS = RankDeath("the worker closed its connection and hangs", Ending("hangs"))
FOLLOWED = GroupBroken(rank=1, code=WorkerError.code, message="rank 0 no longer answers", is_cause=False)
BEGAN = GroupBroken(rank=0, code=OutOfMemory.code, message="does not fit", is_cause=True)
REFUSED = WorkerFailed(code="invalid_checkpoint", message="weights: missing")


@pytest.mark.parametrize("sign", [KILLED, BEGAN, REFUSED])
def test_what_surely_began_it(sign: Sign) -> None:
    """Whatever else there is, and in whatever order it was heard."""
    assert is_cause(sign)
    for signs in itertools.permutations([sign, FOLLOWED, HANGS, ENDED]):
        assert likeliest_cause(signs) is sign


@pytest.mark.parametrize("sign", [ENDED, HANGS])
def test_an_end_that_may_follow_from_another_ranks(sign: RankDeath) -> None:
    """Libraries abort a process that has lost another: what a rank says of that counts, where one says anything."""
    assert not is_cause(sign)
    assert likeliest_cause([sign, FOLLOWED]) is FOLLOWED
    assert likeliest_cause([sign]) is sign


@pytest.mark.parametrize(("sent", "is_sure"), [(signal.SIGKILL, True), (signal.SIGSEGV, True), (signal.SIGABRT, False)])
def test_what_a_signal_says_of_it(sent: signal.Signals, is_sure: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With SIGABRT libraries end a process that has lost another."""
    monkeypatch.setattr(process, "launch", lambda *_: subprocess.Popen(["sleep", "60"]))
    child = LocalProcess([], [], RankPlace())
    os.kill(child.pid, sent)
    ending = child.wait(10.0)
    assert ending is not None and (ending.is_cause, ending.is_well) == (is_sure, False)
    assert f"signal {int(sent)}" in ending.told
