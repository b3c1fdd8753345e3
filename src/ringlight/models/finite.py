"""Numbers that are not finite: seen in a single pass, and told as the error of the stage that made them."""

from __future__ import annotations

import torch
from torch import Tensor

from ringlight.core.errors import NumericalError

REMEDIES = {
    "TextEncoding": "the text encoder's weights are damaged or of another model",
    "ImageEncoding": "take --vae-dtype float32 if it is not; else the vae's weights are damaged or of another model",
    "Denoising": "bring guidance_scale and flow_shift near their defaults; else the transformer's weights are damaged",
    "Decoding": "take --vae-dtype float32 if it is not; else the vae's weights are damaged or of another model",
}
OTHERS = "bring the request's fields near their defaults; else the model's weights are damaged"  # of other stages


def extremes(numbers: Tensor) -> Tensor:
    """Least and greatest of some numbers, (2,); NaN if one of them is.

    On the CPU, `isfinite` on all of them takes twenty times as long, and on every device several times the memory.
    """
    return torch.stack(torch.aminmax(numbers))


def not_finite(stage: str, what: str, seen: Tensor) -> NumericalError | None:
    """The error to report of a stage, unless all extremes of what it made are finite. Waits for the device."""
    if bool(seen.isfinite().all()):
        return None
    return NumericalError(f"{stage}: {what} hold NaN or infinity; {REMEDIES.get(stage, OTHERS)}")
