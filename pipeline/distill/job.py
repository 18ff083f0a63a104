"""Label the photographs of a manifest with a teacher, going on where an earlier run stopped."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipeline.distill.columns import Columns, read_columns
from pipeline.distill.meters import LabelProgress, LabelSummary, StreamFigures
from pipeline.distill.tasks import Part, Survey
from pipeline.distill.team import Outcome, Team, ThisProcess
from pipeline.distill.worker import thread_share
from pipeline.errors import SoftfocusError
from pipeline.files import FileTaken
from pipeline.store import (
    Codec,
    DType,
    Plan,
    StoreDescription,
    check_empty,
    check_settings,
    check_teacher,
    clean_store,
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
    team: Team | None = None,
    part: Part = (1, 1),
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
    Several processes may work on one store at the same time; without `part` they may do work twice, which
    harms nothing.

    Args:
        load_teacher: called at most once, if there is work or a teacher to compare.
        team: who does the work in place of this process (`load_teacher` is then not called, `batch_size`,
            `compile` and `workers` are the team's own); it is closed at the end. What comes out is the same.
        part: (I, N): of every N shards only the I-th. N processes that are given the same manifest and
            store and each its own I do all of it, nothing twice, and need not know of each other.
        asked: how the teacher was asked for, in any words that tell one teacher and its settings from
            another. Where they are those that the store was made with, a finished job does not load the
            teacher to compare it with the store's; empty: a finished job does not compare at all.
        dtype, codec, shard_size: of a new store ("u16", "delta-deflate" and 256 by default); an existing one
            must agree.
        batch_size: photographs that the teacher is given at once, by default 64 on a GPU and 16 elsewhere;
            halved when memory is short.
        compile: whether a teacher on a GPU may spend minutes to be faster afterwards; by default where the job
            is long enough for that to pay.
        workers: threads that decode and compress (processes for a teacher on a GPU), -1 for one a core.
        retry_failed: label the photographs again that failed in earlier runs.
        progress: called from this thread after each batch, for a team twice a second.

    Raises:
        ManifestError: the manifest cannot be read.
        StoreError: the store is damaged, of another teacher, schema, dtype, codec or shard size, or not writable.
        TeacherError: the teacher cannot be loaded or run.
        SoftfocusError: the photographs' folder is not there.
    """
    if batch_size is not None and batch_size < 1:
        raise SoftfocusError(f"batches of {batch_size} photographs; choose 1 or more")
    if not 1 <= part[0] <= part[1]:
        raise SoftfocusError(f"part {part[0]}/{part[1]} does not exist; parts of {part[1]} go from 1 to {part[1]}")
    begin = time.perf_counter()
    store = Path(store)
    columns = read_columns(manifest)
    team = team or ThisProcess(load_teacher, batch_size=batch_size, compile=compile, threads=thread_share(workers))
    outcome = None
    with contextlib.closing(team):
        description = _opened(store, team, dtype=dtype, codec=codec, shard_size=shard_size, asked=asked)
        plan = _planned(store, description, columns, team)
        survey = Survey(store, description, plan, columns, retry_failed=retry_failed, part=part)
        if survey.todo:
            outcome = team.work(survey, lambda figures: progress and progress(_progress(survey, figures, team.workers)))
        elif asked and asked != description.asked:
            check_teacher(store, description, team.describe(_NO_SIZES)[0])
    clean_store(store)  # now of workers that died
    return _summary(survey, outcome, description, team.workers, time.perf_counter() - begin)


_NO_SIZES = np.zeros((0, 2), np.int32)


def _opened(
    store: Path, team: Team, *, dtype: DType | None, codec: Codec | None, shard_size: int | None, asked: str
) -> StoreDescription:
    """The store's description; a store that is not there is made."""
    if has_description(store):
        description = read_description(store)
    else:
        check_empty(store)
        provenance = team.describe(_NO_SIZES)[0]
        description = create_store(
            store,
            provenance,
            dtype=dtype or "u16",
            codec=codec or "delta-deflate",
            shard_size=256 if shard_size is None else shard_size,
            asked=asked,
        )
        check_teacher(store, description, provenance)
    check_settings(store, description, dtype=dtype, codec=codec, shard_size=shard_size)
    clean_store(store)
    return description


def _planned(store: Path, description: StoreDescription, columns: Columns, team: Team) -> Plan:
    """The plan, with a generation added for what it did not know."""
    while True:
        plan = read_plan(store, description)
        draft = next_generation(plan, columns.images, description.shard_size)
        if draft is None:
            return plan
        generation = draft.finish(_size_rule(store, description, columns, team) if draft.takes_work else None)
        try:
            write_generation(store, description, plan, generation)
        except FileTaken:
            continue  # another process planned first: see what it left to plan


def _size_rule(
    store: Path, description: StoreDescription, columns: Columns, team: Team
) -> Callable[[int, int], tuple[int, int]]:
    """The teacher's size rule: its answers for all sizes that there are, as it may be in another process."""
    sizes = columns.images.sizes
    packed = np.unique(sizes[:, 0].astype(np.int64) << 32 | sizes[:, 1])
    pairs = np.stack([packed >> 32, packed & 0xFFFFFFFF], axis=1).astype(np.int32)
    provenance, answers = team.describe(pairs)
    check_teacher(store, description, provenance)
    labels = dict(zip(map(tuple, pairs.tolist()), answers, strict=True))
    return lambda height, width: labels[height, width]


def _progress(survey: Survey, figures: StreamFigures, workers: int) -> LabelProgress:
    return LabelProgress(
        done=figures.done,
        total=survey.total,
        failed=figures.failed,
        shards_done=figures.shards,
        shards=len(survey.todo),
        seconds=figures.seconds,
        rate=figures.done / max(figures.seconds, 1e-9),
        stage_seconds=figures.stage_seconds,
        workers=workers,
    )


def _summary(
    survey: Survey, outcome: Outcome | None, description: StoreDescription, workers: int, seconds: float
) -> LabelSummary:
    """The figures of the finished run, None where nothing was to do; `seconds` is its whole time."""
    outcome = outcome or Outcome(StreamFigures())
    figures = outcome.figures
    written = survey.written()
    survey.note_lost(outcome.lost)
    return LabelSummary(
        samples=len(survey.rows),
        labelled=written.labelled,
        kept=survey.photographs - written.labelled - survey.count_wanted(survey.failures),
        failed=survey.failed_samples(survey.failures),
        shards=written.shards,
        bytes=written.bytes,
        seconds=seconds,
        rate=written.labelled / figures.seconds if figures.seconds else 0.0,
        batch_size=figures.batch_size,
        stage_seconds=figures.stage_seconds,
        workers=workers,
        deaths=outcome.deaths,
        teacher=f"{description.provenance.kind}:{description.provenance.name}",
        note=figures.note,
    )
