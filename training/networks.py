"""The transformer and the text encoder as they are trained: diffusers' and transformers' modules, a leaner forward.

The same numbers as `WanTransformer3DModel` with one timestep for each token and prompts padded to 512 rows: at most two
timesteps of a clip (of the first latent frame, of the others) are embedded, and all the padding is one key, whose score
is raised by the logarithm of how many there are.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from diffusers import WanTransformer3DModel
from torch import Tensor
from transformers import UMT5Config, UMT5EncoderModel

from training.vae_start import LATENTS
from training.vocabulary import END, known_words, meanings

HEADS, HEAD_DIM, LAYERS, FFN = 4, 64, 4, 384
WIDTH = HEADS * HEAD_DIM
TEXT_WIDTH, TEXT_LAYERS = 128, 1
TEXT_ROWS = 512
PATCH = 4 * LATENTS  # numbers of a token: 2 x 2 latents


def make_transformer() -> WanTransformer3DModel:
    """A small transformer of the kind of Wan2.2-TI2V, with random weights."""
    return WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=HEADS, attention_head_dim=HEAD_DIM, in_channels=LATENTS,
        out_channels=LATENTS, text_dim=TEXT_WIDTH, freq_dim=256, ffn_dim=FFN, num_layers=LAYERS, cross_attn_norm=True,
        qk_norm="rms_norm_across_heads", eps=1e-6, image_dim=None, added_kv_proj_dim=None, rope_max_seq_len=1024,
    )  # fmt: skip


def make_text_encoder() -> UMT5EncoderModel:
    """A small UMT5 for the vocabulary of `training.vocabulary`, with random weights."""
    config = UMT5Config(
        vocab_size=len(meanings()), d_model=TEXT_WIDTH, d_kv=32, d_ff=2 * TEXT_WIDTH, num_layers=TEXT_LAYERS,
        num_heads=TEXT_WIDTH // 32, dropout_rate=0.0, feed_forward_proj="gated-gelu", pad_token_id=0,
        eos_token_id=END, decoder_start_token_id=0, tie_word_embeddings=False, initializer_factor=1.0,
    )  # fmt: skip
    return UMT5EncoderModel(config)


@torch.no_grad()
def start_transformer(model: WanTransformer3DModel) -> None:
    """Weights to begin with: the input passes to the output as it is, and each block adds nothing yet."""
    into = torch.linalg.qr(torch.randn(WIDTH, WIDTH))[0][:, :PATCH]  # orthonormal columns; rows in order (c, h, w)
    model.patch_embedding.weight.copy_((into * math.sqrt(WIDTH / PATCH)).view_as(model.patch_embedding.weight))
    model.patch_embedding.bias.zero_()
    out = into.t().view(LATENTS, 4, WIDTH).permute(1, 0, 2).reshape(PATCH, WIDTH)  # in order (h, w, c)
    model.proj_out.weight.copy_(out * math.sqrt(PATCH / WIDTH))
    model.proj_out.bias.zero_()
    model.scale_shift_table.zero_()
    condition = model.condition_embedder
    condition.time_proj.weight.normal_(0, 0.01)
    condition.time_proj.bias.zero_()
    condition.time_embedder.linear_2.weight.mul_(0.3)
    condition.time_embedder.linear_2.bias.zero_()
    for block in model.blocks:
        block.scale_shift_table.zero_()
        block.scale_shift_table[:, 2] = block.scale_shift_table[:, 5] = 1.0  # gates
        for last in (block.attn1.to_out[0], block.attn2.to_out[0], block.ffn.net[2]):
            last.weight.zero_()
            last.bias.zero_()


@torch.no_grad()
def start_text_encoder(encoder: UMT5EncoderModel) -> None:
    """Weights to begin with: words are orthogonal and pass as they are; all that is no word is 0."""
    table = torch.zeros_like(encoder.shared.weight)
    known = [END, *known_words()]
    table[known] = torch.linalg.qr(torch.randn(TEXT_WIDTH, TEXT_WIDTH))[0][: len(known)] * math.sqrt(TEXT_WIDTH)
    encoder.shared.weight.copy_(table)
    for block in encoder.encoder.block:
        block.layer[0].SelfAttention.o.weight.zero_()
        block.layer[1].DenseReluDense.wo.weight.zero_()


def embed(encoder: UMT5EncoderModel, ids: Tensor, lengths: Tensor) -> Tensor:
    """(B, T) ids of prompts, of which so many are real -> (B, T, C)."""
    mask = torch.arange(ids.shape[1]) < lengths[:, None]
    return encoder(ids, attention_mask=mask.long()).last_hidden_state.float()


def forward(
    model: WanTransformer3DModel, latents: Tensor, times: Tensor, text: Tensor, lengths: Tensor, padding: float = 1.0
) -> Tensor:
    """The velocity of `latents`, (B, 48, F, H, W).

    `times`: (B, 2) in 0..1000, of the first latent frame and of the others. `text`: (B, T, C), of which `lengths` (B,)
    rows are real. `padding`: how much of the padding's weight there is; 1 as the model has it when it is used.
    """
    batch, _, frames, height, width = latents.shape
    patches = latents.view(batch, LATENTS, frames, height // 2, 2, width // 2, 2).permute(0, 2, 3, 5, 1, 4, 6)
    weight = model.patch_embedding.weight.flatten(1)
    hidden = F.linear(patches.reshape(batch, -1, PATCH), weight, model.patch_embedding.bias).float()
    embedder = model.condition_embedder
    time = embedder.time_embedder(embedder.timesteps_proj(times.flatten())).float()
    modulation = embedder.time_proj(F.silu(time)).float().view(batch, 2, 6, WIDTH)
    words, bias = _words(model, text, lengths, padding)
    turn = _rope(model, frames, height, width)
    for block in model.blocks:
        shifts = (block.scale_shift_table.unsqueeze(1) + modulation).unbind(2)
        hidden = hidden + _gated(_attend(block.attn1, _modulated(hidden, frames, *shifts[:2]), turn), frames, shifts[2])
        normed = F.layer_norm(hidden, (WIDTH,), block.norm2.weight, block.norm2.bias, eps=1e-6)
        hidden = hidden + _look_up(block.attn2, normed, words, bias)
        inner = F.gelu(block.ffn.net[0].proj(_modulated(hidden, frames, *shifts[3:5])), approximate="tanh")
        hidden = hidden + _gated(block.ffn.net[2](inner).float(), frames, shifts[5])
    shift, scale = (model.scale_shift_table.unsqueeze(1) + time.view(batch, 2, 1, WIDTH)).unbind(2)
    out = model.proj_out(_modulated(hidden, frames, shift, scale)).float()
    out = out.view(batch, frames, height // 2, width // 2, 2, 2, LATENTS).permute(0, 6, 1, 2, 4, 3, 5)
    return out.reshape(latents.shape)


def _along(x: Tensor, frames: int) -> Tensor:
    """(B, 2, C), of the first frame and of the others -> (B, F, 1, C)."""
    return torch.cat([x[:, :1], x[:, 1:].expand(-1, frames - 1, -1)], dim=1).unsqueeze(2)


def _modulated(x: Tensor, frames: int, shift: Tensor, scale: Tensor) -> Tensor:
    normed = F.layer_norm(x, (WIDTH,), eps=1e-6).unflatten(1, (frames, -1))
    return torch.addcmul(_along(shift, frames), normed, 1 + _along(scale, frames)).flatten(1, 2)


def _gated(x: Tensor, frames: int, gate: Tensor) -> Tensor:
    return (x.unflatten(1, (frames, -1)) * _along(gate, frames)).flatten(1, 2)


def _heads(x: Tensor) -> Tensor:
    return x.unflatten(-1, (HEADS, HEAD_DIM)).transpose(1, 2)


def _rope(model: WanTransformer3DModel, frames: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each (L, D / 2)."""
    cos, sin = model.rope(torch.empty(1, LATENTS, frames, height, width))
    return cos[0, :, 0, 0::2].float(), sin[0, :, 0, 1::2].float()


