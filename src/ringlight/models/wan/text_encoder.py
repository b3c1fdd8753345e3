"""Prompts to embeddings: transformers' UMT5 encoder and T5 tokenizer, with our weight loading around them."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import ftfy
import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, UMT5Config, UMT5EncoderModel

from ringlight.core.errors import InvalidCheckpoint
from ringlight.core.spec import read_json
from ringlight.models.wan.checkpoint import materialise

TOKENIZER_FILES = ("tokenizer.json", "spiece.model")

# The token table stands under two names in some checkpoints; it is one tensor.
TIED_NAMES = {"encoder.embed_tokens.weight": "shared.weight"}


def clean_prompt(text: str) -> str:
    """Mend broken Unicode, unescape HTML (twice: some prompts were escaped twice), fold white space."""
    unescaped = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return re.sub(r"\s+", " ", unescaped).strip()


def load_tokenizer(folder: Path) -> Any:
    """The checkpoint's T5 tokenizer. Raises InvalidCheckpoint when its files cannot be read."""
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        # transformers would go on with an empty vocabulary, and every word would be unknown.
        raise InvalidCheckpoint(f"{folder}: has neither {' nor '.join(TOKENIZER_FILES)}; download the folder whole")
    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises plain Exception
        raise InvalidCheckpoint(f"{folder}: tokenizer not readable: {_one_line(error)}") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


class TextEncoder(nn.Module):
    """The UMT5 encoder of a checkpoint, and its tokenizer."""

    def __init__(self, folder: Path, tokenizer: Any, max_tokens: int) -> None:
        """Build on the meta device from `folder`/config.json; `prepare` and loading give it weights.

        Raises InvalidCheckpoint when the JSON describes no such network.
        """
        super().__init__()
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        values = read_json(folder / "config.json")
        try:
            config = UMT5Config(**{key: value for key, value in values.items() if key not in ("dtype", "torch_dtype")})
            config._attn_implementation = "eager"
            self.network = UMT5EncoderModel(config)
        except Exception as error:  # transformers' checks raise errors of many kinds
            raise InvalidCheckpoint(f"{folder / 'config.json'}: no UMT5 encoder: {_one_line(error)}") from None

    def prepare(self, device: torch.device, dtype: torch.dtype) -> None:
        """Give the network (unfilled) memory."""
        materialise(self.network, device, dtype)
        self.network.eval()

    def checkpoint_slots(self) -> dict[str, Tensor]:
        """Where each tensor of the checkpoint goes: its name there -> the parameter here."""
        return {
            name: parameter.data
            for name, parameter in self.network.named_parameters(remove_duplicate=False)
            if name not in TIED_NAMES
        }

    def encode(self, prompt: str) -> Tensor:
        """(L, text_dim): the embeddings of a prompt's true tokens, at most `max_tokens`, the end mark included.

        Padding is masked in the encoder, so leaving it out gives the same rows and saves most of the work.
        """
        ids = self.tokenizer(
            [clean_prompt(prompt)], truncation=True, max_length=self.max_tokens, return_tensors="pt"
        ).input_ids.to(self.network.shared.weight.device)
        embedded: Tensor = self.network(ids, torch.ones_like(ids)).last_hidden_state
        return embedded[0]
