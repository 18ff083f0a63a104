"""A sequence of tasks, streamed through one teacher.

Photographs are read and decoded ahead of the teacher, maps compressed and written behind it; a shard is on disk,
whole, soon after its last photograph went through. For a teacher on a GPU helping processes do that
(`pipeline.distill.crew`), for any other threads: such a teacher is slow enough for them, and may prepare its
photographs itself. Several processes may each run such a stream on tasks of their own.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from pipeline.distill.feed import Batch, Feed, Source, Start, group_size, in_threads
from pipeline.distill.meters import Meters, StreamFigures
from pipeline.distill.output import Output
from pipeline.distill.predictor import HostPredictor, Predictor
from pipeline.distill.tasks import Task
from pipeline.store import StoreDescription
from pipeline.teachers.base import DeviceTeacher, Teacher

__all__ = ["compiling_pays", "default_batch_size", "is_on_gpu", "stream"]

COMPILING_PAYS_FROM = 200_000
"""Photographs. Compiling saves 0.23 ms a photograph of Depth Anything V2 Small on an H200, 0.7 ms of Large: here about
one and two minutes, which is what it is taken to cost."""


def stream(
    tasks: Iterable[Task],
    source: Source,
    *,
    store: Path,
    description: StoreDescription,
    teacher: Teacher,
    threads: int,
    batch_size: int | None = None,
    compiled: bool = False,
    report: Callable[[StreamFigures], None] | None = None,
) -> StreamFigures:
    """Label the photographs of `tasks` and write their shards, in order.

    What comes out depends on each task alone, not on the others, on threads or on an earlier interruption.

    Args:
        tasks: asked for one by one, as the photographs are read ahead.
        source: the photograph of a row of the plan, and its root.
        threads: that decode and compress, or processes.
        batch_size: photographs that the teacher is given at once; halved when memory is short. None: a default
            for the teacher's device.
        compiled: whether a teacher on a GPU may spend minutes to be faster afterwards.
        report: called from this thread after each batch, and at the end, with the figures so far.

    Raises:
        StoreError: a shard cannot be written.
        TeacherError: the teacher fails.
        SoftfocusError: the photographs' folder is not there.
    """
    meters = Meters()
    batch_size = batch_size or default_batch_size(teacher)
    sides = _Sides(store, description, source, meters, threads=threads, batch_size=batch_size)
    manned = sides.by_processes(teacher, compiled) if is_on_gpu(teacher) else sides.by_threads(teacher)
    done = failed = 0

    def figures() -> StreamFigures:
        return StreamFigures(
            done=done,
            failed=failed,
            labelled=output.labelled,
            shards=output.shards,
            bytes=output.bytes,
            failures=dict(output.failures),
            batch_size=predictor.largest,
            seconds=time.perf_counter() - begin,
            stage_seconds=dict(meters.seconds),
            note=predictor.note,
        )

    with manned as (start, predictor, output, ahead):
        begin = time.perf_counter()
        with output, contextlib.closing(Feed(start).batches(tasks, batch_size=batch_size, ahead=ahead)) as batches:
            for batch, results in _predicted(batches, predictor, meters):
                _put(batch, results, output, group_size(batch_size))
                done += len(batch.positions)
                failed += sum(isinstance(result, str) for result in results)
                if report is not None:
                    report(figures())
        finished = figures()
    if report is not None:
        report(finished)
    return finished


def default_batch_size(teacher: Teacher) -> int:
    """Photographs at once: what keeps a large GPU busy, or what a CPU has memory for."""
    return 64 if is_on_gpu(teacher) else 16


def compiling_pays(teacher: Teacher, photographs: int) -> bool:
    """Whether a job is long enough to compile the teacher for it."""
    return is_on_gpu(teacher) and photographs >= COMPILING_PAYS_FROM


def is_on_gpu(teacher: Teacher) -> bool:
    """Whether pixels and maps stay on the teacher's device between decoding and compression."""
    return isinstance(teacher, DeviceTeacher) and teacher.device.type == "cuda"


