"""Pairs of pixels, spread evenly over all pairs that a map has, the same ones every time."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["PAIRS", "pixel_pairs"]

PAIRS = 4096
_ROOT = 1.1673039782614187  # the positive root of x^5 = x + 1
_STEPS = tuple(round(2**32 * _ROOT**-n) for n in range(1, 5))


def pixel_pairs(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Flat indices (P,) of the first and the second pixels; P is 4096, in small maps their number of pixels.

    Rows and columns of both are the four coordinates of a low-discrepancy sequence, n * (1/r, 1/r^2, 1/r^3,
    1/r^4) modulo 1 with r^5 = r + 1 (Roberts, The Unreasonable Effectiveness of Quasirandom Sequences,
    2018), in whole numbers, so that every device has the same pairs.
    """
    number = torch.arange(1, min(PAIRS, height * width) + 1, device=device)
    y1, x1, y2, x2 = (
        ((number * step) % 2**32 * side) >> 32 for step, side in zip(_STEPS, (height, width) * 2, strict=True)
    )
    return y1 * width + x1, y2 * width + x2
