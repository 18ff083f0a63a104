"""What a run has to do: shards that are not there, and rows of shards that can be labelled now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.distill.columns import Columns
from pipeline.store import (
    ABSENT,
    SEAL_BYTES,
    Plan,
    PlanShard,
    StoreDescription,
    finished_shards,
    read_reasons,
    seal_at_home,
    shard_path,
)

__all__ = ["Errand", "Part", "Stamp", "Survey", "Task", "Written", "stamp"]

Part = tuple[int, int]
"""(I, N): of every N shards the I-th, I from 1; what one of N processes without a coordinator does."""

Stamp = tuple[int, int] | None
"""What tells a shard's file from its successor; None: no file."""


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


@dataclass(frozen=True)
class Errand:
    """A task with all that a process needs for it which has neither the manifest nor the plan.

    Attributes:
        sources: the photograph and its manifest's root, for each of the task's positions.
        stamp: of the shard before; once it is another one the errand is done.
    """

    task: Task
    sources: list[tuple[Path, Path]]
    stamp: Stamp

    @property
    def number(self) -> int:
        """Of the shard."""
        return self.task.shard.number

    def source_of_rows(self) -> dict[int, tuple[Path, Path]]:
        """The same by row of the plan."""
        start = self.task.shard.start
        return {start + position: source for position, source in zip(self.task.positions, self.sources, strict=True)}


class Written(NamedTuple):
    """Of a survey's shards: those that were written since it was made, their bytes, their new labels."""

    shards: int
    bytes: int
    labelled: int


def stamp(store: Path, number: int) -> Stamp:
    """What tells the file of a shard from those that it had before and will have."""
    try:
        stat = shard_path(store, number).stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns


class Survey:
    """The plan, the manifest and the files that are there, compared.

    Only shards with a photograph of this manifest are looked at: a store may be filled from several
    manifests, at once or in turn. Rows of such a shard whose photograph the manifest lacks are noted as
    absent, and labelled when a run comes by that has them. Of a `part` the shards of all other parts are
    left out as if the manifest lacked their photographs.

    Attributes:
        store, description: the label store.
        rows: the row of each sample of the manifest.
        todo: shard -> photographs to label in it.
        total: their sum; `task` corrects both by what other processes do meanwhile.
        failures: row -> reason of earlier failures that this run leaves as they are.
    """

    def __init__(
        self,
        store: Path,
        description: StoreDescription,
        plan: Plan,
        columns: Columns,
        *,
        retry_failed: bool = False,
        part: Part = (1, 1),
    ) -> None:
        self.store, self.description, self._plan = store, description, plan
        self._columns, self._retry_failed = columns, retry_failed
        self.rows = plan.rows_of(columns.images.ids)
        self._source: npt.NDArray[Any] = np.full(len(plan.sha256), -1, np.int64)
        self._source[self.rows[::-1]] = np.arange(len(self.rows))[::-1]  # the smallest id comes last and stays
        index, parts = part
        if parts > 1:
            self._source[plan.shards_of(np.arange(len(self._source))) % parts != index - 1] = -1
        self.failures: dict[int, str] = {}
        self._before: dict[int, tuple[Stamp, int]] = {}  # of shards that are there: which file, labels in it
        self._given_out: set[int] = set()
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
        for number in self.todo:
            task = self.task(number)
            if task:
                yield task

    def task(self, number: int) -> Task | None:
        """What is to do in a shard as it is on disk now, or None."""
        path = shard_path(self.store, number)
        reasons = read_reasons(path) if path.exists() else None
        positions = self._open_positions(number, reasons)
        self.total += len(positions) - self.todo[number]
        self.todo[number] = len(positions)
        if not positions:
            return None  # another process was faster
        self._given_out.add(number)
        return self._task(number, positions, reasons)

    def errand(self, number: int) -> Errand | None:
        """As `task`, with the photographs."""
        before = stamp(self.store, number)
        task = self.task(number)
        if task is None:
            return None
        sources = [self.source(task.shard.start + position) for position in task.positions]
        return Errand(task, [(path.absolute(), root.absolute()) for path, root in sources], before)

    def written(self) -> Written:
        """What became of the tasks since, as it is on disk; `failures` has the new ones from then on."""
        shards = size = labelled = 0
        for number in self.todo:
            before, labels_before = self._before.get(number, (None, 0))
            if stamp(self.store, number) == before:
                continue
            path = shard_path(self.store, number)
            seal = seal_at_home(path, self.description, self._plan)
            if seal is None:
                continue
            if number in self._given_out:
                shards += 1
                size += SEAL_BYTES + seal.size
                labelled += seal.rows - seal.failed - labels_before
            self._note_failures(number, read_reasons(path) if seal.failed else None)
        return Written(shards, size, labelled)

    def note_lost(self, lost: Mapping[int, str]) -> None:
        """Shards that could not be made, with the reason: so far their photographs failed."""
        for number, reason in lost.items():
            start = int(self._plan.shards[number]["start"])
            task = self.task(number)
            self.failures |= {start + position: reason for position in (task.positions if task else [])}

    def count_wanted(self, rows: Iterable[int]) -> int:
        """How many of these rows are photographs of the manifest."""
        return sum(self._source[row] >= 0 for row in rows)

    def failed_samples(self, failures: dict[int, str]) -> list[tuple[str, str]]:
        """(id, reason) of the manifest's samples whose row is in `failures` (row -> reason)."""
        rows = np.fromiter(failures, np.int64, len(failures))
        places = np.flatnonzero(np.isin(self.rows, rows))
        return [(self._columns.images.ids[p].decode(), failures[int(self.rows[p])]) for p in places]

    def _note_failures(self, number: int, reasons: list[str] | None) -> None:
        start, wanted = self._wanted(number)
        for position in wanted:
            if reasons is not None and reasons[position]:
                self.failures[start + position] = reasons[position]
            else:
                self.failures.pop(start + position, None)

    def _wanted(self, number: int) -> tuple[int, list[int]]:
        """A shard's first row, and its positions whose photograph the manifest has."""
        entry = self._plan.shards[number]
        start = int(entry["start"])
        return start, np.flatnonzero(self._source[start : start + int(entry["count"])] >= 0).tolist()

    def _unfinished(self) -> dict[int, int]:
        """Shard -> number of photographs to label; notes the failures that stay."""
        finished = finished_shards(self.store, self.description, self._plan)
        todo = {}
        for number in np.unique(self._plan.shards_of(self.rows)).tolist():
            reasons: list[str] | None = None
            if number in finished:
                if not finished[number].failed:
                    continue
                reasons = read_reasons(shard_path(self.store, number))
            if positions := self._open_positions(number, reasons):
                todo[number] = len(positions)
                if number in finished:
                    seal = finished[number]
                    self._before[number] = stamp(self.store, number), seal.rows - seal.failed
        return todo

    def _open_positions(self, number: int, reasons: list[str] | None) -> list[int]:
        """Positions to label in a shard with these reasons (None: not there); notes the failures that stay."""
        start, wanted = self._wanted(number)
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
