"""How much faster several devices label than one: whole jobs, in turns, within one run.

A job counts from the first photograph that a teacher is asked for to the last shard on disk; loading is not
in it. The limit is the number of workers, or the processor where it cannot prepare that many photographs.
"""

from __future__ import annotations

import functools
import secrets
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.material import SlowTeacher, draw_photographs
from pipeline.distill import LabelSummary, label
from pipeline.distill.processes import Processes
from pipeline.distill.worker import Order
from pipeline.teachers import load_teacher

__all__ = ["WorkersRow", "compare_workers", "load_any", "slow_teacher"]


class WorkersRow(msgspec.Struct, frozen=True, kw_only=True):
    """One number of workers; figures are medians over the turns.

    Attributes:
        workers: processes with a teacher each; 1 is the plain run without any.
        rate: maps a second.
        speed_up: of the rate, over that of one worker in the same turn.
        busy: share of the time in which a worker's teacher was at work.
        waiting: share in which it waited for photographs, or for the disk.
    """

    workers: int
    photographs: int
    rate: float
    speed_up: float
    busy: float
    waiting: float


def compare_workers(
    load: Callable[..., Any],
    devices: list[str],
    *,
    photographs: int,
    batch_size: int = 32,
    repeats: int = 2,
    folder: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> list[WorkersRow]:
    """One worker, then all devices, `repeats` times in turns; every job fills a store of its own.

    Args:
        load: `load(device=...)` gives the teacher; it is pickled.
        devices: one worker each; a name may come several times.
        folder: where photographs and stores are made, and removed again; a temporary one if None.
    """
    with tempfile.TemporaryDirectory(prefix="softfocus-workers-", dir=folder) as temporary:
        place = Path(temporary)
        manifest = draw_photographs(place / "photographs", photographs)
        turns: dict[int, list[LabelSummary]] = {1: [], len(devices): []}
        for turn in range(repeats):
            for workers in turns:
                summary = _job(manifest, place / "labels", load, devices[:workers], batch_size)
                turns[workers].append(summary)
                say(f"turn {turn + 1}: {workers} workers, {summary.rate:.1f} maps/s, {summary.seconds:.1f} s in all")
    return [_row(workers, turns) for workers in turns]


def _job(manifest: Path, store: Path, load: Callable[..., Any], devices: list[str], batch_size: int) -> LabelSummary:
    loads = [functools.partial(load, device=device) for device in devices]
    run = secrets.token_hex(8)
    team = None
    if len(devices) > 1:
        team = Processes([Order(run, time.time(), store, load, batch_size) for load in loads])
    try:
        return label(manifest, store, load_teacher=loads[0], team=team, batch_size=batch_size)
    finally:
        shutil.rmtree(store, ignore_errors=True)


def _row(workers: int, turns: dict[int, list[LabelSummary]]) -> WorkersRow:
    summaries = turns[workers]
    shares = [_shares(summary) for summary in summaries]
    speed_ups = [many.rate / one.rate for many, one in zip(summaries, turns[1], strict=True)]
    return WorkersRow(
        workers=workers,
        photographs=summaries[0].labelled,
        rate=round(statistics.median(summary.rate for summary in summaries), 1),
        speed_up=round(statistics.median(speed_ups), 3),
        busy=round(statistics.median(busy for busy, _ in shares), 3),
        waiting=round(statistics.median(waiting for _, waiting in shares), 3),
    )


def _shares(summary: LabelSummary) -> tuple[float, float]:
    seconds = summary.workers * summary.labelled / summary.rate
    waiting = sum(summary.stage_seconds[f"waiting for {what}"] for what in ("images", "the writer"))
    return summary.stage_seconds["teacher"] / seconds, waiting / seconds


def load_any(name: str, *, device: str) -> Any:
    """`load_teacher`, as a function that worker processes find."""
    return load_teacher(name, device=device)


def slow_teacher(seconds: float, *, device: str) -> SlowTeacher:
    """A teacher for machines without devices."""
    return SlowTeacher(seconds)
