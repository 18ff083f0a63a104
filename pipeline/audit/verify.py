"""Is a label store what was written? Every byte is read, by as many processes as are wanted.

What protects what: a shard and a part of the plan carry the SHA-256 of all their bytes in front (see
`pipeline.store.seal`), `store.json` carries its own; so a single flipped bit is found wherever it is.
Beyond bytes, ids and photographs are compared with the plan and the manifest, and maps are looked at.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec
import numpy as np
from joblib import Parallel, delayed

from pipeline.audit.findings import Finding
from pipeline.audit.shard import Inspection, Limits, as_finding, inspect_shard
from pipeline.distill.columns import Columns, read_columns
from pipeline.files import find_temporaries
from pipeline.store import (
    Plan,
    StoreDescription,
    StoreError,
    check_seal,
    read_description,
    read_plan,
    recover_description,
    seal_at_home,
    shard_files,
    shard_path,
)

__all__ = ["Verification", "verify"]

_SMALL = 64 << 20
"""Bytes of shards that one process reads sooner than others start."""

Progress = Callable[[int, int], None]


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """What a check of a store found.

    Attributes:
        shards, maps, bytes: read.
        damage, doubts: numbers of findings of either class (see `pipeline.audit.findings`).
        findings: by file.
    """

    store: str
    shards: int
    maps: int
    bytes: int
    seconds: float
    damage: int
    doubts: int
    findings: list[Finding]


def verify(
    store: Path | str,
    *,
    manifest: Path | str | None = None,
    limits: Limits | None = None,
    jobs: int = -1,
    progress: Progress | None = None,
) -> Verification:
    """Read every byte of a store and compare it with its plan, and with a manifest if one is given.

    A store may be checked while it is being filled: what is not there yet counts as missing.

    Args:
        jobs: processes that read; -1 for one a core.
        progress: called with (done, total) shards.

    Raises:
        StoreError: no label store, or a file that this user may not read.
        ManifestError: the manifest cannot be read.
    """
    begin = time.perf_counter()
    store = Path(store)
    columns = read_columns(manifest) if manifest is not None else None
    files = shard_files(store)  # before the plan: what is planned later is no surplus
    findings: list[Finding] = []
    description = _description(store, findings)
    plan = _plan(store, description, findings) if description is not None else None
    inspections = list(_inspections(store, files, description, plan, limits or Limits(), jobs, progress))
    for inspection in inspections:
        findings += inspection.findings
    if plan is not None:
        findings += _missing(plan, {inspection.number for inspection in inspections})
        if columns is not None:
            findings += _against_manifest(str(manifest), plan, columns)
    findings += _left_over(store)
    findings.sort(key=lambda finding: (finding.file, finding.kind))
    damage = sum(finding.is_damage for finding in findings)
    return Verification(
        store=str(store),
        shards=len(inspections),
        maps=sum(inspection.maps for inspection in inspections),
        bytes=sum(inspection.bytes for inspection in inspections),
        seconds=round(time.perf_counter() - begin, 3),
        damage=damage,
        doubts=len(findings) - damage,
        findings=findings,
    )


def _description(store: Path, findings: list[Finding]) -> StoreDescription | None:
    """The description; where it is damaged the copy in the plan, so that the rest can be checked."""
    try:
        return read_description(store)
    except StoreError as error:
        description = recover_description(store)
        if description is None and not shard_files(store):
            raise  # no label store at all, or nothing in it
        findings.append(as_finding(error, store / "store.json", "store.json"))
        return description


def _plan(store: Path, description: StoreDescription, findings: list[Finding]) -> Plan | None:
    """The plan, every byte of it checked; None where it is damaged."""
    good = True
    for path in sorted((store / "plan").glob("*.h5")):
        try:
            check_seal(path, kind="plan")
        except StoreError as error:
            findings.append(as_finding(error, path, f"plan/{path.name}"))
            good = False
    if not good:
        return None
    try:
        return read_plan(store, description)
    except StoreError as error:
        findings.append(as_finding(error, store / "plan", "plan"))
        return None


def _inspections(
    store: Path,
    files: list[Path],
    description: StoreDescription | None,
    plan: Plan | None,
    limits: Limits,
    jobs: int,
    progress: Progress | None,
) -> Iterator[Inspection]:
    """Each file among the shards, in no order."""
    calls = (_call(path, description, plan, limits) for path in files)
    small = sum(path.stat().st_size for path in files) < _SMALL
    parallel = Parallel(n_jobs=1 if small else jobs, return_as="generator_unordered")
    for done, inspection in enumerate(parallel(calls), 1):
        if progress is not None:
            progress(done, len(files))
        yield inspection


def _call(
    path: Path, description: StoreDescription | None, plan: Plan | None, limits: Limits
) -> tuple[Callable[..., Inspection], tuple[Path], dict[str, object]]:
    """A task for another process: a file, and what the plan puts there."""
    expected = None
    problem = None
    if description is not None and plan is not None:
        try:
            seal = seal_at_home(path, description, plan)
        except StoreError as error:
            problem = as_finding(error, path, f"shards/{path.name}")
        else:
            if seal is None:
                what = f"the plan has {len(plan.shards)} shards"
                problem = Finding(kind="surplus", file=f"shards/{path.name}", what=what)
            else:
                expected = plan.shard(seal.number)
    if problem is not None:
        number = int(path.stem) if path.stem.isdecimal() else -1
        return delayed(Inspection)(number=number, findings=[problem])  # type: ignore[no-any-return]
    return delayed(inspect_shard)(path, description=description, expected=expected, limits=limits)  # type: ignore[no-any-return]


def _missing(plan: Plan, there: set[int]) -> list[Finding]:
    """One finding a planned shard without a file."""
    missing = sorted(set(range(len(plan.shards))) - there)
    return [
        Finding(
            kind="missing",
            file=f"shards/{shard_path(Path(), number).name}",
            what="planned and not there; run `softfocus label`",
            samples=plan.shard(number).ids,
        )
        for number in missing
    ]


def _against_manifest(name: str, plan: Plan, columns: Columns) -> list[Finding]:
    """Samples that the plan does not know, and those that it knows with another photograph."""
    ids = columns.images.ids
    rows = plan.rows_of(ids)
    known = rows >= 0
    changed = np.zeros(len(rows), np.bool_)
    changed[known] = (plan.sha256[rows[known]] != columns.images.sha256[known]).any(axis=1)
    findings = []
    if not known.all():
        what = "not planned; run `softfocus label` with this manifest"
        findings.append(Finding(kind="missing", file=name, what=what, samples=_names(ids[~known])))
    if changed.any():
        what = "the label is of another photograph; run `softfocus label` with this manifest"
        findings.append(Finding(kind="changed photograph", file=name, what=what, samples=_names(ids[changed])))
    return findings


def _names(ids: Iterable[bytes]) -> list[str]:
    return [name.decode() for name in ids]


def _left_over(store: Path) -> list[Finding]:
    folders = (store, store / "plan", store / "shards")
    return [
        Finding(
            kind="left over",
            file=str(temporary.path.relative_to(store)),
            what="of a killed run; the next `softfocus label` removes it",
        )
        for folder in folders
        for temporary in find_temporaries(folder)
        if temporary.left_over
    ]
