"""The folders of a store, and what killed processes left in them."""

from __future__ import annotations

from pathlib import Path

from pipeline.files import Temporary, clean_temporaries, find_temporaries
from pipeline.store.generations import PLAN_FOLDER
from pipeline.store.shard import SHARD_FOLDER

__all__ = ["clean_store", "left_over"]


def left_over(store: Path) -> list[Temporary]:
    """Temporary files of dead processes."""
    return [temporary for folder in _folders(store) for temporary in find_temporaries(folder) if temporary.left_over]


def clean_store(store: Path) -> list[Path]:
    """Remove them; returns what was removed."""
    return [path for folder in _folders(store) for path in clean_temporaries(folder)]


def _folders(store: Path) -> tuple[Path, ...]:
    return store, store / PLAN_FOLDER, store / SHARD_FOLDER