def _turned(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """(B, N, L, D), each pair of numbers turned by its angle."""
    even, odd = x[..., 0::2], x[..., 1::2]
    cos, sin = turn
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


def _attend(attention: Any, x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    q = _turned(_heads(attention.norm_q(attention.to_q(x).float())), turn)
    k = _turned(_heads(attention.norm_k(attention.to_k(x).float())), turn)
    v = _heads(attention.to_v(x))
    y = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v)
    return attention.to_out[0](y.transpose(1, 2).flatten(2)).float()


def _words(model: WanTransformer3DModel, text: Tensor, lengths: Tensor, padding: float) -> tuple[Tensor, Tensor]:
    """The keys' rows, one for all the padding last, and what is added to their scores."""
    real = torch.arange(text.shape[1]) < lengths[:, None]
    rows = F.pad(text * real.unsqueeze(-1), (0, 0, 0, 1))
    bias = torch.zeros(rows.shape[:2]).masked_fill(~F.pad(real, (0, 1), value=True), -math.inf)
    bias[:, -1] = padding * torch.log(TEXT_ROWS - lengths.float())
    return model.condition_embedder.text_embedder(rows), bias[:, None, None, :]


def _look_up(attention: Any, x: Tensor, words: Tensor, bias: Tensor) -> Tensor:
    q = _heads(attention.norm_q(attention.to_q(x).float()))
    k = _heads(attention.norm_k(attention.to_k(words).float()))
    v = _heads(attention.to_v(words))
    y = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, attn_mask=bias.to(v.dtype))
    return attention.to_out[0](y.transpose(1, 2).flatten(2)).float()
