"""Work: one request on one model and its geometry, computed once and handed on. Arithmetic alone, no torch."""

from __future__ import annotations

import math
from typing import Self

import msgspec

from ringlight.core.layout import ParallelLayout, split_sizes
from ringlight.core.named_samplers import SAMPLERS
from ringlight.core.request import VideoRequest
from ringlight.families.model import ModelSpec


def num_calls(spec: ModelSpec, request: VideoRequest) -> int:
    """Number of predictions that a sampler asks for; each named sampler asks once a step."""
    num_steps = request.num_inference_steps
    return num_steps if request.sampler is not None else spec.scheduler.num_calls(num_steps)


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """Work of a request on a model.

    `latent_shape` is (channels, latent frames, latent height, latent width), `num_tokens` the length of the sequence,
    and `num_calls` how often the sampler asks for a prediction of each guidance branch.
    """

    spec: ModelSpec
    request: VideoRequest
    latent_shape: tuple[int, int, int, int]
    num_tokens: int
    num_calls: int

    @classmethod
    def of(cls, spec: ModelSpec, request: VideoRequest) -> Self:
        """The work of a request."""
        size = (request.num_frames, request.height, request.width)
        return cls(
            spec=spec,
            request=request,
            latent_shape=spec.latent_shape(*size),
            num_tokens=spec.num_tokens(*size),
            num_calls=num_calls(spec, request),
        )

    @property
    def latent_values(self) -> int:
        """Number of values in the latents."""
        return math.prod(self.latent_shape)

    @property
    def prompts(self) -> list[str]:
        """Prompts to encode, each once."""
        request = self.request
        asked = [request.prompt, request.negative_prompt] if request.uses_guidance else [request.prompt]
        return list(dict.fromkeys(asked))

    def band(self, layout: ParallelLayout) -> tuple[int, int, bool]:
        """(rows, columns) of latents of the rank that decodes most of a frame, and whether others have some of it."""
        _, _, rows, columns = self.latent_shape
        return split_sizes(rows, layout.num_ranks)[0], columns, layout.num_ranks > 1 and rows > 1

    @property
    def encoded_latents(self) -> int:
        """Latent frames that the encoder makes: of the request's picture, or of a whole video that begins with it."""
        if self.request.image is None:
            return 0
        return self.latent_shape[1] if self.spec.sees_condition else 1

    @property
    def condition_values(self) -> int:
        """Number of values beside the latents, as channels of their own."""
        network = self.spec.transformer
        return self.latent_values // self.latent_shape[0] * (network.in_channels - network.out_channels)

    @property
    def calls_by_expert(self) -> tuple[int, ...]:
        """Number of calls to each expert: those whose shifted sigmas lie on its side of the boundary.

        They are the request's, a preset's, or evenly spaced. A model with one transformer has all calls.
        """
        if self.spec.boundary_ratio is None:
            return (self.num_calls,)
        ratio, shift = self.spec.boundary_ratio, self.request.flow_shift
        share = ratio / (shift - (shift - 1) * ratio)  # where the boundary lies before sigmas are shifted
        evenly = [1 - call / self.num_calls for call in range(self.num_calls)]
        named = SAMPLERS.get(self.request.sampler or "")
        sigmas = self.request.sigmas or (named.sigmas if named else ()) or evenly
        high = sum(sigma >= share for sigma in sigmas)
        return high, self.num_calls - high

    def num_forwards(self, layout: ParallelLayout) -> int:
        """Forwards of a rank for each call: two if it has both guidance branches."""
        return 2 if self.request.uses_guidance and layout.cfg == 1 else 1
