"""Mend a label store: what is damaged is set aside, never deleted, and made again from its sources.

store.json      from the copy in the plan
README.txt      from store.json
plan/NNNN.h5    from the manifest that it was made from, if it fits the shards that are there
shards/*.h5     from the photographs, by the teacher
"""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from pipeline.audit.verify import Verification, verify
from pipeline.distill import label
from pipeline.distill.columns import read_columns
from pipeline.errors import SoftfocusError
from pipeline.files import make_folder, new_file, sync_folder
from pipeline.manifest import select_samples
from pipeline.store import (
    Plan,
    StoreDescription,
    StoreError,
    check_teacher,
    clean_store,
    place_generation,
    read_description,
    read_plan,
    recover_description,
    redraw_generation,
    render,
)
from pipeline.store.description import DESCRIPTION
from pipeline.store.recipe import README_FILE, readme_text
from pipeline.teachers.base import Teacher

__all__ = ["SET_ASIDE", "Repair", "repair"]

SET_ASIDE = "damaged"
"""Folder in the store, with a folder for each repair."""


class Repair(msgspec.Struct, frozen=True, kw_only=True):
    """What a repair did.

    Attributes:
        set_aside: files that were moved, relative to the store.
        folder: where they are now; empty if there were none.
        restored: files made again without the teacher.
        relabelled: photographs.
        left_out: (sample id, reason) of those that could not be.
        removed: temporary files of killed runs.
        after: the store as it is now.
    """

    set_aside: list[str]
    folder: str
    restored: list[str]
    relabelled: int
    left_out: list[tuple[str, str]]
    removed: list[str]
    after: Verification


def repair(
    store: Path | str,
    found: Verification,
    *,
    check: Callable[[], Verification] | None = None,
    manifest: Path | str | None = None,
    load_teacher: Callable[[], Teacher] | None = None,
    label_options: dict[str, Any] | None = None,
) -> Repair:
    """Set aside what `found` names as damaged and make it again as far as the sources are given.

    Without manifest and teacher shards are set aside and `softfocus label` makes them later.

    Args:
        found: what `verify` found.
        check: verifies the store again afterwards; `verify` with its defaults if not given.
        manifest: one that holds the photographs of the damaged shards, and for a damaged plan the one that
            it was made from.
        load_teacher: called at most twice, if there is something to label or to plan.
        label_options: of `pipeline.distill.label`, such as `batch_size`.

    Raises:
        StoreError: the store cannot be written, the manifest does not give the plan, or the teacher is another.
    """
    store = Path(store)
    work = _Repair(store)
    files = sorted({finding.file for finding in found.findings if finding.kind in ("damaged", "surplus", "wrong id")})
    plans = [file for file in files if re.fullmatch(r"plan/\d{4,}\.h5", file)]
    if plans and (manifest is None or load_teacher is None):
        raise StoreError(
            f"{store}: {plans[0]} is damaged; give --manifest (the one it was made from) and --teacher to make it again"
        )
    description = work.description(damaged=DESCRIPTION in files)
    if any(finding.file == README_FILE for finding in found.findings):
        work.readme(description, damaged=README_FILE in files)
    shards = [file for file in files if file.startswith("shards/")]
    for file in files:
        if file in shards or (file.startswith("plan/") and file not in plans):
            work.set_aside(file)
    if manifest is not None and load_teacher is not None:
        for file in plans:
            work.plan(file, description, manifest, load_teacher)
    relabelled, left_out = 0, list[tuple[str, str]]()
    if shards and manifest is not None and load_teacher is not None:
        plan = read_plan(store, description)
        numbers = {int(Path(file).stem) for file in shards if Path(file).stem.isdecimal()}
        relabelled, left_out = _relabel(store, work.folder, plan, numbers, manifest, load_teacher, label_options or {})
    return Repair(
        set_aside=work.moved,
        folder=str(work.folder.relative_to(store)) if work.moved else "",
        restored=work.restored,
        relabelled=relabelled,
        left_out=left_out,
        removed=[str(path.relative_to(store)) for path in clean_store(store)],
        after=check() if check is not None else verify(store, manifest=manifest),
    )


class _Repair:
    """The files of one repair."""

    def __init__(self, store: Path) -> None:
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%S.%fZ")
        self._store, self.folder = store, store / SET_ASIDE / now
        self.moved: list[str] = []
        self.restored: list[str] = []

    def set_aside(self, file: str) -> None:
        """Move a file of the store into this repair's folder; gone already is well."""
        source, target = self._store / file, self.folder / file
        try:
            make_folder(target.parent)
            os.replace(source, target)
            sync_folder(target.parent)
            sync_folder(source.parent)
        except FileNotFoundError:
            return
        except OSError as error:
            raise StoreError(f"{source}: cannot be set aside ({error}); mend the permissions of the store") from error
        self.moved.append(file)

    def description(self, *, damaged: bool) -> StoreDescription:
        """The store's description, restored from the plan's copy if it is damaged."""
        if not damaged:
            return read_description(self._store)
        description = recover_description(self._store)
        if description is None:
            raise StoreError(
                f"{self._store / DESCRIPTION}: damaged, and no part of the plan has a copy that is whole; restore "
                "it from a backup, or make the labels anew in another folder"
            )
        self.set_aside(DESCRIPTION)
        self._write(DESCRIPTION, render(description))
        return description

    def readme(self, description: StoreDescription, *, damaged: bool) -> None:
        if damaged:
            self.set_aside(README_FILE)
        self._write(README_FILE, readme_text(description.readme, description.recipe).encode())

    def plan(
        self, file: str, description: StoreDescription, manifest: Path | str, load_teacher: Callable[[], Teacher]
    ) -> None:
        """Draw a generation up again, and put it where the damaged one was."""
        number = int(Path(file).stem)
        teacher = load_teacher()
        try:
            check_teacher(self._store, description, teacher.provenance)
            images = read_columns(manifest).images
            generation = redraw_generation(self._store, description, number, images, teacher.input_size)
        finally:
            teacher.close()
        self.set_aside(file)
        place_generation(self._store, description, number, generation)
        self.restored.append(file)

    def _write(self, name: str, content: bytes) -> None:
        try:
            with new_file(self._store / name) as temporary:
                temporary.write_bytes(content)
        except SoftfocusError as error:
            raise StoreError(str(error)) from error
        self.restored.append(name)


def _relabel(
    store: Path,
    folder: Path,
    plan: Plan,
    numbers: set[int],
    manifest: Path | str,
    load_teacher: Callable[[], Teacher],
    options: dict[str, Any],
) -> tuple[int, list[tuple[str, str]]]:
    """Label the photographs of some shards, by a manifest of just these; returns how many, and who is left out."""
    images = read_columns(manifest).images
    rows, same = plan.match(images)
    places = np.flatnonzero(same & np.isin(plan.shards_of(rows), sorted(numbers)))
    wanted = {name.decode() for name in images.ids[places].tolist()}
    if not wanted:
        return 0, []
    part = folder / "relabelled.jsonl"
    select_samples(manifest, wanted, out=part)
    summary = label(part, store, load_teacher=load_teacher, **options)
    return summary.labelled, summary.failed
