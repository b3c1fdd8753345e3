"""PictureTokens: what the transformer attends to of a request's pictures, a part of ImageEncoding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ringlight.core.picture import middle_square, open_picture
from ringlight.core.request import RequestLimits
from ringlight.models.finite import extremes, not_finite
from ringlight.parallel.collective import collective
from ringlight.pipelines.networks import PictureEncoder
from ringlight.pipelines.trace import JobEvents


@collective
def picture_tokens(
    pictures: Sequence[bytes], limits: RequestLimits, encoder: PictureEncoder, device: torch.device, events: JobEvents
) -> Tensor:
    """Encode all pictures to tokens (L, C), one after another; every rank makes them.

    Of each the middle square is seen, as WanImageToVideoPipeline of diffusers has it, of the picture as it was given.
    Raises NumericalError, by way of the events, where they are not finite.
    """
    squares = [np.asarray(middle_square(open_picture(each, limits), encoder.image_size)) for each in pictures]
    pixels_BHWC = torch.from_numpy(np.stack(squares)).float().div_(255.0)
    tokens = encoder.tokens(pixels_BHWC.to(device)).flatten(0, 1)
    events.boundary(not_finite("ImageEncoding", "tokens of the picture", extremes(tokens)))
    return tokens
