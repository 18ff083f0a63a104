"""The one place where pixels are decoded: upright photographs, masks of one polarity, errors with a name.

Photographs come in every mode a camera or an archive writes (CMYK, palette, 16 bits, EXIF rotation), masks
likewise; both leave this module in one form. Only well-known raster formats are opened at all: Pillow also
knows formats that start other programs. Embedded colour profiles are not applied, as nobody in this field
does; the numbers are taken as sRGB.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from pipeline.errors import SoftfocusError

__all__ = [
    "MAX_PIXELS",
    "MAX_PIXELS_VARIABLE",
    "ImageError",
    "check_mask_size",
    "image_size",
    "read_blur_mask",
    "read_image",
    "read_mask_values",
]

MAX_PIXELS = 200_000_000
"""Largest photograph that is decoded, in pixels (600 MB as RGB): above today's phones, below a bomb."""

MAX_PIXELS_VARIABLE = "SOFTFOCUS_MAX_PIXELS"
"""Environment variable that replaces MAX_PIXELS."""

_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000", "AVIF", "TGA")

_TIFF_WIDTH, _TIFF_LENGTH = ExifTags.Base.ImageWidth, ExifTags.Base.ImageLength

# EXIF orientation -> what turns the stored picture upright; from 5 on height and width change places.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(SoftfocusError):
    """A photograph or mask that cannot be used; the message names the file and the mend."""


def image_size(source: Path | str | bytes, *, name: str | None = None) -> tuple[int, int]:
    """(height, width) in pixels of the upright picture, after EXIF rotation; only the header is read.

    Args:
        source: a file, or the bytes of one.
        name: what messages call it; the path by default.

    Raises:
        ImageError: missing, empty, not an image, or larger than the limit.
    """
    with _opened(source, _name(source, name)) as image:
        return _upright_size(image)


def read_image(
    source: Path | str | bytes, *, name: str | None = None, at_least: tuple[int, int] | None = None
) -> npt.NDArray[np.uint8]:
    """Decode a photograph.

    Args:
        source: a file, or the bytes of one.
        name: what messages call it; the path by default.
        at_least: (height, width). A JPEG may be decoded at a half, a quarter or an eighth of its size,
            several times faster, as long as it stays at least that large.

    Returns:
        uint8 (H, W, 3), sRGB 0 to 255, upright, writable. Alpha is dropped; of an animation the first frame;
        16 bits are scaled to 8; floating point counts as 0 to 1, or 0 to 255 where a value is above 1.

    Raises:
        ImageError: missing, empty, not an image, cut off, damaged, or larger than the limit.
    """
    with _opened(source, _name(source, name)) as image:
        orientation = _orientation(image)
        if at_least is not None:
            height, width = at_least[::-1] if orientation >= 5 else at_least
            image.draft(None, (width, height))
        return np.array(_rgb(_turned(image, orientation)))


def read_blur_mask(
    path: Path | str, *, blur: Literal["white", "black"], size: tuple[int, int] | None
) -> npt.NDArray[np.bool_]:
    """Decode a blur mask.

    Args:
        blur: the value that means out of focus in this file.
        size: (height, width) that the mask must have, its photograph's; None accepts any.

    Returns:
        bool (H, W), True = OUT OF FOCUS. White is everything above half of the format's range, so that stray
        values near black or white do no harm; colours count by their luminance, alpha is dropped.

    Raises:
        ImageError: as `read_image`, or the mask has another size.
    """
    values, full_scale = read_mask_values(path, size=size)
    white = values > full_scale / 2
    return white if blur == "white" else ~white


def read_mask_values(path: Path | str, *, size: tuple[int, int] | None = None) -> tuple[npt.NDArray[Any], float]:
    """The grey values (H, W) of a mask as stored, upright, and the value of full white (1, 255 or 65535).

    Raises:
        ImageError: as `read_blur_mask`.
    """
    with _opened(path, str(path)) as image:
        if size is not None:
            _check_size(path, _upright_size(image), size)
        orientation = _orientation(image)
        return _grey(_turned(image, orientation))


def check_mask_size(path: Path | str, size: tuple[int, int]) -> None:
    """Raise an ImageError unless a mask has its photograph's (height, width); only the header is read."""
    _check_size(path, image_size(path), size)


def _check_size(path: Path | str, actual: tuple[int, int], wanted: tuple[int, int]) -> None:
    if actual == wanted:
        return
    turned = " (it may lack the photograph's EXIF rotation)" if actual == wanted[::-1] else ""
    raise ImageError(
        f"{path}: mask of {_words(actual)} for a photograph of {_words(wanted)} (width x height){turned}; "
        "give it the photograph's size"
    )


def _words(size: tuple[int, int]) -> str:
    return f"{size[1]} x {size[0]}"


def _name(source: Path | str | bytes, name: str | None) -> str:
    if name is not None:
        return name
    return f"<{len(source)} bytes>" if isinstance(source, bytes) else str(source)


