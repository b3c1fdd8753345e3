"""Tensors of GGUF files, as torch has them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ringlight.core.gguf_file import FLOATS, GgufTensor

SCALE_BYTES = 2  # of a block of Q8_0, in front of its numbers


def parts_of_blocks(tensor: GgufTensor, group: int) -> tuple[Tensor, Tensor]:
    """(scales, numbers) of a matrix in Q8_0, (rows, groups) in float16 and (rows, columns) in int8."""
    rows, columns = tensor.shape
    blocks = torch.from_numpy(np.array(tensor.data)).view(rows, columns // group, SCALE_BYTES + group)
    scales = blocks[..., :SCALE_BYTES].contiguous().view(torch.float16).squeeze(-1)
    return scales, blocks[..., SCALE_BYTES:].contiguous().view(torch.int8).view(rows, columns)


def widened_gguf(tensor: GgufTensor) -> Tensor:
    """Values of a tensor: in the file's dtype if that is a floating one, else in float32."""
    if tensor.dtype == "BF16":
        return torch.from_numpy(np.array(tensor.data)).view(torch.bfloat16).view(tensor.shape)
    if tensor.dtype in FLOATS:
        return torch.from_numpy(np.array(tensor.data)).view(tensor.shape)
    import gguf  # here, because it is an extra

    kind = gguf.GGMLQuantizationType[tensor.dtype]
    return torch.from_numpy(gguf.quants.dequantize(tensor.data, kind)).view(tensor.shape)
