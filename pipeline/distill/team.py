"""Who does the work of a labelling run: this process, worker processes of this machine, or a cluster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pipeline.distill.meters import StreamFigures
from pipeline.distill.stream import compiling_pays, stream
from pipeline.distill.tasks import Survey
from pipeline.provenance import Provenance
from pipeline.store import check_teacher
from pipeline.teachers.base import Teacher

__all__ = ["Outcome", "Team", "ThisProcess"]


@dataclass(frozen=True)
class Outcome:
    """What a team tells at the end; what it labelled is on disk.

    Attributes:
        figures: of all workers together, as they told.
        lost: shard -> reason of those that no worker could do.
        deaths: workers that died.
    """

    figures: StreamFigures
    lost: dict[int, str] = field(default_factory=dict)
    deaths: int = 0


class Team(Protocol):
    """One or more workers with a teacher each, for one run. A finished job asks nothing of its team.

    Attributes:
        workers: their number.
    """

    @property
    def workers(self) -> int: ...

    def describe(self, sizes: npt.NDArray[np.int32]) -> tuple[Provenance, list[tuple[int, int]]]:
        """The teacher, and the sizes (height, width) of its labels for photographs of `sizes` (N, 2)."""

    def work(self, survey: Survey, report: Callable[[StreamFigures], None]) -> Outcome:
        """Have all shards of a survey labelled. What came of it is on disk.

        Raises:
            SoftfocusError: of a worker, or no worker is left.
        """

    def close(self) -> None:
        """End every worker and wait for it. Of an interrupted run, finished shards stay and open ones go."""


class ThisProcess:
    """The team of one: everything in this process, for one device. Loads its teacher when it is needed."""

    workers = 1

    def __init__(
        self, load: Callable[[], Teacher], *, batch_size: int | None, compile: bool | None, threads: int
    ) -> None:
        self._load, self._batch_size, self._threads = load, batch_size, threads
        self._compile = compile
        self._teacher: Teacher | None = None

    def describe(self, sizes: npt.NDArray[np.int32]) -> tuple[Provenance, list[tuple[int, int]]]:
        teacher = self._get()
        return teacher.provenance, [teacher.input_size(int(height), int(width)) for height, width in sizes]

    def work(self, survey: Survey, report: Callable[[StreamFigures], None]) -> Outcome:
        teacher = self._get()
        check_teacher(survey.store, survey.description, teacher.provenance)
        figures = stream(
            survey.tasks(),
            survey.source,
            store=survey.store,
            description=survey.description,
            teacher=teacher,
            batch_size=self._batch_size,
            compiled=compiling_pays(teacher, survey.total) if self._compile is None else self._compile,
            threads=self._threads,
            report=report,
        )
        return Outcome(figures)

    def close(self) -> None:
        if self._teacher is not None:
            self._teacher.close()

    def _get(self) -> Teacher:
        if self._teacher is None:
            self._teacher = self._load()
        return self._teacher
