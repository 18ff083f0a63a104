"""A dataset's folder to a manifest: every file hashed and decoded once, every problem named.

One bad photograph among a million must not end the run, so problems are collected and the sample is left
out; what is only remarkable becomes a warning and the sample stays. The validation split is cut here from
the training photographs by a hash of their bytes: adding photographs never moves an old one, and identical
photographs are never on both sides.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import joblib
import msgspec

from pipeline.errors import SoftfocusError
from pipeline.images import check_mask_size, image_size, read_image, read_mask_values
from pipeline.layouts import LAYOUTS, Blur, DatasetError, Found, Listing
from pipeline.manifest import SPLITS, Sample, sample_problem, write_manifest

__all__ = ["LAYOUTS", "POLARITIES", "DatasetError", "IndexSummary", "falls_in_val", "index"]

POLARITIES: dict[str, Blur] = {"white-is-blur": "white", "white-is-focus": "black"}
"""What a user calls a polarity -> the mask value that means out of focus."""

_CHUNK = 16  # photographs a task: enough to hide joblib's own cost, few enough for steady progress
_MANY = 2000  # photographs from which starting processes pays


class IndexSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What `index` did.

    Attributes:
        out: the manifest written.
        samples: number of samples in it.
        by_split: their number by split ("train", "val", "test").
        with_mask, without_mask: number of samples with and without a blur mask.
        problems: one line for everything left out, naming the file and the mend.
        warnings: one line for everything remarkable that is in the manifest all the same.
    """

    out: Path
    samples: int
    by_split: dict[str, int]
    with_mask: int
    without_mask: int
    problems: list[str]
    warnings: list[str]


class _Checked(NamedTuple):
    sample: Sample | None
    problem: str = ""
    warning: str = ""


