"""The names that Wan's own code has for weights, and those of diffusers and transformers, which all else here has.

A NameTable is made of a network's numbers and holds every module of it, so that no name is taken apart by guesses.
"""

from __future__ import annotations

from collections.abc import Iterable


class NameTable:
    """Modules, or single tensors, by both of their names: the original ones and ours."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        """`pairs` of (original, ours), each name once."""
        self._ours = dict(pairs)
        self._original = {ours: original for original, ours in self._ours.items()}

    @property
    def modules(self) -> dict[str, str]:
        """Original name -> ours."""
        return dict(self._ours)

    def ours(self, name: str) -> str:
        """Translate a tensor's original name to ours; one of no module here stays as it is."""
        return _renamed(name, self._ours)

    def original(self, name: str) -> str:
        """The original's name of a tensor in ours."""
        return _renamed(name, self._original)


def _renamed(name: str, table: dict[str, str]) -> str:
    module, rest = name, ""
    while module:
        if module in table:
            return f"{table[module]}{rest}"
        module, dot, last = module.rpartition(".")
        rest = f"{dot}{last}{rest}"
    return name


PROJECTIONS = (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("o", "to_out.0"))
TRANSFORMER = (
    ("patch_embedding", "patch_embedding"),
    ("text_embedding.0", "condition_embedder.text_embedder.linear_1"),
    ("text_embedding.2", "condition_embedder.text_embedder.linear_2"),
    ("time_embedding.0", "condition_embedder.time_embedder.linear_1"),
    ("time_embedding.2", "condition_embedder.time_embedder.linear_2"),
    ("time_projection.1", "condition_embedder.time_proj"),
    ("head.head", "proj_out"),
    ("head.modulation", "scale_shift_table"),
    ("img_emb.proj.0", "condition_embedder.image_embedder.norm1"),
    ("img_emb.proj.1", "condition_embedder.image_embedder.ff.net.0.proj"),
    ("img_emb.proj.3", "condition_embedder.image_embedder.ff.net.2"),
    ("img_emb.proj.4", "condition_embedder.image_embedder.norm2"),
    ("img_emb.emb_pos", "condition_embedder.image_embedder.pos_embed"),
)
TRANSFORMER_BLOCK = (
    *((f"self_attn.{theirs}", f"attn1.{ours}") for theirs, ours in PROJECTIONS),
    *((f"cross_attn.{theirs}", f"attn2.{ours}") for theirs, ours in PROJECTIONS),
    ("self_attn.norm_q", "attn1.norm_q"),
    ("self_attn.norm_k", "attn1.norm_k"),
    ("cross_attn.norm_q", "attn2.norm_q"),
    ("cross_attn.norm_k", "attn2.norm_k"),
    ("cross_attn.k_img", "attn2.add_k_proj"),
    ("cross_attn.v_img", "attn2.add_v_proj"),
    ("cross_attn.norm_k_img", "attn2.norm_added_k"),
    ("norm3", "norm2"),
    ("ffn.0", "ffn.net.0.proj"),
    ("ffn.2", "ffn.net.2"),
    ("modulation", "scale_shift_table"),
)

TEXT_ENCODER = (("token_embedding", "shared"), ("norm", "encoder.final_layer_norm"))
TEXT_LAYER = (
    ("norm1", "0.layer_norm"),
    *((f"attn.{each}", f"0.SelfAttention.{each}") for each in "qkvo"),
    ("pos_embedding.embedding", "0.SelfAttention.relative_attention_bias"),
    ("norm2", "1.layer_norm"),
    ("ffn.gate.0", "1.DenseReluDense.wi_0"),
    ("ffn.fc1", "1.DenseReluDense.wi_1"),
    ("ffn.fc2", "1.DenseReluDense.wo"),
)

