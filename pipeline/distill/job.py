"""Label the photographs of a manifest with a teacher, going on where an earlier run stopped."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from pipeline.distill.columns import Columns, read_columns
from pipeline.distill.feed import Batch, feed
from pipeline.distill.meters import LabelProgress, LabelSummary, Meters
from pipeline.distill.output import Output
from pipeline.distill.predictor import Predictor
from pipeline.distill.tasks import Survey
from pipeline.errors import SoftfocusError
from pipeline.files import FileTaken, clean_temporaries
from pipeline.store import (
    DType,
    Plan,
    StoreDescription,
    check_empty,
    check_settings,
    check_teacher,
    create_store,
    has_description,
    next_generation,
    read_description,
    read_plan,
    write_generation,
)
from pipeline.teachers.base import Teacher

__all__ = ["label"]

Report = Callable[[LabelProgress], None]


def label(
    manifest: Path | str,
    store: Path | str,
    *,
    load_teacher: Callable[[], Teacher],
    asked: str = "",
    dtype: DType | None = None,
    shard_size: int | None = None,
    batch_size: int = 16,
    workers: int = -1,
    retry_failed: bool = False,
    progress: Report | None = None,
) -> LabelSummary:
    """Fill a label store with the teacher's map of every photograph of a manifest.

    The store is made if it is not there. What it has is kept: a run that was killed goes on after its last
    finished shard, new photographs get shards of their own, and where nothing is left to do the teacher is
    not loaded. Photographs that cannot be used are noted in their shard with the reason; the run goes on.
    Several processes may work on one store at the same time; they may do work twice and harm nothing.

    Args:
        load_teacher: called at most once, if there is work or a teacher to compare.
        asked: how the teacher was asked for, in any words that tell one teacher and its settings from
            another. Where they are those that the store was made with, a finished job does not load the
            teacher to compare it with the store's; empty: a finished job does not compare at all.
        dtype, shard_size: of a new store ("u16" and 256 by default); an existing one must agree.
        batch_size: photographs that the teacher is given at once; halved when memory is short.
        workers: threads that decode and compress, -1 for one a core.
        retry_failed: label the photographs again that failed in earlier runs.
        progress: called from this thread after each batch.

    Raises:
        ManifestError: the manifest cannot be read.
        StoreError: the store is damaged, of another teacher, schema, dtype or shard size, or not writable.
        TeacherError: the teacher cannot be loaded or run.
        SoftfocusError: the photographs' folder is not there.
    """
    if batch_size < 1:
        raise SoftfocusError(f"batches of {batch_size} photographs; choose 1 or more")
    begin = time.perf_counter()
    store = Path(store)
    columns = read_columns(manifest)
    teacher = _LazyTeacher(store, load_teacher)
    try:
        description = _opened(store, teacher, dtype=dtype, shard_size=shard_size, asked=asked)
        plan = _planned(store, description, columns, teacher)
        survey = Survey(store, description, plan, columns, retry_failed=retry_failed)
        run = _Run(survey, progress)
        if survey.todo:
            run.work(store, description, teacher.get(description), batch_size, _threads(workers))
        elif asked and asked != description.asked:
            teacher.get(description)
    finally:
        teacher.close()
    return run.summary(description, time.perf_counter() - begin)


class _LazyTeacher:
    """A teacher that is loaded when it is needed, and compared with the store it works for."""

    def __init__(self, store: Path, load: Callable[[], Teacher]) -> None:
        self._store, self._load = store, load
        self._teacher: Teacher | None = None

    def load(self) -> Teacher:
        if self._teacher is None:
            self._teacher = self._load()
        return self._teacher

    def get(self, description: StoreDescription) -> Teacher:
        teacher = self.load()
        check_teacher(self._store, description, teacher.provenance)
        return teacher

    def close(self) -> None:
        if self._teacher is not None:
            self._teacher.close()


def _opened(
    store: Path, teacher: _LazyTeacher, *, dtype: DType | None, shard_size: int | None, asked: str
) -> StoreDescription:
    """The store's description; a store that is not there is made."""
    if has_description(store):
        description = read_description(store)
        for folder in (store, store / "plan", store / "shards"):
            clean_temporaries(folder)
    else:
        check_empty(store)
        description = create_store(
            store,
            teacher.load().provenance,
            dtype="u16" if dtype is None else dtype,
            shard_size=256 if shard_size is None else shard_size,
            asked=asked,
        )
        check_teacher(store, description, teacher.load().provenance)
    check_settings(store, description, dtype=dtype, shard_size=shard_size)
    return description


