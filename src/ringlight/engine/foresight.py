"""Foresight: what an engine expects of requests on its machine, before any weight is read and before a job runs."""

from __future__ import annotations

from ringlight.core.config import EngineConfig
from ringlight.core.errors import InvalidLayout, InvalidRequest
from ringlight.core.layout import LayoutChoice, ParallelLayout
from ringlight.core.request import RequestLimits, VideoRequest
from ringlight.core.spec import ModelSpec
from ringlight.engine.machine import this_machine
from ringlight.planner import catalogue
from ringlight.planner.choosing import choose, shortage
from ringlight.planner.hardware import Hardware
from ringlight.planner.prediction import Prediction, predict

ORDINARY_PROMPT = "a prompt of ordinary length " * 11  # some 77 tokens; its words do not matter
ANY_CARD, ANY_LINK = "h100-sxm", "pcie4"  # whose plans have the right shape where the machine is not known


class Foresight:
    """Plans of one model on this machine. `machine` is None where nothing is known of its cards."""

    def __init__(self, config: EngineConfig, spec: ModelSpec, limits: RequestLimits, num_replicas: int = 1) -> None:
        """Look at the machine. Raises InvalidSetting for a calibration that cannot be read."""
        self._config = config
        self._spec = spec
        self._limits = limits
        num_local = max(1, config.asked_layout.num_ranks // config.nodes.num_nodes)
        self.machine = this_machine(config, spec, num_local, num_replicas)

    @property
    def basis(self) -> str:
        """What plans are reckoned from, in words; empty where they are of no machine in particular."""
        return "" if self.machine is None else self.machine.basis

    def choose(self, typical: VideoRequest) -> LayoutChoice:
        """The layout for requests like this one. Raises InvalidLayout, also where it would not fit.

        There is no plan of a request that cannot be made; whoever submits it hears why.
        """
        config, machine = self._config, self.machine
        try:
            typical.check(self._spec, self._limits)
        except InvalidRequest:
            machine = None
        choice = choose(self._spec, typical, config.asked_layout, machine, config.nodes.num_nodes)
        if machine is not None and (lacking := self._shortage(typical, choice.layout)) is not None:
            raise InvalidLayout(lacking)
        return choice

    def plan(self, request: VideoRequest, layout: ParallelLayout) -> Prediction:
        """What a request takes on a layout: here, or where nothing is known of this machine, on some card."""
        if self.machine is not None:
            return self.machine.predict(self._spec, request, layout)
        some = Hardware(card=catalogue.card(ANY_CARD), link=catalogue.link(ANY_LINK))
        return predict(self._spec, request, layout, some)

    def check_memory(self, request: VideoRequest, layout: ParallelLayout, plan: Prediction) -> None:
        """Raise InvalidRequest for a request that is predicted not to fit."""
        if (lacking := self._shortage(request, layout, plan)) is not None:
            raise InvalidRequest.of("size", lacking)

    def _shortage(self, request: VideoRequest, layout: ParallelLayout, plan: Prediction | None = None) -> str | None:
        if self.machine is None or not self._config.memory_check:
            return None
        return shortage(self._spec, request, layout, self.machine, plan or self.plan(request, layout))
