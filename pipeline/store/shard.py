"""One shard of the store: a file of at most `shard_size` maps of one size, written whole or not at all.

Writing a shard is a task of its own: it needs the store's description, the plan's entry and the results,
and nothing of any other shard. Two processes that make the same shard do work twice and harm nothing, as
each renames a whole file into place and the maps are the same.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import h5py
import msgspec
import numpy as np
import numpy.typing as npt

from pipeline.provenance import Provenance
from pipeline.store.codec import Packed, chunk_filters, fletcher32, pack
from pipeline.store.confidence import CONFIDENCE_DTYPE, confidence_size
from pipeline.store.description import SCHEMA, StoreDescription, tool_version
from pipeline.store.encoding import DTYPES, encode
from pipeline.store.errors import MEND_SHARD, DamagedShard, StoreError
from pipeline.store.plan import Plan, PlanShard
from pipeline.store.recipe import readme_text
from pipeline.store.seal import Seal, add_array, memory_file, read_seal, write_sealed

__all__ = [
    "ABSENT",
    "SHARD_FOLDER",
    "Result",
    "finished_shards",
    "labelled_rows",
    "read_confidence",
    "read_reasons",
    "read_results",
    "seal_at_home",
    "shard_files",
    "shard_path",
    "write_shard",
]

SHARD_FOLDER = "shards"
ABSENT = "not in the manifest of the run that made this shard"
"""Reason of a row that is labelled as soon as a run has a manifest with its photograph."""

Result = Packed | str
"""A packed map, or the reason why there is none."""

_REASON_BYTES = 500
_READ_ERRORS = (OSError, KeyError, RuntimeError, ValueError)  # what h5py raises on damaged files


def shard_path(store: Path, number: int) -> Path:
    """The file of a shard."""
    return store / SHARD_FOLDER / f"{number:06d}.h5"


def write_shard(
    store: Path,
    description: StoreDescription,
    shard: PlanShard,
    results: Iterable[tuple[int, Result]],
    *,
    provenance: Provenance,
    precision: str = "",
) -> Seal:
    """Write a shard, replacing what was there.

    Args:
        results: (position in the shard, result), each position once, in any order. An exception that it
            raises leaves the store as it was.
        provenance: the teacher that ran, with its library versions.
        precision: that it computed in, if known, such as "bfloat16".

    Raises:
        StoreError: the file cannot be written.
        ValueError: a position is missing.
    """
    with memory_file() as file:
        reasons = _fill(file, shard, description, results)
        _describe(file, description, provenance, precision)
        seal = Seal(
            softfocus="shard",
            schema=SCHEMA,
            store=description.fingerprint,
            number=shard.number,
            planned=shard.fingerprint,
            rows=len(shard),
            failed=sum(bool(reason) for reason in reasons),
        )
        return write_sealed(shard_path(store, shard.number), file, seal)


def _fill(
    file: h5py.File, shard: PlanShard, description: StoreDescription, results: Iterable[tuple[int, Result]]
) -> list[str]:
    """Write all datasets of a shard; returns the reason of each row, empty for a label."""
    count, size = len(shard), (shard.height, shard.width)
    dtype, filters = DTYPES[description.dtype], chunk_filters(description.codec)
    labels = file.create_dataset("labels", (count, *size), dtype, chunks=(1, *size), **filters)
    confidence = _create_confidence(file, count, size) if description.provenance.confidence else None
    offset, scale = np.zeros(count), np.zeros(count)
    invalid_count = np.zeros(count, np.uint32)
    reasons: list[str | None] = [None] * count
    nothing: Packed | None = None
    for position, result in results:
        if isinstance(result, str):
            nothing = nothing or pack(encode(np.full(size, np.nan), description.dtype), description.codec)
            packed, reasons[position] = nothing, result or "no reason given"
        else:
            packed, reasons[position] = result, ""
        labels.id.write_direct_chunk((position, 0, 0), packed.chunk)
        if confidence is not None and packed is not nothing:
            confidence.id.write_direct_chunk((position, 0, 0), packed.confidence)
        offset[position], scale[position] = packed.offset, packed.scale
        invalid_count[position] = packed.invalid_count
    if None in reasons:
        raise ValueError(f"shard {shard.number}: no result for position {reasons.index(None)}")
    told = [reason or "" for reason in reasons]
    add_array(file, "offset", offset)
    add_array(file, "scale", scale)
    add_array(file, "invalid_count", invalid_count)
    add_array(file, "sha256", shard.sha256)
    add_array(file, "id", np.array([sample_id.encode() for sample_id in shard.ids]))
    add_array(file, "failed", np.array([_cut(reason, _REASON_BYTES) for reason in told]))
    return told


def _create_confidence(file: h5py.File, count: int, size: tuple[int, int]) -> h5py.Dataset:
    """Zero wherever nothing is written."""
    small = confidence_size(*size)
    filters = chunk_filters("deflate")
    return file.create_dataset("confidence", (count, *small), CONFIDENCE_DTYPE, chunks=(1, *small), **filters)


def _cut(text: str, size: int) -> bytes:
    """UTF-8 of at most `size` bytes, cut between characters; line breaks and NUL become spaces."""
    plain = " ".join(text.replace("\0", " ").split())
    return plain.encode("utf-8", "replace")[:size].decode("utf-8", "ignore").encode()


def _describe(file: h5py.File, description: StoreDescription, provenance: Provenance, precision: str) -> None:
    """Attributes that tell a reader without the rest of the store what the numbers mean."""
    file.attrs["schema"] = SCHEMA
    for name in ("quantity", "direction", "encoding", "geometry", "codec", "filters", "confidence"):
        file.attrs[name] = getattr(description, name)
    file.attrs["provenance"] = msgspec.json.encode(provenance).decode()
    file.attrs["precision"] = precision
    file.attrs["tool"] = tool_version()
    file.attrs["readme"] = readme_text()


def finished_shards(store: Path, description: StoreDescription, plan: Plan) -> dict[int, Seal]:
    """The shards that are there, by number, as far as `plan` knows them; each seal is checked.

    A shard that a later generation brought, after `plan` was read, is passed over.

    Raises:
        StoreError: an HDF5 file in the folder that is no shard of this store.
        DamagedShard: a shard is cut short or its seal is damaged.
    """
    seals = {}
    for path in shard_files(store):
        seal = seal_at_home(path, description, plan)
        if seal is not None:
            seals[seal.number] = seal
    return seals


def shard_files(store: Path) -> list[Path]:
    """Every HDF5 file where shards belong, in order, whatever it is; temporaries do not count."""
    folder = store / SHARD_FOLDER
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    return [folder / name for name in names if name.endswith(".h5") and not name.startswith(".")]


def seal_at_home(path: Path, description: StoreDescription, plan: Plan) -> Seal | None:
    """The seal of a file among the shards, None where the plan has no such shard.

    Raises:
        StoreError: it is no shard of this store, or one of another place in it.
        DamagedShard: it is cut short or its seal is damaged.
    """
    if not re.fullmatch(r"\d{6,}\.h5", path.name):
        raise StoreError(f"{path}: no shard of softfocus; move it out of the label store")
    seal = read_seal(path, kind="shard")
    if int(path.stem) >= len(plan.shards):
        return None
    _check_home(path, seal, description, plan)
    return seal


def _check_home(path: Path, seal: Seal, description: StoreDescription, plan: Plan) -> None:
    mend = "move it out of the label store and run `softfocus label` again"
    if seal.store != description.fingerprint:
        raise StoreError(f"{path}: a shard of another label store (other teacher, schema, dtype or codec); {mend}")
    if seal.number != int(path.stem) or seal.planned != plan.shard_fingerprint(seal.number):
        raise StoreError(f"{path}: does not hold the images that the plan puts there; {mend}")


def labelled_rows(store: Path, plan: Plan, seals: Mapping[int, Seal]) -> npt.NDArray[np.bool_]:
    """Whether there is a label, for each row of the plan, given the finished shards.

    Raises:
        DamagedShard: one that holds reasons cannot be read.
    """
    there = np.zeros(len(plan.sha256), np.bool_)
    for number, seal in seals.items():
        start = int(plan.shards["start"][number])
        there[start : start + seal.rows] = True
        if seal.failed:
            there[start : start + seal.rows] = [not reason for reason in read_reasons(shard_path(store, number))]
    return there


def read_reasons(path: Path) -> list[str]:
    """For each row of a shard why it has no label; empty where it has one.

    Raises:
        DamagedShard: the file cannot be read.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:
            return [reason.decode() for reason in file["failed"][()].tolist()]
    except _READ_ERRORS as error:
        raise _damaged(path, error) from error


def read_results(path: Path, positions: Iterable[int]) -> Iterator[tuple[int, Packed]]:
    """Labels of a shard as they are stored, to be written into its successor.

    Raises:
        DamagedShard: the file cannot be read or a checksum is wrong.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:
            offset, scale, invalid = (file[name][()] for name in ("offset", "scale", "invalid_count"))
            for position in positions:
                chunk = file["labels"].id.read_direct_chunk((position, 0, 0))[1]
                if fletcher32(chunk[:-4]) != int.from_bytes(chunk[-4:], "little"):
                    raise OSError(f"wrong checksum in row {position}")
                numbers = float(offset[position]), float(scale[position]), int(invalid[position])
                confidence = read_confidence(file, position)
                yield position, Packed(chunk, *numbers, confidence)
    except _READ_ERRORS as error:
        raise _damaged(path, error) from error


def read_confidence(file: h5py.File, position: int) -> bytes:
    """The confidence of a row as it is stored, empty in a store without."""
    chunk: bytes = file["confidence"].id.read_direct_chunk((position, 0, 0))[1] if "confidence" in file else b""
    return chunk


def _damaged(path: Path, error: BaseException) -> DamagedShard:
    return DamagedShard(f"{path}: damaged ({error}); {MEND_SHARD}")
