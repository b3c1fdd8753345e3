"""A part of a network's weights: it has its modules do what they can, and asks them once what that is."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from ringlight.residency.part import WeightPart


class Plain(nn.Linear):
    """A module that can do nothing, and counts how often it is asked."""

    num_asked = 0

    def __getattr__(self, name: str) -> Any:
        if name in ("widen", "narrow", "lay_out", "forget_layout"):
            type(self).num_asked += 1
        return super().__getattr__(name)


class Able(nn.Linear):
    """One that can, and tells what it did."""

    did: tuple[str, ...] = ()

    def widen(self) -> None:
        self.did += ("widen",)

    def narrow(self) -> None:
        self.did += ("narrow",)

    def lay_out(self) -> None:
        self.did += ("lay out",)

    def forget_layout(self) -> None:
        self.did += ("forget",)


def use(part: WeightPart) -> None:
    """As a forward takes it, and is done with it."""
    part.lay_out()
    part.widen()
    part.narrow()
    part.forget_layout()


def test_modules_do_what_they_can_and_are_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network takes every part again in every forward."""
    monkeypatch.setattr(Plain, "num_asked", 0)
    plain, able = Plain(2, 2), Able(2, 2)
    part = WeightPart("a block", [plain, able])
    use(part)
    num_asked = Plain.num_asked
    use(part)
    assert able.did == 2 * ("lay out", "widen", "narrow", "forget")
    assert Plain.num_asked == num_asked