class _Out(Protocol):
    """See `pipeline.distill.output.Output`."""

    shards: int
    bytes: int
    labelled: int
    failures: dict[int, str]

    def begin(self, task: Task) -> None: ...
    def put(self, positions: list[int], results: list[Any]) -> None: ...
    def end(self) -> None: ...
    def __enter__(self) -> Any: ...
    def __exit__(self, *error: Any) -> None: ...


class _Manned(NamedTuple):
    """What is before, at and behind the teacher, and how many photographs are prepared ahead of it."""

    start: Start
    predictor: Predictor
    output: _Out
    ahead: int


class _Sides:
    """The two ways to do what is before and behind a teacher."""

    def __init__(
        self,
        store: Path,
        description: StoreDescription,
        source: Source,
        meters: Meters,
        *,
        threads: int,
        batch_size: int,
    ) -> None:
        self._store, self._description, self._source, self._meters = store, description, source, meters
        self._threads, self._batch_size = threads, batch_size

    @contextlib.contextmanager
    def by_threads(self, teacher: Teacher) -> Iterator[_Manned]:
        ahead = 2 * max(self._batch_size, self._threads)
        predictor = HostPredictor(teacher, self._meters)
        with ThreadPoolExecutor(self._threads, thread_name_prefix="softfocus") as pool:
            output = Output(self._store, self._description, teacher, pool, self._meters, room=ahead)
            yield _Manned(in_threads(pool, self._source, predictor.prepare), predictor, output, ahead)

    @contextlib.contextmanager
    def by_processes(self, teacher: Any, compiled: bool) -> Iterator[_Manned]:
        from pipeline.distill.crew.captain import Captain
        from pipeline.distill.crew.feed import Decoder
        from pipeline.distill.crew.shards import Shards
        from pipeline.distill.device.predictor import DevicePredictor, page_lock

        in_work = group_size(self._batch_size) * self._threads  # photographs, if all hands decode
        with Captain(self._threads, self._meters, page_lock(teacher.device)) as captain:
            predictor = DevicePredictor(
                teacher, self._meters, self._description, captain, batch_size=self._batch_size, compiled=compiled
            )
            room = 4 * self._batch_size + 3 * in_work
            output = Shards(self._store, self._description, teacher, captain, self._meters, room=room)
            captain.until(captain.is_ready)
            yield _Manned(Decoder(captain, self._source), predictor, output, 2 * self._batch_size + in_work)


def _predicted(batches: Iterable[Batch], predictor: Predictor, meters: Meters) -> Iterator[tuple[Batch, list[Any]]]:
    """Batches with a result, or the reason why there is none, for each photograph; in order."""
    waiting: deque[tuple[Batch, list[Any], Any]] = deque()
    for batch in batches:
        with meters.measure("waiting for images"):
            images = batch.images()
        good = [image for image in images if not isinstance(image, str)]
        size = batch.task.shard.height, batch.task.shard.width
        waiting.append((batch, images, predictor.submit(good, size) if good else None))
        while len(waiting) > predictor.in_flight:
            yield _collected(*waiting.popleft(), predictor)
    while waiting:
        yield _collected(*waiting.popleft(), predictor)


def _collected(batch: Batch, images: list[Any], submitted: Any, predictor: Predictor) -> tuple[Batch, list[Any]]:
    results = iter([] if submitted is None else predictor.collect(submitted))
    batch.release()
    return batch, [image if isinstance(image, str) else next(results) for image in images]


def _put(batch: Batch, results: list[Any], output: _Out, step: int) -> None:
    """A batch's results to those that compress and write."""
    if batch.first:
        output.begin(batch.task)
    for start in range(0, len(results), step):
        output.put(batch.positions[start : start + step], results[start : start + step])
    if batch.last:
        output.end()
