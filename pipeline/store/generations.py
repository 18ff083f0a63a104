"""The plan on disk: `plan/0000.h5`, `plan/0001.h5`, ..., one file a generation, none ever changed."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import h5py
import msgspec
import numpy as np
import numpy.typing as npt

from pipeline.store.description import SCHEMA, StoreDescription, is_whole, render
from pipeline.store.errors import MEND_PLAN, DamagedShard, StoreError
from pipeline.store.plan import Generation, Images, InputSize, Plan, next_generation
from pipeline.store.seal import Seal, add_array, check_seal, memory_file, read_seal, write_sealed
from pipeline.store.shard import seal_at_home, shard_files

__all__ = [
    "PLAN_FOLDER",
    "place_generation",
    "read_plan",
    "recover_description",
    "redraw_generation",
    "write_generation",
]

PLAN_FOLDER = "plan"


def read_plan(store: Path, description: StoreDescription) -> Plan:
    """The plan of a store; empty if nothing was planned yet.

    Raises:
        StoreError: a generation is missing or belongs to another store.
        DamagedShard: a generation is damaged.
    """
    folder = store / PLAN_FOLDER
    generations: list[Generation] = []
    for number, path in enumerate(_files(folder)):
        if path.name != _name(number):
            raise StoreError(f"{folder / _name(number)}: missing, and {path.name} builds on it; {MEND_PLAN}")
        generations.append(_read(path, number, description, generations))
    return Plan(generations)


def write_generation(store: Path, description: StoreDescription, plan: Plan, generation: Generation) -> None:
    """Add a generation to the plan that it was drawn up on.

    Raises:
        FileTaken: another process added one meanwhile: read the plan again and draw up anew.
        StoreError: it cannot be written.
    """
    place_generation(store, description, plan.generations, generation)


def place_generation(store: Path, description: StoreDescription, number: int, generation: Generation) -> None:
    """Write a generation at its place in the plan.

    Raises:
        FileTaken: there is one.
        StoreError: it cannot be written.
    """
    seal = Seal(
        softfocus="plan",
        schema=SCHEMA,
        store=description.fingerprint,
        number=number,
        rows=len(generation.sha256),
    )
    with memory_file() as file:
        add_array(file, "sha256", generation.sha256)
        add_array(file, "shards", generation.shards)
        add_array(file, "id", generation.ids)
        add_array(file, "row", generation.rows)
        file.attrs["schema"] = SCHEMA
        file.attrs["first_row"] = generation.first_row
        file.attrs["shard_size"] = description.shard_size
        file.attrs["description"] = render(description).decode()
        write_sealed(store / PLAN_FOLDER / _name(number), file, seal, replace=False)


def redraw_generation(
    store: Path, description: StoreDescription, number: int, images: Images, input_size: InputSize
) -> Generation:
    """A generation whose file is lost, drawn up again from the manifest that it was made from.

    Args:
        number: of the generation; those before it must be whole.
        images: of that manifest; what later generations brought may be among them.
        input_size: the teacher's size rule.

    Raises:
        StoreError: these images do not give the plan that the shards and the later generations follow.
    """
    path = store / PLAN_FOLDER / _name(number)
    earlier: list[Generation] = []
    for place in range(number):
        earlier.append(_read(store / PLAN_FOLDER / _name(place), place, description, earlier))
    later = _later(store, number)
    new = ~np.isin(images.ids, np.concatenate([ids for _, ids in later])) if later else np.ones(len(images.ids), bool)
    wanted = Images(ids=images.ids[new], sha256=images.sha256[new], sizes=images.sizes[new])
    draft = next_generation(Plan(earlier), wanted, description.shard_size)
    problem = f"{path}: this manifest does not give the plan that the labels were made by; name the one that does"
    if draft is None:
        raise StoreError(problem)
    generation = draft.finish(input_size)
    if later and generation.first_row + len(generation.sha256) != later[0][0]:
        raise StoreError(problem)
    plan = Plan([*earlier, generation])
    for shard in shard_files(store):
        try:
            at_home = seal_at_home(shard, description, plan) is not None or bool(later)
        except DamagedShard:
            continue  # says nothing about the plan
        except StoreError as error:
            raise StoreError(problem) from error
        if not at_home:
            raise StoreError(problem)
    return generation


def _later(store: Path, number: int) -> list[tuple[int, npt.NDArray[Any]]]:
    """First row and ids of the generations after one that is lost."""
    found = []
    for path in _files(store / PLAN_FOLDER):
        if int(path.stem) > number:
            check_seal(path, kind="plan")
            with h5py.File(path, "r", locking=False) as file:
                found.append((int(file.attrs["first_row"]), np.asarray(file["id"][()], dtype=np.bytes_)))
    return found


def recover_description(store: Path) -> StoreDescription | None:
    """The description of a store from the copy in its plan, or None where there is none that is whole."""
    for path in sorted((store / PLAN_FOLDER).glob("*.h5")):
        with contextlib.suppress(StoreError, OSError, KeyError, RuntimeError, ValueError, msgspec.MsgspecError):
            seal = check_seal(path, kind="plan")
            with h5py.File(path, "r", locking=False) as file:
                content = str(file.attrs["description"]).encode()
            description = msgspec.json.decode(content, type=StoreDescription)
            if is_whole(content) and description.fingerprint == seal.store:
                return description
    return None


def _files(folder: Path) -> list[Path]:
    """Generations in order. Other HDF5 files there are refused rather than passed over."""
    paths = list(folder.glob("*.h5")) if folder.is_dir() else []
    paths = [path for path in paths if not path.name.startswith(".")]
    for path in paths:
        if not re.fullmatch(r"\d{4,}\.h5", path.name):
            raise StoreError(f"{path}: no plan of softfocus; move it out of the label store")
    return sorted(paths, key=lambda path: int(path.stem))


def _name(number: int) -> str:
    return f"{number:04d}.h5"


def _read(path: Path, number: int, description: StoreDescription, earlier: list[Generation]) -> Generation:
    seal = read_seal(path, kind="plan")
    if seal.store != description.fingerprint or seal.number != number:
        raise StoreError(f"{path}: the plan of another label store or another generation; {MEND_PLAN}")
    try:
        with h5py.File(path, "r", locking=False) as file:
            generation = Generation(
                first_row=int(file.attrs["first_row"]),
                sha256=file["sha256"][()],
                shards=file["shards"][()],
                ids=np.asarray(file["id"][()], dtype=np.bytes_),
                rows=file["row"][()],
            )
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        raise DamagedShard(f"{path}: damaged ({error}); {MEND_PLAN}") from error
    if generation.first_row != sum(len(each.sha256) for each in earlier):
        raise StoreError(f"{path}: does not continue the generations before it; {MEND_PLAN}")
    return generation