@contextlib.contextmanager
def _opened(source: Path | str | bytes, name: str) -> Iterator[Image.Image]:
    """Open a picture and check its size; whatever fails inside leaves as an ImageError that names it."""
    limit = _limit()
    _prepare_pillow(limit)
    try:
        with _stream(source, name) as stream, Image.open(stream, formats=_formats()) as image:
            _check_pixels(name, image.width * image.height, limit)
            yield image
    except (SoftfocusError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such file; restore it or index the folder again") from error
    except Image.DecompressionBombError as error:
        raise ImageError(_too_large(name, "far too many", limit)) from error
    except UnidentifiedImageError as error:
        known = ", ".join(_formats())
        raise ImageError(f"{name}: not an image that can be read; convert it to one of {known}") from error
    except OSError as error:
        if error.errno is not None:
            raise ImageError(f"{name}: cannot be read ({error.strerror}); mend its permissions or path") from error
        raise ImageError(_damaged(name, error)) from error
    except Exception as error:  # Pillow's decoders raise many kinds: SyntaxError, ValueError, struct.error
        raise ImageError(_damaged(name, error)) from error


@contextlib.contextmanager
def _stream(source: Path | str | bytes, name: str) -> Iterator[IO[bytes]]:
    with io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb") as stream:
        if not stream.read(1):
            raise ImageError(f"{name}: an empty file; restore it from its source or remove it")
        stream.seek(0)
        yield stream


def _damaged(name: str, error: Exception) -> str:
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"{name}: cut off or damaged ({reason}); restore it from its source or remove it"


def _check_pixels(name: str, pixels: int, limit: int) -> None:
    if pixels > limit:
        raise ImageError(_too_large(name, f"{pixels:,}", limit))


def _too_large(name: str, pixels: str, limit: int) -> str:
    return (
        f"{name}: {pixels} pixels where the limit is {limit:,}; shrink it, or set {MAX_PIXELS_VARIABLE} "
        "if it is no decompression bomb"
    )


def _limit() -> int:
    text = os.environ.get(MAX_PIXELS_VARIABLE, "")
    if not text:
        return MAX_PIXELS
    if not text.isdecimal() or int(text) < 1:
        raise SoftfocusError(f"{MAX_PIXELS_VARIABLE}={text}: not a number of pixels; give one such as {MAX_PIXELS}")
    return int(text)


def _prepare_pillow(limit: int) -> None:
    """Raise Pillow's own limit to ours and keep its warnings off the terminal.

    A filter that stays, where `warnings.catch_warnings` would be undone by another decoding thread. Whatever
    deserves a word becomes an ImageError instead.
    """
    if Image.MAX_IMAGE_PIXELS is not None:
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, limit)
    for category in (UserWarning, RuntimeWarning):
        if not any(entry[0] == "ignore" and _is_ours(entry, category) for entry in warnings.filters):
            warnings.filterwarnings("ignore", category=category, module=_PILLOW_MODULES)


_PILLOW_MODULES = r"PIL\."


def _is_ours(entry: Any, category: type[Warning]) -> bool:
    return entry[2] is category and getattr(entry[3], "pattern", None) == _PILLOW_MODULES


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)  # AVIF is not in every build


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1 to 8, to be asked before the pixels are decoded; 1 where it is absent or broken."""
    if image.format == "TIFF":
        return 1  # Pillow turns these itself
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # Pillow would decode the whole picture to look behind the pixels
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a photograph is not worth less for a broken EXIF block; Pillow raises many kinds
        return 1
    return orientation if orientation in _UPRIGHT else 1


def _upright_size(image: Image.Image) -> tuple[int, int]:
    width, height = image.size
    orientation = _orientation(image)
    if image.format == "TIFF":  # before the pixels are decoded some versions of Pillow give the size turned, some not
        tags = getattr(image, "tag_v2", {})
        width, height = tags.get(_TIFF_WIDTH, width), tags.get(_TIFF_LENGTH, height)
        orientation = tags.get(ExifTags.Base.Orientation, 1)
    return (width, height) if orientation in (5, 6, 7, 8) else (height, width)


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _rgb(image: Image.Image) -> Image.Image:
    image.load()
    if _is_deep(image.mode):
        values, full_scale = _deep_values(image)
        image = Image.fromarray((values * (255 / full_scale) + 0.5).astype(np.uint8))
    image.info.pop("transparency", None)
    return image if image.mode == "RGB" else image.convert("RGB")


def _grey(image: Image.Image) -> tuple[npt.NDArray[Any], float]:
    image.load()
    if _is_deep(image.mode):
        return _deep_values(image)
    image.info.pop("transparency", None)
    if image.mode == "1":
        return np.array(image, dtype=np.uint8), 1.0
    grey = image if image.mode == "L" else image.convert("RGB").convert("L")
    return np.array(grey), 255.0


def _is_deep(mode: str) -> bool:
    return mode in ("I", "F") or mode.startswith("I;16")


def _deep_values(image: Image.Image) -> tuple[npt.NDArray[Any], float]:
    """Values of a grey picture of more than 8 bits, and its full scale. ValueError if it has none known."""
    values = np.array(image)
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 65535):  # so that NaN fails too
        raise ValueError(f"values from {low} to {high}, expected 0 to 65535")
    if image.mode != "F":
        return values, 65535.0
    return values, 1.0 if high <= 1 else 255.0 if high <= 255 else 65535.0
