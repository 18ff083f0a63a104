"""Pillow's bicubic resampling as tables of whole numbers, so that a GPU gives the very pixels of Pillow.

Pillow resizes 8-bit pictures in two passes, along rows and then along columns. Either pass is a weighted sum
of neighbouring pixels in 22-bit fixed point, rounded and clipped to 8 bits (Pillow, `src/libImaging/Resample.c`).
Whole numbers add up to the same in any order: a photograph's label does not depend on where it was resized.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["PRECISION_BITS", "Table", "bicubic_table"]

PRECISION_BITS = 22
_SUPPORT = 2.0
_A = -0.5


class Table(NamedTuple):
    """One pass: output p is the sum over t of input[first[p] + t] * weights[p, t], in units of 2**-22.

    `first` is int32 (out,), `weights` int32 (out, taps), filled up with zeros where fewer pixels count;
    first[p] + t may pass the input's end there.
    """

    first: npt.NDArray[np.int32]
    weights: npt.NDArray[np.int32]


@functools.lru_cache(maxsize=4096)
def bicubic_table(length: int, out: int) -> Table:
    """The pass from `length` pixels to `out` pixels.

    The same operations in the same order, in float64, as Pillow's `precompute_coeffs` and
    `normalize_coeffs_8bpc`: the filter is stretched when a picture shrinks (antialiasing).
    """
    scale = length / out
    stretch = max(scale, 1.0)
    support = _SUPPORT * stretch
    taps = int(np.ceil(support)) * 2 + 1
    centre = (np.arange(out) + 0.5) * scale
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    last = np.minimum((centre + support + 0.5).astype(np.int64), length)
    places = first[:, None] + np.arange(taps)
    weights = _bicubic((places - centre[:, None] + 0.5) * (1.0 / stretch))
    weights[places >= last[:, None]] = 0.0
    total = np.zeros(out)
    for tap in range(taps):  # one after the other, as Pillow adds them
        total += weights[:, tap]
    weights /= total[:, None]
    fixed = np.trunc(weights * (1 << PRECISION_BITS) + np.where(weights < 0, -0.5, 0.5))
    return Table(first.astype(np.int32), fixed.astype(np.int32))


def _bicubic(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Keys's cubic convolution kernel with a = -0.5 (IEEE Trans. ASSP 29, 1981), as Pillow writes it."""
    x = np.abs(x)
    near = ((_A + 2.0) * x - (_A + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * _A
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))
