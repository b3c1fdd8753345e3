"""Common cards, links and buses, each with its source. Figures are dense (no sparsity), per card and per direction."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TypeVar

import msgspec

from ringlight.core.errors import InvalidSetting
from ringlight.core.report import GIB
from ringlight.planner.hardware import Bus, Card, Fractions, LinkRates

TERA, GIGA = 1e12, 1e9

# By generation, because parts of a data sheet mean different things: consumer cards clock above the figure that theirs
# is computed with, data-centre cards below it under load. Kernels: cuBLAS; FlashAttention-2 (arXiv 2307.08691 reaches
# 0.72 on A100), cuDNN on Hopper.
ADA = Fractions(products=0.85, attention=0.80)
AMPERE = Fractions(products=0.80, attention=0.65)
HOPPER = Fractions(products=0.70, attention=0.60)
UNTRIED = Fractions(products=0.65, attention=0.50, convolution=0.40)
MEASURED = Fractions(products=1.0, attention=0.5, convolution=1.0, text=1.0, memory=1.0)


def _card(
    name: str,
    tera: tuple[float, float, float],
    memory_gib: float,
    gigabytes_per_second: float,
    source: str,
    fractions: Fractions,
    bus: str = "pcie4x16",
) -> Card:
    """Build a card. `tera`: 10^12 operations a second in bfloat16 (float32 sums), TensorFloat-32 and float32."""
    bf16, tf32, fp32 = (value * TERA for value in tera)
    return Card(
        name=name,
        bf16_flops=bf16,
        tf32_flops=tf32,
        fp32_flops=fp32,
        memory_bytes=int(memory_gib * GIB),
        memory_bytes_per_second=gigabytes_per_second * GIGA,
        source=source,
        fractions=fractions,
        bus=bus,
    )


def _geforce(name: str, tera: float, memory_gib: float, rate: float, fractions: Fractions, bus: str) -> Card:
    """Build a GeForce card.

    `tera`: 10^12 operations a second in float32, which is 2 x cores x boost clock of NVIDIA's product page; consumer
    cards do as many in TensorFloat-32, and twice as many in bfloat16 with float32 accumulation, as their white papers
    say of the larger ones.
    """
    source = "NVIDIA's product page: 2 x cores x boost clock, by its white paper's ratios"
    return _card(f"GeForce {name}", (2 * tera, tera, tera), memory_gib, rate, source, fractions, bus)


ADA_PAPER = "NVIDIA Ada GPU architecture white paper, appendix A"
CARDS: dict[str, Card] = {
    "rtx3090": _card(
        "GeForce RTX 3090", (71, 35.6, 35.6), 24, 936, "NVIDIA GA102 architecture white paper, table 2", AMPERE
    ),
    "rtx4090": _card("GeForce RTX 4090", (165.2, 82.6, 82.6), 24, 1008, ADA_PAPER, ADA),
    "rtx4090-48g": _card(
        "GeForce RTX 4090, 48 GB", (165.2, 82.6, 82.6), 48, 1008, f"{ADA_PAPER}; memory doubled by resellers", ADA
    ),
    "rtx5090": _card(
        "GeForce RTX 5090",
        (209.5, 104.8, 104.8),
        32,
        1792,
        "NVIDIA RTX Blackwell GPU architecture white paper, appendix A",
        UNTRIED,
        "pcie5x16",
    ),
    "rtx3060": _geforce("RTX 3060", 12.7, 12, 360, AMPERE, "pcie4x16"),
    "rtx3080": _geforce("RTX 3080", 29.8, 10, 760, AMPERE, "pcie4x16"),
    "rtx4060": _geforce("RTX 4060", 15.1, 8, 272, ADA, "pcie4x8"),
    "rtx4060ti": _geforce("RTX 4060 Ti", 22.1, 16, 288, ADA, "pcie4x8"),
    "rtx4070": _geforce("RTX 4070", 29.1, 12, 504, ADA, "pcie4x16"),
    "rtx4070ti-super": _geforce("RTX 4070 Ti SUPER", 44.1, 16, 672, ADA, "pcie4x16"),
    "rtx4080": _geforce("RTX 4080", 48.7, 16, 717, ADA, "pcie4x16"),
    "rtx5060ti": _geforce("RTX 5060 Ti", 23.7, 16, 448, UNTRIED, "pcie5x8"),
    "rtx5070ti": _geforce("RTX 5070 Ti", 43.9, 16, 896, UNTRIED, "pcie5x16"),
    "rtx5080": _geforce("RTX 5080", 56.3, 16, 960, UNTRIED, "pcie5x16"),
    "l40s": _card("L40S", (362, 183, 91.6), 48, 864, "NVIDIA L40S data sheet, halved where it counts sparsity", HOPPER),
    "a6000": _card("RTX A6000", (154.8, 77.4, 38.7), 48, 768, "NVIDIA RTX A6000 data sheet, halved likewise", AMPERE),
    "rtx6000-ada": _card(
        "RTX 6000 Ada", (364, 182, 91.1), 48, 960, "NVIDIA RTX 6000 Ada data sheet, halved likewise", HOPPER
    ),
    "a100-40g": _card("A100 SXM 40 GB", (312, 156, 19.5), 40, 1555, "NVIDIA A100 data sheet", AMPERE),
    "a100-80g": _card("A100 SXM 80 GB", (312, 156, 19.5), 80, 2039, "NVIDIA A100 data sheet", AMPERE),
    "h100-pcie": _card(
        "H100 PCIe", (756, 378, 51), 80, 2000, "NVIDIA H100 data sheet, halved likewise", HOPPER, "pcie5x16"
    ),
    "h100-sxm": _card(
        "H100 SXM", (989, 494, 67), 80, 3350, "NVIDIA H100 data sheet, halved likewise", HOPPER, "pcie5x16"
    ),
    "h800-sxm": _card(
        "H800 SXM",
        (989, 494, 67),
        80,
        3350,
        "as H100 SXM; its NVLink is slower (400 GB/s in both directions)",
        HOPPER,
        "pcie5x16",
    ),
    "h200": _card(
        "H200 SXM", (989, 494, 67), 141 / 1.0737, 4800, "NVIDIA H200 data sheet, halved likewise", HOPPER, "pcie5x16"
    ),
    "h20": _card("H20", (148, 74, 44), 96, 4000, "vendors' tables; NVIDIA publishes no data sheet", HOPPER, "pcie5x16"),
    "b200": _card(
        "B200", (2250, 1100, 75), 180, 7700, "NVIDIA Blackwell data sheet (HGX B200, per GPU)", UNTRIED, "pcie5x16"
    ),
    "mi300x": _card(
        "Instinct MI300X", (1307, 653, 163), 192, 5300, "AMD Instinct MI300X data sheet", UNTRIED, "pcie5x16"
    ),
    "cpu-core": Card(
        name="Zen 4",
        bf16_flops=13e9,
        tf32_flops=107e9,
        fp32_flops=107e9,
        memory_bytes=8 * GIB,
        memory_bytes_per_second=20 * GIGA,
        source="measured: oneDNN, AVX-512, packed weights, one thread (docs/log.md), attention half; memory assumed",
        fractions=MEASURED,
        context_bytes=0,
        launch_seconds=0.0,
        is_cpu=True,
    ),
}


def _link(name: str, gigabytes_per_second: float, micro: float, source: str, busy: float = 0.0) -> LinkRates:
    return LinkRates(
        name=name,
        bytes_per_second=gigabytes_per_second * GIGA,
        latency_seconds=micro * 1e-6,
        source=source,
        busy_seconds_per_byte=busy,
        shares_bus=not name.startswith("NVLink"),
    )


PCI = "PCI-SIG rates: {} GB/s; 80 % of it achieved"
HOST = "through host memory, where cards have no peer-to-peer (8-12 GB/s measured by others on 4th-generation slots)"


def _bus(name: str, gigabytes_per_second: float, most: str) -> Bus:
    return Bus(
        name=name, bytes_per_second=gigabytes_per_second * GIGA, source=PCI.format(most) + ", from pinned memory"
    )


LINKS: dict[str, LinkRates] = {
    "pcie3": _link("PCIe 3.0 x16 through the host", 6, 30, HOST + ", halved"),
    "pcie4": _link("PCIe 4.0 x16 through the host", 10, 30, HOST),
    "pcie4-x8": _link("PCIe 4.0 x8 through the host", 6, 30, HOST + ", limited by the slot"),
    "pcie5": _link("PCIe 5.0 x16 through the host", 18, 30, HOST + ", doubled less the host's share"),
    "pcie3-p2p": _link("PCIe 3.0 x16, peer-to-peer", 12.6, 15, PCI.format("15.75")),
    "pcie4-p2p": _link("PCIe 4.0 x16, peer-to-peer", 25.2, 15, PCI.format("31.5")),
    "pcie4-x8-p2p": _link("PCIe 4.0 x8, peer-to-peer", 12.6, 15, PCI.format("15.75")),
    "pcie5-p2p": _link("PCIe 5.0 x16, peer-to-peer", 50.4, 15, PCI.format("63")),
    "nvlink3": _link("NVLink 3 (A100)", 240, 10, "NVIDIA A100 data sheet: 300 GB/s each way; 80 %"),
    "nvlink4": _link("NVLink 4 (H100)", 360, 10, "NVIDIA H100 data sheet: 450 GB/s each way; 80 %"),
    "nvlink4-h800": _link("NVLink 4 (H800)", 160, 10, "vendors' tables: 200 GB/s each way; 80 %"),
    "nvlink5": _link("NVLink 5 (B200)", 720, 10, "NVIDIA Blackwell data sheet: 900 GB/s each way; 80 %"),
    "infiniband": _link("InfiniBand NDR, a port for each card", 45, 15, "400 Gbit/s; 90 %"),
    "ethernet10": _link("Ethernet 10 Gbit/s", 1.1, 100, "10 Gbit/s; 90 %"),
    "ethernet25": _link("Ethernet 25 Gbit/s", 2.8, 80, "25 Gbit/s; 90 %"),
    "ethernet100": _link("Ethernet 100 Gbit/s", 11, 50, "100 Gbit/s; 90 %"),
    "loopback": _link(
        "TCP over loopback", 4, 100, "measured: 1.2 ms a MB of both cores (docs/log.md); rate assumed", busy=1.2e-9
    ),
}

BUSES: dict[str, Bus] = {
    "pcie3x8": _bus("PCIe 3.0 x8", 6.2, "7.9"),
    "pcie3x16": _bus("PCIe 3.0 x16", 12.4, "15.75"),
    "pcie4x8": _bus("PCIe 4.0 x8", 12.4, "15.75"),
    "pcie4x16": _bus("PCIe 4.0 x16", 25.0, "31.5"),
    "pcie5x8": _bus("PCIe 5.0 x8", 25.0, "31.5"),
    "pcie5x16": _bus("PCIe 5.0 x16", 50.0, "63"),
}

COPY = Bus(name="copies within memory", bytes_per_second=3.6e9, source="measured: one thread, pages new (docs/log.md)")

SCALED_CORES = 8  # more do not make one rank faster in proportion: assumed

NAMES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("laptop", ()),
    ("rtx 3090 ti", ()),
    ("rtx 3090", ("rtx3090",)),
    ("rtx 4090 d", ()),
    ("rtx 4090", ("rtx4090", "rtx4090-48g")),
    ("rtx 5090", ("rtx5090",)),
    ("rtx 3060 ti", ()),
    ("rtx 3060", ("rtx3060",)),
    ("rtx 3080 ti", ()),
    ("rtx 3080", ("rtx3080",)),
    ("rtx 4060 ti", ("rtx4060ti",)),
    ("rtx 4060", ("rtx4060",)),
    ("rtx 4070 ti super", ("rtx4070ti-super",)),
    ("rtx 4070 ti", ()),
    ("rtx 4070 super", ()),
    ("rtx 4070", ("rtx4070",)),
    ("rtx 4080 super", ()),
    ("rtx 4080", ("rtx4080",)),
    ("rtx 5060 ti", ("rtx5060ti",)),
    ("rtx 5070 ti", ("rtx5070ti",)),
    ("rtx 5080", ("rtx5080",)),
    ("l40s", ("l40s",)),
    ("rtx a6000", ("a6000",)),
    ("rtx 6000 ada", ("rtx6000-ada",)),
    ("a100", ("a100-40g", "a100-80g")),
    ("h100 pcie", ("h100-pcie",)),
    ("h100 nvl", ()),
    ("h100", ("h100-sxm",)),
    ("h800 pcie", ()),
    ("h800", ("h800-sxm",)),
    ("h200 nvl", ()),
    ("h200", ("h200",)),
    ("h20", ("h20",)),
    ("gb200", ()),
    ("b200", ("b200",)),
)
"""What stands in a driver's name of a card, and the cards that it may be, by their memory; the first found counts."""

