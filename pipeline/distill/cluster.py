"""Worker processes of a cluster, through joblib's backends `dask` and `ray`. They share the files' paths.

One task is one shard, or a few of them where a shard takes a few seconds only: a process has to finish
a task before it begins the next, and what it waits for at the ends of tasks is to be no cost. Both
backends give the task of a worker that died to another one; `worker.label_shards` says what then happens.

What is done is what is on disk: results are only added up for the summary. Where a whole call fails, what
is not on disk is given out again.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import math
import os
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Protocol

import joblib
import msgspec
import numpy as np
import numpy.typing as npt

from pipeline.distill.meters import StreamFigures
from pipeline.distill.tasks import Stamp, Survey, stamp
from pipeline.distill.team import Outcome
from pipeline.distill.worker import ATTEMPTS, Order, added, begun_by, describe, label_shards, release
from pipeline.errors import SoftfocusError
from pipeline.provenance import Provenance
from pipeline.store import shard_path

__all__ = ["BACKENDS", "Cluster"]

TICK_S = 1.0
PAUSE_S = 5.0
TASK_S = 20.0
"""A task is to last about so long, if shards are quick."""


class Cluster:
    """A team of all workers of a dask or ray cluster; see `team.Team`.

    Args:
        backend: one of BACKENDS.
        address: of the dask scheduler ("tcp://host:8786", or the path of its scheduler file), or of the
            ray cluster ("auto" for the one that this machine belongs to).
        gpus: whether a ray worker is to have a GPU, where there are any; dask's workers are started with theirs.

    Raises:
        SoftfocusError: the backend is not installed, or nothing answers at the address.
    """

    def __init__(self, order: Order, *, backend: str, address: str, gpus: bool = True) -> None:
        self._backend = BACKENDS[backend](address, gpus)
        self._order = replace(order, neighbours=self._backend.neighbours)
        self.workers = self._backend.workers

    def describe(self, sizes: npt.NDArray[np.int32]) -> tuple[Provenance, list[tuple[int, int]]]:
        """Ask whichever worker is free."""
        answers: list[tuple[Provenance, list[tuple[int, int]]]] = []
        call = joblib.delayed(describe)(self._order, sizes)
        trouble = _Call(self._backend, iter([call]), answers).wait(lambda: None)
        if not answers:
            raise SoftfocusError(f"{self._backend}: no worker answers ({trouble}); start workers, or more of them")
        return answers[0]

    def work(self, survey: Survey, report: Callable[[StreamFigures], None]) -> Outcome:
        """Give out tasks until everything is on disk or was given up."""
        order = replace(self._order, photographs=survey.total // max(1, self.workers))
        return _Campaign(self._backend, order, survey, report).run()

    def close(self) -> None:
        """Let go of the cluster. Workers end the task they are at; what is not begun is withdrawn."""
        self._backend.close(self._order)


class _Campaign:
    """The work of one run."""

    def __init__(
        self, backend: _Backend, order: Order, survey: Survey, report: Callable[[StreamFigures], None]
    ) -> None:
        self._backend, self._order, self._survey, self._report = backend, order, survey, report
        self._begin = time.perf_counter()
        self._ahead: deque[int] = deque()
        self._given: dict[int, Stamp] = {}  # shards of which nothing has come yet, with their stamp before
        self._shards = self._photographs = 0  # on disk
        self._figures = StreamFigures()

    def run(self) -> Outcome:
        lost: dict[int, str] = {}
        self._ahead = deque(self._survey.todo)
        futile = 0
        while self._ahead:
            before = self._shards
            results: list[StreamFigures] = []
            trouble = _Call(self._backend, self._calls(), results).wait(self._look)
            self._figures = functools.reduce(added, results, self._figures)
            os.listdir(shard_path(self._survey.store, 0).parent)  # or a network file system may show old news
            self._look()
            began = begun_by(self._order)
            for number in [number for number in self._given if len(began.get(number, ())) >= ATTEMPTS]:
                lost[number] = f"shard {number:06d} was begun {ATTEMPTS} times and its worker died each time"
                del self._given[number]
            self._ahead.extend(self._given)
            self._given.clear()
            futile = futile + 1 if self._ahead and self._shards == before else 0
            if futile == ATTEMPTS:
                raise SoftfocusError(f"{self._backend}: no shard came of {ATTEMPTS} attempts ({trouble or 'no error'})")
            time.sleep(futile * PAUSE_S)
        return Outcome(self._told(), lost, len(set().union(*begun_by(self._order).values())))

    def _calls(self) -> Iterator[Any]:
        """Tasks, as the backend wants more of them; asked for from its threads."""
        while self._ahead:
            numbers = [self._ahead.popleft() for _ in range(self._task_size())]
            errands = [errand for errand in map(self._survey.errand, numbers) if errand is not None]
            if errands:
                self._given.update((errand.number, errand.stamp) for errand in errands)
                yield joblib.delayed(label_shards)(self._order, errands)

    def _task_size(self) -> int:
        """Shards a task: some seconds of work at the rate so far, and less towards the end, to end together."""
        rate = self._shards / (time.perf_counter() - self._begin) / self._backend.workers
        fair = len(self._ahead) // (4 * self._backend.workers)
        return max(1, min(fair, math.floor(rate * TASK_S)))

    def _look(self) -> None:
        """See what came to the disk, and report it."""
        for number, before in list(self._given.items()):
            if stamp(self._survey.store, number) != before:
                del self._given[number]
                self._shards += 1
                self._photographs += self._survey.todo[number]
        self._report(self._told())

    def _told(self) -> StreamFigures:
        seconds = time.perf_counter() - self._begin
        return msgspec.structs.replace(self._figures, done=self._photographs, shards=self._shards, seconds=seconds)


class _Call:
    """One `joblib.Parallel` in a thread, so that this one sees Ctrl-C and can watch the cluster."""

    def __init__(self, backend: _Backend, calls: Iterator[Any], results: list[Any]) -> None:
        self._backend, self._calls, self._results = backend, calls, results
        self._error: BaseException | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="softfocus-cluster", daemon=True)

    def wait(self, look: Callable[[], None]) -> str:
        """Until it is done; returns what failed of the cluster, if anything.

        Raises:
            SoftfocusError: from a worker.
        """
        self._thread.start()
        try:
            while self._thread.is_alive():
                self._thread.join(TICK_S)
                look()
                if trouble := self._backend.trouble():
                    return trouble
        finally:
            self._stopped = True
        if self._error is None:
            return ""
        if self._backend.is_of_the_cluster(self._error):
            return " ".join(str(self._error).split())[:200]
        raise self._error

    def _run(self) -> None:
        try:
            with joblib.parallel_config(**self._backend.config()):
                # batch_size: joblib would put quick tasks together and give out several as one
                self._results += joblib.Parallel(batch_size=1)(self._until_stopped())
        except BaseException as error:
            self._error = error

    def _until_stopped(self) -> Iterator[Any]:
        for call in self._calls:
            if self._stopped:
                return
            yield call


class _Backend(Protocol):
    """What differs between dask and ray."""

    workers: int
    neighbours: int
    """Workers on the machine that has most of them."""

    def config(self) -> dict[str, Any]:
        """For `joblib.parallel_config`."""

    def trouble(self) -> str:
        """What makes a call hang that joblib does not notice; empty if nothing."""

    def is_of_the_cluster(self, error: BaseException) -> bool:
        """Whether another attempt may help."""

    def close(self, order: Order) -> None: ...


class _Dask:
    def __init__(self, address: str, gpus: bool) -> None:
        self._distributed = _require("distributed", extra="dask")
        self._address = address
        where = {"scheduler_file": address} if address.endswith(".json") else {"address": address}
        try:
            self._client = self._distributed.Client(**where, timeout=10, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise SoftfocusError(
                f"dask: no scheduler answers at {address!r} ({' '.join(str(error).split())[:120]}); "
                "start one with `dask scheduler` and give the address that it prints"
            ) from error
        hosts = [worker["host"] for worker in self._client.scheduler_info(n_workers=-1)["workers"].values()]
        self.workers = max(1, len(hosts))
        self.neighbours = max(Counter(hosts).values(), default=1)

    def __str__(self) -> str:
        return f"dask at {self._address}"

    def config(self) -> dict[str, Any]:
        return {"backend": "dask", "client": self._client, "wait_for_workers_timeout": 60}

    def trouble(self) -> str:
        if self._client.status != "running":
            return f"the connection is {self._client.status}"
        states = [state.status for state in list(self._client.futures.values())]
        # joblib's dask backend passes over tasks that dask itself gave up, and would wait for them for ever
        return next((f"a task is {status}" for status in states if status in ("error", "cancelled")), "")

    def is_of_the_cluster(self, error: BaseException) -> bool:
        kinds = (self._distributed.KilledWorker, self._distributed.client.FutureCancelledError, TimeoutError)
        return isinstance(error, kinds)

    def close(self, order: Order) -> None:
        if self._client.status == "running":
            self._client.run(release, order, on_error="ignore")
        self._client.close(timeout=5)


class _Ray:
    def __init__(self, address: str, gpus: bool) -> None:
        self._ray = _require("ray", extra="ray")
        self._address = address
        self._quiet = contextlib.ExitStack()  # ray prints news of its workers, and stdout is for results
        self._quiet.enter_context(contextlib.redirect_stdout(sys.stderr))
        try:
            self._ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except ConnectionError as error:
            raise SoftfocusError(
                f"ray: no cluster answers at {address!r}; start one with `ray start --head` and give --address auto"
            ) from error
        importlib.import_module("ray.util.joblib").register_ray()
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        unit = "GPU" if gpus and any(node.get("GPU") for node in nodes) else "CPU"
        workers = [int(node.get(unit, 0)) for node in nodes]
        self.workers, self.neighbours = max(1, sum(workers)), max(1, *workers)
        # a worker that died is started anew, and its task is given to it again
        self._remote = {"max_restarts": -1, "max_task_retries": ATTEMPTS, "num_gpus": int(unit == "GPU")}

    def __str__(self) -> str:
        return f"ray at {self._address}"

    def config(self) -> dict[str, Any]:
        return {"backend": "ray", "n_jobs": max(2, self.workers), "ray_remote_args": self._remote}

    def trouble(self) -> str:
        return "" if self._ray.is_initialized() else "the connection is closed"

    def is_of_the_cluster(self, error: BaseException) -> bool:
        return isinstance(error, self._ray.exceptions.RayError)

    def close(self, order: Order) -> None:
        self._ray.shutdown()  # and with it the run's workers
        self._quiet.close()


BACKENDS: dict[str, Callable[[str, bool], _Backend]] = {"dask": _Dask, "ray": _Ray}
"""Of `Cluster`, by the name that joblib has for them."""


def _require(module: str, *, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SoftfocusError(
            f"backend {extra}: {module} cannot be imported ({error}); pip install 'softfocus[{extra}]'"
        ) from error
