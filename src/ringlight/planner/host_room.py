"""Room for weights in the main memory of a machine with GPUs: which networks stay in files, and what that costs."""

from __future__ import annotations

from ringlight.core.host import LEFT_BYTES, left_in_files
from ringlight.core.weights import TRANSFORMERS
from ringlight.families.model import ModelSpec
from ringlight.planner.hardware import Bus
from ringlight.planner.machine import FILE_BYTES_PER_SECOND, Machine


def network_bytes(spec: ModelSpec, machine: Machine) -> dict[str, int]:
    """Bytes of each network's weights in the host's copy, the least used first."""
    settings, image = machine.settings, spec.image_encoder
    expert = spec.transformer.layers.bytes(settings.itemsize)
    return {
        "text_encoder": sum(spec.text_encoder.layers.bytes_of_parts(settings.itemsize)),
        **({} if image is None else {"image_encoder": image.parameters * settings.itemsize}),
        "vae": (spec.vae.decoder.parameters + spec.vae.encoder.parameters) * settings.vae_itemsize,
        **dict.fromkeys(TRANSFORMERS[: spec.num_experts], expert),
    }


def in_files(spec: ModelSpec, machine: Machine) -> list[str]:
    """The networks for which the host has no room."""
    if not machine.host_bytes or machine.card.is_cpu:
        return []
    sizes = network_bytes(spec, machine)
    return left_in_files(sizes.items(), sum(sizes.values()), machine.host_bytes)


def host_copy_bytes(spec: ModelSpec, machine: Machine) -> int:
    """Bytes of the weights that the host has once for all ranks of a machine."""
    left = in_files(spec, machine)
    return sum(size for name, size in network_bytes(spec, machine).items() if name not in left)


def history_room(spec: ModelSpec, num_ranks: int, machine: Machine) -> float:
    """Bytes of the host that are left for each rank of each replica, beside the copy of the weights."""
    if not machine.host_bytes:
        return float("inf")
    return (machine.host_bytes - LEFT_BYTES - host_copy_bytes(spec, machine)) / (num_ranks * machine.num_replicas)


def way_of(network: str, spec: ModelSpec, machine: Machine) -> Bus:
    """Bus over which a network's weights come: the card's, or a slower one if they are read from files first."""
    bus = machine.bus
    if network not in in_files(spec, machine) or bus.bytes_per_second < FILE_BYTES_PER_SECOND:
        return bus
    return Bus(name="files", bytes_per_second=FILE_BYTES_PER_SECOND, source="assumed")
