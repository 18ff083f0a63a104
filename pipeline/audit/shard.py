"""One shard looked at closely: every byte, every id, every map. Runs in any process."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import h5py
import msgspec
import numpy as np
import numpy.typing as npt

from pipeline.audit.findings import Finding, Kind
from pipeline.store import (
    DTYPES,
    DamagedShard,
    PlanShard,
    StoreDescription,
    StoreError,
    check_seal,
    confidence_size,
    decode,
    read_results,
    unpack,
)

__all__ = ["Inspection", "Limits", "as_finding", "inspect_shard", "map_doubts"]

_CONSTANT_BELOW = 1e-6
"""A range below this part of the largest value is what float32 rounding makes of a constant."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """From where on a map is doubted.

    Attributes:
        unknown: share of pixels without a value that a map may have.
        saturated: share of the known pixels that may lie at one end of the map's range. Half by default, as
            the sky of many a photograph is rightly at the far end.
    """

    unknown: float = 0.0
    saturated: float = 0.5


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one shard: its findings, maps looked at, and bytes read."""

    number: int
    findings: list[Finding]
    maps: int = 0
    bytes: int = 0


def inspect_shard(
    path: Path, *, description: StoreDescription | None, expected: PlanShard | None, limits: Limits
) -> Inspection:
    """Read a shard whole.

    Args:
        description, expected: of the store, and what the plan puts there; None where these cannot be read:
            the seal alone is checked.
    """
    name = f"{path.parent.name}/{path.name}"
    number = int(path.stem) if path.stem.isdecimal() else -1
    try:
        size = path.stat().st_size
        check_seal(path, kind="shard")
        if expected is None or description is None:
            return Inspection(number=number, findings=[], bytes=size)
        findings = _Findings(name)
        good = _check_rows(path, description, expected, findings)
        _check_maps(path, good, description, expected, limits, findings)
    except StoreError as error:
        return Inspection(number=number, findings=[as_finding(error, path, name)])
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        what = f"cannot be read ({' '.join(str(error).split())})"
        return Inspection(number=number, findings=[Finding(kind="damaged", file=name, what=what)])
    return Inspection(number=number, findings=findings.all(), maps=len(good), bytes=size)


def as_finding(error: StoreError, path: Path, name: str) -> Finding:
    """What reading a file of a store came to, as a finding of the file `name`.

    Raises:
        StoreError: the file is there and this user may not read it, which says nothing about it.
    """
    if isinstance(error.__cause__, PermissionError):
        raise error
    kind: Kind = "damaged" if isinstance(error, DamagedShard) or error.__cause__ is not None else "surplus"
    return Finding(kind=kind, file=name, what=str(error).removeprefix(f"{path}: "))


class _Findings:
    """Findings of one file, one a kind and what."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._samples: dict[tuple[Kind, str], list[str]] = defaultdict(list)

    def add(self, kind: Kind, what: str, sample: str) -> None:
        self._samples[kind, what].append(sample)

    def all(self) -> list[Finding]:
        return [Finding(kind=k, file=self._name, what=w, samples=s) for (k, w), s in self._samples.items()]


def _check_rows(path: Path, description: StoreDescription, expected: PlanShard, findings: _Findings) -> dict[int, str]:
    """Shapes, ids and photographs against the plan; returns row -> id of the rows that have a label."""
    with h5py.File(path, "r", locking=False) as file:
        ids = [name.decode() for name in file["id"][()].tolist()]
        reasons = [reason.decode() for reason in file["failed"][()].tolist()]
        photographs, shape = file["sha256"][()], file["labels"].shape
        confidence = file["confidence"].shape if "confidence" in file else None
        lengths = {len(file[name]) for name in ("id", "failed", "sha256", "offset", "scale", "invalid_count")}
    if shape != (len(expected), expected.height, expected.width) or lengths != {len(expected)}:
        raise ValueError(f"labels of shape {shape} where the plan has {len(expected)} rows")
    small = (len(expected), *confidence_size(expected.height, expected.width))
    if confidence != (small if description.provenance.confidence else None):
        raise ValueError(f"confidence of shape {confidence}, expected {small}")
    good = {}
    for row, (sample, reason) in enumerate(zip(ids, reasons, strict=True)):
        if sample != expected.ids[row] or (photographs[row] != expected.sha256[row]).any():
            findings.add("wrong id", "holds other samples than the plan puts there", f"{sample} in row {row}")
        if reason:
            findings.add("left out", reason, sample)
        else:
            good[row] = sample
    return good


def _check_maps(
    path: Path,
    good: dict[int, str],
    description: StoreDescription,
    expected: PlanShard,
    limits: Limits,
    findings: _Findings,
) -> None:
    """Decode each map and look at it."""
    size, dtype = (expected.height, expected.width), DTYPES[description.dtype]
    for row, packed in read_results(path, good):
        codes = unpack(packed.chunk, size, dtype, description.codec)
        if not (np.isfinite(packed.offset) and np.isfinite(packed.scale) and packed.scale >= 0):
            findings.add("damaged", "offset and scale are no finite numbers", good[row])
            continue
        values = decode(codes, packed.offset, packed.scale, packed.invalid_count, precision=np.float64)
        if np.count_nonzero(np.isnan(values)) != packed.invalid_count:
            findings.add("damaged", "other numbers of pixels without a value than they say", good[row])
        for kind, what in map_doubts(values, limits):
            findings.add(kind, what, good[row])


def map_doubts(values: npt.NDArray[Any], limits: Limits) -> list[tuple[Kind, str]]:
    """What is doubtful about a map (H, W) of floats, NaN where not known."""
    known = values[np.isfinite(values)]
    doubts: list[tuple[Kind, str]] = []
    unknown = 1 - known.size / values.size
    if unknown > limits.unknown:
        doubts.append(("non-finite", f"more than {limits.unknown:.0%} of the pixels without a value"))
    if not known.size:
        return doubts
    low, high = known.min(), known.max()
    if high - low <= _CONSTANT_BELOW * max(abs(low), abs(high)):
        return [*doubts, ("constant", "the same value everywhere")]
    for end, name in ((low, "smallest"), (high, "largest")):
        if np.count_nonzero(known == end) > limits.saturated * known.size:
            doubts.append(("saturated", f"more than {limits.saturated:.0%} of the pixels at the {name} value"))
    return doubts
