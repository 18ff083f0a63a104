"""One photograph for the teacher: read once, checked, decoded, resized."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.distill.meters import Meters
from pipeline.errors import SoftfocusError
from pipeline.images import ImageError, read_image

__all__ = ["prepare", "resize"]

Size = tuple[int, int]


def prepare(
    path: Path,
    sha256: bytes,
    size: Size,
    *,
    root: Path,
    decode: Callable[[bytes, str, Size], Any] | None = None,
    meters: Meters | None = None,
) -> Any | str:
    """Read a photograph once, check that it is the one that was indexed, and decode it.

    Args:
        sha256: of the file's bytes, 32 bytes.
        size: (height, width) of the label.
        decode: from the file's bytes, what messages call it, and `size`; by default to uint8 (height, width, 3).
        meters: where the time is noted.

    Returns:
        what `decode` gives, or the reason why this photograph cannot be used.

    Raises:
        SoftfocusError: the whole folder `root` is gone: no fault of one photograph.
    """
    meters = meters or Meters()
    try:
        with meters.measure("read"):
            content = path.read_bytes()
            if hashlib.sha256(content).digest() != sha256:
                return f"{path}: changed since it was indexed; index the folder again"
        return decode(content, str(path), size) if decode else _decoded(content, str(path), size, meters)
    except ImageError as error:
        return str(error)
    except OSError as error:
        if not root.is_dir():
            raise SoftfocusError(f"{root}: the photographs' folder is not there; mount it or index again") from error
        return f"{path}: cannot be read ({error.strerror}); restore it or index the folder again"
    except MemoryError:
        return f"{path}: not enough memory to decode it; use fewer workers"


def _decoded(content: bytes, name: str, size: Size, meters: Meters) -> npt.NDArray[np.uint8]:
    with meters.measure("decode"):
        pixels = read_image(content, name=name, at_least=size)
    with meters.measure("resize"):
        return resize(pixels, size)


def resize(pixels: npt.NDArray[np.uint8], size: Size) -> npt.NDArray[np.uint8]:
    """A photograph (H, W, 3) at (height, width), the whole frame, bicubic and antialiased.

    Along rows first and then along columns, said in so many words: Pillow 13 chooses the order itself, and
    rounds to 8 bits between the two, so that its pixels differ from those of earlier versions.
    """
    height, width = size
    for wanted in ((width, pixels.shape[0]), (width, height)):
        if wanted != pixels.shape[1::-1]:
            pixels = np.asarray(Image.fromarray(pixels).resize(wanted, Image.Resampling.BICUBIC))
    return pixels
