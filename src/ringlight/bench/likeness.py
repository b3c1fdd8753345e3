"""SSIM: how alike two pictures look, as Wang, Bovik, Sheikh and Simoncelli (2004) define it.

Over luma (BT.601), by their window of 11x11 with Gaussian weights of 1.5 pixels, K1 = 0.01 and K2 = 0.03; the mean of
all places where the window lies within the picture.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

RADIUS, SIGMA = 5, 1.5
SMALLEST_SIDE = 2 * RADIUS + 1
K1, K2, WHITE = 0.01, 0.03, 255.0
LUMA = np.array((0.299, 0.587, 0.114), np.float32)


def ssim(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Structural similarity of two RGB pictures [H, W, 3] of equal size, at least 11 x 11; 1 if identical."""
    x, y = (picture.astype(np.float32) @ LUMA for picture in (one, other))
    mean_x, mean_y = _blurred(x), _blurred(y)
    variance_x = _blurred(x * x) - mean_x**2
    variance_y = _blurred(y * y) - mean_y**2
    covariance = _blurred(x * y) - mean_x * mean_y
    c1, c2 = (K1 * WHITE) ** 2, (K2 * WHITE) ** 2
    alike = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    whole = (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    return float(np.mean(alike / whole, dtype=np.float64))


def _blurred(picture: Floats) -> Floats:
    """Weighted means of the window at each place where it lies within the picture."""
    weights = np.exp(-0.5 * (np.arange(-RADIUS, RADIUS + 1) / SIGMA) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    height, width = (side - 2 * RADIUS for side in picture.shape)
    rows = np.zeros((height, picture.shape[1]), np.float32)
    for place, weight in enumerate(weights):
        rows += weight * picture[place : place + height]
    found = np.zeros((height, width), np.float32)
    for place, weight in enumerate(weights):
        found += weight * rows[:, place : place + width]
    return found
