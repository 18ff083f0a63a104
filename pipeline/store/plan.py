"""Which label is in which row of which shard, decided before any work and never changed.

A plan grows by generations. The first run writes the generation of all its images; a later run with new
images writes another one with rows and shards of their own, so that nothing that is finished moves. A
generation follows from the manifest, the teacher's size rule and the shard size, in a fixed order (label
height, label width, smallest sample id), and so depends neither on the order of the manifest's lines nor
on the number of workers. Identical photographs (same SHA-256) share a row; all their ids point to it. An
id whose photograph was changed points to the new one from then on.

Everything is held in numpy arrays: a million samples take a few hundred bytes each and some seconds.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.store.errors import StoreError

__all__ = ["SHARD_TABLE", "Draft", "Generation", "Images", "InputSize", "Plan", "PlanShard", "next_generation"]

SHARD_TABLE = np.dtype([("number", "<i8"), ("height", "<i4"), ("width", "<i4"), ("start", "<i8"), ("count", "<i8")])

Array = npt.NDArray[Any]
InputSize = Callable[[int, int], tuple[int, int]]


@dataclass(frozen=True)
class Images:
    """Samples as columns, sorted by id.

    Attributes:
        ids: (M,) bytes (UTF-8), unique.
        sha256: (M, 32) uint8.
        sizes: (M, 2) int32, height and width of the upright photographs.
    """

    ids: Array
    sha256: Array
    sizes: Array


@dataclass(frozen=True)
class Generation:
    """What one run added to the plan.

    Attributes:
        sha256: (N, 32) uint8, the new images in the order of their rows; the first is row `first_row`.
        shards: SHARD_TABLE; `start` counts rows over all generations.
        ids: (M,) bytes (UTF-8), sorted.
        rows: (M,) int64, the row over all generations that each id points to.
    """

    first_row: int
    sha256: Array
    shards: Array
    ids: Array
    rows: Array


@dataclass(frozen=True)
class PlanShard:
    """One task: the images whose labels make one shard. All labels are (height, width)."""

    number: int
    height: int
    width: int
    start: int
    ids: list[str]
    sha256: Array

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def fingerprint(self) -> str:
        """SHA-256 in hexadecimal of the label size and the images, in order."""
        return _shard_fingerprint(self.height, self.width, self.sha256)


class Plan:
    """All generations together. Rows and shards are numbered from 0 over all of them.

    Attributes:
        generations: their number.
        ids: (M,) bytes, sorted, unique.
        rows: (M,) int64, the row that each id points to; where generations differ the newest counts.
        sha256: (R, 32) uint8 for each row.
        shards: SHARD_TABLE in order of number and of `start`.
    """

    def __init__(self, generations: Sequence[Generation] = ()) -> None:
        self.generations = len(generations)
        self.sha256: Array = _joined([g.sha256 for g in generations], np.zeros((0, 32), np.uint8))
        self.shards: Array = _joined([g.shards for g in generations], np.zeros(0, SHARD_TABLE))
        self._all_ids: Array = _joined([g.ids for g in generations], np.zeros(0, "S1"))
        self._all_rows: Array = _joined([g.rows for g in generations], np.zeros(0, np.int64))
        self.ids, self.rows = self._all_ids, self._all_rows
        if self.generations > 1:
            newest_last = np.argsort(self._all_ids, kind="stable")
            ids = self._all_ids[newest_last]
            keep = np.append(ids[1:] != ids[:-1], True)
            self.ids, self.rows = ids[keep], self._all_rows[newest_last][keep]

    def rows_of(self, ids: Iterable[str] | Array) -> npt.NDArray[np.int64]:
        """The row of each id, -1 where the plan does not know it."""
        wanted = ids if isinstance(ids, np.ndarray) else _bytes_array(ids)
        rows = np.full(len(wanted), -1, np.int64)
        if len(self.ids) and len(wanted):
            places = np.minimum(np.searchsorted(self.ids, wanted), len(self.ids) - 1)
            known = self.ids[places] == wanted
            rows[known] = self.rows[places[known]]
        return rows

    def match(self, images: Images) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """The row of each id, -1 where the plan does not know it, and whether its photograph is that of the row."""
        rows = self.rows_of(images.ids)
        same = rows >= 0
        same[same] = (self.sha256[rows[same]] == images.sha256[same]).all(axis=1)
        return rows, same

    def row_of(self, sample_id: str) -> int:
        """The row of one id, -1 where the plan does not know it."""
        wanted = np.bytes_(sample_id.encode("utf-8", "surrogatepass"))
        if len(wanted) > self.ids.dtype.itemsize:
            return -1  # numpy would copy all ids into longer ones to compare
        place = int(np.searchsorted(self.ids, wanted))
        return int(self.rows[place]) if place < len(self.ids) and self.ids[place] == wanted else -1

    def row_of_photograph(self, sha256: bytes) -> int:
        """The row of a photograph by its SHA-256 (32 bytes), -1 where the plan does not know it."""
        words, order = self._by_sha256
        wanted = np.frombuffer(sha256, "S32")[0]
        place = int(np.searchsorted(words, wanted, sorter=order))
        found = int(order[place]) if place < len(order) else -1
        return found if found >= 0 and words[found] == wanted else -1

    def shards_of(self, rows: Array) -> npt.NDArray[np.int64]:
        """The number of the shard that holds each row."""
        return np.searchsorted(self.shards["start"], rows, side="right").astype(np.int64) - 1

    def shard(self, number: int) -> PlanShard:
        """Everything about one shard."""
        entry = self.shards[number]
        start, stop = int(entry["start"]), int(entry["start"] + entry["count"])
        return PlanShard(
            number=number,
            height=int(entry["height"]),
            width=int(entry["width"]),
            start=start,
            ids=[name.decode() for name in self._all_ids[self._first_ids[start:stop]].tolist()],
            sha256=self.sha256[start:stop],
        )

    def shard_fingerprint(self, number: int) -> str:
        """`shard(number).fingerprint`, without the rest of it."""
        entry = self.shards[number]
        images = self.sha256[entry["start"] : entry["start"] + entry["count"]]
        return _shard_fingerprint(entry["height"], entry["width"], images)

    @cached_property
    def _by_sha256(self) -> tuple[Array, Array]:
        """The photographs as words, and their order."""
        words = _as_words(self.sha256)
        return words, np.argsort(words, kind="stable")

    @cached_property
    def _first_ids(self) -> npt.NDArray[np.int64]:
        """For each row the place in `_all_ids` of the id that brought it, the smallest of its generation."""
        return np.unique(self._all_rows, return_index=True)[1].astype(np.int64)


def next_generation(plan: Plan, images: Images, shard_size: int) -> Draft | None:
    """What these images add to the plan, or None if it knows all of them."""
    _, same = plan.match(images)
    if same.all():
        return None
    return Draft(plan, images, np.flatnonzero(~same), shard_size)


class Draft:
    """A generation that is not cut into shards yet, as that takes the teacher's size rule.

    `takes_work` is False where all photographs are known under other ids.
    """

    def __init__(self, plan: Plan, images: Images, chosen: Array, shard_size: int) -> None:
        self._plan, self._images, self._chosen, self._shard_size = plan, images, chosen, shard_size
        unique, first, group = np.unique(_as_words(images.sha256[chosen]), return_index=True, return_inverse=True)
        self._group = group.reshape(-1)
        self._old_row = _find(_as_words(plan.sha256), unique)
        self._first = first  # of each photograph: its smallest id's place in `chosen`
        self.takes_work = bool((self._old_row < 0).any())

    def finish(self, input_size: InputSize | None) -> Generation:
        """Order the new photographs and cut them into shards; `input_size` is needed if `takes_work`."""
        new = np.flatnonzero(self._old_row < 0)
        places = self._chosen[self._first[new]]
        sizes = _label_sizes(self._images.sizes[places], input_size)
        order = np.lexsort((places, sizes[:, 1], sizes[:, 0]))  # by height, then width, then id
        rows = self._old_row.copy()
        first_row = len(self._plan.sha256)
        rows[new[order]] = first_row + np.arange(len(new))
        return Generation(
            first_row=first_row,
            sha256=self._images.sha256[places[order]],
            shards=_cut(sizes[order], first_row, len(self._plan.shards), self._shard_size),
            ids=self._images.ids[self._chosen],
            rows=rows[self._group],
        )


def _shard_fingerprint(height: int, width: int, sha256: Array) -> str:
    digest = hashlib.sha256(f"{height} {width} ".encode())
    digest.update(sha256.tobytes())
    return digest.hexdigest()


def _label_sizes(sizes: Array, input_size: InputSize | None) -> Array:
    """(N, 2) sizes of photographs to sizes of labels, asking once for each size."""
    if not len(sizes):
        return np.zeros((0, 2), np.int32)
    assert input_size is not None, "new photographs need the teacher's size rule"
    packed, group = np.unique(sizes[:, 0].astype(np.int64) << 32 | sizes[:, 1], return_inverse=True)
    answers = [input_size(int(size >> 32), int(size & 0xFFFFFFFF)) for size in packed]
    wanted: Array = np.array(answers, np.int32).reshape(-1, 2)
    if (wanted < 1).any():
        raise StoreError(f"the teacher's size rule gives labels of {wanted.min()} pixels; mend its size rule")
    sizes_of_all: Array = wanted[group.reshape(-1)]
    return sizes_of_all


def _cut(sizes: Array, first_row: int, first_number: int, shard_size: int) -> Array:
    """Rows sorted by size to a table of shards of at most `shard_size` rows of one size."""
    ends = np.flatnonzero((sizes[1:] != sizes[:-1]).any(axis=1)) + 1
    edges = [0, *ends.tolist(), len(sizes)] if len(sizes) else [0]
    spans = [
        (start, min(start + shard_size, stop))
        for begin, stop in itertools.pairwise(edges)
        for start in range(begin, stop, shard_size)
    ]
    return np.array(
        [
            (first_number + i, *sizes[start].tolist(), first_row + start, stop - start)
            for i, (start, stop) in enumerate(spans)
        ],
        SHARD_TABLE,
    )


def _find(words: Array, wanted: Array) -> Array:
    """The place of each wanted word, -1 where it is not there."""
    found = np.full(len(wanted), -1, np.int64)
    if len(words) and len(wanted):
        order = np.argsort(words, kind="stable")
        places = np.minimum(np.searchsorted(words, wanted, sorter=order), len(words) - 1)
        hit = words[order[places]] == wanted
        found[hit] = order[places[hit]]
    return found


def _as_words(sha256: Array) -> Array:
    """(N, 32) uint8 as (N,) words of 32 bytes that sort and compare as a whole."""
    return np.ascontiguousarray(sha256).view("S32").reshape(-1)


def _bytes_array(texts: Iterable[str]) -> Array:
    return np.array([text.encode("utf-8", "surrogatepass") for text in texts], dtype=np.bytes_)


def _joined(parts: Iterable[Array], empty: Array) -> Array:
    """Concatenated, without a copy of a single part."""
    parts = list(parts)
    return np.concatenate(parts) if len(parts) > 1 else parts[0] if parts else empty
