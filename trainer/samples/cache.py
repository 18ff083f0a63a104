"""Prepared samples in files that are mapped into memory: decoded once, shared by workers and by runs.

A cache is a folder named after all that decides its content (photographs, masks, labels, size), one `.npy`
file a field of `Batch`. It is put together under another name and renamed when it is whole, so a run that
was killed leaves nothing that could be taken for a cache, and two runs that make the same one do no harm.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from pipeline.contract import SoftfocusError
from trainer.samples.batch import Batch

__all__ = ["open_cache"]

FORMAT = 2


def open_cache(folder: Path, facts: list[object], *, count: int, prepare: Callable[[], Iterator[Batch]]) -> Batch:
    """The prepared samples, mapped from `folder`; made there first if need be.

    Args:
        folder: of all caches.
        facts: all that decides what the prepared samples are, ready for JSON; they name the cache.
        count: number of samples.
        prepare: gives the samples in order, a batch of one each.

    Raises:
        SoftfocusError: the folder cannot be written or read.
    """
    name = hashlib.sha256(msgspec.json.encode([FORMAT, facts])).hexdigest()[:24]
    path = folder / f"prepared-{name}"
    try:
        if not path.is_dir():
            _make(path, count, prepare)
        return _mapped(path)
    except (OSError, ValueError) as error:
        raise SoftfocusError(
            f"{path}: the cache of prepared samples cannot be used ({error}); delete it, or choose another data.cache"
        ) from error


def _make(path: Path, count: int, prepare: Callable[[], Iterator[Batch]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        files: dict[str, Any] = {}
        for row, item in enumerate(prepare()):
            for field, value in item._asdict().items():
                if value is None:
                    continue
                if field not in files:
                    shape = (count, *value.shape[1:])
                    dtype = value.numpy().dtype
                    files[field] = np.lib.format.open_memmap(
                        temporary / f"{field}.npy", mode="w+", dtype=dtype, shape=shape
                    )
                files[field][row] = value[0].numpy()
        for file in files.values():
            file.flush()
        files.clear()
        with contextlib.suppress(OSError):  # another run was first: its cache is the same
            os.rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _mapped(path: Path) -> Batch:
    # copy on write: torch wants memory that it may write to, and the file stays as it is
    fields = {file.stem: torch.from_numpy(np.load(file, mmap_mode="c")) for file in sorted(path.glob("*.npy"))}
    return Batch(**fields)
