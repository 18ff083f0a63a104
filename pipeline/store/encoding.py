"""Maps as codes and back: `value = offset + scale * code`, offset and scale for each map.

A relative inverse depth has no unit, so each map may use the whole range of its codes. The steps between
neighbouring values are then the range / 65535 in 16 bits, and no value moves by more than half of that.
Invalid pixels (NaN or infinite in, NaN out) cost the highest code, only in maps that have such pixels.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["DTYPES", "DType", "Encoded", "decode", "encode", "words"]

DType = Literal["u16", "u8"]
DTYPES: dict[DType, np.dtype[Any]] = {"u16": np.dtype("<u2"), "u8": np.dtype("u1")}


class Encoded(NamedTuple):
    """One map as codes (H, W); see the module's formula. `invalid_count` pixels carry the invalid code."""

    codes: npt.NDArray[Any]
    offset: float
    scale: float
    invalid_count: int


def encode(values: npt.NDArray[np.floating[Any]], dtype: DType) -> Encoded:
    """Quantise one map of shape (H, W).

    The error of a valid pixel is at most range / 131070 for u16 (range / 131068 where the map has invalid
    pixels) and range / 510 (508) for u8, range being largest - smallest valid value. A constant map has scale
    0 and no error. Codes of a map without any valid pixel are all invalid.
    """
    target = DTYPES[dtype]
    wide = np.asarray(values, dtype=np.float64)
    valid = np.isfinite(wide)
    invalid_count = int(wide.size - np.count_nonzero(valid))
    if invalid_count == wide.size:
        return Encoded(np.full(wide.shape, _invalid_code(target), target), 0.0, 0.0, invalid_count)
    known = wide if invalid_count == 0 else wide[valid]
    offset, highest = float(known.min()), float(known.max())
    scale = (highest - offset) / _last_code(target, invalid_count)
    steps = (np.where(valid, wide, offset) if invalid_count else wide) - offset
    if scale > 0:
        steps /= scale
    codes = np.rint(steps).astype(target)
    if invalid_count:
        codes[~valid] = _invalid_code(target)
    return Encoded(codes, offset, scale, invalid_count)


def decode(
    codes: npt.NDArray[Any],
    offset: float,
    scale: float,
    invalid_count: int,
    *,
    precision: type[np.floating[Any]] = np.float32,
) -> npt.NDArray[Any]:
    """The map (H, W) that `encode` was given, but for its quantisation; NaN where invalid.

    Computed in float64 and rounded once to `precision`; float32 adds up to half the distance between two
    float32 numbers of the map's magnitude to the error, which counts where range is tiny against offset.
    """
    values = codes.astype(np.float64)
    values *= scale
    values += offset
    if invalid_count:
        values[codes == _invalid_code(codes.dtype)] = np.nan
    return values.astype(precision)


def words(dtype: DType) -> str:
    """How to read the codes, in a sentence that is stored with them."""
    return (
        "value = offset[row] + scale[row] * code, relative inverse depth; where invalid_count[row] > 0 "
        f"code {_invalid_code(DTYPES[dtype])} is invalid (no value known for that pixel)"
    )


def _last_code(dtype: np.dtype[Any], invalid_count: int) -> int:
    """The code of the largest value."""
    return _invalid_code(dtype) - 1 if invalid_count else _invalid_code(dtype)


def _invalid_code(dtype: np.dtype[Any]) -> int:
    return int(np.iinfo(dtype).max)
