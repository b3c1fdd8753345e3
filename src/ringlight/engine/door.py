"""Door: from what is asked of an engine to a request that it can make."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from ringlight.core.errors import InvalidRequest, InvalidSetting, Problem
from ringlight.core.output import check_output
from ringlight.core.picture import require_pictures, shape_of, shapes_of
from ringlight.core.request import RequestDefaults, RequestLimits, VideoRequest, grid, stand_ins
from ringlight.core.sizes import AskedSize, Size, decide_size
from ringlight.core.warning import Warnings, lora_in_part, size_warnings, without_guidance
from ringlight.families.lora_library import LoraLibrary
from ringlight.families.model import ModelSpec
from ringlight.planner.costs import ORDINARY_PROMPT


class Door(NamedTuple):
    """Check of requests: against the model, defaults, limits, and the LoRAs that there are."""

    spec: ModelSpec
    defaults: RequestDefaults
    limits: RequestLimits
    loras: LoraLibrary

    def require_possible(self) -> None:
        """Raise InvalidSetting for limits within which there is no video of the model."""
        smallest = {name: least for name, (least, _) in grid(self.spec).items()} | {"num_inference_steps": 1}
        try:
            RequestDefaults().complete("p", self.spec, **smallest, **stand_ins(self.spec)).check(self.spec, self.limits)
        except InvalidRequest as error:
            raise InvalidSetting(f"limits: no video of {self.spec.name} is within them: {error}") from None

    def complete(
        self,
        prompt: str,
        *,
        width: int | None = None,
        height: int | None = None,
        picture_size: Size | None = None,
        round_sizes: bool = False,
        **fields: Any,
    ) -> VideoRequest:
        """Complete a request from the given fields, the engine's and checkpoint's defaults, and the model card.

        LoRAs are not looked up yet.

        Width and height that are not given follow the picture, of `picture_size` where its bytes are not among the
        fields; `round_sizes` makes those that are given the nearest that can be made.
        """
        picture_size = picture_size or shape_of(fields.get("image"), self.limits)
        asked = (width, height)
        width, height = decide_size(asked, picture_size, self.defaults, self.spec, self.limits, round_sizes)
        return self.defaults.complete(prompt, self.spec, width=width, height=height, **fields)

    def with_loras(self, request: VideoRequest) -> VideoRequest:
        """Complete a request with the files of its LoRAs, and with those that every video has.

        Raises InvalidRequest.
        """
        return msgspec.structs.replace(request, lora=self.loras.resolve(request.lora))

    def typical(self) -> VideoRequest:
        """A request of all defaults. Raises InvalidSetting where these name LoRAs that there are not."""
        try:
            return self.with_loras(self.defaults.typical(ORDINARY_PROMPT, self.spec))
        except InvalidRequest as error:
            raise InvalidSetting(f"defaults: {error}") from None

    def check(self, request: VideoRequest, output: str) -> None:
        """Raise InvalidRequest for all that can be told without the worker: fields, LoRAs, picture, output."""
        problems: list[Problem] = []
        for check in (
            lambda: request.check(self.spec, self.limits),
            lambda: self.loras.require(request.lora),
            lambda: require_pictures(request.pictures, self.limits),
            lambda: check_output(output, request.num_frames),
        ):
            try:
                check()
            except InvalidRequest as error:
                problems += error.problems
        if problems:
            raise InvalidRequest(problems)

    def warnings(self, request: VideoRequest, asked_size: AskedSize) -> Warnings:
        """Warnings about differences between a request and what was asked."""
        files = ((lora.name, self.loras.file(lora)) for lora in request.lora)
        in_part = (lora_in_part(name, file) for name, file in files if file.left_out)
        sizes = size_warnings(asked_size, shapes_of(request.pictures, self.limits), request)
        return (*sizes, *in_part, *without_guidance(request, self.defaults))
