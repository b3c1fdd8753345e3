"""The tensors that the checkpoint of a Wan transformer has, in diffusers' names, with their shapes."""

from __future__ import annotations

from collections.abc import Iterator

from ringlight.core.stored_network import Shape
from ringlight.families.layers.matrix import Matrix
from ringlight.families.wan.work.transformer import BLOCK_WEIGHTS, TransformerSpec

EMBEDDER = "condition_embedder"
IMAGE_TO_KV = ("attn2.add_k_proj", "attn2.add_v_proj")


def weight_shapes(spec: TransformerSpec) -> dict[str, Shape]:
    """Name -> shape of every tensor of a transformer with these numbers."""
    shapes = dict(_ends(spec))
    block = dict(_block(spec))
    for number in range(spec.num_layers):
        shapes |= {f"blocks.{number}.{name}": shape for name, shape in block.items()}
    return shapes


def _ends(spec: TransformerSpec) -> Iterator[tuple[str, Shape]]:
    """Yield the tensors outside the blocks."""
    layers, dim = spec.layers, spec.inner_dim
    yield "patch_embedding.weight", (dim, spec.in_channels, *spec.patch_size)
    yield "patch_embedding.bias", (dim,)
    for place in (0, 1):
        yield from _linear(f"{EMBEDDER}.time_embedder.linear_{place + 1}", layers.times[place])
        yield from _linear(f"{EMBEDDER}.text_embedder.linear_{place + 1}", layers.texts[place])
    yield from _linear(f"{EMBEDDER}.time_proj", layers.modulation)
    if layers.images:
        up, down = layers.images
        image = f"{EMBEDDER}.image_embedder"
        yield from _norm(f"{image}.norm1", up.inputs)
        yield from _linear(f"{image}.ff.net.0.proj", up)
        yield from _linear(f"{image}.ff.net.2", down)
        yield from _norm(f"{image}.norm2", down.outputs)
        if spec.pos_embed_seq_len is not None:
            yield f"{image}.pos_embed", (1, spec.pos_embed_seq_len, up.inputs)
    yield from _linear("proj_out", layers.head)
    yield "scale_shift_table", (1, 2, dim)


def _block(spec: TransformerSpec) -> Iterator[tuple[str, Shape]]:
    block, dim = spec.layers.block, spec.inner_dim
    norms = ["attn1.norm_q", "attn1.norm_k", "attn2.norm_q", "attn2.norm_k"]
    for name, modules in BLOCK_WEIGHTS.items():
        yield from _side_by_side(modules, getattr(block, name))
    if block.image_to_kv is not None:
        yield from _side_by_side(IMAGE_TO_KV, block.image_to_kv)
        norms.append("attn2.norm_added_k")
    yield from ((f"{norm}.weight", (dim,)) for norm in norms)
    yield from _norm("norm2", dim)
    yield "scale_shift_table", (1, 6, dim)


def _side_by_side(modules: tuple[str, ...], joined: Matrix) -> Iterator[tuple[str, Shape]]:
    """Yield the tensors of modules that are one matrix here, each with its share of the outputs."""
    for module in modules:
        yield from _linear(module, Matrix(joined.inputs, joined.outputs // len(modules)))


def _linear(module: str, matrix: Matrix) -> Iterator[tuple[str, Shape]]:
    yield f"{module}.weight", (matrix.outputs, matrix.inputs)
    yield f"{module}.bias", (matrix.outputs,)


def _norm(module: str, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{module}.weight", (width,)
    yield f"{module}.bias", (width,)
