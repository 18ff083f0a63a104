"""Photographs decoded by hands, into memory that the device reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from pipeline.distill.crew.captain import Captain
from pipeline.distill.crew.memory import Slab
from pipeline.distill.crew.messages import Decode, Place
from pipeline.distill.feed import Source
from pipeline.distill.tasks import Task

__all__ = ["Decoded", "Group", "decoder"]


class Decoded(NamedTuple):
    """A photograph's pixels, uint8 (height, width, 3), from `start` on in a slab."""

    slab: Slab
    start: int
    height: int
    width: int


class Group:
    """A few photographs that one hand decodes, into a slab of their own; see `pipeline.distill.feed.Group`."""

    def __init__(self, captain: Captain, job: Callable[[int], Decode], room: int) -> None:
        self._captain = captain
        self._slab = captain.slabs.take(room)
        self._found: list[Place | str] | None = None
        captain.give(job(self._slab.key), self._hear)

    def _hear(self, found: list[Place | str]) -> None:
        self._found = found

    def result(self) -> list[Decoded | str]:
        self._captain.until(lambda: self._found is not None)
        return [each if isinstance(each, str) else Decoded(self._slab, *each) for each in self._found or ()]

    def cancel(self) -> None:
        """The captain ends his hands soon enough."""

    def release(self) -> None:
        self._captain.slabs.give_back(self._slab)


def decoder(captain: Captain, source: Source) -> Callable[[Task, list[int]], Group]:
    """What a `Feed` starts its groups with."""

    def start(task: Task, positions: list[int]) -> Group:
        shard = task.shard
        size = shard.height, shard.width
        photographs = [(*source(shard.start + each), shard.sha256[each].tobytes()) for each in positions]
        return Group(captain, lambda slab: Decode(slab, size, photographs), Decode.room(len(positions), size))

    return start
