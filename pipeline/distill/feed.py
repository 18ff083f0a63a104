"""Photographs for the teacher, prepared by others that run ahead of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipeline.distill.tasks import Task

__all__ = ["Batch", "Feed", "Group", "Prepare", "Source", "Start", "group_size", "in_threads"]

Image = Any
"""A photograph as the predictor wants it."""


class Prepare(Protocol):
    """Makes an image of a photograph's file with this SHA-256, for a label of (height, width), or says why not."""

    def __call__(self, path: Path, sha256: bytes, size: tuple[int, int], *, root: Path) -> Image | str: ...


Source = Callable[[int], tuple[Path, Path]]
"""The photograph of a row of the plan, and the root that its manifest names."""


class Group(Protocol):
    """A few photographs that are being prepared."""

    def result(self) -> list[Image | str]:
        """One image, or the reason why there is none, for each; waits for them."""

    def cancel(self) -> object:
        """They are not needed any more."""

    def release(self) -> None:
        """The teacher is done with the images."""


Start = Callable[[Task, list[int]], Group]
"""Begins to prepare the photographs at some positions of a task."""


@dataclass(frozen=True)
class Batch:
    """Photographs of one shard that go through the teacher together.

    Attributes:
        groups: of photographs, in the order of `positions`.
        first, last: whether it opens and closes its task.
    """

    task: Task
    positions: list[int]
    groups: list[Group]
    first: bool
    last: bool

    def images(self) -> list[Image | str]:
        """One for each position; waits for them."""
        return [image for group in self.groups for image in group.result()]

    def release(self) -> None:
        """The teacher is done with them."""
        for group in self.groups:
            group.release()


class Feed:
    """Has photographs read and decoded ahead of the teacher.

    A few photographs make one piece of work: at thousands a second, handing over each by itself would cost
    more than decoding it.
    """

    def __init__(self, start: Start) -> None:
        self._start = start

    def batches(self, tasks: Iterable[Task], *, batch_size: int, ahead: int) -> Generator[Batch, None, None]:
        """Batches in order, with at least `ahead` photographs being prepared beyond the one handed out.

        A batch never reaches over the end of a shard, and depends on the plan alone: what the teacher computes
        does not depend on where an earlier run was interrupted.
        """
        queue: deque[Batch] = deque()
        waiting = 0
        try:
            for task, start in _cuts(tasks, batch_size):
                positions = task.positions[start : start + batch_size]
                groups = [
                    self._start(task, positions[begin : begin + group_size(batch_size)])
                    for begin in range(0, len(positions), group_size(batch_size))
                ]
                queue.append(Batch(task, positions, groups, start == 0, start + batch_size >= len(task.positions)))
                waiting += len(positions)
                while waiting - len(queue[0].positions) >= ahead:
                    waiting -= len(queue[0].positions)
                    yield queue.popleft()
            while queue:
                yield queue.popleft()
        finally:
            for batch in queue:
                for group in batch.groups:
                    group.cancel()


def group_size(batch_size: int) -> int:
    """Photographs that are one piece of work: an eighth of a batch, so that all share it, at most 8."""
    return max(1, min(8, batch_size // 8))


def _cuts(tasks: Iterable[Task], batch_size: int) -> Iterator[tuple[Task, int]]:
    for task in tasks:
        for start in range(0, len(task.positions), batch_size):
            yield task, start


def in_threads(pool: ThreadPoolExecutor, source: Source, prepare: Prepare) -> Start:
    """What a `Feed` starts its groups with: the threads of a pool."""

    def images(task: Task, positions: list[int]) -> list[Image | str]:
        size = task.shard.height, task.shard.width
        found = []
        for position in positions:
            path, root = source(task.shard.start + position)
            found.append(prepare(path, task.shard.sha256[position].tobytes(), size, root=root))
        return found

    return lambda task, positions: _InThread(pool.submit(images, task, positions))


class _InThread:
    def __init__(self, future: Future[list[Image | str]]) -> None:
        self.result, self.cancel = future.result, future.cancel

    def release(self) -> None:
        """Whoever holds the images last frees them."""
