"""Worker processes of this machine, one a device: who does what, and what if one dies.

Each process is a loky executor of its own: loky ends all processes of an executor when one of them dies,
and here a death is to cost the open shards of that process and nothing else. A process asks for its next
shard over a pipe while it reads the last one's photographs, so that shards follow each other without a
gap: a fast teacher does one in a tenth of a second, and would else wait as long for the next.

What is done is what is on disk. Shards that a dead process had been given and that are not there are done
again: each alone, so that a shard that kills its worker is told from those that were only beside it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import wait as wait_for_futures
from dataclasses import replace
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from joblib.externals.loky import ProcessPoolExecutor
from joblib.externals.loky.process_executor import BrokenProcessPool

from pipeline.distill.meters import StreamFigures
from pipeline.distill.tasks import Errand, Stamp, Survey, stamp
from pipeline.distill.team import Outcome
from pipeline.distill.worker import ATTEMPTS, Order, added, begin, describe, load, serve, thread_share
from pipeline.errors import SoftfocusError
from pipeline.provenance import Provenance

__all__ = ["Processes"]

TICK_S = 0.5
FAREWELL_S = 10.0
"""How long a process has to finish the shards that are only to be written when a run is interrupted."""

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class Processes:
    """A team of worker processes, one for each order; see `team.Team`."""

    def __init__(self, orders: Sequence[Order]) -> None:
        self.workers = len(orders)
        self._orders = [replace(order, neighbours=len(orders)) for order in orders]
        self._posts: list[_Post] = []

    def describe(self, sizes: npt.NDArray[np.int32]) -> tuple[Provenance, list[tuple[int, int]]]:
        """Ask the first process. All load their teachers meanwhile, for the work that comes next."""
        self._begin()
        return self._posts[0].describe(sizes)

    def work(self, survey: Survey, report: Callable[[StreamFigures], None]) -> Outcome:
        """Have all of the survey's shards labelled."""
        self._begin()
        for post in self._posts:
            post.photographs = survey.total // self.workers
            post.start()
        return _Shift(self._posts, survey, report).run()

    def _begin(self) -> None:
        if not self._posts:
            self._posts = [_Post(order) for order in self._orders]

    def close(self) -> None:
        """Dismiss every process, also one in the middle of a shard, and wait until it is gone."""
        for post in self._posts:
            post.dismiss()
        wait_for_futures([post.future for post in self._posts if post.given], FAREWELL_S)
        for post in self._posts:
            post.end()
        self._posts = []


