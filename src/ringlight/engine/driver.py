"""Driver of NVIDIA's cards: what it says of them, asked without torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from ringlight.planner import catalogue
from ringlight.planner.hardware import Hardware

GPU_FILES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # of Linux, of WSL, of AMD: there are cards, whoever knows them
UNKNOWN_SLOT = (3, 16)


class DriverCard(msgspec.Struct, frozen=True, kw_only=True):
    """A card as its driver describes it. `pcie` is (generation, lanes); `is_divided`: it is in parts (MIG)."""

    name: str
    uuid: str
    memory_bytes: int
    pcie: tuple[int, int]
    has_nvlink: bool
    has_peer_access: bool
    is_divided: bool = False


def find_cards() -> list[DriverCard] | None:
    """NVIDIA cards of this machine; none if it has no GPU, None if it has some that cannot be described."""
    import pynvml as nvml  # here, because it looks for the driver's library

    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None if any(Path(file).exists() for file in GPU_FILES) else []
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        return list(_described(nvml, handles))
    except nvml.NVMLError:
        return None
    finally:
        nvml.nvmlShutdown()


def visible(cards: list[DriverCard], shown: str | None, in_bus_order: bool = True) -> list[DriverCard] | None:
    """Filter cards by CUDA_VISIBLE_DEVICES; None if it names others, such as MIG instances.

    As CUDA reads it: indices or UUIDs, or their beginnings, in order, up to the first one that is none. Without
    `in_bus_order` indices begin with the fastest card, which is not known here: None where cards differ.
    """
    are_alike = len({card.name for card in cards}) < 2
    if shown is None:
        return cards
    found: list[DriverCard] = []
    for word in filter(None, (word.strip() for word in shown.split(","))):
        if word.startswith("MIG-") or (word.isdecimal() and not in_bus_order and not are_alike):
            return None
        if word.isdecimal():
            named = cards[int(word) : int(word) + 1]
        else:
            named = [card for card in cards if word.startswith("GPU-") and card.uuid.startswith(word)]
        if len(named) != 1:
            break
        found += named
    return found


def hardware_of(found: list[DriverCard]) -> Hardware | None:
    """Hardware of cards; None where they differ, are divided, or no table has them."""
    first = found[0]
    card = catalogue.card_named(first.name, first.memory_bytes)
    if card is None or any(each.name != first.name or each.is_divided for each in found):
        return None
    slots = [each.pcie for each in found]
    card = msgspec.structs.replace(
        card,
        memory_bytes=min(each.memory_bytes for each in found),
        bus=min(map(catalogue.bus_in_slot, slots), key=lambda key: catalogue.bus(key).bytes_per_second),
    )
    has_nvlink = all(each.has_nvlink for each in found)
    is_peer = all(each.has_peer_access for each in found)
    return Hardware(
        card=card, link=catalogue.link_between(first.name, first.pcie, has_nvlink=has_nvlink, is_peer=is_peer)
    )


def _described(nvml: Any, handles: list[Any]) -> Iterator[DriverCard]:
    for handle in handles:
        slot = tuple(
            _asked(nvml, question, handle)
            for question in (nvml.nvmlDeviceGetMaxPcieLinkGeneration, nvml.nvmlDeviceGetMaxPcieLinkWidth)
        )
        others = [other for other in handles if other is not handle]
        yield DriverCard(
            name=str(nvml.nvmlDeviceGetName(handle)),
            uuid=str(nvml.nvmlDeviceGetUUID(handle)),
            memory_bytes=int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
            pcie=slot if all(slot) else UNKNOWN_SLOT,
            has_nvlink=bool(_asked(nvml, nvml.nvmlDeviceGetNvLinkState, handle, 0)),
            has_peer_access=all(_is_peer(nvml, handle, other) for other in others),
            is_divided=bool((_asked(nvml, nvml.nvmlDeviceGetMigMode, handle) or [0])[0]),
        )


def _is_peer(nvml: Any, one: Any, other: Any) -> bool:
    said = _asked(nvml, nvml.nvmlDeviceGetP2PStatus, one, other, nvml.NVML_P2P_CAPS_INDEX_READ)
    return bool(said == nvml.NVML_P2P_STATUS_OK)


def _asked(nvml: Any, question: Callable[..., Any], *about: Any) -> Any:
    """Answer of the driver; None if a card does not support the question."""
    try:
        return question(*about)
    except nvml.NVMLError:
        return None
