"""Layouts: how the requests of one engine share its ranks, and why so."""

from __future__ import annotations

from ringlight.core.errors import InvalidLayout
from ringlight.core.layout import LayoutChoice, ParallelLayout, layout_for
from ringlight.core.request import VideoRequest


class Layouts:
    """The layouts that requests may have on ranks that were started for the `choice`."""

    def __init__(self, choice: LayoutChoice, num_heads: int, num_nodes: int) -> None:
        self._choice = choice
        self._num_heads = num_heads
        self._ranks_per_node = choice.layout.num_ranks // num_nodes

    def of(self, request: VideoRequest) -> ParallelLayout:
        """Layout that a request uses: the chosen one, without guidance with its branches sharing the tokens."""
        return layout_for(self._choice.layout, request.uses_guidance, self._num_heads, self._ranks_per_node)

    def reason(self, layout: ParallelLayout, request: VideoRequest) -> str:
        """Reason for a request's layout, in one sentence that begins with the layout's name."""
        usual = self._choice.layout
        if layout == usual:
            return self._choice.reason
        if layout == self.of(request):
            return f"{layout.name}: without guidance both branches of {usual.name} share its tokens"
        return f"{layout.name}: as the request asks, instead of {usual.name}"

    def check(self, layout: ParallelLayout, request: VideoRequest) -> None:
        """Raise InvalidLayout unless this request can run so on these ranks."""
        if layout.num_ranks != (num_ranks := self._choice.layout.num_ranks):
            raise InvalidLayout(
                f"{layout.name} has {layout.num_ranks} ranks and the engine {num_ranks}; every request uses all of them"
            )
        if layout.cfg > 1 and not request.uses_guidance:
            raise InvalidLayout(f"{layout.name} has two guidance branches and the request none; use guidance_scale > 1")
