"""InputValidation: the request's picture, decoded and fitted to the size asked."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ringlight.core.geometry import Geometry
from ringlight.core.picture import fit_picture, open_picture
from ringlight.core.request import RequestLimits, VideoRequest


def validate_input(request: VideoRequest, spec: Geometry, limits: RequestLimits) -> Tensor | None:
    """The first frame as (1, H, W, 3) float32 in [-1, 1] on the CPU, or None without a picture.

    Raises InvalidRequest naming every problem of the request at once.
    """
    request.check(spec, limits)
    if request.image is None:
        return None
    picture = fit_picture(open_picture(request.image, limits), request.width, request.height)
    pixels = torch.from_numpy(np.asarray(picture, dtype=np.float32).copy())
    return pixels.div_(255.0).mul_(2.0).sub_(1.0).unsqueeze(0)
