"""A driver of NVIDIA's that describes cards which are not there."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from ringlight.engine.driver import DriverCard


class NoAnswer(Exception):
    """Stands for NVML's error."""


class FakeDriver:
    """What `ringlight.engine.driver` asks of pynvml."""

    NVMLError = NoAnswer
    NVML_P2P_CAPS_INDEX_READ, NVML_P2P_STATUS_OK = 0, 0

    def __init__(self, cards: list[DriverCard]) -> None:
        self._cards = cards

    def nvmlInit(self) -> None:  # noqa: N802
        """Nothing to begin."""

    nvmlShutdown = nvmlInit  # noqa: N815

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self._cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> DriverCard:  # noqa: N802
        return self._cards[index]

    def nvmlDeviceGetName(self, card: DriverCard) -> str:  # noqa: N802
        return card.name

    def nvmlDeviceGetUUID(self, card: DriverCard) -> str:  # noqa: N802
        return card.uuid

    def nvmlDeviceGetMemoryInfo(self, card: DriverCard) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(total=card.memory_bytes)

    def nvmlDeviceGetMaxPcieLinkGeneration(self, card: DriverCard) -> int:  # noqa: N802
        return card.pcie[0]

    def nvmlDeviceGetMaxPcieLinkWidth(self, card: DriverCard) -> int:  # noqa: N802
        return card.pcie[1]

    def nvmlDeviceGetNvLinkState(self, card: DriverCard, _: int) -> bool:  # noqa: N802
        return card.has_nvlink

    def nvmlDeviceGetP2PStatus(self, one: DriverCard, other: DriverCard, _: int) -> int:  # noqa: N802
        return 0 if one.has_peer_access and other.has_peer_access else 1

    def nvmlDeviceGetMigMode(self, card: DriverCard) -> tuple[bool, bool]:  # noqa: N802
        return card.is_divided, card.is_divided


def install(cards: list[DriverCard], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this machine's driver describe these cards, and torch be one that is built for them."""
    monkeypatch.setitem(sys.modules, "pynvml", FakeDriver(cards))
    monkeypatch.setattr("ringlight.engine.machine.version", lambda package: "2.13.0")  # importlib.metadata's
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
