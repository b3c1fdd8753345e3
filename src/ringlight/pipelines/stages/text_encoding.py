"""TextEncoding: prompts to embeddings, each distinct prompt once."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor

from ringlight.core.errors import NumericalError
from ringlight.core.request import VideoRequest
from ringlight.core.warning import prompt_truncated
from ringlight.models.finite import extremes, not_finite
from ringlight.parallel.collective import collective
from ringlight.pipelines.networks import PromptEncoder
from ringlight.pipelines.trace import JobEvents


class PromptCache:
    """Cache of prompts' embeddings; least recently used ones are forgotten when they exceed `max_bytes`.

    Every rank has one, is asked for the same prompts and gets the same embeddings, so all of them remember and forget
    the same without asking each other.
    """

    def __init__(self, encoder: PromptEncoder, max_bytes: int) -> None:
        self.encoder = encoder
        self._max_bytes = max_bytes
        self._embeddings: OrderedDict[str, Tensor] = OrderedDict()

    @property
    def num_bytes(self) -> int:
        return sum(embedding.nbytes for embedding in self._embeddings.values())

    @collective
    def encode(self, prompts: list[str]) -> list[Tensor]:
        """Embeddings (L, text_dim) of each prompt's true tokens. Those not in here are encoded together."""
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._embeddings]
        self._embeddings.update(zip(missing, self.encoder.encode(missing), strict=True))
        for prompt in prompts:
            self._embeddings.move_to_end(prompt)
        found = [self._embeddings[prompt] for prompt in prompts]
        while self.num_bytes > self._max_bytes and len(self._embeddings) > 1:
            self._embeddings.popitem(last=False)
        return found

    def forget(self) -> None:
        """Leave no embeddings here. All ranks call it together."""
        self._embeddings.clear()


@collective
def encode_text(request: VideoRequest, prompts: PromptCache, events: JobEvents) -> list[Tensor]:
    """Embeddings of the prompt, and with guidance also of the negative prompt, on every rank.

    Warns of prompts that are longer than the encoder reads. Raises NumericalError, by way of the events, where they are
    not finite; the cache then holds nothing any more.
    """
    fields = ("prompt", "negative_prompt") if request.uses_guidance else ("prompt",)
    texts = [getattr(request, field) for field in fields]
    embeddings = prompts.encode(texts)
    try:
        events.boundary(not_finite("TextEncoding", "embeddings", torch.stack([extremes(each) for each in embeddings])))
    except NumericalError:
        prompts.forget()
        raise
    most = prompts.encoder.max_tokens
    for field, text, embedding in zip(fields, texts, embeddings, strict=True):
        # Those that are full were perhaps cut. How long they are is not kept with them: few are.
        if len(embedding) == most and (num_tokens := prompts.encoder.count_tokens(text)) > most:
            events.warned(prompt_truncated(field, num_tokens, most))
    return embeddings
