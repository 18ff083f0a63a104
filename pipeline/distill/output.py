"""Results to shards behind the teacher's back: threads compress, two more write."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from pipeline.distill.meters import Meters
from pipeline.distill.predictor import Result
from pipeline.distill.presence import in_work
from pipeline.distill.tasks import Task
from pipeline.store import (
    SEAL_BYTES,
    Packed,
    StoreDescription,
    encode,
    pack,
    pack_confidence,
    read_results,
    shard_path,
    write_shard,
)
from pipeline.teachers.base import Teacher

__all__ = ["NO_VALUE", "Output"]

NO_VALUE = "the teacher gave no finite value; try another precision"

_WRITERS = 2  # so that one shard fills while another is on its way to the disk

_Group = tuple[list[int], "Future[list[Packed | str]]"]


class _Aborted(Exception):
    """The run ends early: the open shard is dropped."""


_Results = queue.SimpleQueue[_Group | type[_Aborted] | None]
"""Of one shard; None closes it."""


class Output:
    """Takes a run's results in order and writes its shards. A context; leaving it waits for the disk.

    An error of a writing thread comes out of the next call. Left by an exception, the shards whose results
    are complete are still written, the open one is dropped.

    Attributes:
        shards, bytes: finished by this run.
        labelled: maps in them that this run made.
        failures: row -> reason of all rows of them without a label.
    """

    def __init__(
        self,
        store: Path,
        description: StoreDescription,
        teacher: Teacher,
        pool: ThreadPoolExecutor,
        meters: Meters,
        *,
        room: int,
    ) -> None:
        self._store, self._description, self._teacher = store, description, teacher
        self._pool, self._meters = pool, meters
        self._room = threading.Semaphore(room)  # maps that are not in a shard yet, whatever the shards' size
        self._writers = ThreadPoolExecutor(_WRITERS, thread_name_prefix="softfocus-write")
        self._pending: list[Future[None]] = []
        self._queue: _Results | None = None
        self._lock = threading.Lock()
        self.shards = self.bytes = self.labelled = 0
        self.failures: dict[int, str] = {}

    def begin(self, task: Task) -> None:
        """Open a shard; all results until `end` belong to it."""
        self._queue = queue.SimpleQueue()
        self._pending.append(self._writers.submit(self._write, task, self._queue))

    def put(self, positions: list[int], results: list[Result | str]) -> None:
        """Some results, or the reasons why there are none; waits while too many maps are not written yet."""
        with self._meters.measure("waiting for the writer"):
            self._raise_errors()
            for _ in positions:
                while not self._room.acquire(timeout=0.2):
                    self._raise_errors()
        self._open_queue().put((positions, self._pool.submit(self._packed, results)))

    def end(self) -> None:
        """Close the shard."""
        self._open_queue().put(None)
        self._queue = None

    def __enter__(self) -> Output:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._abort()
        self._writers.shutdown(wait=True)
        if kind is None:
            self._raise_errors()

    def _abort(self) -> None:
        """Take back what is left for the open shard and drop it."""
        if self._queue is None:
            return
        with contextlib.suppress(queue.Empty):
            while True:
                self._queue.get_nowait()
        self._queue.put(_Aborted)

    def _open_queue(self) -> _Results:
        assert self._queue is not None, "begin() comes first"
        return self._queue

    def _raise_errors(self) -> None:
        for pending in [each for each in self._pending if each.done()]:
            self._pending.remove(pending)
            pending.result()

    def _packed(self, results: list[Result | str]) -> list[Packed | str]:
        """In a thread of the pool: results to the bytes of their chunks."""
        return [result if isinstance(result, str) else self._chunk(result) for result in results]

    def _chunk(self, result: Result) -> Packed | str:
        codec = self._description.codec
        depth, confidence = result if result.ndim == 3 else (result, None)
        with self._meters.measure("quantise"):
            encoded = encode(depth, self._description.dtype)
        if encoded.invalid_count == depth.size:
            return NO_VALUE
        with self._meters.measure("compress"):
            packed = pack(encoded, codec)
            return packed if confidence is None else packed._replace(confidence=pack_confidence(confidence))

    def _write(self, task: Task, results: _Results) -> None:
        """In a writing thread: one shard, from its first result to the renamed file."""
        begin = time.perf_counter()
        failures = dict(task.reasons)
        waited = [0.0]
        try:
            with in_work(self._store, task.shard.number):
                seal = write_shard(
                    self._store,
                    self._description,
                    task.shard,
                    self._results(task, results, failures, waited),
                    provenance=self._teacher.provenance,
                    precision=str(getattr(self._teacher, "precision", "")),
                )
        except _Aborted:
            return
        self._meters.add("write", time.perf_counter() - begin - waited[0])
        with self._lock:
            self.shards += 1
            self.bytes += SEAL_BYTES + seal.size
            self.labelled += sum(position not in failures for position in task.positions)
            for position, reason in failures.items():
                self.failures[task.shard.start + position] = reason

    def _results(
        self,
        task: Task,
        results: _Results,
        failures: dict[int, str],
        waited: list[float],
    ) -> Iterator[tuple[int, Packed | str]]:
        """What goes into a shard: reasons known beforehand, labels that stay, and what comes from the teacher."""
        yield from task.reasons.items()
        if task.kept:
            yield from read_results(shard_path(self._store, task.shard.number), task.kept)
        while True:
            begin = time.perf_counter()
            item = results.get()
            if item is None:
                return
            if isinstance(item, type):
                raise _Aborted
            positions, group = item
            self._room.release(len(positions))
            packed = group.result()
            waited[0] += time.perf_counter() - begin
            for position, result in zip(positions, packed, strict=True):
                if isinstance(result, str):
                    failures[position] = result
                yield position, result
