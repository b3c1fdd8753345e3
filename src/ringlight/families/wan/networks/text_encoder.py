"""Prompts to embeddings: the UMT5 encoder behind the checkpoint's tokenizer.

Over many ranks each holds a run of the layers, so that memory and loading shrink with them. A prompt's hidden states go
from rank to rank, and the last one that holds layers hands its embeddings to all. L tokens of a prompt, C its width.
"""

from __future__ import annotations

import html
import re
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

import ftfy
import msgspec
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from ringlight.core.checkpoint import Checkpoint
from ringlight.core.eight_bit import EightBit
from ringlight.core.errors import InvalidCheckpoint
from ringlight.core.portions import split_runs
from ringlight.core.presence import require_file
from ringlight.families.wan.networks.naming import held_name
from ringlight.families.wan.networks.umt5 import GATED_GELU, Umt5Config, Umt5Encoder
from ringlight.models.loading import materialise
from ringlight.parallel.collective import collective
from ringlight.parallel.collectives import Transfers, gather_parts
from ringlight.parallel.mesh import Axis, ParallelMesh
from ringlight.residency.part import WeightPart
from ringlight.residency.residency import Residency, at_work

CONFIG = "text_encoder/config.json"
MAX_PROMPT = 40  # characters of a prompt in an error
PART_NAMES = "text encoder, "  # how the names of its parts begin


def clean_prompt(text: str) -> str:
    """Mend broken Unicode, unescape HTML (twice: some prompts were escaped twice), fold white space."""
    unescaped = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return re.sub(r"\s+", " ", unescaped).strip()


def load_tokenizer(path: Path) -> Tokenizer:
    """The checkpoint's tokenizer. Raises InvalidCheckpoint when its file cannot be read."""
    require_file(path)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the tokenizers library raises plain Exception
        raise InvalidCheckpoint(f"{path}: tokenizer not readable: {' '.join(str(error).split())}") from None
    tokenizer.no_padding()
    return tokenizer


