"""Maps to shards: hands compress, a few processes more write."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.distill.crew.captain import Captain, CrewDied, Peer, Then
from pipeline.distill.crew.memory import Slab
from pipeline.distill.crew.messages import Add, Begin, End, Pack
from pipeline.distill.meters import Meters
from pipeline.distill.tasks import Task
from pipeline.store import StoreDescription
from pipeline.teachers.base import Teacher

__all__ = ["Landing", "Mapped", "Shards"]

_FAREWELL_S = 5.0


@dataclass(eq=False)
class Landing:
    """A slab with the maps of a batch, and how many of them are not in a shard yet."""

    slab: Slab
    left: int

    def leave(self, count: int, captain: Captain) -> None:
        """So many are in their shard, or are nothing that goes into one."""
        self.left -= count
        if self.left == 0:
            captain.slabs.give_back(self.slab)


class Mapped(NamedTuple):
    """A map's codes, `size` bytes that are to be compressed, where the device put them."""

    landing: Landing
    start: int
    size: int
    offset: float
    scale: float
    invalid_count: int


@dataclass(eq=False)
class _Shard:
    """A shard that is not on the disk yet.

    Attributes:
        open: there may come more results.
        packing: groups of results that are with the hands.
        waiting: messages for the writer that it will have.
    """

    task: Task
    failures: dict[int, str]
    open: bool = True
    packing: int = 0
    writer: Peer | None = None
    waiting: list[tuple[Any, Then]] = field(default_factory=list)

    def send(self, message: Any, then: Then) -> None:
        if self.writer is None:
            self.waiting.append((message, then))
        else:
            self.writer.send(message, then)

    def man(self, writer: Peer) -> None:
        self.writer = writer
        for message, then in self.waiting:
            writer.send(message, then)
        self.waiting = []


class Shards:
    """Takes a stream's results in order and has its shards written; see `pipeline.distill.output.Output`."""

    def __init__(
        self,
        store: Path,
        description: StoreDescription,
        teacher: Teacher,
        captain: Captain,
        meters: Meters,
        *,
        room: int,
    ) -> None:
        self._store, self._description, self._teacher = store, description, teacher
        self._captain, self._meters, self._room = captain, meters, room
        self._inside = 0  # maps that are not in a shard yet
        self._idle = deque(captain.writers)
        self._shards: list[_Shard] = []
        self.shards = self.bytes = self.labelled = 0
        self.failures: dict[int, str] = {}

    def begin(self, task: Task) -> None:
        """Open a shard; all results until `end` belong to it."""
        shard = _Shard(task, dict(task.reasons))
        precision = str(getattr(self._teacher, "precision", ""))
        begin = Begin(self._store, self._description, task, self._teacher.provenance, precision)
        shard.send(begin, lambda _: None)
        self._shards.append(shard)
        self._man()

    def put(self, positions: list[int], results: list[Mapped | str]) -> None:
        """Some results, or the reasons why there are none; waits while too many maps are not written yet."""
        shard = self._shards[-1]
        with self._meters.measure("waiting for the writer"):
            self._captain.until(lambda: not self._inside or self._inside + len(results) <= self._room)
        pairs = list(zip(positions, results, strict=True))
        reasons = [(position, result) for position, result in pairs if isinstance(result, str)]
        if reasons:
            shard.failures |= dict(reasons)
            shard.send(Add(0, [], reasons), lambda _: None)
        maps = [(position, result) for position, result in pairs if not isinstance(result, str)]
        for _, together in itertools.groupby(maps, key=lambda pair: id(pair[1].landing)):
            self._pack(shard, list(together))

    def end(self) -> None:
        """Close the shard."""
        self._shards[-1].open = False
        self._end_if_whole(self._shards[-1])

    def __enter__(self) -> Shards:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """Left by an exception, the shards whose results are complete are still written, the open one is dropped."""
        if kind is None:
            self._captain.until(lambda: not self._shards)
        elif not issubclass(kind, CrewDied):
            deadline = time.monotonic() + _FAREWELL_S  # an answer may have been lost with the interruption
            with contextlib.suppress(Exception):
                self._captain.until(lambda: self._is_written() or time.monotonic() > deadline)

    def _is_written(self) -> bool:
        return all(shard.open for shard in self._shards)

    def _pack(self, shard: _Shard, maps: list[tuple[int, Mapped]]) -> None:
        landing, size = maps[0][1].landing, maps[0][1].size
        shard.packing += 1
        self._inside += len(maps)
        job = Pack(landing.slab.key, [found.start for _, found in maps], size, self._description.codec)

        def packed(lengths: list[int]) -> None:
            rows = [
                (position, found.start, length, found.offset, found.scale, found.invalid_count)
                for (position, found), length in zip(maps, lengths, strict=True)
            ]
            shard.send(Add(landing.slab.key, rows, []), added)
            shard.packing -= 1
            self._end_if_whole(shard)

        def added(_: Any) -> None:
            self._inside -= len(maps)
            landing.leave(len(maps), self._captain)

        self._captain.give(job, packed, urgent=True)

    def _end_if_whole(self, shard: _Shard) -> None:
        if not shard.open and not shard.packing:
            shard.send(End(), lambda size: self._finish(shard, size))

    def _finish(self, shard: _Shard, size: int) -> None:
        assert shard.writer is not None, "it has answered"
        self._idle.append(shard.writer)
        self._shards.remove(shard)
        self.shards += 1
        self.bytes += size
        self.labelled += sum(position not in shard.failures for position in shard.task.positions)
        for position, reason in shard.failures.items():
            self.failures[shard.task.shard.start + position] = reason
        self._man()

    def _man(self) -> None:
        """Give idle writers to the oldest shards without one."""
        for shard in self._shards:
            if shard.writer is None and self._idle:
                shard.man(self._idle.popleft())
