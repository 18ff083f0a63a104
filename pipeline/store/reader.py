"""Soft labels by sample id, in any process."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from pipeline.store.codec import Packed, require_codec, unpack
from pipeline.store.confidence import unpack_confidence
from pipeline.store.description import StoreDescription, read_description
from pipeline.store.encoding import DTYPES, decode
from pipeline.store.errors import MEND_SHARD, DamagedShard, MissingLabel
from pipeline.store.generations import read_plan
from pipeline.store.shard import finished_shards, labelled_rows, read_confidence, read_reasons, shard_path

__all__ = ["LabelReader"]

_READ_ERRORS = (OSError, KeyError, RuntimeError, ValueError)  # what h5py raises on damaged files
_MEND = "run `softfocus label` with a manifest that holds the sample"


class LabelReader:
    """The labels of a store as it is when the reader is made; later ones need a new reader.

    `reader[sample_id]` is the map as float32 (H, W), NaN where not known, of the store's `quantity`: relative
    inverse depth (large = near, scale and shift of each map unknown) or blur probability (0 to 1, 1 = out of
    focus). H and W are the label's own, `size_of` tells them. It covers the whole upright photograph.

    `in`, `len` and iteration regard the ids whose label is really there. May be used in threads, and copied
    into other processes by fork or pickle: each process opens its own files, at most `open_files` at once.

    Raises:
        StoreError: no label store, one of another schema, or a foreign file in it.
        DamagedShard: a shard is cut short.
    """

    def __init__(self, store: Path | str, *, open_files: int = 64) -> None:
        self.store = Path(store).absolute()
        self.description: StoreDescription = read_description(self.store)
        self._plan = read_plan(self.store, self.description)
        self._dtype = DTYPES[self.description.dtype]
        seals = finished_shards(self.store, self.description, self._plan)
        self._there = labelled_rows(self.store, self._plan, seals)
        require_codec(self.description.codec)
        self._files = _OpenFiles(open_files)

    @property
    def fingerprint(self) -> str:
        """SHA-256 in hexadecimal of what decides the labels and how they are read: schema, dtype, codec, teacher."""
        return self.description.fingerprint

    @property
    def quantity(self) -> str:
        """What a value is; `description.direction` says which way it grows."""
        return self.description.quantity

    @property
    def has_confidence(self) -> bool:
        """Whether each label comes with a confidence."""
        return bool(self.description.provenance.confidence)

    def __getitem__(self, sample_id: str) -> npt.NDArray[np.float32]:
        """The label of a sample, float32 (H, W), NaN where not known.

        Raises:
            MissingLabel: the store has none.
            DamagedShard: its bytes are not those that were written.
        """
        return self._read(self._row(sample_id), repr(sample_id))

    def of_photograph(self, sha256: str) -> npt.NDArray[np.float32]:
        """The label of a photograph by its SHA-256 (hexadecimal), whatever its sample is called.

        Raises:
            MissingLabel, DamagedShard: as by sample id.
        """
        row = self._row_of_photograph(sha256)
        return self._read(self._checked(row, f"photograph {sha256[:12]}"), f"photograph {sha256[:12]}")

    def size_of_photograph(self, sha256: str) -> tuple[int, int]:
        """(height, width) of the label of a photograph by its SHA-256 (hexadecimal), made already or not.

        Raises:
            MissingLabel: the plan does not know it.
        """
        return self._place(self._row_of_photograph(sha256))[2]

    def confidence(self, sample_id: str) -> npt.NDArray[np.float32] | None:
        """How far a sample's label can be trusted, float32 (H, W) from 0 to 1; None in a store without.

        What it means is in `description.confidence`. It is stored at a quarter of the map's resolution.

        Raises:
            MissingLabel, DamagedShard: as for the label.
        """
        row = self._row(sample_id)
        if not self.has_confidence:
            return None
        path, position, size = self._place(row)
        try:
            return unpack_confidence(self._files.read_confidence(path, position), size)
        except _READ_ERRORS as error:
            raise _damaged(path, position, repr(sample_id), error) from error

    def _read(self, row: int, name: str) -> npt.NDArray[np.float32]:
        path, position, size = self._place(row)
        try:
            packed = self._files.read(path, position)
            codes = unpack(packed.chunk, size, self._dtype, self.description.codec)
        except _READ_ERRORS as error:
            raise _damaged(path, position, name, error) from error
        return decode(codes, packed.offset, packed.scale, packed.invalid_count)

    def _place(self, row: int) -> tuple[Path, int, tuple[int, int]]:
        """Shard, position in it, and (height, width) of a row's label."""
        number = int(self._plan.shards_of(np.array(row)))
        position = row - int(self._plan.shards["start"][number])
        return shard_path(self.store, number), position, self._size(number)

    def __contains__(self, sample_id: object) -> bool:
        row = self._plan.row_of(sample_id) if isinstance(sample_id, str) else -1
        return row >= 0 and bool(self._there[row])

    def __len__(self) -> int:
        return int(np.count_nonzero(self._there[self._plan.rows]))

    def __iter__(self) -> Iterator[str]:
        for name in self._plan.ids[self._there[self._plan.rows]]:
            yield name.decode()

    def missing(self, ids: Iterable[str]) -> list[str]:
        """Those of `ids`, in their order, that have no label here."""
        wanted = list(ids)
        return [wanted[place] for place in np.flatnonzero(self._rows(wanted) < 0)]

    def stale(self, hashes: Mapping[str, str]) -> list[str]:
        """Those ids of `hashes` (id -> SHA-256 in hexadecimal) whose label is of another photograph."""
        wanted = list(hashes)
        rows = self._rows(wanted)
        places = np.flatnonzero(rows >= 0)
        told = np.frombuffer(bytes.fromhex("".join(hashes[wanted[p]] for p in places)), np.uint8).reshape(-1, 32)
        differs = (self._plan.sha256[rows[places]] != told).any(axis=1)
        return [wanted[place] for place in places[differs]]

    def sha256_of(self, sample_id: str) -> str:
        """SHA-256 (hexadecimal) of the photograph that the label was made from.

        Raises:
            MissingLabel: the store has no label of this sample.
        """
        return bytes(self._plan.sha256[self._row(sample_id)]).hex()

    def size_of(self, sample_id: str) -> tuple[int, int]:
        """(height, width) of a sample's label, without reading it.

        Raises:
            MissingLabel: the store has no label of this sample.
        """
        return self._size(int(self._plan.shards_of(np.array(self._row(sample_id)))))

    def close(self) -> None:
        """Close the files that this process has open; reading opens them again."""
        self._files.close()

    def _size(self, number: int) -> tuple[int, int]:
        entry = self._plan.shards[number]
        return int(entry["height"]), int(entry["width"])

    def _rows(self, ids: list[str]) -> npt.NDArray[np.int64]:
        """The row of each id, -1 where there is no label."""
        rows = self._plan.rows_of(ids)
        known = np.flatnonzero(rows >= 0)
        rows[known[~self._there[rows[known]]]] = -1
        return rows

    def _row(self, sample_id: str) -> int:
        row = self._plan.row_of(sample_id)
        if row < 0:
            raise MissingLabel(f"{self.store}: no label of {sample_id!r}; {_MEND}")
        return self._checked(row, repr(sample_id))

    def _row_of_photograph(self, sha256: str) -> int:
        row = self._plan.row_of_photograph(bytes.fromhex(sha256))
        if row < 0:
            raise MissingLabel(f"{self.store}: no label of photograph {sha256[:12]}; {_MEND}")
        return row

    def _checked(self, row: int, name: str) -> int:
        if not self._there[row]:
            raise MissingLabel(f"{self.store}: no label of {name} ({self._why(row)})")
        return row

    def _why(self, row: int) -> str:
        number = int(self._plan.shards_of(np.array(row)))
        path = shard_path(self.store, number)
        if not path.exists():
            return f"shard {number} is not made yet; {_MEND}"
        reason = read_reasons(path)[row - int(self._plan.shards["start"][number])]
        if not reason:
            return "made after this reader was: open the store again"
        return f"{reason}; mend that and run `softfocus label` with --retry-failed"