VAE = (("conv1", "quant_conv"), ("conv2", "post_quant_conv"))
VAE_ENDS = (
    ("conv1", "conv_in"),
    ("head.0", "norm_out"),
    ("head.2", "conv_out"),
    ("middle.1", "mid_block.attentions.0"),
)
VAE_MIDDLE = (("middle.0", "mid_block.resnets.0"), ("middle.2", "mid_block.resnets.1"))
RESIDUAL = (
    ("residual.0", "norm1"),
    ("residual.2", "conv1"),
    ("residual.3", "norm2"),
    ("residual.6", "conv2"),
    ("shortcut", "conv_shortcut"),
)
SAMPLER = (("resample", "resample"), ("time_conv", "time_conv"))


def transformer_names(num_layers: int) -> NameTable:
    """Names of a transformer with so many blocks."""
    return NameTable([*TRANSFORMER, *_repeated("blocks", "blocks", num_layers, TRANSFORMER_BLOCK)])


def text_encoder_names(num_layers: int) -> NameTable:
    """Names of a UMT5 encoder with so many layers."""
    layers = [
        (f"blocks.{layer}.{theirs}", f"encoder.block.{layer}.layer.{ours}")
        for layer in range(num_layers)
        for theirs, ours in TEXT_LAYER
    ]
    return NameTable([*TEXT_ENCODER, *layers])


def vae_names(num_levels: int, num_res_blocks: int, is_residual: bool) -> NameTable:
    """Names of a VAE whose levels have so many residual blocks, of the 2.2 kind (residual) or the 2.1 kind."""
    pairs = [*VAE]
    for half in ("encoder", "decoder"):
        pairs += [(f"{half}.{theirs}", f"{half}.{ours}") for theirs, ours in VAE_ENDS]
        pairs += _inside(half, VAE_MIDDLE, RESIDUAL)
    for level in range(num_levels):
        pairs += _encoder_level(level, num_res_blocks, is_residual)
        pairs += _decoder_level(level, num_res_blocks + 1, is_residual)
    return NameTable(pairs)


def _encoder_level(level: int, num_blocks: int, is_residual: bool) -> list[tuple[str, str]]:
    """A level of the encoder: in one list with all others, or each its own."""
    if is_residual:
        theirs = [f"downsamples.{level}.downsamples.{place}" for place in range(num_blocks + 1)]
        ours = [*(f"down_blocks.{level}.resnets.{place}" for place in range(num_blocks))]
        ours.append(f"down_blocks.{level}.downsampler")
    else:
        places = range(level * (num_blocks + 1), (level + 1) * (num_blocks + 1))
        theirs, ours = [f"downsamples.{place}" for place in places], [f"down_blocks.{place}" for place in places]
    pairs = list(zip(theirs, ours, strict=True))
    return [*_inside("encoder", pairs[:-1], RESIDUAL), *_inside("encoder", pairs[-1:], SAMPLER)]


def _decoder_level(level: int, num_blocks: int, is_residual: bool) -> list[tuple[str, str]]:
    """A level of the decoder: in one list with all others, or each its own."""
    if is_residual:
        theirs, sampler = [f"upsamples.{level}.upsamples.{place}" for place in range(num_blocks + 1)], "upsampler"
    else:
        first = level * (num_blocks + 1)
        theirs, sampler = [f"upsamples.{first + place}" for place in range(num_blocks + 1)], "upsamplers.0"
    ours = [*(f"up_blocks.{level}.resnets.{place}" for place in range(num_blocks)), f"up_blocks.{level}.{sampler}"]
    pairs = list(zip(theirs, ours, strict=True))
    return [*_inside("decoder", pairs[:-1], RESIDUAL), *_inside("decoder", pairs[-1:], SAMPLER)]


def _inside(half: str, modules: Iterable[tuple[str, str]], inner: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(f"{half}.{a}.{c}", f"{half}.{b}.{d}") for a, b in modules for c, d in inner]


def _repeated(theirs: str, ours: str, count: int, inner: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(f"{theirs}.{number}.{a}", f"{ours}.{number}.{b}") for number in range(count) for a, b in inner]
