"""What the shards of a store rest on: description, plan, and the text for people."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.audit.findings import Finding
from pipeline.audit.shard import as_finding
from pipeline.store import (
    Plan,
    StoreDescription,
    StoreError,
    check_seal,
    left_over,
    read_description,
    read_plan,
    read_seal,
    recover_description,
    shard_files,
)
from pipeline.store.recipe import README_FILE, readme_text

__all__ = ["check_description", "check_left_over", "check_plan", "check_readme"]


def check_description(store: Path, findings: list[Finding]) -> StoreDescription | None:
    """The description; where it is damaged the copy in the plan, so that the rest can be checked."""
    try:
        return read_description(store)
    except StoreError as error:
        description = recover_description(store)
        if description is None and not shard_files(store):
            raise  # no label store at all, or nothing in it
        findings.append(as_finding(error, store / "store.json", "store.json"))
        return description


def check_plan(
    store: Path, files: list[Path], description: StoreDescription | None, findings: list[Finding]
) -> Plan | None:
    """The plan, every byte of it checked; None where a part of it is damaged or missing, or the description is."""
    before = len(findings)
    numbers = []
    for path in sorted((store / "plan").glob("[!.]*.h5")):
        try:
            if not re.fullmatch(r"\d{4,}\.h5", path.name):
                raise StoreError(f"{path}: no plan of softfocus; move it out of the label store")
            numbers.append(int(path.stem))
            check_seal(path, kind="plan")
        except StoreError as error:
            findings.append(as_finding(error, path, f"plan/{path.name}"))
    missing = sorted(set(range(max(numbers, default=-1) + 1)) - set(numbers))
    findings += [_missing_plan(number, "a later part of the plan") for number in missing]
    if description is None or len(findings) > before:
        return None
    try:
        plan = read_plan(store, description)
    except StoreError as error:
        name = re.search(r"\d{4,}\.h5", str(error))
        findings.append(as_finding(error, store / "plan", f"plan/{name[0]}" if name else "plan"))
        return None
    if any(_is_unplanned(path, description, plan) for path in files):
        findings.append(_missing_plan(plan.generations, "a shard of this store"))
        return None
    return plan


def _missing_plan(number: int, witness: str) -> Finding:
    what = f"missing, and {witness} builds on it; --repair draws it up again from its manifest"
    return Finding(kind="damaged", file=f"plan/{number:04d}.h5", what=what)


def _is_unplanned(path: Path, description: StoreDescription, plan: Plan) -> bool:
    """Whether a file is a shard of this store, at its place, that no part of the plan knows."""
    try:
        seal = read_seal(path, kind="shard")
    except (StoreError, FileNotFoundError):
        return False
    at_home = seal.store == description.fingerprint and path.stem == f"{seal.number:06d}"
    return at_home and seal.number >= len(plan.shards)


def check_readme(store: Path, description: StoreDescription) -> list[Finding]:
    """README.txt against what `store.json` says it is."""
    try:
        content = (store / README_FILE).read_bytes()
    except FileNotFoundError:
        return [Finding(kind="missing", file=README_FILE, what="--repair writes it again")]
    if content != readme_text(description.readme, description.recipe).encode():
        return [Finding(kind="damaged", file=README_FILE, what="not the text that store.json has")]
    return []


def check_left_over(store: Path) -> list[Finding]:
    """Temporary files of killed runs."""
    what = "of a killed run; the next `softfocus label` removes it"
    return [Finding(kind="left over", file=str(t.path.relative_to(store)), what=what) for t in left_over(store)]
