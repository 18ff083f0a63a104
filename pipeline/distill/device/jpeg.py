"""Plain JPEGs decoded with as little Python as possible, into memory that is given.

Pillow spends about half a millisecond a photograph in Python code, and copies the pixels twice. simplejpeg
decodes in one call, with the library that Pillow uses (libjpeg-turbo) and the same settings, to the same
pixels. All that is not plain is for `pipeline.images`: other formats, turned photographs, CMYK, and whatever
fails here, so that there is one place that says what is wrong with a file.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import simplejpeg

__all__ = ["Plain", "decode_into", "look"]

_PIXELS_LIMIT = 50_000_000  # above it `read_image` speaks, which knows the user's own limit
_HEADERS = {0xC0, 0xC1, 0xC2}  # baseline, extended, progressive
_ORIENTATION = 0x0112


class Plain(NamedTuple):
    """What a plain JPEG is decoded to: its size divided by `factor`, 1, 2, 4 or 8, rounded up."""

    height: int
    width: int
    factor: int


def look(content: bytes, at_least: tuple[int, int]) -> Plain | None:
    """How `pipeline.images.read_image` would decode a JPEG; None if it is not plain.

    Args:
        at_least: (height, width), see `read_image`.
    """
    size = plain_size(content)
    if size is None:
        return None
    room = min(size[0] // at_least[0], size[1] // at_least[1])
    factor = next((factor for factor in (8, 4, 2) if room >= factor), 1)
    return Plain(-(-size[0] // factor), -(-size[1] // factor), factor)


def decode_into(content: bytes, found: Plain, pixels: npt.NDArray[np.uint8]) -> None:
    """Decode to `pixels`, uint8 (height, width, 3).

    Raises:
        ValueError: the photograph is damaged.
    """
    decoded = simplejpeg.decode_jpeg(
        content,
        "RGB",
        fastdct=False,
        fastupsample=False,
        min_height=found.height,
        min_width=found.width,
        min_factor=found.factor,
        buffer=pixels.reshape(-1),
    )
    if decoded.shape != pixels.shape:
        raise ValueError(f"decoded to {decoded.shape}, expected {pixels.shape}")


def plain_size(content: bytes) -> tuple[int, int] | None:
    """(height, width) of a plain JPEG: 8 bits, grey or colour, upright. None for all else."""
    if content[:2] != b"\xff\xd8":
        return None
    has_exif, place = False, 2
    while place + 4 <= len(content):
        if content[place] != 0xFF:
            return None
        marker = content[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        (length,) = struct.unpack_from(">H", content, place + 2)
        if marker in _HEADERS:
            return _frame_size(content[place + 4 : place + 10])
        if marker == 0xE1:
            segment = content[place + 4 : place + 2 + length]
            if has_exif or not _is_upright(segment):
                return None
            has_exif = segment.startswith(b"Exif\0\0")
        elif marker == 0xEE or not (0xC4 <= marker <= 0xFE) or length < 2:
            return None  # Adobe's colour transforms, and what does not belong here
        place += 2 + length
    return None


def _frame_size(header: bytes) -> tuple[int, int] | None:
    if len(header) < 6:
        return None
    bits, height, width, components = struct.unpack(">BHHB", header)
    if bits != 8 or components not in (1, 3) or not 0 < height * width <= _PIXELS_LIMIT:
        return None
    return height, width


def _is_upright(segment: bytes) -> bool:
    """Whether an APP1 segment surely does not ask for the picture to be turned."""
    if not segment.startswith(b"Exif\0\0"):
        return b"Orientation" not in segment  # XMP can say it too
    tiff = segment[6:]
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return False
    try:
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, values, value = struct.unpack_from(order + "HHIH", tiff, entry)
            if tag == _ORIENTATION:
                return (kind, values, value) == (3, 1, 1)
    except struct.error:
        return False
    return b"Orientation" not in segment
