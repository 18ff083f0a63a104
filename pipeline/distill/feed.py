"""Photographs for the teacher: read, checked, decoded and resized by threads that run ahead of it."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.distill.meters import Meters
from pipeline.distill.tasks import Task
from pipeline.errors import SoftfocusError
from pipeline.images import ImageError, read_image

__all__ = ["Batch", "Source", "feed", "prepare"]

Prepared = npt.NDArray[Any] | str
"""A photograph of the label's size, uint8 (h, w, 3), or the reason why there is none."""

Source = Callable[[int], tuple[Path, Path]]
"""The photograph of a row of the plan, and the root that its manifest names."""


class Read(Protocol):
    """What `prepare` does. A teacher with a method `prepare` of this form decides itself what it is given."""

    def __call__(self, path: Path, sha256: bytes, size: tuple[int, int], *, root: Path) -> npt.NDArray[Any] | str: ...


@dataclass(frozen=True)
class Batch:
    """Photographs of one shard that go through the teacher together.

    Attributes:
        first, last: whether it opens and closes its task.
    """

    task: Task
    positions: list[int]
    images: list[Future[Prepared]]
    first: bool
    last: bool


def feed(
    tasks: Iterable[Task],
    source: Source,
    pool: ThreadPoolExecutor,
    meters: Meters,
    *,
    batch_size: int,
    ahead: int,
    read: Read | None = None,
) -> Generator[Batch, None, None]:
    """Batches in order, with at least `ahead` photographs being prepared beyond the one handed out.

    A batch never reaches over the end of a shard, and depends on the plan alone: what the teacher computes
    does not depend on where an earlier run was interrupted. `read` does in place of `prepare`.
    """
    queue: deque[Batch] = deque()
    waiting = 0
    try:
        for task, start in _cuts(tasks, batch_size):
            positions = task.positions[start : start + batch_size]
            images = [pool.submit(_measured, read or prepare, source, meters, task, position) for position in positions]
            queue.append(Batch(task, positions, images, start == 0, start + batch_size >= len(task.positions)))
            waiting += len(positions)
            while waiting - len(queue[0].positions) >= ahead:
                waiting -= len(queue[0].positions)
                yield queue.popleft()
        while queue:
            yield queue.popleft()
    finally:
        for batch in queue:
            for image in batch.images:
                image.cancel()


def _cuts(tasks: Iterable[Task], batch_size: int) -> Iterator[tuple[Task, int]]:
    for task in tasks:
        for start in range(0, len(task.positions), batch_size):
            yield task, start


def _measured(read: Read, source: Source, meters: Meters, task: Task, position: int) -> Prepared:
    with meters.measure("read and decode"):
        path, root = source(task.shard.start + position)
        size = task.shard.height, task.shard.width
        return read(path, task.shard.sha256[position].tobytes(), size, root=root)


def prepare(path: Path, sha256: bytes, size: tuple[int, int], *, root: Path) -> Prepared:
    """Read a photograph once, check that it is the one that was indexed, decode it and resize it.

    Args:
        sha256: of the file's bytes, 32 bytes.
        size: (height, width) of the result; the whole frame, bicubic and antialiased.

    Returns:
        uint8 (height, width, 3), or the reason why this photograph cannot be used.

    Raises:
        SoftfocusError: the whole folder `root` is gone: no fault of one photograph.
    """
    try:
        content = path.read_bytes()
        if hashlib.sha256(content).digest() != sha256:
            return f"{path}: changed since it was indexed; index the folder again"
        pixels = read_image(content, name=str(path), at_least=size)
    except ImageError as error:
        return str(error)
    except OSError as error:
        if not root.is_dir():
            raise SoftfocusError(f"{root}: the photographs' folder is not there; mount it or index again") from error
        return f"{path}: cannot be read ({error.strerror}); restore it or index the folder again"
    except MemoryError:
        return f"{path}: not enough memory to decode it; use fewer workers"
    return _resized(pixels, size)


def _resized(pixels: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    if pixels.shape[:2] == size:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.BICUBIC))
