"""What runs in a worker process: a teacher of its own, and the shards it is given.

A process of this machine (`serve`) asks for shard after shard while its photographs are read ahead, so
that one stream goes through all of them and the device never waits for the end of a shard. A process of a
cluster (`label_shards`) gets its shards with the call and returns when they are on disk.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.distill.crew.captain import CrewDied
from pipeline.distill.feed import Source
from pipeline.distill.meters import StreamFigures
from pipeline.distill.orphan import end_without
from pipeline.distill.presence import in_work
from pipeline.distill.stream import compiling_pays, stream
from pipeline.distill.tasks import Errand, Task, stamp
from pipeline.files import find_temporaries
from pipeline.provenance import Provenance
from pipeline.store import StoreDescription, check_teacher, read_description, shard_path
from pipeline.teachers.base import Teacher

__all__ = [
    "ATTEMPTS",
    "Order",
    "added",
    "begin",
    "begun_by",
    "describe",
    "label_shards",
    "load",
    "release",
    "serve",
    "thread_share",
]

ATTEMPTS = 3
"""A shard over which this many workers died is left out."""

REPORT_S = 0.25


@dataclass(frozen=True)
class Order:
    """What every worker of a run is told.

    Attributes:
        run: a word of this run; a process that lives on for another run loads that one's teacher.
        began: when it began, seconds since the epoch.
        load: the teacher; pickled, so a function of a module or a `functools.partial` of one.
        batch_size, compile: as `stream` and `label` have them.
        threads: that decode and compress in each worker; -1 for its share of the cores.
        neighbours: workers of the run on one machine, itself included.
        photographs: about so many fall to each worker.
    """

    run: str
    began: float
    store: Path
    load: Callable[[], Teacher]
    batch_size: int | None = None
    compile: bool | None = None
    threads: int = -1
    neighbours: int = 1
    photographs: int = 0


def thread_share(threads: int, processes: int = 1) -> int:
    """Threads of one of so many processes: as asked, or its share of the cores of this process."""
    if threads > 0:
        return threads
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, cores // processes)


def load(order: Order) -> None:
    """Load the teacher, for calls that will come."""
    with _busy:
        _teacher(order)


def describe(order: Order, sizes: npt.NDArray[np.int32]) -> tuple[Provenance, list[tuple[int, int]]]:
    """The teacher's provenance, and the sizes of its labels for photographs of these sizes, (N, 2)."""
    with _busy:
        teacher = _teacher(order)
        return teacher.provenance, [teacher.input_size(int(height), int(width)) for height, width in sizes]


# One teacher a process, whatever number of calls and threads come by.
_busy = threading.Lock()
_loaded: dict[str, Teacher] = {}


def _teacher(order: Order) -> Teacher:
    """This process's teacher; one of another run is closed first."""
    if order.run not in _loaded:
        for run in list(_loaded):
            _loaded.pop(run).close()
        _loaded[order.run] = order.load()
    return _loaded[order.run]


# A process of this machine


class _Dismissed(BaseException):
    """The process that gives out the work is gone, or wants no more."""


_driver: Connection | None = None


def begin(driver: Connection, parent: int) -> None:
    """Before all else in a worker process. Ctrl-C in a terminal reaches every process: the driver deals with it."""
    global _driver  # the process's one line to its driver, as a connection cannot come with a call
    _driver = driver
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_without(parent)  # loky would have it wait for ever


def serve(order: Order) -> None:
    """Ask for shards until there are none. Ends the process where the driver is gone.

    To the driver go figures and, when a shard is wanted, whether all earlier ones are on disk; from it come
    an `Errand`, or None: finish what there is, and if it is finished, end.
    """
    assert _driver is not None, "begin() comes first"
    try:
        with _busy:
            description = read_description(order.store)
            teacher = _teacher(order)
            check_teacher(order.store, description, teacher.provenance)
            before = StreamFigures()
            while (first := _ask(_driver, drained=True)) is not None:
                work = _Asked(_driver, first, before)
                figures = _labelled(order, description, teacher, work.tasks(), work.source, work.report)
                before = added(before, figures)
                _send(_driver, before)
    except (_Dismissed, CrewDied):  # who helps it and dies takes it along, and it is replaced
        os._exit(1)  # loky would have it wait for another call
    finally:
        _driver.close()


