"""Is a label store what was written? Every byte is read, by as many processes as are wanted.

What protects what: a shard and a part of the plan carry the SHA-256 of all their bytes in front (see
`pipeline.store.seal`), `store.json` carries its own; so a single flipped bit is found wherever it is.
Beyond bytes, ids and photographs are compared with the plan and the manifest, and maps are looked at.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
from joblib import Parallel, delayed

from pipeline.audit.findings import Finding
from pipeline.audit.foundations import check_description, check_left_over, check_plan, check_readme
from pipeline.audit.resample import TOLERANCE, Comparison, choose_rows, compare
from pipeline.audit.shard import Inspection, Limits, as_finding, inspect_shard
from pipeline.distill.columns import Columns, read_columns
from pipeline.provenance import BLUR_PROBABILITY
from pipeline.store import (
    Plan,
    StoreDescription,
    StoreError,
    seal_at_home,
    shard_files,
    shard_path,
)
from pipeline.teachers.base import Teacher

__all__ = ["Sampling", "Verification", "VerifyProgress", "verify"]

_SMALL = 64 << 20
"""Bytes of shards that one process reads sooner than others start."""


class VerifyProgress(msgspec.Struct, frozen=True, kw_only=True):
    """Shards read ("verify") or photographs labelled again ("compare") so far."""

    phase: str
    done: int
    total: int


Progress = Callable[[VerifyProgress], None]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The teacher run again on some photographs; see `pipeline.audit.resample`.

    Attributes:
        count: photographs.
        seed: of their choice.
        tolerance: of the mean difference, as a part of a map's range.
        load_teacher: called once.
    """

    count: int
    load_teacher: Callable[[], Teacher]
    seed: int = 0
    tolerance: float = TOLERANCE


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """What a check of a store found.

    Attributes:
        shards, maps, bytes: read.
        damage, doubts: numbers of findings of either class (see `pipeline.audit.findings`).
        findings: by file.
        comparisons: of the teacher's maps of today with those that are stored.
    """

    store: str
    shards: int
    maps: int
    bytes: int
    seconds: float
    damage: int
    doubts: int
    findings: list[Finding]
    comparisons: list[Comparison]


def verify(
    store: Path | str,
    *,
    manifest: Path | str | None = None,
    limits: Limits | None = None,
    jobs: int = -1,
    sampling: Sampling | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Read every byte of a store and compare it with its plan, and with a manifest if one is given.

    A store may be checked while it is being filled: what is not there yet counts as missing.

    Args:
        jobs: processes that read; -1 for one a core.
        sampling: also run the teacher again on some photographs of the manifest, which is needed then.
        progress: called after each shard and photograph.

    Raises:
        StoreError: no label store, a file that this user may not read, or another teacher than the store's.
        ManifestError: the manifest cannot be read.
    """
    begin = time.perf_counter()
    store = Path(store)
    columns = read_columns(manifest) if manifest is not None else None
    files = shard_files(store)  # before the plan: what is planned later is no surplus
    findings: list[Finding] = []
    description = check_description(store, findings)
    plan = check_plan(store, files, description, findings)
    limits = limits or Limits()
    if description is not None and description.quantity == BLUR_PROBABILITY:
        limits = msgspec.structs.replace(limits, saturated=1.0)  # most of a photograph is surely sharp or surely not
    inspections = list(_inspections(store, files, description, plan, limits, jobs, progress))
    for inspection in inspections:
        findings += inspection.findings
    if plan is not None:
        findings += _missing(plan, {inspection.number for inspection in inspections})
        if columns is not None:
            findings += _against_manifest(str(manifest), plan, columns)
    if description is not None:
        findings += check_readme(store, description)
    findings += check_left_over(store)
    comparisons: list[Comparison] = []
    if sampling is not None and columns is not None and description is not None and plan is not None:
        good = {each.number for each in inspections if not any(finding.is_damage for finding in each.findings)}
        comparisons, differing = _compare(store, description, plan, columns, good, sampling, progress)
        findings += differing
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
        comparisons=comparisons,
    )


def _compare(
    store: Path,
    description: StoreDescription,
    plan: Plan,
    columns: Columns,
    good: set[int],
    sampling: Sampling,
    progress: Progress | None,
) -> tuple[list[Comparison], list[Finding]]:
    rows = choose_rows(plan, columns, good, count=sampling.count, seed=sampling.seed)
    show = progress or (lambda progress: None)
    teacher = sampling.load_teacher()
    try:
        return compare(
            store,
            description,
            plan,
            columns,
            rows,
            teacher=teacher,
            tolerance=sampling.tolerance,
            progress=lambda done, total: show(VerifyProgress(phase="compare", done=done, total=total)),
        )
    finally:
        teacher.close()


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
            progress(VerifyProgress(phase="verify", done=done, total=len(files)))
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
    rows, same = plan.match(columns.images)
    known = rows >= 0
    changed = known & ~same
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