NVLINKS = {
    "a100-40g": "nvlink3",
    "a100-80g": "nvlink3",
    "h100-sxm": "nvlink4",
    "h200": "nvlink4",
    "h20": "nvlink4",
    "h800-sxm": "nvlink4-h800",
    "b200": "nvlink5",
}

T = TypeVar("T")


def card(key: str) -> Card:
    """The card of this key. Raises InvalidSetting with the nearest ones."""
    return _find("gpu", key, CARDS)


def link(key: str) -> LinkRates:
    """The link of this key. Raises InvalidSetting with the nearest ones."""
    return _find("link", key, LINKS)


def bus(key: str) -> Bus:
    """The bus of this key. Raises InvalidSetting with the nearest ones."""
    return _find("bus", key, BUSES)


def bus_of(card: Card) -> Bus:
    """Bus between a card and the host's memory; for a CPU, copying within memory.

    Raises InvalidSetting for a card whose bus is not in the table.
    """
    return COPY if card.is_cpu else bus(card.bus)


def bus_in_slot(pcie: tuple[int, int]) -> str:
    """The key of the bus of a slot of this (generation, lanes)."""
    generation, lanes = pcie
    return f"pcie{min(max(generation, 3), 5)}x{8 if lanes <= 8 else 16}"


def cores(count: float) -> Card:
    """Card of `count` CPU cores, each taken for the table's core, with that core's memory."""
    core, used = CARDS["cpu-core"], min(count, SCALED_CORES)
    return msgspec.structs.replace(
        core,
        name=f"{count:.3g} CPU core{'' if count == 1 else 's'}, reckoned as of a {core.name}",
        bf16_flops=used * core.bf16_flops,
        tf32_flops=used * core.tf32_flops,
        fp32_flops=used * core.fp32_flops,
        memory_bytes_per_second=used * core.memory_bytes_per_second,
    )