def index(
    layout: str,
    root: Path | str,
    *,
    out: Path | str,
    name: str | None = None,
    polarity: str | None = None,
    val_fraction: float = 0.1,
    seed: int = 0,
    jobs: int = -1,
    decode: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> IndexSummary:
    """Write the manifest of a dataset.

    Args:
        layout: a name in LAYOUTS.
        root: the dataset's folder; the manifest's paths are relative to it.
        out: the manifest to write.
        name: first part of the samples' ids. By default the layout's name for a published dataset, the
            folder's own name for "pairs", "images" and "synth".
        polarity: "white-is-blur" or "white-is-focus"; needed for "pairs", and for a release of a published
            dataset with the other polarity.
        val_fraction: share of the training photographs that become validation, 0 <= share < 1. Nothing is
            cut where the dataset brings a validation split of its own.
        seed: another seed, another validation split.
        jobs: parallel workers; -1 takes all cores.
        decode: decode every photograph and mask in full. Without it only headers are read: faster, and
            damage shows later.
        progress: called with (done, total) photographs, in the calling thread.

    Raises:
        DatasetError: not a folder of this layout, a bad option, or not one good sample; nothing is written.
        SoftfocusError: the manifest cannot be written.
    """
    root = Path(root)
    blur = _blur_value(layout, polarity)
    _check_options(root, val_fraction, jobs)
    listing = LAYOUTS[layout].find(root)
    name = name or _default_name(layout, root)
    tasks = [_Task(found, root, name, blur, decode, LAYOUTS[layout].inverted) for found in _unique(listing)]
    samples = []
    for checked in _checked(tasks, jobs, progress):
        samples += [checked.sample] if checked.sample else []
        listing.problems += [checked.problem] if checked.problem else []
        listing.warnings += [checked.warning] if checked.warning else []
    if not samples:
        first = f"; the first of {len(listing.problems)} problems: {listing.problems[0]}" if listing.problems else ""
        raise DatasetError(_printable(f"{root}: not one good photograph of the layout {layout}{first}"))
    samples = _with_val(samples, val_fraction, seed)
    listing.warnings += _copies(samples)
    write_manifest(out, samples, root=root)
    return _summary(Path(out), samples, listing)


def falls_in_val(sha256: str, *, val_fraction: float, seed: int) -> bool:
    """Whether a training photograph becomes validation: a fair coin of its own, made of its bytes' hash.

    Args:
        sha256: of the photograph's file, hexadecimal.
        val_fraction: probability of True, 0 to 1.
    """
    digest = hashlib.sha256(f"{seed}:{sha256}".encode()).hexdigest()
    return int(digest[:16], 16) / 2**64 < val_fraction


def _blur_value(layout: str, polarity: str | None) -> Blur | None:
    if layout not in LAYOUTS:
        raise DatasetError(f"there is no layout {layout!r}; choose one of {', '.join(LAYOUTS)}")
    kind = LAYOUTS[layout]
    if polarity is None:
        if kind.has_masks and kind.blur is None:
            raise DatasetError(f"the layout {layout} needs a polarity; give one of {', '.join(POLARITIES)}")
        return kind.blur
    if not kind.has_masks:
        raise DatasetError(f"the layout {layout} has no masks; leave the polarity out")
    if polarity not in POLARITIES:
        raise DatasetError(f"there is no polarity {polarity!r}; choose one of {', '.join(POLARITIES)}")
    return POLARITIES[polarity]


def _check_options(root: Path, val_fraction: float, jobs: int) -> None:
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder; give the one that holds the dataset")
    if not 0 <= val_fraction < 1:
        raise DatasetError(f"a validation share of {val_fraction} cannot be cut; give one from 0 to below 1")
    if jobs == 0:
        raise DatasetError("0 parallel jobs cannot work; give a number from 1, or -1 for all cores")


def _default_name(layout: str, root: Path) -> str:
    if layout in ("pairs", "images", "synth"):
        return unicodedata.normalize("NFC", root.resolve().name) or layout
    return layout


def _unique(listing: Listing) -> list[Found]:
    """Everything found in the order of ids, without the files that would share one (noted as problems)."""
    by_stem: dict[str, list[Found]] = {}
    for found in sorted(listing.found, key=lambda found: (found.stem, found.image)):
        by_stem.setdefault(found.stem, []).append(found)
    for stem, same in by_stem.items():
        if len(same) > 1:
            names = " and ".join(str(found.image) for found in same)
            listing.problems.append(f"{names}: would share the id {stem!r}; rename or remove all but one")
    return [same[0] for same in by_stem.values() if len(same) == 1]


class _Task(NamedTuple):
    found: Found
    root: Path
    name: str
    blur: Blur | None
    decode: bool
    inverted: frozenset[str]


def _checked(tasks: list[_Task], jobs: int, progress: Callable[[int, int], None] | None) -> Iterator[_Checked]:
    """Check all tasks in parallel, in their order."""
    chunks = [tasks[start : start + _CHUNK] for start in range(0, len(tasks), _CHUNK)]
    # Decoding and hashing leave Python's lock to others; processes pay only where there is much to do.
    prefer = "processes" if len(tasks) >= _MANY else "threads"
    parallel = joblib.Parallel(n_jobs=jobs, prefer=prefer, return_as="generator")
    done = 0
    for results in parallel(joblib.delayed(_check_all)(chunk) for chunk in chunks):
        yield from results
        done += len(results)
        if progress is not None:
            progress(done, len(tasks))


def _check_all(tasks: list[_Task]) -> list[_Checked]:
    return [_check(task) for task in tasks]


def _check(task: _Task) -> _Checked:
    try:
        return _examined(task)
    except SoftfocusError as error:
        return _Checked(None, problem=str(error))
    except MemoryError:
        return _Checked(None, problem=f"{task.found.image}: does not fit into memory; shrink it")


def _examined(task: _Task) -> _Checked:
    found, warning = task.found, ""
    data = _bytes(found.image)
    size = image_size(data, name=str(found.image))
    if task.decode:
        # All the file's data is decoded for an eighth of the size, too: enough to find damage, and faster.
        read_image(data, name=str(found.image), at_least=(1, 1))
    if found.mask is not None:
        warning = _check_mask(found.mask, size, task)
        if task.inverted and hashlib.sha256(_bytes(found.mask)).hexdigest() in task.inverted:
            task = task._replace(blur="white" if task.blur == "black" else "black")
            warning = f"{found.mask}: was published the wrong way round; it is read with {task.blur} = out of focus"
    elif task.blur is not None:
        raise DatasetError(f"{found.image}: has no mask; add one of the same name or remove the photograph")
    return _Checked(_sample(task, size, hashlib.sha256(data).hexdigest()), warning=warning)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}); mend the file or remove it") from error


