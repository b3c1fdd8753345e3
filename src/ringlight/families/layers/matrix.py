"""Matrix: one linear map as data, and the blocks of a diffusion transformer and of a text encoder."""

from __future__ import annotations

import msgspec

from ringlight.core.eight_bit import EightBit


class Matrix(msgspec.Struct, frozen=True):
    """Linear map of every token. `held`: how its weight lies in memory, None: in the dtype of the products."""

    inputs: int
    outputs: int
    has_bias: bool = True
    held: EightBit | None = None

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        return self.outputs * (self.inputs + self.has_bias)

    def bytes(self, itemsize: int) -> int:
        """Bytes of weights and biases as they lie in memory, with products of `itemsize` bytes."""
        if self.held is None:
            return self.parameters * itemsize
        return self.held.num_bytes(self.outputs, self.inputs) + self.has_bias * self.outputs * itemsize

    def widened_bytes(self, itemsize: int) -> int:
        """Bytes of the widened weight, which exists beside the held one while it is used."""
        return 0 if self.held is None else self.outputs * self.inputs * itemsize

    def flops(self, num_tokens: int) -> float:
        """Operations for so many tokens."""
        return 2.0 * num_tokens * self.inputs * self.outputs


class BlockLayers(msgspec.Struct, frozen=True, kw_only=True):
    """A transformer's block: self-attention, cross-attention to a text and perhaps to a picture, feed-forward.

    `vectors`: values of norms and tables; `float32_vectors` of them are float32 in any run.
    """

    to_qkv: Matrix
    to_out: Matrix
    text_to_q: Matrix
    text_to_kv: Matrix
    text_to_out: Matrix
    up: Matrix
    down: Matrix
    vectors: int
    image_to_kv: Matrix | None = None
    float32_vectors: int

    @property
    def after_attention(self) -> tuple[Matrix, ...]:
        """Matrices that every token passes after self-attention."""
        return (self.to_out, self.text_to_q, self.text_to_out, self.up, self.down)

    @property
    def to_keys(self) -> tuple[Matrix, ...]:
        """Matrices that make keys and values of texts and pictures."""
        return (self.text_to_kv,) if self.image_to_kv is None else (self.text_to_kv, self.image_to_kv)

    @property
    def parameters(self) -> int:
        """All of the block."""
        matrices = (self.to_qkv, *self.to_keys, *self.after_attention)
        return sum(matrix.parameters for matrix in matrices) + self.vectors

    @property
    def text_parameters(self) -> int:
        """Parameters of the keys and values of texts and pictures.

        These are made once a request; no forward needs them.
        """
        return sum(matrix.parameters + matrix.outputs // 2 for matrix in self.to_keys)  # and the norm of keys

    def text_bytes(self, itemsize: int) -> int:
        """Bytes of the parameters of keys and values of texts and pictures."""
        return sum(matrix.bytes(itemsize) + matrix.outputs // 2 * itemsize for matrix in self.to_keys)

    def forward_bytes(self, itemsize: int) -> int:
        """Bytes of what a forward needs of the block, with products of `itemsize` bytes."""
        matrices = sum(matrix.bytes(itemsize) for matrix in (self.to_qkv, *self.after_attention))
        norms = sum(matrix.outputs // 2 for matrix in self.to_keys)
        vectors = self.vectors - self.float32_vectors - norms
        return matrices + vectors * itemsize + 4 * self.float32_vectors

    def widening_bytes(self, itemsize: int) -> int:
        """Bytes that widening reads and writes for a forward.

        These are the numbers, their products with scales in float32, and the rounded results.
        """
        matrices = [each for each in (self.to_qkv, *self.after_attention) if each.held is not None]
        return sum(each.inputs * each.outputs * (1 + 4 * 4 + itemsize) for each in matrices)

    def widened_bytes(self, itemsize: int) -> int:
        """Bytes of widened weights that exist while a forward uses the block."""
        return sum(matrix.widened_bytes(itemsize) for matrix in (self.to_qkv, *self.after_attention))

    def product_flops(self, num_tokens: int) -> float:
        """Operations of the products for so many tokens; the text's keys and values are made once a request."""
        return sum(matrix.flops(num_tokens) for matrix in (self.to_qkv, *self.after_attention))


class TransformerLayers(msgspec.Struct, frozen=True, kw_only=True):
    """A diffusion transformer: what makes tokens, times and texts its own, `num_blocks` blocks, and what makes latents.

    `times`: the embedding of times, float32 in any run; `modulation`: what blocks are told of it. `images` embed tokens
    of pictures, between norms of `image_vectors` values, float32 likewise, after so many values of positions are added.
    """

    patches: Matrix
    times: tuple[Matrix, Matrix]
    modulation: Matrix
    texts: tuple[Matrix, Matrix]
    block: BlockLayers
    num_blocks: int
    head: Matrix
    head_vectors: int
    images: tuple[Matrix, ...] = ()
    image_vectors: int = 0
    image_positions: int = 0

    @property
    def float32_parameters(self) -> int:
        """Parameters that are float32 in any run."""
        times = sum(matrix.parameters for matrix in self.times)
        return times + self.head_vectors + self.image_vectors + self.num_blocks * self.block.float32_vectors

    @property
    def parameters(self) -> int:
        """All of them."""
        ends = (self.patches, *self.times, self.modulation, *self.texts, *self.images, self.head)
        vectors = self.head_vectors + self.image_vectors + self.image_positions
        return sum(matrix.parameters for matrix in ends) + vectors + self.num_blocks * self.block.parameters

    def bytes(self, itemsize: int) -> int:
        """Bytes of all of them, with products of `itemsize` bytes."""
        block = self.block.forward_bytes(itemsize) + self.block.text_bytes(itemsize)
        return self.outside_bytes(itemsize) + self.num_blocks * block

    def outside_bytes(self, itemsize: int) -> int:
        """Bytes of what stands outside the blocks."""
        outside = self.parameters - self.num_blocks * self.block.parameters
        in_float32 = self.float32_parameters - self.num_blocks * self.block.float32_vectors
        return (outside - in_float32) * itemsize + 4 * in_float32


class TextLayers(msgspec.Struct, frozen=True, kw_only=True):
    """A text encoder: a table of tokens, and layers of attention and a gated feed-forward.

    `layer_vectors`: values of norms and tables in each layer; `final_vectors` of the last norm.
    """

    table: int
    to_qkv: tuple[Matrix, Matrix, Matrix]
    to_out: Matrix
    gated: tuple[Matrix, Matrix]
    down: Matrix
    layer_vectors: int
    num_layers: int
    final_vectors: int

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        """All of a layer."""
        return (*self.to_qkv, self.to_out, *self.gated, self.down)

    @property
    def parts(self) -> list[int]:
        """Parameters of the token table and of each layer, the final norm with the last one."""
        layer = sum(matrix.parameters for matrix in self.matrices) + self.layer_vectors
        parts = [self.table] + [layer] * self.num_layers
        parts[-1] += self.final_vectors
        return parts

    def bytes_of_parts(self, itemsize: int) -> list[int]:
        """Bytes of each of these, with products of `itemsize` bytes."""
        layer = sum(matrix.bytes(itemsize) for matrix in self.matrices) + self.layer_vectors * itemsize
        parts = [self.table * itemsize] + [layer] * self.num_layers
        parts[-1] += self.final_vectors * itemsize
        return parts

    def widened_bytes(self, itemsize: int) -> int:
        """Bytes of widened weights that exist while a layer is used."""
        return sum(matrix.widened_bytes(itemsize) for matrix in self.matrices)

    def flops(self, num_tokens: int) -> float:
        """Operations of the matrix products for one prompt."""
        return self.num_layers * sum(matrix.flops(num_tokens) for matrix in self.matrices)
