"""Targets at the scales of a student's outputs, as numbers and weights: nothing here branches on data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Target", "as_target", "pyramid"]

Size = tuple[int, int]


class Target(NamedTuple):
    """Targets at one scale, a channel each.

    Attributes:
        values: (B, C, h, w) float32, 0 where unknown.
        weights: (B, C, h, w) float32, 0 where unknown, 1 where known, or the confidence there.
    """

    values: Tensor
    weights: Tensor

    def channel(self, number: int) -> Target:
        """One of them, (B, 1, h, w)."""
        return Target(self.values[:, number : number + 1], self.weights[:, number : number + 1])


def as_target(maps: Tensor, confidence: Tensor | None = None) -> Target:
    """Maps (B, C, H, W), NaN = unknown, with how much each pixel counts: at least 0, NaN = 0, None = 1."""
    known = torch.isfinite(maps)
    weights = known.float()
    if confidence is not None:
        weights = weights * confidence.float().nan_to_num(0.0).clamp_min(0.0)
    return Target(torch.where(known, maps, 0.0).float(), weights)


def pyramid(maps: Tensor, sizes: Sequence[Size], confidence: Tensor | None = None) -> list[Target]:
    """Maps at each of several sizes, by area average over the pixels that are known.

    The average is weighted by the confidence. A pixel is known where more than half of its area is, and
    its confidence is the mean of its known part. Each size is made from the next larger one where that
    is a multiple of it; the result is the same as from the largest.

    Args:
        maps: (B, C, H, W), NaN = unknown.
        sizes: (height, width), none larger than (H, W).
        confidence: weights of the same shape, or None.
    """
    full = as_target(maps, confidence)
    largest = (maps.shape[-2], maps.shape[-1])
    levels = {largest: full}
    sums = top = torch.cat([full.values * full.weights, full.weights, torch.isfinite(maps).float()], 1)
    for size in sorted(set(sizes) - {largest}, reverse=True):
        sums = _shrink(sums, size) if _divides(size, sums) else _shrink(top, size)
        value, weight, share = sums.chunk(3, 1)
        known = share > 0.5
        levels[size] = Target(
            torch.where(known & (weight > 0), value / torch.where(weight > 0, weight, 1.0), 0.0),
            torch.where(known, weight / torch.where(known, share, 1.0), 0.0),
        )
    return [levels[size] for size in sizes]


def _divides(size: Size, maps: Tensor) -> bool:
    return maps.shape[-2] % size[0] == 0 and maps.shape[-1] % size[1] == 0


def _shrink(maps: Tensor, size: Size) -> Tensor:
    """Area average down to a size; a fixed window where the size divides, which compiles into its neighbours."""
    if _divides(size, maps):
        return F.avg_pool2d(maps, (maps.shape[-2] // size[0], maps.shape[-1] // size[1]))
    return F.adaptive_avg_pool2d(maps, size)
