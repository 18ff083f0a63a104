"""What captain and hands say to each other. Each message has an answer."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from pipeline.distill.tasks import Task
from pipeline.provenance import Provenance
from pipeline.store import Codec, StoreDescription

__all__ = ["LARGEST_UPLOAD", "Add", "Begin", "Decode", "End", "Pack", "Place"]

LARGEST_UPLOAD = 3
"""A photograph of at most so many times the label's bytes may go up as it is; a larger one is resized before."""

Size = tuple[int, int]


class Place(NamedTuple):
    """Pixels (height, width, 3) in a slab."""

    start: int
    height: int
    width: int


class Decode(NamedTuple):
    """Photographs to put into a slab, one after the other.

    The answer: a Place, or a reason, for each; and whether one was resized that had not to be with more room.

    Attributes:
        largest: as LARGEST_UPLOAD, for the room that there is.
        photographs: path, root, SHA-256.
    """

    slab: int
    size: Size
    largest: float
    photographs: list[tuple[Path, Path, bytes]]

    @staticmethod
    def room(count: int, size: Size, largest: float) -> int:
        """Bytes of a slab for so many."""
        return int(count * largest * size[0] * size[1] * 3)


class Pack(NamedTuple):
    """Maps to compress, each where it is in the slab. The answer: the length of each chunk, at the same place."""

    slab: int
    starts: list[int]
    size: int
    codec: Codec

    @staticmethod
    def room(size: int) -> int:
        """Bytes for a map of `size` bytes: no codec makes it larger than this."""
        return size + size // 64 + 1024 & ~63


class Begin(NamedTuple):
    """A shard to write; what follows until End belongs to it. Answered at once."""

    store: Path
    description: StoreDescription
    task: Task
    provenance: Provenance
    precision: str


class Add(NamedTuple):
    """Results for the shard. Answered when the slab is not needed any more.

    Attributes:
        rows: position, start and length in the slab, offset, scale, number of invalid pixels.
        reasons: position, why there is no map.
    """

    slab: int
    rows: list[tuple[int, int, int, float, float, int]]
    reasons: list[tuple[int, str]]


class End(NamedTuple):
    """Nothing more. Answered with the bytes of the shard, once it is on the disk."""
