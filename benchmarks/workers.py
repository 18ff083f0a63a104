"""How much faster several devices label than one: whole jobs, in turns, within one run.

A job's clock runs from the first photograph that a teacher is asked for to the last shard on disk, without
the loading. Its middle is told beside: at the end workers run out of shards one after the other, which a job
of hours does not notice. The limit is the number of workers, or the processor where it cannot prepare that
many photographs.
"""

from __future__ import annotations

import functools
import secrets
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from benchmarks.label import middle_rate
from benchmarks.photographs import make_photographs
from pipeline.distill import LabelProgress, LabelSummary, label
from pipeline.distill.processes import Processes
from pipeline.distill.worker import Order
from pipeline.provenance import Provenance

__all__ = ["SlowTeacher", "WorkersRow", "compare_workers", "slow_teacher"]

PHOTOGRAPH = (427, 640)


class WorkersRow(msgspec.Struct, frozen=True, kw_only=True):
    """One number of workers; figures are medians over the turns.

    Attributes:
        workers: processes with a teacher each; 1 is the plain run in a single process.
        rate, middle_rate: maps a second, over all and over the middle of the job.
        speed_up, middle_speed_up: of the rates, over those of one worker in the same turn.
        waiting: share of a worker's time in which its teacher waited for photographs or for the disk.
    """

    workers: int
    photographs: int
    rate: float
    speed_up: float
    middle_rate: float
    middle_speed_up: float
    waiting: float


class _Job(NamedTuple):
    summary: LabelSummary
    middle_rate: float


def compare_workers(
    load: Callable[..., Any],
    devices: list[str],
    folder: Path,
    *,
    photographs: int,
    batch_size: int | None = None,
    compile: bool = False,
    repeats: int = 2,
    say: Callable[[str], None] = lambda _: None,
) -> list[WorkersRow]:
    """One worker, then all devices, `repeats` times in turns; every job fills a store of its own.

    Args:
        load: `load(device=...)` gives the teacher; it is pickled.
        devices: one worker each; a name may come several times.
        folder: where photographs and stores are made; the caller removes it.
        batch_size, compile: as in `label`.
    """
    manifest = make_photographs(folder / "photographs", count=photographs, size=PHOTOGRAPH)
    turns: dict[int, list[_Job]] = {1: [], len(devices): []}
    for turn in range(repeats):
        for workers in turns:
            job = _label(manifest, folder / "labels", load, devices[:workers], batch_size, compile)
            turns[workers].append(job)
            say(
                f"turn {turn + 1}, {workers} workers: {job.summary.rate:.1f} maps/s, "
                f"{job.middle_rate:.1f} in the middle, {job.summary.seconds:.1f} s with loading"
            )
    return [_row(workers, turns[workers], turns[1]) for workers in turns]


def _label(
    manifest: Path,
    store: Path,
    load: Callable[..., Any],
    devices: list[str],
    batch_size: int | None,
    compile: bool,
) -> _Job:
    loads = [functools.partial(load, device=device) for device in devices]
    team = None
    if len(devices) > 1:
        run, now = secrets.token_hex(8), time.time()
        team = Processes([Order(run, now, store, each, batch_size=batch_size, compile=compile) for each in loads])
    moments: list[tuple[float, int]] = []

    def note(progress: LabelProgress) -> None:
        moments.append((progress.seconds, progress.done))

    try:
        summary = label(
            manifest,
            store,
            load_teacher=loads[0],
            team=team,
            batch_size=batch_size,
            compile=compile,
            progress=note,
        )
    finally:
        shutil.rmtree(store, ignore_errors=True)
    return _Job(summary, middle_rate(moments))


def _row(workers: int, jobs: list[_Job], single: list[_Job]) -> WorkersRow:
    pairs = list(zip(jobs, single, strict=True))
    return WorkersRow(
        workers=workers,
        photographs=jobs[0].summary.labelled,
        rate=statistics.median(job.summary.rate for job in jobs),
        speed_up=statistics.median(job.summary.rate / one.summary.rate for job, one in pairs),
        middle_rate=statistics.median(job.middle_rate for job in jobs),
        middle_speed_up=statistics.median(job.middle_rate / one.middle_rate for job, one in pairs),
        waiting=statistics.median(_waiting(job.summary) for job in jobs),
    )


def _waiting(summary: LabelSummary) -> float:
    waited = sum(summary.stage_seconds[f"waiting for {what}"] for what in ("images", "the writer"))
    return waited * summary.rate / summary.labelled / summary.workers


def slow_teacher(seconds: float, *, device: str) -> SlowTeacher:
    """A teacher for machines without devices."""
    return SlowTeacher(seconds)


class SlowTeacher:
    """Waits as long for each photograph as a device would work, and needs no device."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.provenance = Provenance(
            kind="bench",
            name="slow",
            weights_sha256="0" * 64,
            direction="inverse depth",
            preprocessing={},
            versions={},
        )

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        return 64, 96

    def predict(self, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        time.sleep(self._seconds * len(images))
        return images[..., 0].astype(np.float32)

    def close(self) -> None:
        pass