def card_named(name: str, memory_bytes: int) -> Card | None:
    """The card that a driver calls so, such as "NVIDIA H100 80GB HBM3"; None for one that the table does not have."""
    keys = _keys_of(name)
    return min((CARDS[key] for key in keys), key=lambda card: abs(card.memory_bytes - memory_bytes), default=None)


def link_between(name: str, pcie: tuple[int, int], *, has_nvlink: bool, is_peer: bool) -> LinkRates:
    """The link between cards of this driver's name. `pcie`: (generation, lanes) of their slots."""
    nvlinks = [NVLINKS[key] for key in _keys_of(name) if key in NVLINKS]
    if has_nvlink and nvlinks and "pcie" not in name.lower():  # which has bridges between two at most
        return LINKS[nvlinks[0]]
    generation, lanes = min(max(pcie[0], 3), 5), pcie[1]
    narrower = "-x8" if lanes <= 8 and generation == 4 else ""
    return LINKS[f"pcie{generation}{narrower}{'-p2p' if is_peer else ''}"]


def _keys_of(name: str) -> tuple[str, ...]:
    return next((keys for part, keys in NAMES if part in name.lower()), ())


def _find(what: str, key: str, table: Mapping[str, T]) -> T:
    found = table.get(key.lower())
    if found is None:
        near = difflib.get_close_matches(key.lower(), table, n=3, cutoff=0.4) or list(table)
        others = "" if table is BUSES else f" (--{what}-file takes others)"
        raise InvalidSetting(f"{what} {key!r} is not in the table; {', '.join(near)} are{others}")
    return found
