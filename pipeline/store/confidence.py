"""How far a label can be trusted, pixel by pixel, in one byte for every 4 x 4 pixels of the map.

What a loss is weighted with need be neither sharp nor exact: a quarter of the resolution in each direction is
off by less than 0.01 on average and costs 8 % of the map's bytes (TCMonoDepth's maps of CUHK photographs).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.store.codec import compress, unpack

__all__ = ["CONFIDENCE_DTYPE", "CONFIDENCE_WORDS", "STRIDE", "confidence_size", "pack_confidence", "unpack_confidence"]

STRIDE = 4
CONFIDENCE_DTYPE = np.dtype("u1")

CONFIDENCE_WORDS = (
    f"confidence[row, y, x] / 255, from 0 to 1, is the mean over {STRIDE} x {STRIDE} pixels of the map's confidence"
)


def confidence_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) of the confidence of a map of this size."""
    return -(-height // STRIDE), -(-width // STRIDE)


def pack_confidence(confidence: npt.NDArray[np.float32]) -> bytes:
    """The confidence (H, W) of a map, from 0 to 1, as an HDF5 chunk."""
    height, width = confidence_size(*confidence.shape)
    small = Image.fromarray(confidence.astype(np.float32)).resize((width, height), Image.Resampling.BOX)
    codes = np.rint(np.clip(np.asarray(small), 0, 1) * 255).astype(CONFIDENCE_DTYPE)
    return compress(codes.tobytes(), "deflate")


def unpack_confidence(chunk: bytes, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """The confidence of a map of `size` (H, W) as float32 (H, W), from 0 to 1, bilinear in between.

    Raises:
        ValueError: the bytes are not those that were written.
    """
    codes = unpack(chunk, confidence_size(*size), CONFIDENCE_DTYPE, "deflate")
    values = Image.fromarray(codes.astype(np.float32) / 255)
    return np.asarray(values.resize((size[1], size[0]), Image.Resampling.BILINEAR), np.float32)
