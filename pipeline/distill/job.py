"""Label the photographs of a manifest with a teacher, going on where an earlier run stopped."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from pipeline.distill.columns import Columns, read_columns
from pipeline.distill.meters import LabelProgress, LabelSummary, StreamFigures
from pipeline.distill.stream import compiling_pays, stream
from pipeline.distill.tasks import Survey
from pipeline.errors import SoftfocusError
from pipeline.files import FileTaken, clean_temporaries
from pipeline.store import (
    Codec,
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
    codec: Codec | None = None,
    shard_size: int | None = None,
    batch_size: int | None = None,
    compile: bool | None = None,
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
        dtype, codec, shard_size: of a new store ("u16", "delta-deflate" and 256 by default); an existing one
            must agree.
        batch_size: photographs that the teacher is given at once, by default 64 on a GPU and 16 elsewhere;
            halved when memory is short.
        compile: whether a teacher on a GPU may spend minutes to be faster afterwards; by default where the job
            is long enough for that to pay.
        workers: threads that decode and compress, -1 for one a core.
        retry_failed: label the photographs again that failed in earlier runs.
        progress: called from this thread after each batch.

    Raises:
        ManifestError: the manifest cannot be read.
        StoreError: the store is damaged, of another teacher, schema, dtype, codec or shard size, or not writable.
        TeacherError: the teacher cannot be loaded or run.
        SoftfocusError: the photographs' folder is not there.
    """
    if batch_size is not None and batch_size < 1:
        raise SoftfocusError(f"batches of {batch_size} photographs; choose 1 or more")
    begin = time.perf_counter()
    store = Path(store)
    columns = read_columns(manifest)
    teacher = _LazyTeacher(store, load_teacher)
    try:
        description = _opened(store, teacher, dtype=dtype, codec=codec, shard_size=shard_size, asked=asked)
        plan = _planned(store, description, columns, teacher)
        survey = Survey(store, description, plan, columns, retry_failed=retry_failed)
        figures = None
        if survey.todo:
            ready = teacher.get(description)
            figures = stream(
                survey.tasks(),
                survey.source,
                store=store,
                description=description,
                teacher=ready,
                threads=_threads(workers),
                batch_size=batch_size,
                compiled=compiling_pays(ready, survey.total) if compile is None else compile,
                report=None if progress is None else lambda figures: progress(_progress(survey, figures)),
            )
        elif asked and asked != description.asked:
            teacher.get(description)
    finally:
        teacher.close()
    return _summary(survey, figures, description, time.perf_counter() - begin)


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
    store: Path,
    teacher: _LazyTeacher,
    *,
    dtype: DType | None,
    codec: Codec | None,
    shard_size: int | None,
    asked: str,
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
            dtype=dtype or "u16",
            codec=codec or "delta-deflate",
            shard_size=256 if shard_size is None else shard_size,
            asked=asked,
        )
        check_teacher(store, description, teacher.load().provenance)
    check_settings(store, description, dtype=dtype, codec=codec, shard_size=shard_size)
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


def _progress(survey: Survey, figures: StreamFigures) -> LabelProgress:
    return LabelProgress(
        done=figures.done,
        total=survey.total,
        failed=figures.failed,
        shards_done=figures.shards,
        shards=len(survey.todo),
        seconds=figures.seconds,
        rate=figures.done / max(figures.seconds, 1e-9),
        stage_seconds=figures.stage_seconds,
    )


def _summary(
    survey: Survey, figures: StreamFigures | None, description: StoreDescription, seconds: float
) -> LabelSummary:
    """The figures of the finished run, None where nothing was to do; `seconds` is its whole time."""
    done = figures or StreamFigures()
    failures = survey.failures | done.failures
    return LabelSummary(
        samples=len(survey.rows),
        labelled=done.labelled,
        kept=survey.photographs - done.labelled - survey.count_wanted(failures),
        failed=survey.failed_samples(failures),
        shards=done.shards,
        bytes=done.bytes,
        seconds=seconds,
        rate=done.labelled / done.seconds if done.seconds else 0.0,
        batch_size=done.batch_size,
        stage_seconds=done.stage_seconds,
        teacher=f"{description.provenance.kind}:{description.provenance.name}",
        note=done.note,
    )
