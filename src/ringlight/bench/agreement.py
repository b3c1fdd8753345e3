"""Agreement: whether two videos of the same request show the same, frame by frame, after their codec."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import msgspec

from ringlight.core.errors import OutputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Frame = NDArray[np.uint8]

WHITE = 255


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """Comparison of a column's video with its reference's, over decoded RGB frames.

    `max_difference` is the largest of any channel of any pixel, of 255; `psnr_db` over all frames and `worst_psnr_db`
    of the worst of them, None where they are identical; `ssim` the mean of all frames, None in results from before it
    was measured. `problem` says why they cannot be compared.
    """

    column: str
    kind: int
    num_frames: int = 0
    max_difference: int = 0
    psnr_db: float | None = None
    worst_psnr_db: float | None = None
    ssim: float | None = None
    problem: str = ""


def agree(column: str, kind: int, video: Path, baseline: Path) -> Agreement:
    """Compare two video files."""
    import numpy as np  # here and below, because only this needs them

    from ringlight.bench.likeness import ssim

    worst, errors, likenesses = 0, list[float](), list[float]()
    try:
        for one, other in zip_longest(frames_of(video), frames_of(baseline)):
            if one is None or other is None or one.shape != other.shape:
                return Agreement(column=column, kind=kind, problem="frames differ in number or in size")
            difference = np.abs(one.astype(np.int32) - other.astype(np.int32))
            worst = max(worst, int(difference.max()))
            errors.append(float(np.square(difference, dtype=np.int64).mean()))
            likenesses.append(ssim(one, other))
    except OutputError as error:
        return Agreement(column=column, kind=kind, problem=str(error))
    if not errors:
        return Agreement(column=column, kind=kind, problem="there are no frames")
    return Agreement(
        column=column,
        kind=kind,
        num_frames=len(errors),
        max_difference=worst,
        psnr_db=_psnr(fmean(errors)),
        worst_psnr_db=_psnr(max(errors)),
        ssim=fmean(likenesses),
    )


def _psnr(error: float) -> float | None:
    """PSNR in dB of a mean squared error; None for an error of 0."""
    return 10 * math.log10(WHITE**2 / error) if error else None


def frames_of(path: Path) -> Iterator[Frame]:
    """RGB frames [H, W, 3] of a video. Raises OutputError."""
    import av
    import numpy as np

    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                yield np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    except (av.FFmpegError, OSError) as error:
        raise OutputError(f"{path.name} cannot be read: {error}") from None
