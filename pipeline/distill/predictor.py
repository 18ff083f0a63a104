"""The teacher, asked for as many photographs at once as its device has memory for."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.distill.meters import Meters
from pipeline.distill.photographs import prepare
from pipeline.teachers.base import OutOfMemory, Teacher, TeacherError

__all__ = ["Halving", "HostPredictor", "Predictor", "Result", "check_maps", "is_out_of_memory"]

Result = npt.NDArray[np.float32]
"""What a teacher said of a photograph: a map (h, w), or (2, h, w) with its confidence."""

Size = tuple[int, int]
_Output = TypeVar("_Output")


class Predictor(Protocol):
    """What a stream needs: the maps of prepared photographs.

    Attributes:
        in_flight: how many batches `collect` should lag behind `submit`.
        largest: number of photographs of the largest call of the teacher that succeeded.
        note: what is slower than it could be, and why; empty if nothing is.
    """

    in_flight: int

    @property
    def largest(self) -> int: ...

    @property
    def note(self) -> str: ...

    def submit(self, images: list[Any], size: Size) -> Any:
        """Start on photographs whose labels are of this (height, width).

        Raises:
            TeacherError: the teacher fails, even with a single photograph.
        """

    def collect(self, submitted: Any) -> list[Any]:
        """The results of `submit`, as the stream's output takes them; a reason in place of one."""


class HostPredictor:
    """Photographs and maps in the host's memory, for any teacher."""

    in_flight = 0
    note = ""

    def __init__(self, teacher: Teacher, meters: Meters) -> None:
        self._teacher, self._meters = teacher, meters
        self._halving = Halving(teacher)
        # A teacher with a method `prepare` of this form decides itself what it is given.
        self._read = getattr(teacher, "prepare", None) or functools.partial(prepare, meters=meters)

    @property
    def largest(self) -> int:
        """Number of photographs of the largest call that succeeded."""
        return self._halving.largest

    def prepare(self, path: Path, sha256: bytes, size: Size, *, root: Path) -> npt.NDArray[Any] | str:
        """A photograph at the label's size, uint8 (h, w, 3), or the reason why there is none."""
        return self._read(path, sha256, size, root=root)

    def submit(self, images: list[npt.NDArray[np.uint8]], size: Size) -> list[npt.NDArray[np.float32]]:
        """Maps (B, h, w) of parts of the batch."""
        with self._meters.measure("teacher"):
            return self._halving.run(images, size, self._maps)

    def collect(self, submitted: list[npt.NDArray[np.float32]]) -> list[Result]:
        """The maps one by one."""
        return [values for maps in submitted for values in maps]

    def _maps(self, images: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        stacked = np.stack(images)
        maps = self._teacher.predict(stacked)
        count, *size = stacked.shape[:3]
        check_maps(
            self._teacher, maps.shape, (count, 2, *size) if self._teacher.provenance.confidence else (count, *size)
        )
        return maps


class Halving:
    """Calls for batches, and for halves of them for good once the device's memory was too small.

    Attributes:
        largest: number of photographs of the largest call that succeeded.
    """

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher
        self._limits: dict[Size, int] = {}
        self.largest = 0

    def limit(self, size: Size, batch: int) -> int:
        """Photographs of this size at once, where `batch` are asked for."""
        return min(batch, self._limits.get(size, batch))

    def run(self, images: Sequence[Any], size: Size, call: Callable[[Sequence[Any]], _Output]) -> list[_Output]:
        """What `call` gives for consecutive parts of `images`.

        Raises:
            TeacherError: out of memory with a single photograph.
        """
        outputs: list[_Output] = []
        done = 0
        while done < len(images):
            part = images[done : done + self.limit(size, len(images))]
            succeeded, output = self._attempt(part, call)
            if not succeeded:
                _free_cached_memory()  # here, as the failed call's tensors are gone now
                self._limits[size] = self._half(len(part), size)
                continue
            outputs.append(output)  # type: ignore[arg-type]
            done += len(part)
            self.largest = max(self.largest, len(part))
        return outputs

    def _attempt(self, part: Sequence[Any], call: Callable[[Sequence[Any]], _Output]) -> tuple[bool, _Output | None]:
        try:
            return True, call(part)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return False, None

    def _half(self, count: int, size: Size) -> int:
        if count == 1:
            raise TeacherError(
                f"{_name(self._teacher)}: out of memory with a single photograph of {size[1]} x {size[0]}; "
                "give a smaller --size or another device"
            )
        return count // 2


def check_maps(teacher: Teacher, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Refuse maps of another shape than the photographs ask for.

    Raises:
        TeacherError: naming both.
    """
    if found != expected:
        raise TeacherError(
            f"{_name(teacher)}: gave maps of shape {found} for photographs of shape {expected}; "
            "the network or its size rule is not what was said"
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether fewer photographs at once may help; knows other libraries' exceptions without importing them."""
    if isinstance(error, OutOfMemory | MemoryError):
        return True
    return any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)  # torch, cupy


def _name(teacher: Teacher) -> str:
    return f"{teacher.provenance.kind}:{teacher.provenance.name}"


def _free_cached_memory() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
