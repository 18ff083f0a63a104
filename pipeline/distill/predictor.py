"""The teacher, asked for as many photographs at once as its device has memory for."""

from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt

from pipeline.teachers.base import OutOfMemory, Teacher, TeacherError

__all__ = ["Predictor", "is_out_of_memory"]


class Predictor:
    """Asks a teacher for a batch, and for halves of it for good once the device's memory was too small.

    Attributes:
        largest: number of photographs of the largest call that succeeded.
    """

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher
        self._limits: dict[tuple[int, ...], int] = {}  # by size of the photographs
        self.largest = 0

    def predict(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """uint8 (B, h, w, 3) to relative inverse depth, float32 (B, h, w), or (B, 2, h, w) with confidence.

        Raises:
            TeacherError: out of memory with a single photograph, or maps of another shape.
        """
        size = images.shape[1:3]
        maps: list[npt.NDArray[np.float32]] = []
        done = 0
        while done < len(images):
            part = images[done : done + self._limits.get(size, len(images))]
            result = self._attempt(part)
            if result is None:
                self._limits[size] = self._half(len(part), size)
                continue
            maps.append(result)
            done += len(part)
            self.largest = max(self.largest, len(part))
        return np.concatenate(maps) if len(maps) > 1 else maps[0]

    def _attempt(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32] | None:
        """The maps, or None if memory was short; the failed call's tensors are free on return."""
        try:
            maps = self._teacher.predict(images)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            maps = None
        if maps is None:
            _free_cached_memory()
            return None
        count, *size = images.shape[:3]
        expected = (count, 2, *size) if self._teacher.provenance.confidence else (count, *size)
        if maps.shape != expected:
            raise TeacherError(
                f"{self._name}: gave maps of shape {maps.shape} for photographs of shape {images.shape}; "
                f"expected {expected}: the network or its size rule is not what was said"
            )
        return maps

    def _half(self, count: int, size: tuple[int, ...]) -> int:
        if count == 1:
            raise TeacherError(
                f"{self._name}: out of memory with a single photograph of {size[1]} x {size[0]}; "
                "give a smaller --size or another device"
            )
        return count // 2

    @property
    def _name(self) -> str:
        return f"{self._teacher.provenance.kind}:{self._teacher.provenance.name}"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether fewer photographs at once may help; knows other libraries' exceptions without importing them."""
    if isinstance(error, OutOfMemory | MemoryError):
        return True
    return any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)  # torch, cupy


def _free_cached_memory() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
