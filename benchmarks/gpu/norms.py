"""The VAE's RMS norm: by its length in passes of its own, against torch's rms_norm, which CUDA has as one kernel."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from gpu.clock import read_peak, start_peak
from gpu.report import Row
from gpu.scale import GIB, Scale
from gpu.turns import take_turns

LEAST = 1e-24  # of the mean square: no pixel is divided by zero


@torch.inference_mode()
def compare(scale: Scale) -> Iterator[Row]:
    """The widest activation of one latent frame: four frames before they are unpatched."""
    spec, video = scale.vae, scale.videos[-1]
    shape = (
        spec.scale_factor_temporal,
        video.height // spec.patch_size,
        video.width // spec.patch_size,
        spec.decoder_dim,
    )
    for dtype in (torch.bfloat16, torch.float32):
        x = torch.randn(shape, device=scale.device).to(dtype)
        gamma = (1 + 0.1 * torch.randn(spec.decoder_dim, device=scale.device)).to(dtype)
        out = torch.empty_like(x)
        truth = _by_length(x[:1, :8].double(), gamma.double(), torch.empty_like(x[:1, :8], dtype=torch.float64))
        runs = {"by length": partial(_by_length, x, gamma, out), "rms_norm": partial(_by_torch, x, gamma, out)}
        notes = {}
        for name, run in runs.items():
            start_peak(scale.device)
            before = read_peak(scale.device).allocated_bytes
            error = float((run()[:1, :8].double() - truth).abs().max())
            grown = read_peak(scale.device).allocated_bytes - before
            notes[name] = f"max error {error:.2g}, {grown / GIB:.2f} GiB beside its tensors"
        label = f"VAE norm of {'x'.join(map(str, shape))}, {str(dtype).removeprefix('torch.')}"
        yield from take_turns(label, runs, scale.device, notes)


def _by_length(x: Tensor, gamma: Tensor, out: Tensor) -> Tensor:
    """x / |x| * sqrt(C) * gamma, the length and the product with it in float32 or wider."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide).clamp_min_(1e-12)
    inverse = length.reciprocal_().mul_(x.shape[-1] ** 0.5)
    if x.dtype == wide:
        return torch.mul(x, inverse, out=out).mul_(gamma)
    return out.copy_(x.to(wide).mul_(inverse)).mul_(gamma)


def _by_torch(x: Tensor, gamma: Tensor, out: Tensor) -> Tensor:
    return out.copy_(F.rms_norm(x, gamma.shape, gamma, LEAST))