class _Asked:
    """One stream's shards: asked for when the stream wants them, forgotten when they went through the teacher."""

    def __init__(self, driver: Connection, first: Errand, before: StreamFigures) -> None:
        self._driver, self._first, self._before = driver, first, before
        self._open: deque[Errand] = deque()
        self._sources: dict[int, tuple[Path, Path]] = {}
        self._forgotten = 0
        self._next_report = 0.0

    def tasks(self) -> Iterator[Task]:
        errand: Errand | None = self._first
        while errand is not None:
            self._open.append(errand)
            self._sources.update(errand.source_of_rows())
            yield errand.task
            errand = _ask(self._driver, drained=False)

    def source(self, row: int) -> tuple[Path, Path]:
        return self._sources[row]

    def report(self, figures: StreamFigures) -> None:
        while self._open and self._forgotten + len(self._open[0].sources) <= figures.done:
            errand = self._open.popleft()
            self._forgotten += len(errand.sources)
            for row in errand.source_of_rows():
                del self._sources[row]
        now = time.monotonic()
        if now >= self._next_report:
            self._next_report = now + REPORT_S
            _send(self._driver, added(self._before, figures))


def _ask(driver: Connection, *, drained: bool) -> Errand | None:
    _send(driver, drained)
    try:
        answer: Errand | None = driver.recv()
    except (EOFError, OSError) as error:
        raise _Dismissed from error
    return answer


def _send(driver: Connection, message: bool | StreamFigures) -> None:
    try:
        driver.send(message)
    except OSError as error:
        raise _Dismissed from error


def added(one: StreamFigures, other: StreamFigures) -> StreamFigures:
    """The figures of both, without the reasons of failures: those are on disk."""
    stages = one.stage_seconds | other.stage_seconds
    return StreamFigures(
        done=one.done + other.done,
        failed=one.failed + other.failed,
        labelled=one.labelled + other.labelled,
        shards=one.shards + other.shards,
        bytes=one.bytes + other.bytes,
        batch_size=max(one.batch_size, other.batch_size),
        seconds=one.seconds + other.seconds,
        note=one.note or other.note,
        stage_seconds={name: one.stage_seconds.get(name, 0.0) + other.stage_seconds.get(name, 0.0) for name in stages},
    )


# A process of a cluster


def label_shards(order: Order, errands: Sequence[Errand]) -> StreamFigures:
    """Label these shards and return when they are on disk, or were given up.

    A cluster gives the shards of a worker that died to another one. So that a shard which kills every
    worker ends, and is told from those that were only beside it, each has a file while it is in work (see
    `presence`): one that was in work when a worker died is done alone, and after ATTEMPTS deaths not at all.
    """
    with _busy:
        description = read_description(order.store)
        teacher = _teacher(order)
        check_teacher(order.store, description, teacher.provenance)
        figures = StreamFigures()
        begun = begun_by(order)
        deaths = {errand.number: len(begun.get(errand.number, ())) for errand in errands}
        open_ones = [errand for errand in errands if errand.stamp == stamp(order.store, errand.number)]
        fresh = [errand for errand in open_ones if not deaths[errand.number]]
        again = [errand for errand in open_ones if 0 < deaths[errand.number] < ATTEMPTS]
        for together in (fresh, *([errand] for errand in again)):
            if together:
                figures = added(figures, _streamed(order, description, teacher, together))
    return figures


def _streamed(
    order: Order, description: StoreDescription, teacher: Teacher, errands: Sequence[Errand]
) -> StreamFigures:
    with contextlib.ExitStack() as marks:
        sources: dict[int, tuple[Path, Path]] = {}
        for errand in errands:
            marks.enter_context(in_work(order.store, errand.number))
            sources |= errand.source_of_rows()
        return _labelled(order, description, teacher, [errand.task for errand in errands], sources.__getitem__)


def _labelled(
    order: Order,
    description: StoreDescription,
    teacher: Teacher,
    tasks: Iterable[Task],
    source: Source,
    report: Callable[[StreamFigures], None] | None = None,
) -> StreamFigures:
    """Tasks through the teacher, as the order says."""
    return stream(
        tasks,
        source,
        store=order.store,
        description=description,
        teacher=teacher,
        batch_size=order.batch_size,
        compiled=compiling_pays(teacher, order.photographs) if order.compile is None else order.compile,
        threads=thread_share(order.threads, order.neighbours),
        report=report,
    )


def begun_by(order: Order) -> dict[int, set[str]]:
    """The processes that began a shard in this run and did not come to its end, by shard: dead, or at it now."""
    found: dict[int, set[str]] = {}
    for temporary in find_temporaries(shard_path(order.store, 0).parent):
        name, _, suffix = temporary.target.partition(".")
        if suffix == "h5" and name.isdecimal() and temporary.written >= order.began:
            who = temporary.path.name.split(".")[-2].rpartition("-")[0]  # one may leave several files for a shard
            found.setdefault(int(name), set()).add(who)
    return found


def release(order: Order) -> None:
    """Let go of the run's teacher, unless it is at work; for processes that live on."""
    if _busy.acquire(blocking=False):
        try:
            if order.run in _loaded:
                _loaded.pop(order.run).close()
        finally:
            _busy.release()
