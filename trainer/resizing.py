"""Maps at another size, exactly as the field's evaluation scripts resize them: with torch's `interpolate`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["FloatMap", "resize_bilinear", "resize_nearest"]

FloatMap = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


def resize_nearest(values: FloatMap, size: tuple[int, ...]) -> FloatMap:
    """A map (h, w) at `size` = (height, width), as torch's `mode="nearest"`: the index is rounded down."""
    rows, columns = (_nearest(n, out) for n, out in zip(values.shape, size, strict=True))
    return values[rows[:, None], columns]


def resize_bilinear(values: FloatMap, size: tuple[int, ...]) -> FloatMap:
    """A map (h, w) at `size` = (height, width), as torch's `mode="bilinear"`: corners not aligned, no antialiasing."""
    if values.shape == size:
        return values
    (top, bottom, down), (left, right, across) = (
        _neighbours(n, out) for n, out in zip(values.shape, size, strict=True)
    )
    tall: FloatMap = values[top] * (1 - down)[:, None] + values[bottom] * down[:, None]
    wide: FloatMap = tall[:, left] * (1 - across) + tall[:, right] * across
    return wide


def _nearest(size: int, out: int) -> Indices:
    scale = np.float32(size) / np.float32(out)  # in single precision, as torch computes it
    position: FloatMap = np.arange(out, dtype=np.float32) * scale
    return np.minimum(position.astype(np.int64), size - 1)


def _neighbours(size: int, out: int) -> tuple[Indices, Indices, FloatMap]:
    """For each output position the two input positions beside it, and the weight of the second."""
    scale = float(np.float32(size) / np.float32(out))
    # rounded to single precision once, at the end: torch uses a fused multiply-add
    position: FloatMap = np.maximum((np.arange(out) + 0.5) * scale - 0.5, 0).astype(np.float32)
    first = np.minimum(position.astype(np.int64), size - 1)
    weight: FloatMap = np.clip(position - first.astype(np.float32), np.float32(0), np.float32(1))
    return first, np.minimum(first + 1, size - 1), weight
