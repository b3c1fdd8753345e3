"""Machines as plans see them: which cards, links and cores one has, and what a rank gets of them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from ringlight.core.config import EngineConfig, counts_in_bus_order, read_visible_devices
from ringlight.core.errors import InvalidSetting
from ringlight.core.host import memory_bytes, num_cores
from ringlight.engine.driver import DriverCard, find_cards, hardware_of, visible
from ringlight.families.model import ModelSpec
from ringlight.planner import catalogue
from ringlight.planner.calibration import Calibration
from ringlight.planner.hardware import Correction, Hardware, RunSettings
from ringlight.planner.machine import Machine, before_start

CPU_PROCESS_BYTES = 300 * 2**20  # torch and what else a worker imports, resident: 275-283 MiB measured


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """Hardware of a machine.

    `cards` are those that torch will see: none if it uses the CPU, None if they are unknown.
    """

    cards: list[DriverCard] | None
    num_cores: int
    memory_bytes: int


def this_host(config: EngineConfig) -> Host:
    """Hardware of this machine."""
    return Host(cards=usable_cards(config), num_cores=num_cores(), memory_bytes=memory_bytes())


def this_machine(config: EngineConfig, spec: ModelSpec, num_local: int, num_replicas: int) -> Machine | None:
    """Share of this machine that each of `num_local` ranks of each replica computes with (`machine_of`)."""
    return machine_of(this_host(config), config, spec, num_local, num_replicas, config.nodes.nnodes)


def machine_of(
    host: Host, config: EngineConfig, spec: ModelSpec, num_local: int, num_replicas: int, num_nodes: int
) -> Machine | None:
    """Share of a host that each of `num_local` ranks of each of `num_replicas` replicas computes with.

    None if its cards are not in the table. There are `num_nodes` such hosts.

    With `config.calibration` seconds and bytes are scaled by what that run took. Raises InvalidSetting for one that
    cannot be read, or is of another model or kind of device, and where there is nothing to scale.
    """
    cards = host.cards
    is_cpu = cards == []
    hardware = None
    if is_cpu and config.device != "cuda":
        hardware = _cores(host, config, num_local * num_replicas)
    elif cards:
        hardware = hardware_of(cards)
    if hardware is None:
        if config.calibration:
            raise InvalidSetting("calibration: the cards of this machine are not in the table of `ringlight plan`")
        return None
    basis = hardware.card.name + ("" if num_local == 1 else f", {hardware.link.name}")
    if config.calibration:
        known = _calibration(Path(config.calibration), spec, hardware)
        hardware = msgspec.structs.replace(hardware, correction=known.correction)
        basis = f"{basis}, calibrated by {Path(config.calibration).name}"
    # Ranks on one CPU share its memory: more of them have no more of it.
    most_local = max(num_local, len(cards or ()) // num_replicas)
    settings = run_settings(config, is_cpu)
    return Machine(
        hardware=hardware,
        settings=settings,
        basis=basis,
        most_ranks=most_local * num_nodes,
        host_bytes=0 if is_cpu else host.memory_bytes,
        num_replicas=num_replicas,
        residency=before_start(hardware.card, settings),
    )


def room_here(config: EngineConfig) -> int:
    """Number of replicas that have cards of their own on this machine, at least 1.

    It is 1 on a CPU, and on cards that cannot be counted.
    """
    num_local = max(1, config.asked_layout.num_ranks // config.nodes.nnodes)
    return max(1, len(usable_cards(config) or ()) // num_local) if config.nodes.nnodes == 1 else 1


def run_settings(config: EngineConfig, is_cpu: bool) -> RunSettings:
    """Settings that change a plan, on a CPU or a GPU."""
    return RunSettings(
        dtype=("float32" if is_cpu else "bfloat16") if config.dtype == "auto" else config.dtype,
        vae_dtype=config.vae_dtype,
        tf32=config.tf32,
        decode_chunk=config.decode_chunk,
        num_slices=config.num_slices,
        memory_budget_bytes=config.memory_budget_bytes,
    )


def usable_cards(config: EngineConfig) -> list[DriverCard] | None:
    """The cards that torch will see: none where it goes to the CPU, None where nobody can say."""
    found = cards_here(config)
    return found and visible(found, read_visible_devices(), counts_in_bus_order())


def cards_here(config: EngineConfig) -> list[DriverCard] | None:
    """The cards that there are, shown to this process or not: none where torch goes to the CPU anyhow."""
    return [] if config.device == "cpu" or _is_built_for_cpus() else find_cards()


def _is_built_for_cpus() -> bool:
    """Whether the installed torch says so in its version."""
    try:
        return version("torch").endswith("+cpu")
    except PackageNotFoundError:
        return False


def _calibration(path: Path, spec: ModelSpec, hardware: Hardware) -> Calibration:
    known = Calibration.read(path, spec, None if hardware.card.is_cpu else hardware.card)
    if known.model != spec.fingerprint:
        raise InvalidSetting(f"calibration {path}: it is of another model")
    if known.card.is_cpu != hardware.card.is_cpu:
        raise InvalidSetting(
            f"calibration {path}: it is of {known.device!r}, and this machine has {hardware.card.name}"
        )
    return known


def _cores(host: Host, config: EngineConfig, num_ranks: int) -> Hardware:
    """A rank's share of a host's cores and memory."""
    share = host.num_cores / num_ranks
    count = min(config.num_threads or max(1, int(share)), share)
    card = msgspec.structs.replace(catalogue.cores(count), memory_bytes=host.memory_bytes // num_ranks)
    return Hardware(card=card, link=catalogue.link("loopback"), correction=Correction(base_bytes=CPU_PROCESS_BYTES))
