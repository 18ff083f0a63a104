"""A sequence of tasks, streamed through one teacher in one process.

Threads read and decode ahead of the teacher, others compress and write behind it; a shard is on disk, whole,
soon after its last photograph went through. Several processes may each run such a stream on tasks of their own.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pipeline.distill.feed import Batch, Feed, Source, group_size
from pipeline.distill.meters import Meters, StreamFigures
from pipeline.distill.output import Output
from pipeline.distill.predictor import HostPredictor, Predictor, Result
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
        threads: that decode and compress.
        batch_size: photographs that the teacher is given at once; halved when memory is short. None: a default
            for the teacher's device.
        compiled: whether a teacher on a GPU may spend minutes to be faster afterwards.
        report: called from this thread after each batch, and at the end, with the figures so far.

    Raises:
        StoreError: a shard cannot be written.
        TeacherError: the teacher fails.
        SoftfocusError: the photographs' folder is not there.
    """
    begin = time.perf_counter()
    meters = Meters()
    batch_size = batch_size or default_batch_size(teacher)
    predictor = _predictor(teacher, meters, description, batch_size=batch_size, compiled=compiled)
    ahead = 2 * max(batch_size, threads)
    done = failed = 0

    def figures(output: Output) -> StreamFigures:
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

    with (
        _quick_switches(),
        ThreadPoolExecutor(threads, thread_name_prefix="softfocus") as pool,
        Output(store, description, teacher, pool, meters, room=ahead + predictor.in_flight * batch_size) as output,
    ):
        feed = Feed(source, predictor.prepare, pool)
        with contextlib.closing(feed.batches(tasks, batch_size=batch_size, ahead=ahead)) as batches:
            for batch, results in _predicted(batches, predictor, meters):
                _put(batch, results, output, group_size(batch_size))
                done += len(batch.positions)
                failed += sum(isinstance(result, str) for result in results)
                if report is not None:
                    report(figures(output))
    finished = figures(output)
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


def _predictor(
    teacher: Teacher,
    meters: Meters,
    description: StoreDescription,
    *,
    batch_size: int,
    compiled: bool,
) -> Predictor:
    if isinstance(teacher, DeviceTeacher) and is_on_gpu(teacher):
        from pipeline.distill.device.predictor import DevicePredictor

        return DevicePredictor(teacher, meters, description, batch_size=batch_size, compiled=compiled)
    return HostPredictor(teacher, meters)


def _predicted(
    batches: Iterable[Batch], predictor: Predictor, meters: Meters
) -> Iterator[tuple[Batch, list[Result | str]]]:
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


def _collected(
    batch: Batch, images: list[Any], submitted: Any, predictor: Predictor
) -> tuple[Batch, list[Result | str]]:
    results = iter([] if submitted is None else predictor.collect(submitted))
    return batch, [image if isinstance(image, str) else next(results) for image in images]


def _put(batch: Batch, results: list[Result | str], output: Output, step: int) -> None:
    """A batch's results to the threads that compress and write."""
    if batch.first:
        output.begin(batch.task)
    for start in range(0, len(results), step):
        output.put(batch.positions[start : start + step], results[start : start + step])
    if batch.last:
        output.end()


@contextlib.contextmanager
def _quick_switches() -> Iterator[None]:
    """Let Python's threads take turns more often: the one that feeds the GPU must not wait for those that decode."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
