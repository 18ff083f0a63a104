"""What runs in a helping process: `python -m pipeline.distill.crew.hand ROLE LINE CAPTAIN`.

It takes messages from a socket, does what they say, and answers (failed, answer or exception, seconds by stage),
until the line is closed. Torch is never imported here, so it starts in half a second.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.distill.crew.memory import attached
from pipeline.distill.crew.messages import LARGEST_UPLOAD, Add, Begin, Decode, Pack, Place
from pipeline.distill.device import jpeg
from pipeline.distill.meters import Meters
from pipeline.distill.orphan import end_without
from pipeline.distill.photographs import prepare, resize
from pipeline.distill.presence import in_work
from pipeline.errors import SoftfocusError
from pipeline.images import read_image
from pipeline.store import SEAL_BYTES, Arranged, Packed, pack, read_results, shard_path, write_shard

__all__ = ["main"]

Size = tuple[int, int]


class _Gone(BaseException):
    """The captain has closed the line."""


class _Line:
    """The line to the captain, and its memory."""

    def __init__(self, connection: Connection, captain: int) -> None:
        self._connection, self._captain = connection, captain
        self._slabs: dict[int, npt.NDArray[np.uint8]] = {}
        self._heard = 0.0
        self.meters = Meters()

    def slab(self, key: int) -> npt.NDArray[np.uint8]:
        if key not in self._slabs:
            self._slabs[key] = attached(self._captain, key)
        return self._slabs[key]

    def hear(self) -> Any:
        """The next message."""
        try:
            message = self._connection.recv()
        except (EOFError, OSError) as error:
            raise _Gone from error
        self._heard = time.perf_counter()
        return message

    def worked(self, stage: str) -> None:
        """The time since the last message went into this stage."""
        self.meters.add(stage, time.perf_counter() - self._heard)

    def answer(self, answer: Any, *, failed: bool = False) -> None:
        seconds = {stage: took for stage, took in self.meters.seconds.items() if took}
        self.meters = Meters()
        try:
            self._connection.send((failed, answer, seconds))
        except OSError as error:
            raise _Gone from error


def main() -> None:
    """Answer until the line is closed. An error is answered too, and ends the process."""
    role, handle, captain = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    end_without(captain)
    if role == "hand":
        os.nice(5)  # a late captain lets the device and all hands wait
    line = _Line(Connection(handle), captain)
    serve: Callable[[_Line], None] = {"hand": _help, "writer": _write_shards}[role]
    with contextlib.suppress(_Gone):
        try:
            line.answer(None)
            while True:
                serve(line)
        except SoftfocusError as error:
            line.answer(error, failed=True)
        except Exception as error:
            line.answer(RuntimeError(f"{error}\n{traceback.format_exc()}"), failed=True)


def _help(line: _Line) -> None:
    job = line.hear()
    line.answer(_decoded(line, job) if isinstance(job, Decode) else _packed(line, job))


def _decoded(line: _Line, job: Decode) -> tuple[list[Place | str], bool]:
    decoder = _Decoder(line.slab(job.slab), job.largest, line.meters)
    answer = []
    for path, root, sha256 in job.photographs:
        found = prepare(path, sha256, job.size, root=root, decode=decoder.decode, meters=line.meters)
        answer.append(found)
    return answer, decoder.cramped


class _Decoder:
    """Decodes one photograph after the other into a slab.

    Attributes:
        cramped: one was resized that had not to be with more room.
    """

    def __init__(self, slab: npt.NDArray[np.uint8], largest: float, meters: Meters) -> None:
        self._slab, self._largest, self._meters = slab, largest, meters
        self._start = 0
        self.cramped = False

    def decode(self, content: bytes, name: str, size: Size) -> Place:
        """Not resized here, unless it is larger than there is room for: the result is the same."""
        found = jpeg.look(content, size)
        if found is not None and self._may_go_up(found.height, found.width, size):
            place = Place(self._start, found.height, found.width)
            with self._meters.measure("decode"), contextlib.suppress(ValueError):  # who is damaged is told below
                jpeg.decode_into(content, found, self._pixels(place))
                return self._past(place)
        with self._meters.measure("decode"):
            image = read_image(content, name=name, at_least=size)
        if not self._may_go_up(image.shape[0], image.shape[1], size):
            with self._meters.measure("resize"):
                image = resize(image, size)
        place = Place(self._start, image.shape[0], image.shape[1])
        with self._meters.measure("copy"):
            self._pixels(place)[:] = image
        return self._past(place)

    def _may_go_up(self, height: int, width: int, size: Size) -> bool:
        times = height * width / (size[0] * size[1])
        self.cramped |= self._largest < times <= LARGEST_UPLOAD
        return times <= self._largest

    def _pixels(self, place: Place) -> npt.NDArray[np.uint8]:
        end = place.start + place.height * place.width * 3
        return self._slab[place.start : end].reshape(place.height, place.width, 3)

    def _past(self, place: Place) -> Place:
        self._start += place.height * place.width * 3
        return place


def _packed(line: _Line, job: Pack) -> list[int]:
    slab = line.slab(job.slab)
    lengths = []
    with line.meters.measure("compress"):
        for start in job.starts:
            chunk = pack(Arranged(slab[start : start + job.size], 0.0, 0.0, 0), job.codec).chunk
            slab[start : start + len(chunk)] = np.frombuffer(chunk, np.uint8)
            lengths.append(len(chunk))
    return lengths


def _write_shards(line: _Line) -> None:
    """One shard, from its first message to the renamed file."""
    begin = line.hear()
    assert isinstance(begin, Begin), "Begin comes first"
    line.answer(None)
    with in_work(begin.store, begin.task.shard.number):
        seal = write_shard(
            begin.store,
            begin.description,
            begin.task.shard,
            _results(line, begin),
            provenance=begin.provenance,
            precision=begin.precision,
        )
    line.worked("write")
    line.answer(SEAL_BYTES + seal.size)


def _results(line: _Line, begin: Begin) -> Iterator[tuple[int, Packed | str]]:
    """What goes into a shard: reasons known beforehand, labels that stay, and what comes from the teacher."""
    task = begin.task
    yield from task.reasons.items()
    if task.kept:
        yield from read_results(shard_path(begin.store, task.shard.number), task.kept)
    line.worked("write")
    while isinstance(message := line.hear(), Add):
        yield from message.reasons
        for position, start, length, offset, scale, invalid_count in message.rows:
            chunk = line.slab(message.slab)[start : start + length].tobytes()
            yield position, Packed(chunk, offset, scale, invalid_count)
        line.worked("write")
        line.answer(None)


if __name__ == "__main__":
    main()