class _Post:
    """The place of one worker process; another one takes it when that dies.

    Attributes:
        connection: to the process that is there now, None between two.
        figures: of this process, as last heard.
        given: shard -> (stamp before, photographs) of what this process was given since it last rested.
        finished: photographs of what it was given before.
        resting: it waits for an answer, and all that it was given is on disk.
        alone: it has a shard that must be alone.
        photographs: about so many fall to this place.
        futile: processes in a row that died here before they asked for a shard.
    """

    def __init__(self, order: Order) -> None:
        self._order = order
        self.futile = self.photographs = 0
        self._hire()

    def _hire(self) -> None:
        """A new process. It holds the only other end of its pipe, so each notices when the other is gone."""
        threads = str(thread_share(-1, self._order.neighbours))
        environment = {name: os.environ.get(name, threads) for name in _THREAD_VARIABLES}
        ours, self._theirs = Pipe()
        self.connection: Connection | None = ours
        self._executor = ProcessPoolExecutor(
            1, initializer=begin, initargs=(self._theirs, os.getpid()), env=environment
        )
        self.future = self._call(load, self._order)
        self.figures = StreamFigures()
        self.given: dict[int, tuple[Stamp, int]] = {}
        self.finished = 0
        self.resting = self.alone = False

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any]
        try:
            future = self._executor.submit(function, *arguments)
        except BrokenProcessPool as error:  # it died between two calls
            future = Future()
            future.set_exception(error)
        self._theirs.close()  # the process is started, with a copy of its own
        return future

    def describe(self, sizes: npt.NDArray[np.int32]) -> tuple[Provenance, list[tuple[int, int]]]:
        while True:
            try:
                answer: tuple[Provenance, list[tuple[int, int]]] = self._call(describe, self._order, sizes).result()
            except BrokenProcessPool as error:
                self.end()
                self.futile += 1
                if self.futile == ATTEMPTS:
                    raise SoftfocusError(_died_early(error)) from error
                self._hire()
            else:
                self.futile = 0
                return answer

    def start(self) -> None:
        """Let the process ask for shards."""
        self.future = self._call(serve, replace(self._order, photographs=self.photographs))

    def bury(self) -> BrokenProcessPool:
        """After the process's end of the pipe was closed: its death. An error that it raised comes out."""
        error = self.future.exception(timeout=60)
        self.end()
        if not isinstance(error, BrokenProcessPool):
            raise error or SoftfocusError("a worker process ended before its work did; run the same command again")
        self.futile = 0 if self.given or self.finished else self.futile + 1
        return error

    def replace(self) -> None:
        self._hire()
        self.start()

    def dismiss(self) -> None:
        """Close the line: the process drops its open shard, writes what is whole and ends."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def end(self) -> None:
        self.dismiss()
        with contextlib.suppress(OSError):
            self._theirs.close()
        self._executor.shutdown(wait=True, kill_workers=True)


class _Shift:
    """The work of one run, given out to posts."""

    def __init__(self, posts: Sequence[_Post], survey: Survey, report: Callable[[StreamFigures], None]) -> None:
        self._posts, self._survey, self._report = list(posts), survey, report
        self._ahead = deque(survey.todo)
        self._again: deque[int] = deque()  # open when their worker died; done alone
        self._failed = Counter[int]()
        self._lost: dict[int, str] = {}
        self._deaths = 0
        self._gone = StreamFigures()  # of processes that died
        self._begin: float | None = None  # when the first teacher was loaded

    def run(self) -> Outcome:
        next_report = 0.0
        while any(not post.resting for post in self._posts) or self._ahead or self._again:
            self._listen()
            self._answer_resting()
            if time.perf_counter() >= next_report:
                next_report = time.perf_counter() + TICK_S
                self._report(self._figures())
        figures = self._figures()
        self._report(figures)
        for post in self._posts:
            assert post.connection is not None
            with contextlib.suppress(OSError):
                post.connection.send(None)
        return Outcome(figures, self._lost, self._deaths)

    def _listen(self) -> None:
        lines = {post.connection: post for post in self._posts if post.connection is not None}
        for connection in wait(list(lines), TICK_S):
            assert isinstance(connection, Connection)
            post = lines[connection]
            try:
                message: bool | StreamFigures = connection.recv()
            except (EOFError, OSError):
                self._bury(post)
                continue
            self._begin = self._begin or time.perf_counter()
            if isinstance(message, StreamFigures):
                post.figures = message
            elif message:
                self._settle(post, "it was said to be done and is not on disk")
                post.resting, post.alone, post.futile = True, False, 0
            else:
                self._answer(post)

    def _answer(self, post: _Post) -> None:
        """A post that works asks for more; it is to finish first if a shard has to be done alone."""
        self._give(post, None if self._again or post.alone else self._next(self._ahead))

    def _answer_resting(self) -> None:
        """Also later than they asked: work turns up when another post's process dies."""
        for post in self._posts:
            numbers = self._again or self._ahead
            if post.resting and numbers:
                alone = numbers is self._again
                if (errand := self._next(numbers)) is not None:
                    post.resting, post.alone = False, alone
                    self._give(post, errand)

    def _next(self, numbers: deque[int]) -> Errand | None:
        """The next shard that is still to do."""
        while numbers:
            errand = self._survey.errand(numbers.popleft())
            if errand is not None:
                return errand
        return None

    def _give(self, post: _Post, errand: Errand | None) -> None:
        if errand is not None:
            post.given[errand.number] = errand.stamp, len(errand.sources)
        assert post.connection is not None
        with contextlib.suppress(OSError):  # it died: that is heard at the next turn
            post.connection.send(errand)

    def _bury(self, post: _Post) -> None:
        """Take note of a death, put back what was open, and give the place to a new process."""
        error = post.bury()
        self._deaths += 1
        self._settle(post, _cause(error))
        self._gone = added(self._gone, msgspec.structs.replace(post.figures, done=post.finished))
        if post.futile < ATTEMPTS:
            post.replace()
            return
        self._posts.remove(post)
        if not self._posts:
            raise SoftfocusError(_died_early(error))

    def _settle(self, post: _Post, cause: str) -> None:
        """Look on disk for all that a post was given; what is not there is to be done again, or given up."""
        for number, (before, photographs) in post.given.items():
            if stamp(self._survey.store, number) != before:
                post.finished += photographs
                continue
            self._failed[number] += 1
            if self._failed[number] < ATTEMPTS:
                self._again.append(number)
            else:
                self._lost[number] = f"shard {number:06d} was begun {ATTEMPTS} times and its worker died: {cause}"
        post.given.clear()

    def _figures(self) -> StreamFigures:
        figures = functools.reduce(added, (post.figures for post in self._posts), self._gone)
        now = time.perf_counter()
        return msgspec.structs.replace(figures, seconds=now - (self._begin or now))


def _died_early(error: BrokenProcessPool) -> str:
    return f"worker processes die before they begin: {_cause(error)}; start fewer (--processes), or on another --device"


def _cause(error: BrokenProcessPool) -> str:
    """What loky says of the process's end, such as SIGKILL(-9), in few words."""
    codes = re.findall(r"[A-Z]+\(-?\d+\)", str(error))
    signals = ", ".join(dict.fromkeys(codes)) or "it ended at once"
    return f"{signals} (SIGKILL is mostly memory that ran out)" if "SIGKILL" in signals else signals
