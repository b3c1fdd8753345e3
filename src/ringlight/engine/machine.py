"""This machine as plans see it: which cards and links it has, asked of the driver, and what a rank gets of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from ringlight.core.config import EngineConfig, read_visible_devices
from ringlight.core.host import memory_bytes, num_cores
from ringlight.core.spec import ModelSpec
from ringlight.planner import catalogue
from ringlight.planner.calibration import Calibration
from ringlight.planner.choosing import Machine
from ringlight.planner.hardware import Correction, Hardware, RunSettings

CPU_PROCESS_BYTES = 450 * 2**20  # torch and what else a worker imports, resident: measured
UNSCALED_CORES = 8  # more do not make one rank faster in proportion: assumed


def this_machine(config: EngineConfig, spec: ModelSpec, num_local: int, num_replicas: int) -> Machine | None:
    """What each of `num_local` ranks of each replica here computes with; None for cards that no table has.

    With `config.calibration` seconds and bytes are scaled by what that run took. Raises InvalidSetting for one that
    cannot be read.
    """
    found = find_cards() if config.device != "cpu" and torch_may_use_cuda() else []
    if config.device == "cuda" and not found:
        return None
    is_cpu = not found
    hardware = _cores(config, num_local, num_replicas) if is_cpu else hardware_of(found)
    if hardware is None:
        return None
    settings = RunSettings(
        dtype=("float32" if is_cpu else "bfloat16") if config.dtype == "auto" else config.dtype,
        vae_dtype=config.vae_dtype,
        tf32=config.tf32,
        decode_chunk=config.decode_chunk,
        num_slices=config.num_slices,
    )
    basis = hardware.card.name + ("" if num_local == 1 else f", {hardware.link.name}")
    if config.calibration:
        known = Calibration.read(Path(config.calibration), spec, None if is_cpu else hardware.card)
        card = msgspec.structs.replace(known.card, memory_bytes=hardware.card.memory_bytes)
        hardware = Hardware(card=card, link=hardware.link, correction=known.correction)
        basis = f"{basis}, calibrated by {Path(config.calibration).name}"
    # Ranks on one CPU share its memory: more of them have no more of it.
    most_local = num_local if is_cpu else max(num_local, len(found) // num_replicas)
    most_ranks = most_local * config.nodes.num_nodes
    return Machine(hardware=hardware, settings=settings, basis=basis, most_ranks=most_ranks)


class DriverCard(msgspec.Struct, frozen=True, kw_only=True):
    """A card as its driver describes it. `pcie` is (generation, lanes)."""

    name: str
    memory_bytes: int
    pcie: tuple[int, int]
    has_nvlink: bool
    has_peer_access: bool
    is_divided: bool = False


def torch_may_use_cuda() -> bool:
    """False for a torch that is built for CPUs alone, as its version says, and where all cards are hidden."""
    try:
        return not version("torch").endswith("+cpu") and read_visible_devices() != ""
    except PackageNotFoundError:
        return False


def find_cards() -> list[DriverCard]:
    """The NVIDIA cards of this machine by its driver; none without one. Takes some milliseconds."""
    import pynvml as nvml  # here, because it looks for the driver's library

    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return []
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        return list(_described(nvml, handles))
    except nvml.NVMLError:  # a driver that cannot say what we ask for
        return []
    finally:
        nvml.nvmlShutdown()


def _described(nvml: Any, handles: list[Any]) -> Iterator[DriverCard]:
    for handle in handles:
        others = [other for other in handles if other is not handle]
        yield DriverCard(
            name=str(nvml.nvmlDeviceGetName(handle)),
            memory_bytes=int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
            pcie=(nvml.nvmlDeviceGetMaxPcieLinkGeneration(handle), nvml.nvmlDeviceGetMaxPcieLinkWidth(handle)),
            has_nvlink=bool(_asked(nvml, nvml.nvmlDeviceGetNvLinkState, handle, 0)),
            has_peer_access=all(_is_peer(nvml, handle, other) for other in others),
            is_divided=bool((_asked(nvml, nvml.nvmlDeviceGetMigMode, handle) or [0])[0]),
        )


def _is_peer(nvml: Any, one: Any, other: Any) -> bool:
    said = _asked(nvml, nvml.nvmlDeviceGetP2PStatus, one, other, nvml.NVML_P2P_CAPS_INDEX_READ)
    return bool(said == nvml.NVML_P2P_STATUS_OK)


def _asked(nvml: Any, question: Callable[..., Any], *about: Any) -> Any:
    """The answer; None where a card does not know the question."""
    try:
        return question(*about)
    except nvml.NVMLError:
        return None


def hardware_of(found: list[DriverCard]) -> Hardware | None:
    """Hardware of cards; None where they differ, are divided (MIG), or no table has them."""
    first = found[0]
    card = catalogue.card_named(first.name)
    if card is None or any(each.name != first.name or each.is_divided for each in found):
        return None
    card = msgspec.structs.replace(card, memory_bytes=min(each.memory_bytes for each in found))
    link = catalogue.link_between(first.name, first.pcie, has_nvlink=first.has_nvlink, is_peer=first.has_peer_access)
    return Hardware(card=card, link=link)


def _cores(config: EngineConfig, num_local: int, num_replicas: int) -> Hardware:
    """A rank's share of this machine's cores and memory, as so many of the table's core."""
    num_ranks, core = num_local * num_replicas, catalogue.card("cpu-core")
    share = num_cores() / num_ranks
    cores = min(config.num_threads or max(1.0, num_cores() // num_ranks), share, UNSCALED_CORES)
    card = msgspec.structs.replace(
        core,
        name=f"{cores:g} x {core.name}",
        bf16_flops=cores * core.bf16_flops,
        tf32_flops=cores * core.tf32_flops,
        fp32_flops=cores * core.fp32_flops,
        memory_bytes_per_second=cores * core.memory_bytes_per_second,
        memory_bytes=memory_bytes() // num_ranks,
    )
    return Hardware(card=card, link=catalogue.link("loopback"), correction=Correction(base_bytes=CPU_PROCESS_BYTES))
