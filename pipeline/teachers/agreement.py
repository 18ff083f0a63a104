"""Several maps of one photograph, each known up to scale and shift, as one, and how far they agree.

The maps are brought to the first one's units: `a * map + b` with `a >= 0` that fits it best by least squares,
where asked for with the largest residuals left out (as MiDaS trims its loss: Ranftl et al., Towards Robust
Monocular Depth Estimation, TPAMI 2022, section 5). The fused value of a pixel is the median of its aligned
values, for two maps their mean. With d the mean absolute difference of the aligned values from the fused one,
and s the fused map's mean absolute deviation from its mean,

    confidence = exp(-d / (0.25 s))

so 1 where all agree, 0.37 where they differ by a quarter of what the map varies by, and 0 where one of them
has no value. A scale of 0 (a map that contradicts the first one) lets the first one stand, flattened by the
other's mean, with little confidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["AGREEMENT_WORDS", "TOLERANCE", "align", "fuse"]

TOLERANCE = 0.25
_TRIM_ROUNDS = 3

AGREEMENT_WORDS = (
    f"confidence = exp(-d / ({TOLERANCE} s)), d = mean absolute difference of the aligned maps from the stored one at "
    "the pixel, s = mean absolute deviation of the stored map from its mean; 0 where one of the maps has no value"
)

Map = npt.NDArray[np.float32]


def fuse(maps: Sequence[Map], *, trim: float = 0.0) -> npt.NDArray[np.float32]:
    """Maps (H, W) of one photograph, NaN where not known, to (2, H, W): the fused map and the confidence.

    Args:
        maps: the first decides scale and shift.
        trim: share of the pixels, the worst fitting ones, that the alignment leaves out.
    """
    first, *others = maps
    aligned = np.stack([first, *(align(other, first, trim=trim) for other in others)])
    known = np.isfinite(aligned)
    everywhere = bool(known.all())
    fused = _median(aligned, known, everywhere)
    difference = np.abs(aligned - fused).mean(axis=0)
    known_fused = fused if everywhere else fused[np.isfinite(fused)]
    spread = float(np.abs(known_fused - known_fused.mean()).mean()) if known_fused.size else 0.0
    with np.errstate(invalid="ignore"):
        confidence = np.exp(-difference / np.float32(TOLERANCE * spread)) if spread > 0 else difference == 0
    confidence = np.where(known.all(axis=0), confidence, 0).astype(np.float32)
    return np.stack([fused, confidence])


def align(other: Map, reference: Map, *, trim: float = 0.0) -> Map:
    """`other` in the units of `reference`, both (H, W); NaN where `other` is. See the module's words."""
    known = np.isfinite(other) & np.isfinite(reference)
    if not known.any():
        return other
    x, y = other[known].astype(np.float64), reference[known].astype(np.float64)
    scale, shift = _line(x, y)
    for _ in range(_TRIM_ROUNDS if trim else 0):
        residual = np.abs(y - (scale * x + shift))
        kept = residual <= np.quantile(residual, 1 - trim)
        scale, shift = _line(x[kept], y[kept])
    aligned: Map = (scale * other.astype(np.float64) + shift).astype(np.float32)
    return aligned


def _line(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> tuple[float, float]:
    """Scale (not below 0) and shift that bring x nearest to y."""
    mean_x, mean_y = float(x.mean()), float(y.mean())
    centred = x - mean_x
    variance = float(centred @ centred)
    scale = max(float(centred @ (y - mean_y)) / variance, 0.0) if variance > 0 else 0.0
    return scale, mean_y - scale * mean_x


def _median(aligned: npt.NDArray[np.float32], known: npt.NDArray[np.bool_], everywhere: bool) -> Map:
    """Median over the first axis of the values that are known, NaN where none is."""
    if everywhere:
        return aligned.mean(axis=0) if len(aligned) == 2 else np.median(aligned, axis=0)
    ordered = np.sort(aligned, axis=0)  # NaN comes last
    count = known.sum(axis=0)
    low = np.take_along_axis(ordered, np.maximum(count - 1, 0)[None] // 2, axis=0)[0]
    high = np.take_along_axis(ordered, (count // 2)[None] % len(aligned), axis=0)[0]
    return np.where(count > 0, (low + high) / 2, np.nan).astype(np.float32)
