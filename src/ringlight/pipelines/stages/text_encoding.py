"""TextEncoding: prompts to embeddings, each distinct prompt once."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor

from ringlight.core.request import VideoRequest
from ringlight.models.wan.text_encoder import TextEncoder


class PromptCache:
    """Embeddings of prompts, least recently used ones forgotten when they exceed `max_bytes`."""

    def __init__(self, encoder: TextEncoder, max_bytes: int) -> None:
        self.encoder = encoder
        self._max_bytes = max_bytes
        self._embeddings: OrderedDict[str, Tensor] = OrderedDict()

    @property
    def num_bytes(self) -> int:
        return sum(embedding.nbytes for embedding in self._embeddings.values())

    def encode(self, prompt: str) -> Tensor:
        """(L, text_dim) embeddings of a prompt's true tokens."""
        embedding = self._embeddings.pop(prompt, None)
        if embedding is None:
            embedding = self.encoder.encode(prompt)
        self._embeddings[prompt] = embedding
        while self.num_bytes > self._max_bytes and len(self._embeddings) > 1:
            self._embeddings.popitem(last=False)
        return embedding


def encode_text(request: VideoRequest, prompts: PromptCache) -> list[Tensor]:
    """Embeddings of the prompt, and with guidance also of the negative prompt."""
    texts = [request.prompt, request.negative_prompt] if request.uses_guidance else [request.prompt]
    return [prompts.encode(text) for text in texts]
