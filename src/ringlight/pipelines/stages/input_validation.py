"""InputValidation: the request's pictures, decoded and fitted to the size asked."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ringlight.core.geometry import Geometry
from ringlight.core.picture import about, fit_picture, open_picture
from ringlight.core.request import RequestLimits, VideoRequest
from ringlight.core.sizes import Size


class Frames(NamedTuple):
    """Given frames, each (1, H, W, 3) float32 in [-1, 1] on the CPU; None without a picture."""

    first: Tensor | None
    last: Tensor | None


def validate_input(request: VideoRequest, spec: Geometry, limits: RequestLimits) -> Frames:
    """Decode the request's pictures to frames. Raises InvalidRequest naming every problem of the request at once."""
    request.check(spec, limits)
    size = (request.width, request.height)
    found = {name: _frame(name, picture, size, limits) for name, picture in request.pictures.items()}
    return Frames(found.get("image"), found.get("last_image"))


def _frame(name: str, encoded: bytes, size: Size, limits: RequestLimits) -> Tensor:
    with about(name):
        picture = fit_picture(open_picture(encoded, limits), *size)
    pixels = torch.from_numpy(np.asarray(picture, dtype=np.float32).copy())
    return pixels.div_(255.0).mul_(2.0).sub_(1.0).unsqueeze(0)
