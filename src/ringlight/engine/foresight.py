"""Foresight: what an engine expects of requests on its machine, before any weight is read and before a job runs."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import msgspec

from ringlight.core import messages
from ringlight.core.config import EngineConfig
from ringlight.core.errors import InvalidLayout, InvalidRequest
from ringlight.core.layout import LayoutChoice, ParallelLayout
from ringlight.core.plan import JobPlan
from ringlight.core.request import RequestLimits, VideoRequest
from ringlight.engine.machine import run_settings
from ringlight.engine.site import OwnMachine, Site
from ringlight.families.model import ModelSpec
from ringlight.families.work import Work
from ringlight.planner import advice, catalogue
from ringlight.planner.choosing import choose
from ringlight.planner.hardware import Hardware
from ringlight.planner.machine import Machine
from ringlight.planner.prediction import Prediction, predict

logger = logging.getLogger(__name__)

SOME_CARD = Hardware(card=catalogue.card("h100-sxm"), link=catalogue.link("pcie4"))  # for the shape of plans alone
SOME_RANKS = 8  # that advice goes up to where nobody knows how many cards there are
MEASURED = "as fast as its ranks measured"
TRY_ANYWAY = "--no-memory-check tries it all the same"


class Foresight:
    """Plans of one model on this machine. `machine` is None if nothing is known of its cards."""

    def __init__(
        self,
        config: EngineConfig,
        spec: ModelSpec,
        limits: RequestLimits,
        num_replicas: int = 1,
        site: Site | None = None,
    ) -> None:
        """Look at the machine, or at those of the site. Raises InvalidSetting for a calibration that is of no use."""
        self._config = config
        self._spec = spec
        self._limits = limits
        site = site or OwnMachine(config)
        self._num_nodes = site.num_nodes
        self._ranks_here = site.num_sharing(num_replicas)
        self.machine: Machine | None = site.machine(spec, num_replicas)
        self._basis = "" if self.machine is None else self.machine.basis
        some = run_settings(config, is_cpu=False)
        self._here = self.machine or Machine(
            hardware=SOME_CARD,
            settings=some,
            residency="placed" if some.memory_budget_bytes else "resident",
            stands_in=True,
        )

    @property
    def tells_seconds(self) -> bool:
        """Whether plans are of this machine; of several, whose links differ, only memory is known."""
        return self.machine is not None and self._num_nodes == 1

    @property
    def is_placed(self) -> bool:
        """Whether workers keep all weights on the host, and on the device what a stage needs: decided by `choose`."""
        return self._here.residency == "placed"

    def choose(self, typical: VideoRequest | None, defaults: VideoRequest) -> LayoutChoice:
        """The layout for requests like a typical one, else like one of all defaults; with it, where weights lie.

        Raises InvalidLayout, also where the typical one is predicted not to fit. Without one, where nothing does: a
        server whose defaults are too large may be asked for smaller videos, and is warned.
        """
        config, request = self._config, typical or defaults
        machine = self.machine if self._can_be_made(request) else None
        work = Work.of(self._spec, request)
        choice = choose(work, config.asked_layout, machine, self._num_nodes)
        self._settle(machine is not None and self.plan(request, choice.layout).placement is not None)
        machine = machine and self.machine
        if machine is None or (lacking := self._shortage(request, choice.layout)) is None:
            return choice
        told = advice.remedy(work, choice.layout, machine) or "no smaller video fits either"
        lacking = f"{lacking}; {told} ({TRY_ANYWAY})"
        high, wide = self._spec.size_multiple
        least = msgspec.structs.replace(request, width=wide, height=high, num_frames=1)
        if typical is not None or self._shortage(least, choice.layout) is not None:
            raise InvalidLayout(lacking)
        logger.warning("a video of all defaults will be refused: %s", lacking)
        return choice

    def plan(self, request: VideoRequest, layout: ParallelLayout, machine: Machine | None = None) -> Prediction:
        """Predict a request on a layout, and how it runs: on the workers met last, unless others are named.

        Before any, as is known of this machine, or where nothing is, on some card.
        """
        return predict(Work.of(self._spec, request), layout, machine or self._here)

    def expect(
        self, request: VideoRequest, layout: ParallelLayout, ready: messages.WorkerReady | None, must_fit: bool
    ) -> tuple[Prediction, Machine]:
        """Plan a request with what ranks that are `ready` report; returns the plan, and the machine that it is for.

        Raises InvalidRequest if it `must_fit` and is predicted not to.
        """
        machine = self._here if ready is None else self.meet(ready)
        prediction = self.plan(request, layout, machine)
        if must_fit:
            self.check_memory(request, layout, prediction)
        return prediction, machine

    def check_memory(self, request: VideoRequest, layout: ParallelLayout, plan: Prediction) -> None:
        """Raise InvalidRequest for a request that is predicted not to fit, with the smaller one that does."""
        if self.machine is None or (lacking := self._shortage(request, layout, plan)) is None:
            return
        found = advice.smaller_video(Work.of(self._spec, request), layout, self.machine)
        field, nearest = found or ("size", None)
        raise InvalidRequest.of(field, lacking, nearest)

    def job_plan(self, prediction: Prediction, layout_reason: str) -> JobPlan:
        """Plan of a job with its prediction for the report, which is left out unless it is of this machine."""
        machine = self.machine if self.tells_seconds else None
        predicted = None if machine is None else prediction.report(machine.basis)
        return msgspec.structs.replace(prediction.plan, predicted=predicted, layout_reason=layout_reason)

    def meet(self, ready: messages.WorkerReady) -> Machine:
        """Machine of workers that are ready; later plans go by what these have measured.

        This machine is forgotten if they report that they compute on something else.
        """
        environment = ready.environment
        if not self._is_of(environment):
            logger.warning("plans are left out: workers compute on %s", environment.get("device"))
            self.machine = None
        known = self.machine or self._machine_of(environment) or self._here
        has_measured = ready.abilities is not None and ready.abilities.speeds is not None
        basis = f"{self._basis}, {MEASURED}" if has_measured and not self._config.calibration else self._basis
        met = msgspec.structs.replace(known, abilities=ready.abilities, basis=basis)
        if met != self._here:  # else those who have planned for it need not do so again
            self._here = met
        if self.machine is not None:
            self.machine = self._here
        return self._here

    def room_beside(self, prediction: Prediction) -> float:
        """Bytes of a rank that paused jobs may take beside one that runs as predicted; unlimited if memory is unknown.

        By what the fullest rank has measured, where all weights lie on a device; else by what a rank may take.
        """
        if self.machine is None:
            return math.inf
        worst, abilities = prediction.worst_memory, self.machine.abilities
        room = prediction.usable_bytes - worst.peak_bytes
        if abilities is not None and abilities.spare_bytes and prediction.placement is None:
            room = abilities.spare_bytes - (worst.peak_bytes - worst.weights_bytes)
        return max(0, room)

    def remedy(self, request: VideoRequest, layout: ParallelLayout, environment: Mapping[str, Any]) -> str | None:
        """Advice for workers that ran out of memory and report this environment; None if their device is unknown."""
        machine = self.machine or self._machine_of(environment)
        return None if machine is None else advice.remedy(Work.of(self._spec, request), layout, machine)

    def _settle(self, is_placed: bool) -> None:
        """Decide whether weights lie on the host: with a budget, or if the engine's work does not fit without."""
        if self._here.residency == "any":
            self._here = msgspec.structs.replace(self._here, residency="placed" if is_placed else "resident")
            self.machine = self.machine and self._here

    def _can_be_made(self, request: VideoRequest) -> bool:
        """Return whether a request passes its checks. Others have no plan; whoever submits them is told why."""
        try:
            request.check(self._spec, self._limits)
        except InvalidRequest:
            return False
        return True

    def _shortage(self, request: VideoRequest, layout: ParallelLayout, plan: Prediction | None = None) -> str | None:
        if self.machine is None or not self._config.memory_check:
            return None
        return advice.shortage(request, self.machine, plan or self.plan(request, layout))

    def _is_of(self, environment: Mapping[str, Any]) -> bool:
        kind = environment.get("device_type")
        return self.machine is None or kind is None or (kind == "cpu") == self.machine.hardware.card.is_cpu

    def _machine_of(self, environment: Mapping[str, Any]) -> Machine | None:
        """Machine with a card of which only the memory is known, for plans of memory alone."""
        memory_bytes = environment.get("memory_bytes")
        if not isinstance(memory_bytes, int):
            return None
        is_cpu = environment.get("device_type") == "cpu"
        card = catalogue.card("cpu-core") if is_cpu else SOME_CARD.card
        share = memory_bytes // self._ranks_here if is_cpu else memory_bytes
        hardware = Hardware(card=msgspec.structs.replace(card, memory_bytes=share), link=SOME_CARD.link)
        return Machine(
            hardware=hardware,
            settings=run_settings(self._config, is_cpu),
            most_ranks=1 if is_cpu else SOME_RANKS,
            residency=self._here.residency,
            stands_in=True,
        )
