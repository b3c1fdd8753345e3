"""Rotary positions in three dimensions (RoFormer, arXiv 2104.09864; split over time, height and width as in Wan).

The head width D is split into pairs; of the D/2 pairs the first share follows the token's frame, the next its row,
the last its column. Rotation is a product of complex numbers, one per pair.
"""

from __future__ import annotations

import torch
from torch import Tensor

THETA = 10000.0


def rope_frequencies(grid_THW: tuple[int, int, int], head_dim: int, device: torch.device) -> Tensor:
    """Rotations of every token of a grid: complex64 (S, 1, D/2), tokens in the order time, row, column."""
    spatial_dim = 2 * (head_dim // 6)
    axis_dims = (head_dim - 2 * spatial_dim, spatial_dim, spatial_dim)
    parts = []
    for axis, (length, dim) in enumerate(zip(grid_THW, axis_dims, strict=True)):
        exponents = torch.arange(0, dim, 2, dtype=torch.float64) / dim
        angles = torch.outer(torch.arange(length, dtype=torch.float64), THETA**-exponents)
        shape = [1, 1, 1, dim // 2]
        shape[axis] = length
        parts.append(angles.view(shape).expand(*grid_THW, dim // 2))
    # Sine and cosine of the float64 angle, rounded once: rounding the angle first would lose digits.
    angles = torch.cat(parts, dim=-1).reshape(-1, 1, head_dim // 2)
    return torch.complex(angles.cos().float(), angles.sin().float()).to(device)


def rotate_(x_BSHD: Tensor, frequencies_SD: Tensor) -> Tensor:
    """Rotate the pairs of `x` in place. `x` is float32 and contiguous in D; frequencies from `rope_frequencies`."""
    torch.view_as_complex(x_BSHD.unflatten(-1, (-1, 2))).mul_(frequencies_SD)
    return x_BSHD
