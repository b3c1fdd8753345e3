"""A card without a card, for tests of order."""

from __future__ import annotations

import pytest
import torch

from tests.residency.streams import Card


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    """In the place of torch.cuda."""
    made = Card()
    monkeypatch.setattr(torch, "cuda", made.as_cuda())
    return made