def _sample(task: _Task, size: tuple[int, int], sha256: str) -> Sample:
    found = task.found
    sample = Sample(
        id=f"{task.name}/{found.stem}",
        image=found.image.relative_to(task.root).as_posix(),
        mask=found.mask.relative_to(task.root).as_posix() if found.mask else None,
        blur=task.blur if found.mask else None,
        split=found.split,
        height=size[0],
        width=size[1],
        sha256=sha256,
    )
    if problem := sample_problem(sample):
        raise DatasetError(f"{found.image}: {problem}")
    try:
        f"{sample.id}{sample.image}{sample.mask}".encode()
    except UnicodeEncodeError:
        raise DatasetError(f"{found.image}: its name is not valid Unicode; rename it") from None
    return sample


def _check_mask(path: Path, size: tuple[int, int], task: _Task) -> str:
    """A warning about a mask, or none. ImageError or DatasetError if it cannot be used."""
    if not task.decode:
        check_mask_size(path, size)
        return ""
    values, full_scale = read_mask_values(path, size=size)
    low, high = float(values.min()), float(values.max())
    if 0 < high <= full_scale * 3 / 255:
        raise DatasetError(
            f"{path}: a mask whose values end at {high:g} of {full_scale:g}, likely 0 for black and "
            f"{high:g} for white; multiply them by {full_scale / high:g}"
        )
    if low <= full_scale / 2 < high:
        return ""
    if high - low > full_scale / 16:
        raise DatasetError(
            f"{path}: a mask with values {low:g} to {high:g} of {full_scale:g}, all on one side of the "
            "middle; store it as black and white"
        )
    white = low > full_scale / 2
    state = "out of focus" if white == (task.blur == "white") else "in focus"
    return f"{path}: the mask is {'white' if white else 'black'} all over, everything {state}; kept"


def _with_val(samples: list[Sample], val_fraction: float, seed: int) -> list[Sample]:
    """Cut the validation split, unless the dataset brought one."""
    if any(sample.split == "val" for sample in samples):
        return samples
    return [
        msgspec.structs.replace(sample, split="val")
        if sample.split == "train" and falls_in_val(sample.sha256, val_fraction=val_fraction, seed=seed)
        else sample
        for sample in samples
    ]


def _copies(samples: list[Sample]) -> list[str]:
    """Warnings about identical photographs: each that straddles two splits, and one line for the others."""
    by_hash: dict[str, list[Sample]] = {}
    for sample in samples:
        by_hash.setdefault(sample.sha256, []).append(sample)
    warnings, within = [], []
    for same in by_hash.values():
        splits = {sample.split: sample for sample in reversed(same)}
        if len(splits) > 1:
            where = " and ".join(f"{split} ({splits[split].id})" for split in SPLITS if split in splits)
            warnings.append(f"the same photograph is in {where}: a leak; remove it from one of them")
        elif len(same) > 1:
            within.append(same)
    if within:
        names = " and ".join(sample.id for sample in within[0])
        extra = sum(len(same) - 1 for same in within)
        warnings.append(f"{extra} photographs are identical copies of another in their split, such as {names}")
    return warnings


def _summary(out: Path, samples: list[Sample], listing: Listing) -> IndexSummary:
    splits: Counter[str] = Counter(sample.split for sample in samples)
    with_mask = sum(sample.mask is not None for sample in samples)
    return IndexSummary(
        out=out,
        samples=len(samples),
        by_split={split: splits[split] for split in SPLITS},
        with_mask=with_mask,
        without_mask=len(samples) - with_mask,
        problems=[_printable(problem) for problem in listing.problems],
        warnings=[_printable(warning) for warning in listing.warnings],
    )


def _printable(text: str) -> str:
    """One line that any terminal takes, whatever bytes a file's name has."""
    return " ".join(text.encode("utf-8", "backslashreplace").decode().splitlines())
