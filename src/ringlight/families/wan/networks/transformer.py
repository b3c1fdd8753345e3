"""The diffusion transformer of Wan (WanTransformer3DModel of diffusers is the reference for its numbers).

B batch (always 1), S tokens, C channels, H heads, D head width, L rows of text, T latent frames. Tokens stand in the
order time, row, column, so the first latent frame is a prefix of the sequence.

What is done differently, with the same result to rounding:
- Only distinct timesteps are embedded: one for text-to-video, two for image-to-video (the first frame is at time 0),
  each valid for a run of tokens. Modulation is then weight and bias of the layer norm itself.
- Text keys and values are projected once per request. All padding rows of a prompt give one and the same key and
  value, so on a CPU they stand as one column whose score is raised by the logarithm of their number.
- Hidden states stay in float32 between the blocks; what follows attention runs on slices of the tokens, so that the
  feed-forward's wide activations exist for one slice only.
"""

from __future__ import annotations

import math
from collections.abc import Container, Generator, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ringlight.core.portions import MAX_ELEMENTS, SLICE_TOKENS, merges_padding, offered_tokens
from ringlight.families.layers.matrix import BlockLayers
from ringlight.families.wan.networks.conditioning import Keys, Modulation, TextKeys, WithImage
from ringlight.families.wan.networks.embedding import ConditionEmbedder
from ringlight.families.wan.networks.naming import transformer_slots
from ringlight.families.wan.networks.rope import rope_frequencies, rotate_
from ringlight.families.wan.work.transformer import TransformerSpec
from ringlight.kernels.attention.kernel import AttentionKernel
from ringlight.kernels.linear import Linear
from ringlight.parallel.attention import sequence_attention
from ringlight.parallel.collective import collective
from ringlight.parallel.mesh import ParallelMesh
from ringlight.parallel.shard import SequenceShard
from ringlight.parallel.speeds import median_seconds
from ringlight.parallel.turns import in_turns, pause
from ringlight.residency.part import WeightPart
from ringlight.residency.weights import ALWAYS_THERE, Weights

