"""A teacher asked twice: for the photograph and for its mirror image."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.teachers.agreement import AGREEMENT_WORDS, fuse
from pipeline.teachers.base import Teacher

__all__ = ["FLIP", "FlipTeacher", "load_flip"]

FLIP = (
    "flip: agreement with the map of the mirrored photograph, turned back and aligned in scale and shift by least "
    f"squares; the stored map is the mean of both; {AGREEMENT_WORDS}"
)


def load_flip(load: Callable[..., Teacher], **options: Any) -> FlipTeacher:
    """What `load` loads, asked twice. `functools.partial(load_flip, load)` can be pickled if `load` can."""
    return FlipTeacher(load(**options))


class FlipTeacher:
    """Gives the mean of the maps of a photograph and its mirror image, and how far they agree.

    Depth does not change its size in a mirror, so what the two differ by is the network's own doubt.
    """

    def __init__(self, teacher: Teacher) -> None:
        self.provenance = msgspec.structs.replace(teacher.provenance, confidence=FLIP)
        self.precision = getattr(teacher, "precision", "")
        self._teacher = teacher
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="softfocus-flip")

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """That of the teacher."""
        return self._teacher.input_size(height, width)

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 RGB (B, h, w, 3) to float32 (B, 2, h, w): relative inverse depth, and confidence from 0 to 1."""
        maps = self._teacher.predict(images)
        mirrored = self._teacher.predict(np.ascontiguousarray(images[:, :, ::-1]))[:, :, ::-1]
        fused = list(self._pool.map(lambda pair: fuse(pair), zip(maps, mirrored, strict=True)))
        return np.stack(fused) if fused else np.empty((0, 2, *images.shape[1:3]), np.float32)

    def close(self) -> None:
        """Free the teacher."""
        self._pool.shutdown()
        self._teacher.close()
