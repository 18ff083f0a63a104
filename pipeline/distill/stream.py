"""A sequence of tasks, streamed through one teacher in one process.

Threads read ahead of the teacher and compress behind it; a shard is on disk, whole, soon after its last
photograph went through. Several processes may each run such a stream on tasks of their own.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from pipeline.distill.feed import Batch, Source, feed
from pipeline.distill.meters import Meters, StreamFigures
from pipeline.distill.output import Output
from pipeline.distill.predictor import Predictor
from pipeline.distill.tasks import Task
from pipeline.store import StoreDescription
from pipeline.teachers.base import Teacher

__all__ = ["stream"]


def stream(
    tasks: Iterable[Task],
    source: Source,
    *,
    store: Path,
    description: StoreDescription,
    teacher: Teacher,
    batch_size: int,
    threads: int,
    report: Callable[[StreamFigures], None] | None = None,
) -> StreamFigures:
    """Label the photographs of `tasks` and write their shards, in order.

    What comes out depends on each task alone, not on the others, on threads or on an earlier interruption.

    Args:
        tasks: asked for one by one, as the photographs are read ahead.
        source: the photograph of a row of the plan, and its root.
        batch_size: photographs that the teacher is given at once; halved when memory is short.
        threads: that decode and compress.
        report: called from this thread after each batch, and at the end, with the figures so far.

    Raises:
        StoreError: a shard cannot be written.
        TeacherError: the teacher fails.
        SoftfocusError: the photographs' folder is not there.
    """
    begin = time.perf_counter()
    meters = Meters()
    predictor = Predictor(teacher)
    read = getattr(teacher, "prepare", None)
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
        )

    with (
        ThreadPoolExecutor(threads, thread_name_prefix="softfocus") as pool,
        Output(store, description, teacher, pool, meters, room=ahead) as output,
        contextlib.closing(feed(tasks, source, pool, meters, batch_size=batch_size, ahead=ahead, read=read)) as batches,
    ):
        for batch in batches:
            failed += _label(batch, predictor, output, meters)
            done += len(batch.positions)
            if report is not None:
                report(figures(output))
    finished = figures(output)
    if report is not None:
        report(finished)
    return finished


def _label(batch: Batch, predictor: Predictor, output: Output, meters: Meters) -> int:
    """One batch, from the photographs to the queue of the writing thread; returns how many failed."""
    if batch.first:
        output.begin(batch.task)
    with meters.measure("waiting for images"):
        prepared = [image.result() for image in batch.images]
    good = [(p, image) for p, image in zip(batch.positions, prepared, strict=True) if not isinstance(image, str)]
    bad = [(p, reason) for p, reason in zip(batch.positions, prepared, strict=True) if isinstance(reason, str)]
    if good:
        with meters.measure("teacher"):
            maps = predictor.predict(np.stack([image for _, image in good]))
        for (position, _), values in zip(good, maps, strict=True):
            output.put(position, values)
    for position, reason in bad:
        output.put(position, reason)
    if batch.last:
        output.end()
    return len(bad)
