"""What a run has to do: shards that are not there, and rows of shards that can be labelled now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.distill.columns import Columns
from pipeline.store import ABSENT, Plan, PlanShard, StoreDescription, finished_shards, read_reasons, shard_path

__all__ = ["Survey", "Task"]


@dataclass(frozen=True)
class Task:
    """One shard to write.

    Attributes:
        positions: rows of the shard that go through the teacher.
        reasons: position -> reason of the rows that have none to go through it.
        kept: rows whose label stays; it is copied from the shard's file of now.
    """

    shard: PlanShard
    positions: list[int]
    reasons: dict[int, str]
    kept: list[int]


class Survey:
    """The plan, the manifest and the files that are there, compared.

    Only shards with a photograph of this manifest are looked at: a store may be filled from several
    manifests, at once or in turn. Rows of such a shard whose photograph the manifest lacks are noted as
    absent, and labelled when a run comes by that has them.

    Attributes:
        rows: the row of each sample of the manifest.
        todo: shard -> photographs to label in it.
        total: their sum; `tasks` corrects it by what other processes do meanwhile.
        failures: row -> reason of earlier failures that this run leaves as they are.
    """

    def __init__(
        self, store: Path, description: StoreDescription, plan: Plan, columns: Columns, *, retry_failed: bool
    ) -> None:
        self._store, self._description, self._plan = store, description, plan
        self._columns, self._retry_failed = columns, retry_failed
        self.rows = plan.rows_of(columns.images.ids)
        self._source: npt.NDArray[Any] = np.full(len(plan.sha256), -1, np.int64)
        self._source[self.rows[::-1]] = np.arange(len(self.rows))[::-1]  # the smallest id comes last and stays
        self.failures: dict[int, str] = {}
        self.todo = self._unfinished()
        self.total = sum(self.todo.values())

    @property
    def photographs(self) -> int:
        """Different photographs in the manifest."""
        return int(np.count_nonzero(self._source >= 0))

    def source(self, row: int) -> tuple[Path, Path]:
        """The photograph of a row and the root that its manifest names."""
        place = int(self._source[row])
        return self._columns.path(place), self._columns.root(place)

    def tasks(self) -> Iterator[Task]:
        """The work, shard by shard; what another process has finished by then is passed over."""
        for number, expected in self.todo.items():
            path = shard_path(self._store, number)
            reasons = read_reasons(path) if path.exists() else None
            positions = self._open_positions(number, reasons)
            self.total += len(positions) - expected
            if positions:
                yield self._task(number, positions, reasons)

    def count_wanted(self, rows: Iterable[int]) -> int:
        """How many of these rows are photographs of the manifest."""
        return sum(self._source[row] >= 0 for row in rows)

    def failed_samples(self, failures: dict[int, str]) -> list[tuple[str, str]]:
        """(id, reason) of the manifest's samples whose row is in `failures` (row -> reason)."""
        rows = np.fromiter(failures, np.int64, len(failures))
        places = np.flatnonzero(np.isin(self.rows, rows))
        return [(self._columns.images.ids[p].decode(), failures[int(self.rows[p])]) for p in places]

    def _unfinished(self) -> dict[int, int]:
        """Shard -> number of photographs to label; notes the failures that stay."""
        finished = finished_shards(self._store, self._description, self._plan)
        todo = {}
        for number in np.unique(self._plan.shards_of(self.rows)).tolist():
            reasons: list[str] | None = None
            if number in finished:
                if not finished[number].failed:
                    continue
                reasons = read_reasons(shard_path(self._store, number))
            if positions := self._open_positions(number, reasons):
                todo[number] = len(positions)
        return todo

    def _open_positions(self, number: int, reasons: list[str] | None) -> list[int]:
        """Positions to label in a shard with these reasons (None: not there); notes the failures that stay."""
        entry = self._plan.shards[number]
        start = int(entry["start"])
        wanted: list[int] = np.flatnonzero(self._source[start : start + int(entry["count"])] >= 0).tolist()
        if reasons is None:
            return wanted
        again = [p for p in wanted if reasons[p] == ABSENT or (reasons[p] and self._retry_failed)]
        for position in wanted:
            self.failures.pop(start + position, None)
            if reasons[position] and position not in again:
                self.failures[start + position] = reasons[position]
        return again

    def _task(self, number: int, positions: list[int], reasons: list[str] | None) -> Task:
        shard = self._plan.shard(number)
        before = [ABSENT] * len(shard) if reasons is None else reasons
        others = set(range(len(shard))) - set(positions)
        return Task(
            shard=shard,
            positions=positions,
            reasons={position: before[position] for position in sorted(others) if before[position]},
            kept=[position for position in sorted(others) if not before[position]],
        )