PROBE_TOKENS_ON_CPU, PROBE_TOKENS = 128, 2048


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMS norm over all channels (not per head), in float32 whatever the input is."""
    return F.rms_norm(x.float(), weight.shape, weight.float(), eps)


class SelfAttention(nn.Module):
    """The projections of a block's self-attention, q, k and v in one product."""

    def __init__(self, spec: TransformerSpec, layers: BlockLayers) -> None:
        super().__init__()
        dim = spec.inner_dim
        self.heads, self.eps = spec.num_attention_heads, spec.eps
        self.to_qkv = Linear.of(layers.to_qkv)
        self.norm_q = nn.Parameter(torch.empty(dim))
        self.norm_k = nn.Parameter(torch.empty(dim))
        self.to_out = Linear.of(layers.to_out)

    def qkv(self, x_BSC: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v as BSHD in the dtype of x, normed and rotated."""
        q, k, v = self.to_qkv(x_BSC).chunk(3, dim=-1)
        rotated = (
            rotate_(rms_norm(tensor, weight, self.eps).unflatten(-1, (self.heads, -1)), frequencies).to(x_BSC.dtype)
            for tensor, weight in ((q, self.norm_q), (k, self.norm_k))
        )
        return *rotated, v.unflatten(-1, (self.heads, -1))


class CrossAttention(nn.Module):
    """The projections of a block's cross-attention to the text."""

    def __init__(self, spec: TransformerSpec, layers: BlockLayers) -> None:
        super().__init__()
        dim = spec.inner_dim
        self.heads, self.eps = spec.num_attention_heads, spec.eps
        self.to_q = Linear.of(layers.text_to_q)
        self.to_kv = Linear.of(layers.text_to_kv)
        self.norm_q = nn.Parameter(torch.empty(dim))
        self.norm_k = nn.Parameter(torch.empty(dim))
        self.to_out = Linear.of(layers.text_to_out)
        self.to_added_kv = self.norm_added_k = None
        if layers.image_to_kv is not None:
            self.to_added_kv = Linear.of(layers.image_to_kv)
            self.norm_added_k = nn.Parameter(torch.empty(dim))

    @property
    def makes_keys(self) -> list[nn.Parameter]:
        """Parameters that make keys and values of texts and pictures, which no forward needs."""
        text = [*self.to_kv.parameters(), self.norm_k]
        if self.to_added_kv is None or self.norm_added_k is None:
            return text
        return [*text, *self.to_added_kv.parameters(), self.norm_added_k]

    def keys(self, text_BLC: Tensor, num_pad: int, image_BLC: Tensor | None = None) -> Keys:
        """Keys and values of text, whose last row is the padding's if `num_pad` is not 0, and of a picture's tokens."""
        text = TextKeys(*self._projected(text_BLC, self.to_kv, self.norm_k), num_pad)
        if image_BLC is None or self.to_added_kv is None or self.norm_added_k is None:
            return text
        return WithImage(text, TextKeys(*self._projected(image_BLC, self.to_added_kv, self.norm_added_k), 0))

    def _projected(self, rows_BLC: Tensor, to_kv: Linear, norm: nn.Parameter) -> tuple[Tensor, Tensor]:
        k, v = to_kv(rows_BLC).chunk(2, dim=-1)
        k = rms_norm(k, norm, self.eps).to(rows_BLC.dtype)
        k_BLHD, v_BLHD = (tensor.unflatten(-1, (self.heads, -1)).contiguous() for tensor in (k, v))
        return k_BLHD, v_BLHD

    def forward(self, x_BSC: Tensor, keys: Keys, kernel: AttentionKernel) -> Tensor:
        q = rms_norm(self.to_q(x_BSC), self.norm_q, self.eps).to(x_BSC.dtype)
        out: Tensor = self.to_out(keys.attend(q.unflatten(-1, (self.heads, -1)), kernel).flatten(2))
        return out


class FeedForward(nn.Module):
    """Two linear maps with a tanh-approximated GELU between."""

    def __init__(self, layers: BlockLayers) -> None:
        super().__init__()
        self.up = Linear.of(layers.up)
        self.down = Linear.of(layers.down)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(self.up.with_gelu(x))
        return out


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention, feed-forward. Token by token but for self-attention."""

    def __init__(self, spec: TransformerSpec, layers: BlockLayers) -> None:
        super().__init__()
        dim = spec.inner_dim
        self.eps = spec.eps
        self.attn1 = SelfAttention(spec, layers)
        self.attn2 = CrossAttention(spec, layers)
        self.norm2 = nn.LayerNorm(dim, spec.eps)
        self.ffn = FeedForward(layers)
        self.scale_shift_table = nn.Parameter(torch.empty(6, dim))

    def qkv(
        self, x_BSC: Tensor, start: int, modulation: Modulation, frequencies: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v (BSHD) of the tokens that begin at `start`, from the hidden states before the block."""
        dtype = self.attn1.to_qkv.weight.dtype
        return self.attn1.qkv(modulation.norm(x_BSC, start, 0, dtype, self.eps), frequencies)

    def finish_(
        self,
        x_BSC: Tensor,
        attended_BSC: Tensor,
        start: int,
        modulation: Modulation,
        keys: Keys,
        kernel: AttentionKernel,
    ) -> None:
        """Apply all that follows self-attention, in place on tokens that begin at `start`, SLICE_TOKENS at a time."""
        for begin in range(0, x_BSC.shape[1], SLICE_TOKENS):
            run = slice(begin, begin + SLICE_TOKENS)
            self._finish_slice_(x_BSC[:, run], attended_BSC[:, run], start + begin, modulation, keys, kernel)

    def _finish_slice_(
        self, x: Tensor, attended: Tensor, start: int, modulation: Modulation, keys: Keys, kernel: AttentionKernel
    ) -> None:
        modulation.add_gated_(x, self.attn1.to_out(attended), start, gate=2)
        normed = F.layer_norm(x, x.shape[-1:], self.norm2.weight, self.norm2.bias, self.eps).to(attended.dtype)
        x += self.attn2(normed, keys, kernel)
        normed = modulation.norm(x, start, 3, attended.dtype, self.eps)
        modulation.add_gated_(x, self.ffn(normed), start, gate=5)


class TransformerParts(NamedTuple):
    """Parts of a transformer that are brought to the device and dropped together.

    They are its ends, each block without its keys and values of texts, and those of each block.
    """

    ends: WeightPart
    blocks: list[WeightPart]
    texts: list[WeightPart]

    @property
    def all(self) -> list[WeightPart]:
        """Parts in one list."""
        return [self.ends, *self.blocks, *self.texts]


class WanTransformer(nn.Module):
    """Predicts the velocity of latents at given timesteps under a prompt."""

    KEPT_IN_FLOAT32 = ("time_embedder", "scale_shift_table", "norm1", "norm2")

    def __init__(self, spec: TransformerSpec) -> None:
        super().__init__()
        self.spec = spec
        layers = spec.layers
        self.patch_embedding = Linear.of(layers.patches)
        self.condition_embedder = ConditionEmbedder(layers)
        self.blocks = nn.ModuleList(TransformerBlock(spec, layers.block) for _ in range(layers.num_blocks))
        self.proj_out = Linear.of(layers.head)
        self.scale_shift_table = nn.Parameter(torch.empty(2, spec.inner_dim))
        self.weights: Weights = ALWAYS_THERE
        self._rope: tuple[tuple[int, int, int], Tensor] | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the matrix products; hidden states are float32."""
        return self.patch_embedding.weight.dtype

    def checkpoint_slots(self, only: Container[Tensor] | None = None) -> dict[str, Tensor]:
        """Destination of each tensor of the checkpoint: its name -> a view of a parameter in `only` (None: all)."""
        slots: dict[str, Tensor] = {}
        for name, parameter in self.named_parameters():
            if only is None or parameter in only:
                slots |= transformer_slots(name, parameter.data, self.spec)
        return slots

    def optimise_layout(self) -> None:
        """Lay the weights out for computation. Call once, after loading."""
        for module in self.modules():
            if isinstance(module, Linear):
                module.lay_out()

    def parts(self, name: str = "transformer") -> TransformerParts:
        """Parts of the network that are moved together, once it has its dtypes; `name` is that of its folder."""
        blocks = list(self._blocks())
        texts = [block.attn2.makes_keys for block in blocks]
        return TransformerParts(
            ends=WeightPart(f"{name}, all but its blocks", [self], [*self.blocks.parameters()]),
            blocks=[
                WeightPart(f"{name}, block {number}", [block], text)
                for number, (block, text) in enumerate(zip(blocks, texts, strict=True))
            ],
            texts=[
                WeightPart(f"{name}, text of block {number}", [block], set(block.parameters()).difference(text))
                for number, (block, text) in enumerate(zip(blocks, texts, strict=True))
            ],
        )

    def text_keys(
        self, text_LC: Tensor, num_rows: int, merge_padding: bool | None = None, image_LC: Tensor | None = None
    ) -> list[Keys]:
        """Keys and values of a prompt for every block: to be kept for all steps of a request.

        `text_LC` are the true rows of the encoder's output; rows from there to `num_rows` are padding: zeros,
        which the text projection turns into one and the same key and value each. With `merge_padding` (None: as is
        best on this device) one stands for all of them. `image_LC` are tokens of pictures, which have keys of their own
        in models that know them. Weights are taken as of [ends, *texts].
        """
        if merge_padding is None:
            merge_padding = merges_padding(text_LC.device.type == "cpu")
        missing = num_rows - text_LC.shape[0]
        num_pad = missing if merge_padding else 0
        rows = F.pad(text_LC, (0, 0, 0, min(missing, 1) if merge_padding else missing))
        self.weights.take(0)
        embedded = self.condition_embedder.embed_text(rows.unsqueeze(0).to(self.dtype))
        embedder, image = self.condition_embedder.image_embedder, None
        if image_LC is not None and embedder is not None:
            image = embedder(image_LC.unsqueeze(0).to(self.dtype))
        keys = []
        for place, block in enumerate(self._blocks(), 1):
            self.weights.take(place)
            keys.append(block.attn2.keys(embedded, num_pad, image))
            self.weights.done(place)
        return keys

    @collective
    def forward(
        self,
        latents_BCTHW: Tensor,
        timesteps: Tensor,
        keys: list[Keys],
        kernel: AttentionKernel,
        mesh: ParallelMesh,
        num_slices: int = 1,
    ) -> Tensor:
        """The predicted velocity, BCTHW in the dtype of the products, whole on every rank of a sequence.

        `timesteps` holds one value for all tokens, or two: the first latent frame's, then all others'. With more than
        one slice, data for other ranks is sent ahead slice by slice (parallel/ahead.py).
        """
        (velocity,) = in_turns(self.steps(latents_BCTHW, timesteps, keys, kernel, mesh, num_slices))
        return velocity

    @collective
    def steps(
        self,
        latents_BCTHW: Tensor,
        timesteps: Tensor,
        keys: list[Keys],
        kernel: AttentionKernel,
        mesh: ParallelMesh,
        num_slices: int = 1,
    ) -> Generator[int, None, Tensor]:
        """`forward` as a generator that pauses wherever its data travels, so that another one can take its turn.

        It says how many blocks are behind it. Weights are taken as of [ends, *blocks].
        """
        blocks = list(self._blocks())
        self.weights.take(0)
        tokens, grid = self._patchify(latents_BCTHW)
        embedding, rows = self.condition_embedder.embed_time(timesteps, self.dtype)
        num_tokens, num_first = tokens.shape[1], grid[1] * grid[2]
        shard = SequenceShard(mesh, num_tokens)
        ends = (num_tokens,) if len(timesteps) == 1 else (num_first, num_tokens)
        x = self.patch_embedding(shard.split(tokens, dim=1)).float()
        frequencies = shard.split(self._rope_for(grid, latents_BCTHW.device), dim=0)
        time_rows = Modulation(rows.float(), ends)
        attention = sequence_attention(shard, kernel, num_slices)
        run_tokens = offered_tokens(x.device.type == "cpu")
        most = MAX_ELEMENTS // blocks[0].attn1.to_qkv.out_features

        def offer(number: int, part: slice) -> None:
            self.weights.take(1 + number)
            block = blocks[number]
            modulation = time_rows.plus(block.scale_shift_table)
            for run in attention.runs(part, run_tokens, most):
                attention.offer(run, *block.qkv(x[:, run], shard.start + run.start, modulation, frequencies[run]))

        for part in attention.parts:
            offer(0, part)
        for number, (block, block_keys) in enumerate(zip(blocks, keys, strict=True)):
            is_last = number + 1 == len(blocks)
            modulation = time_rows.plus(block.scale_shift_table)
            with pause(attention):
                yield number
            attention.attend()
            if mesh.ulysses.size > 1:
                with pause(attention):
                    yield number
            for part, attended in attention.outputs(is_last):
                block.finish_(x[:, part], attended.flatten(2), shard.start + part.start, modulation, block_keys, kernel)
                del attended
                if not is_last:
                    offer(number + 1, part)
            self.weights.done(1 + number)
        head = Modulation(embedding.float().unsqueeze(1), ends).plus(self.scale_shift_table)
        out = x.new_empty(*x.shape[:2], self.proj_out.out_features, dtype=self.dtype)
        for begin in range(0, x.shape[1], SLICE_TOKENS):
            run = slice(begin, begin + SLICE_TOKENS)
            out[:, run] = self._head(x[:, run], shard.start + begin, head)
        return self._unpatchify(shard.gather(out), grid)

    def measure_flops(self, kernel: AttentionKernel) -> float:
        """Floating-point operations a second of one block on few tokens, the device synchronised around it.

        The tokens are random: products of zeros take a device less power, and so less time. All of the first block must
        be there.
        """
        block = next(self._blocks())
        device = block.scale_shift_table.device
        num_tokens = PROBE_TOKENS_ON_CPU if device.type == "cpu" else PROBE_TOKENS
        generator = torch.Generator(device).manual_seed(0)
        shapes = ((1, num_tokens, self.spec.inner_dim), (1, 6, self.spec.inner_dim))
        x, rows = (torch.randn(shape, generator=generator, device=device) for shape in shapes)
        modulation = Modulation(rows, (num_tokens,))
        frequencies = rope_frequencies((1, 1, num_tokens), self.spec.attention_head_dim, device)
        keys = block.attn2.keys(x[:, :1].to(self.dtype), num_pad=0)

        def run() -> None:
            out, _ = kernel(*block.qkv(x, 0, modulation, frequencies))
            block.finish_(x, out.flatten(2), 0, modulation, keys, kernel)

        run()
        return self.spec.forward_flops(num_tokens) / self.spec.num_layers / median_seconds(run, device)

    def _head(self, x_BSC: Tensor, start: int, modulation: Modulation) -> Tensor:
        out: Tensor = self.proj_out(modulation.norm(x_BSC, start, 0, self.dtype, self.spec.eps))
        return out

    def _blocks(self) -> Iterator[TransformerBlock]:
        for block in self.blocks:
            assert isinstance(block, TransformerBlock)
            yield block

    def _rope_for(self, grid: tuple[int, int, int], device: torch.device) -> Tensor:
        """Rotations of a grid, computed once per shape."""
        if self._rope is None or self._rope[0] != grid:
            self._rope = (grid, rope_frequencies(grid, self.spec.attention_head_dim, device))
        return self._rope[1]

    def _patchify(self, latents_BCTHW: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
        """Latents as tokens (B, S, C x patch), and the grid of tokens."""
        _, ph, pw = self.spec.patch_size
        batch, channels, frames, height, width = latents_BCTHW.shape
        grid = (frames, height // ph, width // pw)
        patches = latents_BCTHW.to(self.dtype).reshape(batch, channels, frames, grid[1], ph, grid[2], pw)
        return patches.permute(0, 2, 3, 5, 1, 4, 6).reshape(batch, math.prod(grid), channels * ph * pw), grid

    def _unpatchify(self, out: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Tokens (B, S, patch x C) as a video of latents; channels run fastest within a patch here."""
        _, ph, pw = self.spec.patch_size
        patches = out.view(out.shape[0], *grid, ph, pw, self.spec.out_channels)
        video: Tensor = patches.permute(0, 6, 1, 2, 4, 3, 5).reshape(
            out.shape[0], self.spec.out_channels, grid[0], grid[1] * ph, grid[2] * pw
        )
        return video
