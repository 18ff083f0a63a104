"""Photographs decoded by hands, into memory that the device reads."""

from __future__ import annotations

from typing import NamedTuple

from pipeline.distill.crew.captain import Captain
from pipeline.distill.crew.memory import Slab
from pipeline.distill.crew.messages import LARGEST_UPLOAD, Decode, Place
from pipeline.distill.feed import Source
from pipeline.distill.tasks import Task

__all__ = ["Decoded", "Decoder", "Group"]


class Decoded(NamedTuple):
    """A photograph's pixels, uint8 (height, width, 3), from `start` on in a slab."""

    slab: Slab
    start: int
    height: int
    width: int


class Decoder:
    """What a `Feed` starts its groups with.

    Page-locked memory is dear, so there is room for photographs as large as the label until a larger one comes.
    """

    def __init__(self, captain: Captain, source: Source) -> None:
        self.captain, self._source = captain, source
        self.largest = 1.1

    def __call__(self, task: Task, positions: list[int]) -> Group:
        shard = task.shard
        size = shard.height, shard.width
        slab = self.captain.slabs.take(Decode.room(len(positions), size, self.largest))
        photographs = [(*self._source(shard.start + each), shard.sha256[each].tobytes()) for each in positions]
        return Group(self, slab, Decode(slab.key, size, self.largest, photographs))


class Group:
    """A few photographs that one hand decodes, into a slab of their own; see `pipeline.distill.feed.Group`."""

    def __init__(self, decoder: Decoder, slab: Slab, job: Decode) -> None:
        self._decoder, self._slab = decoder, slab
        self._found: list[Place | str] | None = None
        decoder.captain.give(job, self._hear)

    def _hear(self, answer: tuple[list[Place | str], bool]) -> None:
        self._found, cramped = answer
        if cramped:
            self._decoder.largest = LARGEST_UPLOAD

    def result(self) -> list[Decoded | str]:
        self._decoder.captain.until(lambda: self._found is not None)
        return [each if isinstance(each, str) else Decoded(self._slab, *each) for each in self._found or ()]

    def cancel(self) -> None:
        """The captain ends his hands soon enough."""

    def release(self) -> None:
        self._decoder.captain.slabs.give_back(self._slab)
