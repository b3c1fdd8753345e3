"""Flags for the hardware that is planned for: cards, the link between them, and the measurements of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from ringlight.core.config import EngineConfig, VaeDtypeName
from ringlight.core.errors import InvalidSetting
from ringlight.core.fields import setting
from ringlight.core.plain import bytes_of
from ringlight.families.model import ModelSpec
from ringlight.planner import catalogue
from ringlight.planner.calibration import Calibration
from ringlight.planner.hardware import Card, Hardware, LinkRates, RunSettings, read_toml
from ringlight.planner.machine import Machine, before_start

HARDWARE = "Hardware"
USUAL_CARD, USUAL_LINK = "rtx4090", "pcie4"


class AskedHardware(msgspec.Struct, frozen=True, kw_only=True):
    """Hardware as it is asked for: by names of the catalogue, by files, or as a run has measured it."""

    gpu: Annotated[str | None, setting(f"Card: {', '.join(catalogue.CARDS)}.", HARDWARE, shown=USUAL_CARD)] = None
    gpu_file: Annotated[Path | None, setting("Card from a TOML file.", HARDWARE)] = None
    bus: Annotated[
        str | None,
        setting(
            f"Between a card and the host: {', '.join(catalogue.BUSES)}.",
            HARDWARE,
            shown="the card's",
        ),
    ] = None
    host_memory: Annotated[
        str,
        setting(
            "Main memory of each machine, such as 64GiB, for weights that do not stay on cards.",
            HARDWARE,
            metavar="SIZE",
            shown="enough",
        ),
    ] = ""
    num_gpus: Annotated[int, setting("Cards in all.", HARDWARE, ge=1)] = 1
    link: Annotated[
        str | None,
        setting(
            f"Between all of them: {', '.join(catalogue.LINKS)}.",
            HARDWARE,
            shown=f"{USUAL_LINK}, or loopback with a CPU's calibration",
        ),
    ] = None
    link_file: Annotated[Path | None, setting("LinkRates from a TOML file.", HARDWARE)] = None
    calibration: Annotated[
        Path | None,
        setting(
            "Report or bench result of u1r1 runs, or what --save-calibration wrote; its dtypes are planned. "
            "A report of several ranks is refused.",
            HARDWARE,
        ),
    ] = None
    save_calibration: Annotated[Path | None, setting("Keep what --calibration says as JSON.", HARDWARE)] = None
    dtype: Annotated[VaeDtypeName | None, setting("Of the products.", HARDWARE, shown="bfloat16")] = None
    vae_dtype: Annotated[VaeDtypeName | None, setting("Of the decoder.", HARDWARE, shown="float32")] = None

    @property
    def names_none(self) -> bool:
        """Whether no card is named, so that the usual one is planned for."""
        return self.gpu is None and self.gpu_file is None and self.calibration is None

    def settle(self, spec: ModelSpec, engine: EngineConfig) -> Machine:
        """Decide which hardware is planned for; write the calibration if asked. Raises InvalidSetting."""
        if self.calibration is not None:
            return self._as_measured(self.calibration, spec, engine)
        card = self._with_bus(self._card or catalogue.card(USUAL_CARD))
        settings = RunSettings(
            dtype=self.dtype or "bfloat16",
            vae_dtype=self.vae_dtype or "float32",
            tf32=engine.tf32,
            decode_chunk=engine.decode_chunk,
            num_slices=engine.num_slices,
            memory_budget_bytes=engine.memory_budget_bytes,
        )
        hardware = Hardware(card=card, link=self._link(USUAL_LINK))
        return Machine(
            hardware=hardware,
            settings=settings,
            most_ranks=self.num_gpus,
            residency=before_start(card, settings),
            host_bytes=self._host_bytes,
        )

    def _as_measured(self, path: Path, spec: ModelSpec, engine: EngineConfig) -> Machine:
        known = _calibration(path, spec, self._card)
        calibrated = known.machine(self._link("loopback" if known.card.is_cpu else USUAL_LINK))
        _require_same("--dtype", self.dtype, known.settings.dtype)
        _require_same("--vae-dtype", self.vae_dtype, known.settings.vae_dtype)
        if self.save_calibration is not None:
            self.save_calibration.write_bytes(known.to_json())
        change = msgspec.structs.replace
        settings = change(calibrated.settings, memory_budget_bytes=engine.memory_budget_bytes)
        return change(
            calibrated,
            hardware=change(calibrated.hardware, card=self._with_bus(calibrated.card)),
            settings=settings,
            most_ranks=self.num_gpus,
            residency=before_start(calibrated.card, settings),
            host_bytes=self._host_bytes,
        )

    @property
    def _host_bytes(self) -> int:
        try:
            return bytes_of(self.host_memory) if self.host_memory else 0
        except ValueError as error:
            raise InvalidSetting(f"host-memory: {error}") from None

    def _with_bus(self, card: Card) -> Card:
        """The card in the slot that is asked for. Raises InvalidSetting for a bus that is not in the table."""
        if self.bus is not None and card.is_cpu:
            raise InvalidSetting("a CPU has no bus between it and its memory; leave --bus out")
        card = card if self.bus is None else msgspec.structs.replace(card, bus=self.bus)
        catalogue.bus_of(card)
        return card

    @property
    def _card(self) -> Card | None:
        if self.gpu is not None and self.gpu_file is not None:
            raise InvalidSetting("give --gpu or --gpu-file, not both")
        if self.gpu_file is not None:
            return Card.read(self.gpu_file)
        return None if self.gpu is None else catalogue.card(self.gpu)

    def _link(self, usual: str) -> LinkRates:
        if self.link is not None and self.link_file is not None:
            raise InvalidSetting("give --link or --link-file, not both")
        return catalogue.link(self.link or usual) if self.link_file is None else read_toml(self.link_file, LinkRates)


def _calibration(path: Path, spec: ModelSpec, card: Card | None) -> Calibration:
    """Read a calibration of its own card, else of this one. Raises InvalidSetting if both are named."""
    try:
        known = Calibration.read(path, spec)
    except InvalidSetting:
        if card is None:
            raise
        return Calibration.read(path, spec, card)
    if card is not None:
        raise InvalidSetting(f"{path} is of {known.card.name}, not of {card.name}; leave --gpu and --gpu-file out")
    return known


def _require_same(flag: str, asked: str | None, measured: str) -> None:
    if asked not in (None, measured):
        raise InvalidSetting(f"{flag} {asked}: the calibration is of a run in {measured}; leave {flag} out")