def _planned(store: Path, description: StoreDescription, columns: Columns, teacher: _LazyTeacher) -> Plan:
    """The plan, with a generation added for what it did not know."""
    while True:
        plan = read_plan(store, description)
        draft = next_generation(plan, columns.images, description.shard_size)
        if draft is None:
            return plan
        input_size = teacher.get(description).input_size if draft.takes_work else None
        try:
            write_generation(store, description, plan, draft.finish(input_size))
        except FileTaken:
            continue  # another process planned first: see what it left to plan


def _threads(workers: int) -> int:
    if workers > 0:
        return workers
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


class _Run:
    """The work of one run, and its figures."""

    def __init__(self, survey: Survey, progress: Report | None) -> None:
        self._survey, self._progress = survey, progress
        self._meters = Meters()
        self._done = self._failed = 0
        self._seconds = 0.0
        self._batch_size = 0
        self._output: Output | None = None

    def work(self, store: Path, description: StoreDescription, teacher: Teacher, batch_size: int, threads: int) -> None:
        """Put everything that is to do through the teacher."""
        begin = time.perf_counter()
        predictor = Predictor(teacher)
        ahead = 2 * max(batch_size, threads)
        with (
            ThreadPoolExecutor(threads, thread_name_prefix="softfocus") as pool,
            Output(store, description, teacher, pool, self._meters, room=ahead) as output,
            contextlib.closing(feed(self._survey, pool, self._meters, batch_size=batch_size, ahead=ahead)) as batches,
        ):
            self._output = output
            for batch in batches:
                self._label(batch, predictor, output)
                self._batch_size = predictor.largest
                self._seconds = time.perf_counter() - begin
                self._report()
        self._seconds = time.perf_counter() - begin
        self._report()

    def _label(self, batch: Batch, predictor: Predictor, output: Output) -> None:
        """One batch, from the photographs to the queue of the writing thread."""
        if batch.first:
            output.begin(batch.task)
        with self._meters.measure("waiting for images"):
            prepared = [image.result() for image in batch.images]
        good = [(p, image) for p, image in zip(batch.positions, prepared, strict=True) if not isinstance(image, str)]
        bad = [(p, reason) for p, reason in zip(batch.positions, prepared, strict=True) if isinstance(reason, str)]
        if good:
            with self._meters.measure("teacher"):
                maps = predictor.predict(np.stack([image for _, image in good]))
            for (position, _), values in zip(good, maps, strict=True):
                output.put(position, values)
        for position, reason in bad:
            output.put(position, reason)
        if batch.last:
            output.end()
        self._done += len(batch.positions)
        self._failed += len(bad)

    def _report(self) -> None:
        if self._progress is None or self._output is None:
            return
        self._progress(
            LabelProgress(
                done=self._done,
                total=self._survey.total,
                failed=self._failed,
                shards_done=self._output.shards,
                shards=len(self._survey.todo),
                seconds=self._seconds,
                rate=self._done / max(self._seconds, 1e-9),
                stage_seconds=dict(self._meters.seconds),
            )
        )

    def summary(self, description: StoreDescription, seconds: float) -> LabelSummary:
        """The figures of the finished run; `seconds` is its whole time."""
        output = self._output
        failures = self._survey.failures | (output.failures if output else {})
        failed = self._survey.failed_samples(failures)
        failed_rows = self._survey.count_wanted(failures)
        labelled = output.labelled if output else 0
        return LabelSummary(
            samples=len(self._survey.rows),
            labelled=labelled,
            kept=self._survey.photographs - labelled - failed_rows,
            failed=failed,
            shards=output.shards if output else 0,
            bytes=output.bytes if output else 0,
            seconds=seconds,
            rate=labelled / self._seconds if self._seconds else 0.0,
            batch_size=self._batch_size,
            stage_seconds=dict(self._meters.seconds) if output else {},
            teacher=f"{description.provenance.kind}:{description.provenance.name}",
        )
