"""Processes that train the runs of a sweep side by side, on one device or several.

A worker imports once and takes one job after another; one that dies (out of memory, most often) costs the run
it was at, and another takes its place. Workers are out of the terminal's reach: Ctrl-C comes to the sweep, which
passes it on once, and waits until each has written its state.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing import connection, get_context
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

from trainer.runs.sweep import Job, Outcome, Report, run_job

__all__ = ["run_jobs"]

REPORT_SECONDS = 0.5
PATIENCE_SECONDS = 120.0  # for a worker to write its state after Ctrl-C


class Worker(NamedTuple):
    """A process, the parent's end of its pipe, and its place among the slots."""

    process: BaseProcess
    pipe: connection.Connection
    slot: int


def run_jobs(
    jobs: Sequence[Job],
    devices: Sequence[str],
    *,
    settle: Callable[[Outcome], None],
    say: Callable[[str], None],
    progress: Callable[[Report], None],
) -> None:
    """Run jobs, as many at once as there are `devices` (one may be named several times).

    Args:
        jobs: in the order in which they are begun.
        devices: the device of each slot.
        settle: called with each outcome as it comes.
        say: takes lines of the runs.
        progress: takes where they stand.

    Raises:
        KeyboardInterrupt: after Ctrl-C, once every worker has stopped.
    """
    waiting = deque(jobs)
    at_work: dict[connection.Connection, tuple[Worker, Job]] = {}
    threads = max((os.cpu_count() or 1) // len(devices), 1)

    def begin(worker: Worker) -> None:
        if waiting:
            job = waiting.popleft()
            worker.pipe.send(job)
            at_work[worker.pipe] = (worker, job)
        else:
            _dismiss(worker)

    try:
        for slot, device in enumerate(devices[: len(jobs)]):
            begin(_start(slot, device, threads))
        while at_work:
            for pipe in connection.wait(list(at_work)):
                assert isinstance(pipe, connection.Connection)
                worker, job = at_work[pipe]
                try:
                    message = pipe.recv()
                except (EOFError, OSError):
                    del at_work[pipe]
                    settle(_died(worker, job))
                    if waiting:
                        begin(_start(worker.slot, devices[worker.slot], threads))
                    continue
                if isinstance(message, Outcome):
                    del at_work[pipe]
                    settle(message)
                    begin(worker)
                elif isinstance(message, Report):
                    progress(message)
                else:
                    say(message)
    finally:
        _stop([worker for worker, _ in at_work.values()])  # none, unless interrupted


def _start(slot: int, device: str, threads: int) -> Worker:
    context = get_context("spawn")  # CUDA does not survive a fork
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, slot, device, threads), daemon=False)
    process.start()
    theirs.close()
    return Worker(process, ours, slot)


def _work(pipe: connection.Connection, slot: int, device: str, threads: int) -> None:
    """A worker's life: jobs in, lines, reports and outcomes out, until the pipe closes."""
    os.setsid()  # the terminal's Ctrl-C goes to the parent alone
    reported = 0.0

    def progress(report: Report) -> None:
        nonlocal reported
        if time.monotonic() - reported > REPORT_SECONDS or report.done == report.total:
            reported = time.monotonic()
            pipe.send(report)

    with contextlib.suppress(EOFError, OSError, KeyboardInterrupt):
        while True:
            job = pipe.recv()
            import torch  # not at the top: the parent process has no need of it

            torch.set_num_threads(threads)
            pipe.send(run_job(job, device, slot=slot, say=pipe.send, progress=progress))


def _dismiss(worker: Worker) -> None:
    worker.pipe.close()
    worker.process.join()


def _died(worker: Worker, job: Job) -> Outcome:
    worker.pipe.close()
    worker.process.join()
    code = worker.process.exitcode
    return Outcome(job.trial, "failed", error=f"its process died (exit code {code}); it may have run out of memory")


def _stop(workers: Sequence[Worker]) -> None:
    """Interrupt workers and wait; what they still send is of no use, but a full pipe would hold them."""
    for worker in workers:
        if worker.process.is_alive() and worker.process.pid is not None:
            os.kill(worker.process.pid, signal.SIGINT)
    deadline = time.monotonic() + PATIENCE_SECONDS
    for worker in workers:
        _drain(worker, deadline)
        if worker.process.is_alive():
            worker.process.terminate()
        worker.pipe.close()
        worker.process.join()


def _drain(worker: Worker, deadline: float) -> None:
    message: Any = None
    with contextlib.suppress(EOFError, OSError):
        while time.monotonic() < deadline and not isinstance(message, Outcome):
            if worker.pipe.poll(0.2):
                message = worker.pipe.recv()
    worker.pipe.close()  # an idle worker ends with it
    worker.process.join(max(deadline - time.monotonic(), 1.0))