class TextEncoder(nn.Module):
    """The UMT5 encoder of a checkpoint, or this rank's run of its layers, and its tokenizer."""

    def __init__(
        self, config: Umt5Config, tokenizer: Tokenizer | None, max_tokens: int, axis: Axis | None = None
    ) -> None:
        """Build on the meta device; `prepare` and loading give it weights.

        The layers lie over the ranks of `axis`; without one all are here. `tokenizer` may be None where nothing will
        be encoded.
        """
        super().__init__()
        self.max_tokens = max_tokens
        self.tokenizer = tokenizer
        self.axis = ParallelMesh.alone().world if axis is None else axis
        with torch.device("meta"):
            whole = Umt5Encoder(config, range(config.num_layers + 1))
        runs = split_runs(config.layers.parts, self.axis.size)
        with torch.device("meta"):
            self.network = Umt5Encoder(config, runs[self.axis.rank])
        self._num_tokens = config.vocab_size
        self._width = config.d_model
        self._of_all_ranks = (whole,)  # no module of this one
        self._holders = sum(map(bool, runs))
        self._residency: Residency | None = None
        self._layers: list[WeightPart] = []

    def prepare(self, device: torch.device, dtype: torch.dtype) -> None:
        """Give the network (unfilled) memory."""
        materialise(self.network, device, dtype)
        self._settle(device, dtype)
        self._layers = self.network.encoder.parts(PART_NAMES)

    def prepare_to_stream(self, device: torch.device, dtype: torch.dtype) -> tuple[list[WeightPart], list[WeightPart]]:
        """Compute on a device to which layers come from a host's copy (`stream_from`).

        Returns the parts of all ranks, token table first, and those of this rank.
        """
        (whole,) = self._of_all_ranks
        for network in (whole, self.network):
            materialise(network, torch.device("meta"), dtype)
        self._settle(device, dtype)
        self._layers = self.network.encoder.parts(PART_NAMES)
        return _parts(whole), _parts(self.network)

    def stream_from(self, residency: Residency) -> None:
        """Take layers from there whenever prompts are encoded. The token table is looked up where it lies."""
        self._residency = residency

    def _settle(self, device: torch.device, dtype: torch.dtype) -> None:
        self.network.eval()
        self._nothing = torch.empty(1, 0, self._width, device=device, dtype=dtype)

    def checkpoint_slots(self, only: Container[Tensor] | None = None) -> dict[str, Tensor]:
        """Destination of each tensor of the checkpoint: its name -> the parameter here, if in `only` (None: all).

        Those of layers that other ranks hold are on the meta device.
        """
        (whole,) = self._of_all_ranks
        parameters = dict(whole.named_parameters()) | dict(self.network.named_parameters())
        return {held_name(name): each.data for name, each in parameters.items() if only is None or each in only}

    @property
    def has_table(self) -> bool:
        """Whether this rank looks up the tokens of prompts."""
        return self.network.shared is not None

    def look_up_in(self, table: Tensor) -> None:
        """Take rows of prompts from this token table, of whatever dtype, such as one that lies in a file."""
        assert self.network.shared is not None, "this rank has the table"
        self.network.shared.register_parameter("weight", nn.Parameter(table, requires_grad=False))

    @collective
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

    def count_tokens(self, prompt: str) -> int:
        """Number of tokens of a prompt, the end mark included, before any truncation."""
        assert self.tokenizer is not None, "made to encode"
        self.tokenizer.no_truncation()
        return len(self.tokenizer.encode(clean_prompt(prompt)).ids)

    def _tokenise(self, prompt: str) -> Tensor:
        """(1, L) token ids."""
        assert self.tokenizer is not None, "made to encode"
        self.tokenizer.enable_truncation(self.max_tokens)
        ids = self.tokenizer.encode(clean_prompt(prompt)).ids
        if not ids or max(ids) >= self._num_tokens:
            made = f"token {max(ids)}" if ids else "no token"
            raise InvalidCheckpoint(
                f"tokenizer: makes {made} of {prompt[:MAX_PROMPT]!r}; the text encoder has 0 to {self._num_tokens - 1}"
            )
        return torch.tensor([ids], device=self._nothing.device)

    def _through_the_ranks(self, tokens: list[Tensor]) -> Tensor:
        """(1, S, C): the embeddings of all prompts, one after another, on the last holder; no rows on other ranks.

        Holders are neighbours, and each goes on with the next prompt as soon as it has sent one off; where layers have
        to come, all prompts go through each of them together. Embeddings are handed out after the last prompt, not
        after each: the last two holders then start their messages in one order, without which NCCL would deadlock.
        """
        rank, last = self.axis.rank, self._holders - 1
        if rank > last:
            return self._nothing
        sent, embedded = [], [self._nothing]
        for together in [tokens] if self._residency else [[ids] for ids in tokens]:
            hidden = [self._receive(ids.shape[1]) if rank else self._embed(ids) for ids in together]
            for made in self._through_own_layers(hidden):
                if rank < last:
                    sent.append(Transfers({rank + 1: made}, {}, self.axis, "text"))
                else:
                    embedded.append(made)
        for transfers in sent:
            transfers.wait()
        return torch.cat(embedded, dim=1)

    def _embed(self, ids: Tensor) -> Tensor:
        """(1, L, C): rows of the token table."""
        return self.network.embed(ids).to(self._nothing.dtype)

    @collective
    def _receive(self, length: int) -> Tensor:
        """(1, L, C): a prompt's hidden states from the rank before."""
        hidden = self._nothing.new_empty(1, length, self._width)
        Transfers({}, {self.axis.rank - 1: hidden}, self.axis, "text").wait()
        return hidden

    def _through_own_layers(self, hidden: list[Tensor]) -> list[Tensor]:
        """(1, L, C) of each prompt after this rank's layers."""
        with at_work(self._residency, "text encoder", self._layers) as weights:
            out: list[Tensor] = self.network.encoder(hidden, weights)
            return out


def _parts(network: Umt5Encoder) -> list[WeightPart]:
    """Parts of a network that has its dtypes: the token table, and each layer."""
    table = [] if network.shared is None else [WeightPart(f"{PART_NAMES}token table", [network.shared])]
    return table + network.encoder.parts(PART_NAMES)


def read_umt5(checkpoint: Checkpoint, held: Mapping[str, EightBit]) -> Umt5Config:
    """Read all numbers of a checkpoint's encoder, of which these matrices are held in eight bits.

    Raises InvalidCheckpoint if it is not one that we know.
    """
    path = checkpoint.path(CONFIG)
    try:
        config = msgspec.convert(checkpoint.json(CONFIG), Umt5Config)
    except msgspec.ValidationError as error:
        raise InvalidCheckpoint(f"{path}: no UMT5 encoder: {error}") from None
    if config.feed_forward_proj != GATED_GELU:
        raise InvalidCheckpoint(f"{path}: feed_forward_proj must be {GATED_GELU}, not {config.feed_forward_proj}")
    return msgspec.structs.replace(config, held=dict(held))
