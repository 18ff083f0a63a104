"""Where the time of a labelling run goes, and what came of it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import msgspec

__all__ = ["STAGES", "WAITS", "WORK", "LabelProgress", "LabelSummary", "Meters", "StreamFigures"]

WORK = ("read", "decode", "copy", "resize", "teacher", "quantise", "compress", "write")
WAITS = ("waiting for images", "waiting for the teacher", "waiting for the writer")
STAGES = WORK + WAITS
"""WORK adds up the seconds of all threads and helping processes, and of the GPU, at this work; WAITS are those of the
one thread that hands photographs to the teacher. On a GPU its own wait for the teacher is where its time should go."""


class StreamFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What one stream of tasks has done so far.

    Attributes:
        done: photographs that went through the teacher or failed.
        failed: those that failed.
        labelled: maps in finished shards that this stream made.
        shards, bytes: finished on disk.
        failures: row -> reason of all rows of these shards without a label.
        batch_size: the largest number of photographs that the teacher was given at once and had memory for.
        seconds: since the stream began.
        stage_seconds: by STAGES.
        note: what is slower than it could be, and why; empty if nothing is.
    """

    done: int = 0
    failed: int = 0
    labelled: int = 0
    shards: int = 0
    bytes: int = 0
    failures: dict[int, str] = {}
    batch_size: int = 0
    seconds: float = 0.0
    stage_seconds: dict[str, float] = {}
    note: str = ""


class LabelProgress(msgspec.Struct, frozen=True, kw_only=True):
    """A labelling run so far. Photographs that earlier runs labelled do not count.

    Attributes:
        done, total: photographs that went through the teacher or failed, and those to do.
        failed: those that failed.
        shards_done, shards: finished on disk, and to do.
        seconds: since the teacher began.
        rate: photographs a second.
        stage_seconds: by STAGES, of all workers together.
        workers: processes that share the work.
    """

    done: int
    total: int
    failed: int
    shards_done: int
    shards: int
    seconds: float
    rate: float
    stage_seconds: dict[str, float]
    workers: int = 1

    @property
    def note(self) -> str:
        """What a progress line says beside the numbers: failures, and who the teacher waits for, if anybody."""
        notes = [f"{self.failed} left out"] if self.failed else []
        for stage in ("waiting for images", "waiting for the writer"):
            share = self.stage_seconds.get(stage, 0.0) / max(self.seconds * self.workers, 1e-9)
            if share > 0.1:
                notes.append(f"{share:.0%} {stage}")
        return ", ".join(notes)


class LabelSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What a labelling run did. Photographs are counted once however many ids they have.

    Attributes:
        samples: ids in the manifest.
        labelled: photographs labelled by this run.
        kept: photographs that had their label before.
        failed: (sample id, reason) of all samples of the manifest that have no label, earlier failures too.
        shards: written by this run.
        bytes: of these shards.
        seconds: of the whole run, planning and loading included.
        rate: photographs labelled a second, from the first to the last; 0 if there were none.
        batch_size: the largest number of photographs that the teacher was given at once and had memory for.
        stage_seconds: by STAGES, of all workers together; empty where there was nothing to do.
        workers: processes that shared the work.
        deaths: of them, those that died and were replaced.
        teacher: kind and name of the teacher whose labels the store holds.
        note: what was slower than it could be, and why; empty if nothing was.
    """

    samples: int
    labelled: int
    kept: int
    failed: list[tuple[str, str]]
    shards: int
    bytes: int
    seconds: float
    rate: float
    batch_size: int
    stage_seconds: dict[str, float]
    workers: int = 1
    deaths: int = 0
    teacher: str
    note: str = ""


class Meters:
    """Seconds by stage, added up from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.seconds = dict.fromkeys(STAGES, 0.0)

    @contextlib.contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the time of a block to a stage."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - begin)

    def add(self, stage: str, seconds: float) -> None:
        """Add seconds to a stage."""
        with self._lock:
            self.seconds[stage] += seconds
