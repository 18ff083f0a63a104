"""Who works on which shard: a small file beside the shards that lives as long as the work does.

A shard is built in memory and written at its end, so nothing on disk would tell that it is in work. The
file has the name of a temporary of its shard (see `pipeline.files`) and the worker's host, process and
start in it; it is touched while the worker lives, and removed as any left-over temporary when it was
killed. It is no lock: a worker that cannot write it works all the same.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from pipeline.files import find_temporaries, make_folder, temporary_for
from pipeline.store import shard_path

__all__ = ["HEARTBEAT_S", "Worker", "in_work", "workers_of"]

HEARTBEAT_S = 15.0
_SILENT_AFTER_S = 8 * HEARTBEAT_S


class Worker(msgspec.Struct, frozen=True, kw_only=True):
    """A process that has a shard in work.

    Attributes:
        since: when it began the shard, seconds since the epoch.
    """

    host: str
    pid: int
    shard: int
    since: float


@contextlib.contextmanager
def in_work(store: Path, shard: int) -> Iterator[None]:
    """Let others see that this process works on a shard, as long as the block runs."""
    marker = temporary_for(shard_path(store, shard))
    worker = Worker(host=socket.gethostname(), pid=os.getpid(), shard=shard, since=time.time())
    done = threading.Event()

    def live() -> None:
        while not done.wait(HEARTBEAT_S):
            with contextlib.suppress(OSError):
                os.utime(marker)

    with contextlib.suppress(OSError):
        make_folder(marker.parent)
        marker.write_bytes(msgspec.json.encode(worker))
    heart = threading.Thread(target=live, name="softfocus-presence", daemon=True)
    heart.start()
    try:
        yield
    finally:
        done.set()
        heart.join()
        with contextlib.suppress(OSError):
            marker.unlink(missing_ok=True)


def workers_of(store: Path) -> list[Worker]:
    """The workers that are alive, by shard. One that was not heard of for two minutes does not count."""
    found = {}
    for temporary in find_temporaries(shard_path(store, 0).parent):
        silent = time.time() - temporary.written > _SILENT_AFTER_S
        if temporary.left_over or silent or not re.fullmatch(r"\d+\.h5", temporary.target):
            continue
        with contextlib.suppress(OSError, msgspec.DecodeError):  # removed meanwhile; the shard itself, being written
            with temporary.path.open("rb") as stream:
                worker = msgspec.json.decode(stream.read(4096), type=Worker)
            found[worker.shard, worker.host, worker.pid] = worker
    return [found[key] for key in sorted(found)]
