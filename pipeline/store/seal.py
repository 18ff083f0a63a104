"""HDF5 files with a seal: 512 bytes before the HDF5 part that say what the file is and prove it whole.

HDF5 lets a file begin with a user block that it skips, so plain h5py opens a sealed file as any other. The
seal is one line of JSON (try `head -c 512`): what the file belongs to, its length and the SHA-256 of all
that follows. A thousand shards are checked for being there, whole in length and at home in well under a
second, without opening one; and a full check finds any flipped bit, also where HDF5 has no checksum.

The HDF5 part is built in memory and written by Python: when a disk fills up inside the HDF5 library, the
file can be neither written nor closed, and the process crashes when it ends.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import msgspec
import numpy as np

from pipeline.errors import SoftfocusError
from pipeline.files import FileTaken, new_file
from pipeline.store.errors import MEND_PLAN, MEND_SHARD, DamagedShard, StoreError

__all__ = ["SEAL_BYTES", "Seal", "add_array", "check_seal", "memory_file", "read_seal", "write_sealed"]

SEAL_BYTES = 512
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_MENDS = {"shard": MEND_SHARD, "plan": MEND_PLAN}


class Seal(msgspec.Struct, frozen=True, kw_only=True):
    """The first line of a sealed file.

    Attributes:
        softfocus: what the file is, "shard" or "plan".
        schema: version of the store's format.
        store: fingerprint of the store that the file belongs to.
        number: of the shard or plan generation.
        planned: of a shard, the fingerprint of what the plan puts into it.
        rows: images in the file.
        failed: rows of a shard that hold a reason instead of a label.
        size: length of the HDF5 part in bytes.
        sha256: of the HDF5 part.
    """

    softfocus: str
    schema: int
    store: str
    number: int
    planned: str = ""
    rows: int
    failed: int = 0
    size: int = 0
    sha256: str = ""


@contextlib.contextmanager
def memory_file() -> Iterator[h5py.File]:
    """An HDF5 file that is never on disk, in a format whose metadata has checksums (HDF5 1.10 and later)."""
    name = f"softfocus in memory {next(_counter)}"  # HDF5 wants one, and one for each open file
    options = {"driver": "core", "backing_store": False, "block_size": 1 << 22}
    with h5py.File(name, "w", libver=("v110", "v110"), userblock_size=SEAL_BYTES, **options) as file:
        yield file


_counter = itertools.count()


def add_array(file: h5py.File, name: str, data: np.ndarray[Any, Any]) -> None:
    """A dataset with checksum and compression whatever its length, zero included. Bytes are taken as UTF-8.

    Text has one fixed length, as HDF5 has no checksum for text of variable length.
    """
    if data.dtype.kind == "S":
        data = data.view(h5py.string_dtype("utf-8", data.dtype.itemsize))
    if len(data) == 0:
        file.create_dataset(name, data.shape, data.dtype)  # HDF5 has no chunks of nothing
        return
    chunk = (min(len(data), 1 << 16), *data.shape[1:])
    filters = {"shuffle": True, "compression": "gzip", "compression_opts": 1, "fletcher32": True}
    file.create_dataset(name, data=data, chunks=chunk, **filters)


def write_sealed(path: Path, file: h5py.File, seal: Seal, *, replace: bool = True) -> Seal:
    """Write an HDF5 file from memory with its seal in front, whole or not at all; returns the full seal.

    Raises:
        FileTaken: `path` is there already and `replace` is False.
        StoreError: it cannot be written.
    """
    file.flush()
    content = file.id.get_file_image()
    seal = msgspec.structs.replace(seal, size=len(content), sha256=hashlib.sha256(content).hexdigest())
    try:
        with new_file(path, replace=replace) as temporary, temporary.open("wb") as stream:
            stream.write(_rendered(seal))
            stream.write(content)
    except FileTaken:
        raise
    except SoftfocusError as error:
        raise StoreError(str(error)) from error
    return seal


def read_seal(path: Path, *, kind: str) -> Seal:
    """The seal of a file, checked for being a seal and for the file's length, not for its content.

    Raises:
        FileNotFoundError: no such file.
        StoreError: not a file of a label store.
        DamagedShard: cut off, or the seal itself is damaged.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(SEAL_BYTES)
            size = stream.seek(0, 2) - SEAL_BYTES
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror}); mend its permissions") from error
    seal = _parsed(path, head, kind)
    if size != seal.size:
        raise DamagedShard(f"{path}: {size} bytes long where {seal.size} were written; {_MENDS[kind]}")
    return seal


def check_seal(path: Path, *, kind: str) -> Seal:
    """As `read_seal`, and every byte of the file is read and compared with its SHA-256."""
    seal = read_seal(path, kind=kind)
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        stream.seek(SEAL_BYTES)
        while block := stream.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != seal.sha256:
        raise DamagedShard(f"{path}: its bytes are not those that were written; {_MENDS[kind]}")
    return seal


def _rendered(seal: Seal) -> bytes:
    """JSON, a space, its CRC-32 in hexadecimal, a line feed, then spaces."""
    line = msgspec.json.encode(seal)
    return (line + b" %08x\n" % zlib.crc32(line)).ljust(SEAL_BYTES)


def _parsed(path: Path, head: bytes, kind: str) -> Seal:
    if not head.startswith(b'{"softfocus":'):
        what = "an HDF5 file" if head.startswith(_HDF5_SIGNATURE) else "a file"
        raise StoreError(f"{path}: {what} that softfocus did not write; move it out of the label store")
    line = head.split(b"\n", 1)[0].rpartition(b" ")[0]
    try:
        seal = msgspec.json.decode(line, type=Seal)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DamagedShard(f"{path}: its first {SEAL_BYTES} bytes are damaged; {_MENDS[kind]}") from error
    if _rendered(seal) != head:
        raise DamagedShard(f"{path}: its first {SEAL_BYTES} bytes are damaged; {_MENDS[kind]}")
    if seal.softfocus != kind:
        raise StoreError(f"{path}: a {seal.softfocus} where a {kind} belongs; move it out of this folder")
    return seal
