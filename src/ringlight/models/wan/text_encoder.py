"""Prompts to embeddings: transformers' UMT5 encoder and T5 tokenizer, with our weight loading around them.

Over many ranks each holds a run of the layers, so that memory and loading shrink with them. A prompt's hidden states go
from rank to rank, and the last one that holds layers hands its embeddings to all. L tokens of a prompt, C its width.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import ftfy
import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, UMT5Config, UMT5EncoderModel

from ringlight.core.errors import InvalidCheckpoint
from ringlight.core.portions import split_runs
from ringlight.core.spec import read_json
from ringlight.models.wan.checkpoint import materialise
from ringlight.parallel.collectives import Transfers, gather_parts
from ringlight.parallel.mesh import Axis, ParallelMesh

TOKENIZER_FILES = ("tokenizer.json", "spiece.model")

# The token table stands under two names in some checkpoints; it is one tensor.
TIED_NAMES = {"encoder.embed_tokens.weight": "shared.weight"}

MAX_PROMPT = 40  # characters of a prompt in an error


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
    """The UMT5 encoder of a checkpoint, or this rank's run of its layers, and its tokenizer."""

    def __init__(self, folder: Path, tokenizer: Any, max_tokens: int, axis: Axis | None = None) -> None:
        """Build on the meta device from `folder`/config.json; `prepare` and loading give it weights.

        The layers lie over the ranks of `axis`; without one all are here. Raises InvalidCheckpoint when the JSON
        describes no such network.
        """
        super().__init__()
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.axis = ParallelMesh.alone().world if axis is None else axis
        values = read_json(folder / "config.json")
        try:
            config = UMT5Config(**{key: value for key, value in values.items() if key not in ("dtype", "torch_dtype")})
            config._attn_implementation = "eager"
            with torch.device("meta"):
                self.network = UMT5EncoderModel(config)
        except Exception as error:  # transformers' checks raise errors of many kinds
            raise InvalidCheckpoint(f"{folder / 'config.json'}: no UMT5 encoder: {_one_line(error)}") from None
        self._num_tokens: int = config.vocab_size
        self._width: int = config.d_model
        self._whole = self._slots_here()
        runs = split_runs(_sizes(self.network), self.axis.size)
        self._holders = sum(map(bool, runs))
        _keep(self.network, runs[self.axis.rank])

    def prepare(self, device: torch.device, dtype: torch.dtype) -> None:
        """Give the network (unfilled) memory."""
        materialise(self.network, device, dtype)
        self.network.eval()
        self._nothing = torch.empty(1, 0, self._width, device=device, dtype=dtype)

    def checkpoint_slots(self) -> dict[str, Tensor]:
        """Where each tensor of the checkpoint goes: its name there -> the parameter here.

        Those of layers that other ranks hold are on the meta device.
        """
        return self._whole | self._slots_here()

    def encode(self, prompts: Sequence[str]) -> list[Tensor]:
        """(L, C) for each prompt: embeddings of its true tokens, at most `max_tokens`, the end mark included.

        Padding is masked in the encoder, so leaving it out gives the same rows and saves most of the work. All ranks
        of the axis call this with the same prompts, and get the same. Raises InvalidCheckpoint, on all of them and
        before anything travels, when the tokenizer gives what the token table does not have.
        """
        tokens = [self._tokenise(prompt) for prompt in prompts]
        if not tokens:
            return []
        mine = self._through_the_ranks(tokens)
        lengths = [ids.shape[1] for ids in tokens]
        sizes = [sum(lengths) if rank == self._holders - 1 else 0 for rank in range(self.axis.size)]
        embedded = gather_parts(mine, sizes, self.axis, kind="text")[0]
        return [part.clone() for part in embedded.split(lengths)]  # a cache that forgets one must free its memory

    def _tokenise(self, prompt: str) -> Tensor:
        """(1, L) token ids."""
        ids = self.tokenizer([clean_prompt(prompt)], truncation=True, max_length=self.max_tokens).input_ids[0]
        if not ids or max(ids) >= self._num_tokens:
            made = f"token {max(ids)}" if ids else "no token"
            raise InvalidCheckpoint(
                f"tokenizer: makes {made} of {prompt[:MAX_PROMPT]!r}; the text encoder has 0 to {self._num_tokens - 1}"
            )
        return torch.tensor([ids], device=self._nothing.device)

    def _through_the_ranks(self, tokens: list[Tensor]) -> Tensor:
        """(1, S, C): the embeddings of all prompts, one after another, on the last holder; no rows on other ranks.

        Holders are neighbours, and each goes on with the next prompt as soon as it has sent one off. Embeddings are
        handed out after the last prompt, not after each: the last two holders then start their messages in one order,
        without which NCCL would deadlock.
        """
        rank, last = self.axis.rank, self._holders - 1
        if rank > last:
            return self._nothing
        sent, embedded = [], [self._nothing]
        for ids in tokens:
            hidden = self._through_own_layers(ids, self._receive(ids.shape[1]) if rank else None)
            if rank < last:
                sent.append(Transfers({rank + 1: hidden}, {}, self.axis, "text"))
            else:
                embedded.append(hidden)
        for transfers in sent:
            transfers.wait()
        return torch.cat(embedded, dim=1)

    def _receive(self, length: int) -> Tensor:
        """(1, L, C): a prompt's hidden states from the rank before."""
        hidden = self._nothing.new_empty(1, length, self._width)
        Transfers({}, {self.axis.rank - 1: hidden}, self.axis, "text").wait()
        return hidden

    def _through_own_layers(self, ids: Tensor, hidden: Tensor | None) -> Tensor:
        """(1, L, C) after this rank's layers. Only the first rank, which has the table, looks at the ids."""
        out: Tensor = self.network(
            ids if hidden is None else None, attention_mask=torch.ones_like(ids), inputs_embeds=hidden
        ).last_hidden_state
        return out

    def _slots_here(self) -> dict[str, Tensor]:
        return {
            name: parameter.data
            for name, parameter in self.network.named_parameters(remove_duplicate=False)
            if name not in TIED_NAMES
        }


def _sizes(network: UMT5EncoderModel) -> list[int]:
    """Values in the token table and in each layer; the final norm counts with the last one."""
    sizes = [_num_values(part.parameters()) for part in (network.shared, *network.encoder.block)]
    sizes[-1] += _num_values(network.encoder.final_layer_norm.parameters())
    return sizes


def _num_values(parameters: Iterable[Tensor]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _keep(network: UMT5EncoderModel, run: range) -> None:
    """Leave only the parts of a run (0 the token table, from 1 the layers), under the names that they have.

    The stack's forward goes through the layers that there are, each of which has a relative bias of its own.
    """
    stack = network.encoder
    num_layers = len(stack.block)
    if 0 not in run:
        network.set_input_embeddings(nn.Identity())
    if num_layers not in run:
        stack.final_layer_norm = nn.Identity()
    for layer in range(num_layers):
        if layer + 1 not in run:
            delattr(stack.block, str(layer))  # del block[layer] would number the others anew