def _damaged(path: Path, position: int, name: str, error: BaseException) -> DamagedShard:
    return DamagedShard(f"{path}: row {position} ({name}) cannot be read ({error}); {MEND_SHARD}")


class _OpenFiles:
    """A few open shards, least recently used first; nothing of it goes into another process."""

    def __init__(self, limit: int) -> None:
        self._limit = max(1, limit)
        self._start()

    def _start(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._shards: OrderedDict[Path, _OpenShard] = OrderedDict()

    def __getstate__(self) -> int:
        return self._limit

    def __setstate__(self, limit: int) -> None:
        self.__init__(limit)  # type: ignore[misc]

    def read(self, path: Path, position: int) -> Packed:
        """A row as it is stored. The lock is not held while it is decompressed: that, threads do in parallel."""
        if self._process != os.getpid():
            self._start()  # after a fork: the parent's files are the parent's
        with self._lock:
            return self._opened(path).read(position)

    def read_confidence(self, path: Path, position: int) -> bytes:
        """The confidence of a row as it is stored."""
        if self._process != os.getpid():
            self._start()
        with self._lock:
            return read_confidence(self._opened(path).file, position)

    def _opened(self, path: Path) -> _OpenShard:
        shard = self._shards.pop(path, None) or _OpenShard(path)
        self._shards[path] = shard
        while len(self._shards) > self._limit:
            self._shards.popitem(last=False)[1].file.close()
        return shard

    def close(self) -> None:
        with self._lock:
            while self._shards:
                self._shards.popitem()[1].file.close()


class _OpenShard:
    def __init__(self, path: Path) -> None:
        # No file locks, which network file systems lack; no chunk cache, as chunks are read directly.
        self.file = h5py.File(path, "r", locking=False, rdcc_nbytes=0)
        self._labels = self.file["labels"]
        self._offset, self._scale = self.file["offset"][()], self.file["scale"][()]
        self._invalid_count = self.file["invalid_count"][()]

    def read(self, position: int) -> Packed:
        return Packed(
            self._labels.id.read_direct_chunk((position, 0, 0))[1],
            float(self._offset[position]),
            float(self._scale[position]),
            int(self._invalid_count[position]),
        )
