"""Maps as codes and back: `value = offset + scale * code`, offset and scale for each map.

A relative inverse depth has no unit, so each map may use the whole range of its codes. The steps between
neighbouring values are then the range / 65535 in 16 bits, and no value moves by more than half of that.
Invalid pixels (NaN or infinite in, NaN out) cost the highest code, only in maps that have such pixels.

`pack` applies HDF5's own filters (shuffle, deflate, Fletcher's checksum) outside HDF5, byte for byte, so
that threads can compress in parallel: HDF5 itself lets one thread in at a time.
"""

from __future__ import annotations

import zlib
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["DTYPES", "DType", "Encoded", "Packed", "decode", "encode", "fletcher32", "pack", "words"]

DType = Literal["u16", "u8", "f16"]
DTYPES: dict[str, np.dtype[Any]] = {"u16": np.dtype("<u2"), "u8": np.dtype("u1"), "f16": np.dtype("<f2")}

GZIP_LEVEL = 4


class Encoded(NamedTuple):
    """One map as codes (H, W); see the module's formula. `invalid_count` pixels carry the invalid code."""

    codes: npt.NDArray[Any]
    offset: float
    scale: float
    invalid_count: int


class Packed(NamedTuple):
    """An encoded map as the bytes of its HDF5 chunk."""

    chunk: bytes
    offset: float
    scale: float
    invalid_count: int


def encode(values: npt.NDArray[np.floating[Any]], dtype: DType) -> Encoded:
    """Quantise one map of shape (H, W).

    The error of a valid pixel is at most range / 131070 for u16 (range / 131068 where the map has invalid
    pixels), range / 510 (508) for u8, and range / 4096 for f16, range being largest - smallest valid value.
    A constant map has scale 0 and no error. Codes of a map without any valid pixel are all invalid.
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
    codes = steps.astype(target) if target.kind == "f" else np.rint(steps).astype(target)
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
    if invalid_count and codes.dtype.kind != "f":
        values[codes == _invalid_code(codes.dtype)] = np.nan
    return values.astype(precision)


def pack(encoded: Encoded, *, level: int = GZIP_LEVEL) -> Packed:
    """Encoded codes as one chunk with the filters shuffle, deflate and fletcher32, in this order."""
    codes = np.ascontiguousarray(encoded.codes)
    shuffled = codes.reshape(-1, 1).view(np.uint8).T.tobytes()
    squeezed = zlib.compress(shuffled, level)
    checksum = fletcher32(squeezed).to_bytes(4, "little")
    return Packed(squeezed + checksum, encoded.offset, encoded.scale, encoded.invalid_count)


def fletcher32(data: bytes) -> int:
    """Fletcher's checksum as HDF5 computes it: 16-bit big-endian words, sums modulo 65535.

    J. G. Fletcher, An Arithmetic Checksum for Serial Transmissions, IEEE Trans. Comm. 30 (1982). A sum of
    zero is only written for data that is all zero; otherwise the equivalent 65535 is.
    """
    words = np.frombuffer(data if len(data) % 2 == 0 else data + b"\0", dtype=">u2").astype(np.uint64)
    first = second = 0
    for start in range(0, len(words), _FLETCHER_BLOCK):  # short enough that no sum passes 2**64
        block = words[start : start + _FLETCHER_BLOCK]
        ranks = np.arange(len(block), 0, -1, dtype=np.uint64)
        second += len(block) * first + int(np.dot(block, ranks))
        first += int(block.sum())
    return _folded(second) << 16 | _folded(first)


_FLETCHER_BLOCK = 1 << 20


def _folded(total: int) -> int:
    return total % 65535 or (65535 if total else 0)


def words(dtype: DType) -> str:
    """How to read the numbers, in a sentence that is stored with them."""
    codes = {
        "u16": "code 65535 is invalid",
        "u8": "code 255 is invalid",
        "f16": "code NaN is invalid",
    }[dtype]
    return (
        "value = offset[row] + scale[row] * code, relative inverse depth; where invalid_count[row] > 0 "
        f"{codes} (no value known for that pixel)"
    )


def _last_code(dtype: np.dtype[Any], invalid_count: int) -> int:
    """The code of the largest value."""
    if dtype.kind == "f":
        return 1
    highest = int(np.iinfo(dtype).max)
    return highest - 1 if invalid_count else highest


def _invalid_code(dtype: np.dtype[Any]) -> float:
    return np.nan if dtype.kind == "f" else int(np.iinfo(dtype).max)
