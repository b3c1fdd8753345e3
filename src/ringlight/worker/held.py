"""HeldJob: what a rank keeps of a job from turn to turn."""

from __future__ import annotations

import msgspec

from ringlight.core import messages
from ringlight.core.report import AdaptedReport, RankReport
from ringlight.families.recipe import Recipe
from ringlight.parallel.collective import collective
from ringlight.pipelines.output import Output
from ringlight.pipelines.resume import StateFile
from ringlight.pipelines.trace import Tracer
from ringlight.pipelines.turn import Left, Turns
from ringlight.worker.events import Events


class HeldJob:
    """Job that ranks have begun, on one of them: its computation over several turns, and its measurements.

    To be closed if its video will not be made.
    """

    def __init__(
        self,
        order: messages.RunJob,
        events: Events,
        tracer: Tracer,
        state: StateFile | None,
        computation: Turns[Output | None],
    ) -> None:
        self.order, self.events, self.tracer = order, events, tracer
        self.held_bytes = 0  # on this rank, while others have the turn
        self.adapted: AdaptedReport | None = None
        self.output: Output | None = None
        self._state, self._computation = state, computation
        self._earlier: RankReport | None = None

    @collective
    def go_on(self, pipeline: Recipe) -> Left | None:
        """Take a turn, the weights with this job's LoRAs first; return where it was paused.

        Or return None at the end of the computation, with its output at hand if this rank has one. All ranks call it
        together.
        """
        self.tracer.clock.go_on()
        left: Left | None = None
        try:
            self._note_switch(pipeline.adapt(self.order.request.lora, self.tracer))
            left = next(self._computation)
        except StopIteration as end:
            self.output = end.value
        finally:
            if left is None:
                self._await_state()
        if left is not None:
            self.tracer.clock.stop()
            self.held_bytes = left.held_bytes
        return left

    def measured(self, of_turn: RankReport) -> RankReport:
        """Measurements of a turn that is over, added to all those before it."""
        self._earlier = of_turn if self._earlier is None else of_turn.after(self._earlier)
        return self._earlier

    def close(self) -> None:
        """Forget the computation, and leave nothing half-written."""
        self._computation.close()
        self._await_state()

    def _await_state(self) -> None:
        """Wait until nothing of this job is being written: another process may resume it."""
        if self._state is not None:
            self._state.wait()

    def _note_switch(self, adapted: AdaptedReport | None) -> None:
        if adapted is not None and self.adapted is not None:
            adapted = msgspec.structs.replace(adapted, seconds=adapted.seconds + self.adapted.seconds)
        self.adapted = adapted
