"""Machine: what all ranks of an engine compute with, and how, as one thing to plan by."""

from __future__ import annotations

from typing import Literal

import msgspec

from ringlight.core.plan import Abilities
from ringlight.core.portions import takes_pairs
from ringlight.planner import catalogue
from ringlight.planner.hardware import Bus, Card, DtypeName, Hardware, LinkRates, RunSettings

WeightsPlace = Literal["any", "resident", "placed"]
FILE_BYTES_PER_SECOND = 2e9  # from a disk that has them in its cache or is fast: assumed
LAYING_OUT = 6e-9  # seconds a parameter that a core packs, or makes others of: 4 to 8 measured, of blocks and decoders
IN_PLACE = 1.12  # seconds of a float32 product on a CPU with weights as they came, to those with packed ones: measured


def before_start(card: Card, settings: RunSettings) -> WeightsPlace:
    """Place of the weights as far as settings tell: with a memory budget they are on the host.

    Without one they are in memory on a CPU; on a GPU the plan decides.
    """
    if settings.memory_budget_bytes:
        return "placed"
    return "resident" if card.is_cpu else "any"


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Hardware and settings of every rank of an engine.

    `basis` says in words where the figures come from; `most_ranks` is how many ranks there could be. `abilities` are
    what its ranks have measured, and `pace` what follows (planner/measured): seconds of a block of the network for each
    that is assumed.

    `host_bytes`: main memory of a machine with GPUs, for weights that lie there; 0 where it is not known, and taken for
    enough. `num_replicas` share it.

    `residency`: "resident" has all weights on the device, always; "placed" has them on the host, and what a stage needs
    comes from there (core/plan.Placement); "any" is still free to be either.

    `stands_in`: it is in the place of one of which nobody knows how fast it is.
    """

    hardware: Hardware
    settings: RunSettings = RunSettings()
    basis: str = ""
    most_ranks: int = 1
    abilities: Abilities | None = None
    pace: float = 1.0
    residency: WeightsPlace = "resident"
    host_bytes: int = 0
    num_replicas: int = 1
    stands_in: bool = False

    @property
    def card(self) -> Card:
        return self.hardware.card

    @property
    def link(self) -> LinkRates:
        return self.hardware.link

    @property
    def bus(self) -> Bus:
        """Bus between a card and the host's memory; for a CPU, copying within memory. Raises InvalidSetting."""
        return catalogue.bus_of(self.card)

    @property
    def in_place(self) -> float:
        """Factor on products if their weights are used in place: above 1 on a CPU in float32, which else packs them."""
        return IN_PLACE if self.packs_weights else 1.0

    @property
    def packs_weights(self) -> bool:
        """Whether products take weights in a form of their own: on a CPU in float32."""
        return self.card.is_cpu and self.settings.dtype == "float32"

    @property
    def products(self) -> float:
        """Achieved operations a second of the transformer's matrix products."""
        return self._peak(self.settings.dtype) * self.card.fractions.products

    @property
    def float32_products(self) -> float:
        """Achieved operations a second of matrix products in float32."""
        return self._peak("float32") * self.card.fractions.products

    @property
    def attention(self) -> float:
        """Achieved operations a second of fused attention."""
        return self._peak(self.settings.dtype) * self.card.fractions.attention

    @property
    def text(self) -> float:
        """Achieved operations a second of the text encoder."""
        return self._peak(self.settings.dtype) * self.card.fractions.text

    @property
    def convolution(self) -> float:
        """Achieved operations a second of the VAE."""
        vae_dtype = self.settings.vae_dtype
        tf32 = self.settings.tf32 and vae_dtype == "float32"
        return (self.card.tf32_flops if tf32 else self._peak(vae_dtype)) * self.card.fractions.convolution

    @property
    def memory_rate(self) -> float:
        """Achieved bytes a second read and written."""
        return self.card.memory_bytes_per_second * self.card.fractions.memory

    @property
    def uses_winograd(self) -> bool:
        """Whether pairs of frames take four products instead of six: in float32 on a CPU."""
        return takes_pairs(self.card.is_cpu, self.settings.vae_dtype == "float32")

    def corrected(self, stage: str, seconds: float) -> float:
        """Seconds of a stage's own work after what measurements say of it.

        Cores that are slow in one stage are so in all: others share them. Of a GPU, a block tells of blocks alone.
        """
        pace = self.pace if self.card.is_cpu or stage == "Denoising" else 1.0
        return pace * seconds * self.hardware.correction.by_stage.get(stage, 1.0)

    def _peak(self, dtype: DtypeName) -> float:
        return self.card.bf16_flops if dtype == "bfloat16" else self.card.fp32_flops
