"""How far a label store is: from the plan, the manifest and the first 512 bytes of each shard."""

from __future__ import annotations

import itertools
from pathlib import Path

import msgspec
import numpy as np

from pipeline.distill.columns import Columns, read_columns
from pipeline.distill.presence import Worker, workers_of
from pipeline.store import (
    Plan,
    Seal,
    SplitCoverage,
    StoreError,
    count_splits,
    labelled_rows,
    left_over,
    read_description,
    read_plan,
    seal_at_home,
    shard_files,
    shard_path,
)

__all__ = ["Status", "status"]

RECENT_SHARDS = 32
"""The rate is that of the newest shards; a pause between two runs is no part of it."""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """A label store at one moment. Photographs are counted once however many ids they have.

    Attributes:
        teacher: kind and name.
        dtype: of the stored codes.
        shards: planned; each of them is done, in work, damaged or missing.
        shards_damaged: cut short, foreign, or with a damaged seal. `softfocus verify` reads the rest too.
        photographs: planned.
        labelled: of them, with a label in a shard that is done.
        failed: of them, with a reason in place of a label.
        bytes: of the shards that are done.
        bytes_expected: of all shards, at the same bytes a map; 0 while nothing is done.
        rate: maps a second over the newest shards; 0 where fewer than two tell.
        seconds_left: for what is missing, at that rate; None without one, 0 when done.
        workers: processes that have a shard in work.
        left_over: temporary files of killed processes; the next `softfocus label` removes them.
        problems: one line a damaged shard.
        splits: coverage of the manifest by split, its sum last; empty without a manifest. A label counts
            if it is of the photograph that the manifest names, else as stale.
        unplanned: samples of the manifest that the plan does not know yet.
    """

    store: str
    teacher: str
    dtype: str
    shards: int
    shards_done: int
    shards_in_work: int
    shards_missing: int
    shards_damaged: int
    photographs: int
    labelled: int
    failed: int
    bytes: int
    bytes_expected: int
    rate: float
    seconds_left: float | None
    workers: list[Worker]
    left_over: int
    problems: list[str]
    splits: list[SplitCoverage]
    unplanned: int


def status(store: Path | str, *, manifest: Path | str | None = None) -> Status:
    """Look at a store, without opening a shard that has no failures to tell.

    Raises:
        StoreError: no label store, or its description or plan is damaged.
        ManifestError: the manifest cannot be read.
    """
    store = Path(store)
    description = read_description(store)
    plan = read_plan(store, description)
    seals: dict[int, Seal] = {}
    problems = []
    damaged = set()
    for path in shard_files(store):
        try:
            seal = seal_at_home(path, description, plan)
        except StoreError as error:
            problems.append(str(error))
            damaged |= {int(path.stem)} if path.stem.isdecimal() and int(path.stem) < len(plan.shards) else set()
        except FileNotFoundError:
            continue  # set aside meanwhile
        else:
            if seal is not None:
                seals[seal.number] = seal
    workers = workers_of(store)
    in_work = {worker.shard for worker in workers} - seals.keys() - damaged
    rows = sum(seal.rows for seal in seals.values())
    failed = sum(seal.failed for seal in seals.values())
    photographs = len(plan.sha256)
    size, rate = _sizes_and_rate(store, seals)
    splits, unplanned = _splits(store, plan, seals, read_columns(manifest)) if manifest is not None else ([], 0)
    return Status(
        store=str(store),
        teacher=f"{description.provenance.kind}:{description.provenance.name}",
        dtype=description.dtype,
        shards=len(plan.shards),
        shards_done=len(seals),
        shards_in_work=len(in_work),
        shards_missing=len(plan.shards) - len(seals) - len(in_work) - len(damaged),
        shards_damaged=len(damaged),
        photographs=photographs,
        labelled=rows - failed,
        failed=failed,
        bytes=size,
        bytes_expected=round(size * photographs / rows) if rows else 0,
        rate=round(rate, 3),
        seconds_left=0.0 if rows == photographs else round((photographs - rows) / rate, 1) if rate else None,
        workers=workers,
        left_over=len(left_over(store)),
        problems=problems,
        splits=splits,
        unplanned=unplanned,
    )


def _sizes_and_rate(store: Path, seals: dict[int, Seal]) -> tuple[int, float]:
    """Bytes of the finished shards, and maps a second over the newest of them."""
    facts = [(shard_path(store, number).stat(), seal.rows) for number, seal in seals.items()]
    newest = sorted(((stat.st_mtime, rows) for stat, rows in facts), reverse=True)[:RECENT_SHARDS]
    return sum(stat.st_size for stat, _ in facts), _rate(newest)


def _rate(newest: list[tuple[float, int]]) -> float:
    """Maps a second from (time of finishing, maps) of shards, newest first, up to the first long pause.

    A pause is long if it is more than ten times the median of the shorter ones before it (and 10 s).
    """
    times = [when for when, _ in newest]
    gaps: list[float] = []
    for later, earlier in itertools.pairwise(times):
        if gaps and later - earlier > max(10 * float(np.median(gaps)), 10.0):
            break
        gaps.append(later - earlier)
    seconds = sum(gaps)
    return sum(rows for _, rows in newest[: len(gaps)]) / seconds if seconds > 0 else 0.0


def _splits(store: Path, plan: Plan, seals: dict[int, Seal], columns: Columns) -> tuple[list[SplitCoverage], int]:
    """Coverage of a manifest, and the number of its samples that are not planned."""
    rows, same = plan.match(columns.images)
    planned = rows >= 0
    labelled = np.zeros(len(rows), np.bool_)
    labelled[planned] = labelled_rows(store, plan, seals)[rows[planned]]
    splits, total = count_splits(
        splits=columns.splits, masked=columns.masked, labelled=labelled & same, stale=labelled & ~same
    )
    return [*splits, total], int(np.count_nonzero(~planned))
