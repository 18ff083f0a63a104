"""The teacher run again on some photographs, and what it says now compared with what is stored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from pipeline.audit.findings import Finding
from pipeline.distill.columns import Columns
from pipeline.distill.photographs import prepare
from pipeline.store import DTYPES, Plan, StoreDescription, check_teacher, decode, read_results, shard_path, unpack
from pipeline.teachers.base import Teacher

__all__ = ["TOLERANCE", "Comparison", "choose_rows", "compare"]

TOLERANCE = 0.005
"""Of the mean difference, as a part of the map's range; the largest difference may be ten times that."""


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """A stored map and what the teacher says now.

    Attributes:
        largest, mean: absolute difference over the pixels that both know, as a part of the stored map's range.
        unknown: share of the pixels that only one of them knows.
        same: whether that is within the tolerance.
    """

    sample: str
    largest: float
    mean: float
    unknown: float
    same: bool


def choose_rows(plan: Plan, columns: Columns, good: set[int], *, count: int, seed: int) -> dict[int, int]:
    """Row -> place in the manifest of `count` photographs (or all), drawn from the shards in `good`."""
    rows, same = plan.match(columns.images)
    places = np.flatnonzero(same & np.isin(plan.shards_of(rows), sorted(good)))
    by_row = {int(rows[place]): int(place) for place in places[::-1]}
    drawn = np.random.default_rng(seed).permutation(sorted(by_row))[:count].tolist()
    return {row: by_row[row] for row in sorted(drawn)}


def compare(
    store: Path,
    description: StoreDescription,
    plan: Plan,
    columns: Columns,
    rows: dict[int, int],
    *,
    teacher: Teacher,
    tolerance: float = TOLERANCE,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Comparison], list[Finding]]:
    """Label the photographs of some rows again, one at a time.

    Args:
        rows: row -> place in the manifest.
        tolerance: of the mean difference.

    Raises:
        StoreError: another teacher than the store's.
    """
    check_teacher(store, description, teacher.provenance)
    comparisons, findings = [], []
    for done, (row, place) in enumerate(rows.items(), 1):
        number = int(plan.shards_of(np.array(row)))
        entry = plan.shards[number]
        size = int(entry["height"]), int(entry["width"])
        path = shard_path(store, number)
        file, sample = f"shards/{path.name}", columns.images.ids[place].decode()
        image = prepare(columns.path(place), plan.sha256[row].tobytes(), size, root=columns.root(place))
        if isinstance(image, str):
            findings.append(Finding(kind="changed photograph", file=file, what=image, samples=[sample]))
            continue
        ((_, packed),) = read_results(path, [row - int(entry["start"])])
        codes = unpack(packed.chunk, size, DTYPES[description.dtype], description.codec)
        stored = decode(codes, packed.offset, packed.scale, packed.invalid_count, precision=np.float64)
        now = teacher.predict(np.stack([image]))[0]
        found = _compared(sample, stored, now[0] if description.provenance.confidence else now, tolerance)
        comparisons.append(found)
        if not found.same:
            what = (
                f"the teacher says otherwise today: mean difference {found.mean:.2%} of the range, "
                f"largest {found.largest:.2%}"
            )
            findings.append(Finding(kind="differs", file=file, what=what, samples=[sample]))
        if progress is not None:
            progress(done, len(rows))
    return comparisons, findings


def _compared(sample: str, stored: np.ndarray, now: np.ndarray, tolerance: float) -> Comparison:
    known = np.isfinite(stored) & np.isfinite(now)
    unknown = float(np.mean(np.isfinite(stored) ^ np.isfinite(now)))
    difference = np.abs(now.astype(np.float64) - stored)[known]
    span = float(np.ptp(stored[known])) if known.any() else 0.0
    scale = max(span, 1e-6 * float(np.abs(stored[known]).max(initial=0.0)), np.finfo(np.float64).tiny)
    largest, mean = (float(f(difference)) / scale if known.any() else 1.0 for f in (np.max, np.mean))
    same = mean <= tolerance and largest <= 10 * tolerance and unknown <= tolerance
    return Comparison(sample=sample, largest=largest, mean=mean, unknown=unknown, same=same)
