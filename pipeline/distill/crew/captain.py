"""Starts helping processes, gives out work and hears of what is done, all in the thread that asks.

Without threads nothing here waits for Python's lock. The price: who waits for something waits here (`until`,
`attend`), so that the others go on having work.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

from pipeline.distill.crew.memory import PageLock, Slabs
from pipeline.distill.meters import Meters
from pipeline.errors import SoftfocusError

__all__ = ["Captain", "CrewDied", "Peer"]

Then = Callable[[Any], None]
"""What is done with an answer."""

_ROOM = {"hand": 2, "writer": 32}
"""Messages that a process may have before it: the next one is there when it has done one, and none waits long."""

_FAREWELL_S = 5.0
_MOST_WRITERS = 8


class CrewDied(SoftfocusError):
    """A helping process ended before its work did; what it had in work is not done."""


class Peer:
    """One helping process. It answers messages in their order."""

    def __init__(self, role: str) -> None:
        self._room = _ROOM[role]
        self._waiting: deque[tuple[Any, Then]] = deque()
        self._asked: deque[Then] = deque()
        ours, theirs = socket.socketpair()
        self.process = _start(role, theirs)
        theirs.close()
        self.connection = Connection(ours.detach())
        self.is_ready = False

    @property
    def is_free(self) -> bool:
        """Whether it has room for another message."""
        return self.is_ready and len(self._asked) < self._room

    @property
    def load(self) -> int:
        return len(self._asked)

    def send(self, message: Any, then: Then) -> None:
        """`then` is called with the answer."""
        self._waiting.append((message, then))
        self.push()

    def push(self) -> None:
        """Send what there is room for."""
        while self._waiting and self.is_free:
            message, then = self._waiting.popleft()
            self._asked.append(then)
            try:
                self.connection.send(message)
            except OSError as error:
                raise self.died() from error

    def hear(self, meters: Meters) -> None:
        """Take one answer, or the word that it is ready."""
        try:
            failed, answer, seconds = self.connection.recv()
        except (EOFError, OSError) as error:
            raise self.died() from error
        if failed:
            raise answer
        for stage, took in seconds.items():
            meters.add(stage, took)
        if not self.is_ready:
            self.is_ready = True
        else:
            self._asked.popleft()(answer)
        self.push()

    def died(self) -> Exception:
        """Why it has closed the line: the error that it said last, if it had time to."""
        with contextlib.suppress(EOFError, OSError):
            while True:  # ends with EOFError: the other end is closed
                failed, answer, _ = self.connection.recv()
                if failed:
                    return cast(Exception, answer)
        try:
            code = self.process.wait(_FAREWELL_S)
        except subprocess.TimeoutExpired:
            code = 0
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        memory = "; mostly memory that ran out, use fewer --workers" if code == -signal.SIGKILL else ""
        return CrewDied(
            f"a process that decodes and writes for the teacher died ({how}{memory}); the same command goes on"
        )

    def end(self) -> None:
        self.connection.close()
        try:
            self.process.wait(_FAREWELL_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Captain:
    """The helping processes of one stream: `hands` decode and compress, up to eight more write shards.

    A context; leaving it ends them. An error in one of them, and its death, come out of the next call that
    attends to them.
    """

    def __init__(self, hands: int, meters: Meters, page_lock: PageLock) -> None:
        self.slabs = Slabs(page_lock)
        self._meters = meters
        self._jobs: tuple[deque[tuple[Any, Then]], ...] = (deque(), deque())
        self.hands = [Peer("hand") for _ in range(hands)]
        self.writers = [Peer("writer") for _ in range(max(1, min(_MOST_WRITERS, hands // 2)))]
        self._selector = selectors.DefaultSelector()
        for peer in (*self.hands, *self.writers):
            self._selector.register(peer.connection, selectors.EVENT_READ, peer)

    def is_ready(self) -> bool:
        """Whether all of them are there."""
        return all(peer.is_ready for peer in (*self.hands, *self.writers))

    def give(self, job: Any, then: Then, *, urgent: bool = False) -> None:
        """A job for any hand; urgent ones go first."""
        self._jobs[0 if urgent else 1].append((job, then))
        self._give_out()

    def attend(self, seconds: float = 0.0) -> None:
        """Hear what is done, waiting at most so long for the first word, and give out more."""
        for key, _ in self._selector.select(seconds):
            key.data.hear(self._meters)
        self._give_out()

    def until(self, condition: Callable[[], bool]) -> None:
        """Attend until something is so."""
        while not condition():
            self.attend(0.2)

    def _give_out(self) -> None:
        while self._jobs[0] or self._jobs[1]:
            hand = min(self.hands, key=lambda hand: (not hand.is_free, hand.load))
            if not hand.is_free:
                return
            hand.send(*(self._jobs[0] or self._jobs[1]).popleft())

    def __enter__(self) -> Captain:
        return self

    def __exit__(self, *error: object) -> None:
        for peer in (*self.hands, *self.writers):
            peer.connection.close()  # all at once, so that they end side by side
        for peer in (*self.hands, *self.writers):
            peer.end()
        self._selector.close()
        self.slabs.close()


def _start(role: str, line: socket.socket) -> subprocess.Popen[bytes]:
    """A fresh interpreter, which has nothing of this process but its end of the line.

    Ctrl-C in a terminal reaches every process; this one deals with it, the others are started deaf to it.
    """
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    pages = os.environ.get("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")  # a shard is 100 MB: a third less time to write
    environment = os.environ | {
        "PYTHONPATH": path,
        "PYTHONSAFEPATH": "1",
        "OMP_NUM_THREADS": "1",
        "GLIBC_TUNABLES": pages,
    }
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "pipeline.distill.crew.hand", role, str(line.fileno()), str(os.getpid())],
            pass_fds=[line.fileno()],
            stdin=subprocess.DEVNULL,
            env=environment,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
