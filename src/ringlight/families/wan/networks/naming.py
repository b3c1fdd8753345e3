"""The checkpoint's names for our parameters, and the shapes that they have there."""

from __future__ import annotations

from torch import Tensor

from ringlight.core.eight_bit import SCALE
from ringlight.families.wan.work.transformer import TransformerSpec

HELD_AS = {"numbers": "weight", "scale": SCALE}  # the parameters of a matrix in eight bits, in the checkpoint


def held_name(name: str) -> str:
    """The checkpoint's name for a parameter, where a matrix is held in eight bits."""
    module, dot, last = name.rpartition(".")
    return f"{module}{dot}{HELD_AS.get(last, last)}"


def transformer_slots(name: str, parameter: Tensor, spec: TransformerSpec) -> dict[str, Tensor]:
    """The checkpoint's names for one of our parameters, with views of its shape there."""
    name, dim = held_name(name), spec.inner_dim
    for fused, parts in (
        ("to_qkv", ("to_q", "to_k", "to_v")),
        ("to_kv", ("to_k", "to_v")),
        ("to_added_kv", ("add_k_proj", "add_v_proj")),
    ):
        if f".{fused}." in name:
            return {name.replace(fused, part): parameter[i * dim : (i + 1) * dim] for i, part in enumerate(parts)}
    if name == "patch_embedding.weight":
        return {name: parameter.view(dim, spec.in_channels, *spec.patch_size)}
    if name.endswith(("scale_shift_table", "pos_embed")):
        return {name: parameter.unsqueeze(0)}
    for ours, theirs in (
        (".norm_q", ".norm_q.weight"),
        (".norm_k", ".norm_k.weight"),
        (".norm_added_k", ".norm_added_k.weight"),
        (".image_embedder.up.", ".image_embedder.ff.net.0.proj."),
        (".image_embedder.down.", ".image_embedder.ff.net.2."),
        (".to_out.", ".to_out.0."),
        (".ffn.up.", ".ffn.net.0.proj."),
        (".ffn.down.", ".ffn.net.2."),
    ):
        if name.endswith(ours) or (ours.endswith(".") and ours in name):
            return {name.replace(ours, theirs): parameter}
    return {name: parameter}
