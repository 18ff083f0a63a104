"""A manifest as columns, as a million samples fit in memory that way."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.manifest import SPLITS, iter_manifest
from pipeline.store import Images

__all__ = ["Columns", "read_columns"]


@dataclass(frozen=True)
class Columns:
    """A manifest's photographs, sorted by sample id.

    Attributes:
        images: what planning needs.
        splits: (M,) uint8, place of each sample's split in SPLITS.
        masked: (M,) bool, whether it has a blur mask.
    """

    images: Images
    splits: npt.NDArray[np.uint8]
    masked: npt.NDArray[np.bool_]
    _paths: npt.NDArray[Any]
    _root_numbers: npt.NDArray[Any]
    _roots: list[str]

    def root(self, place: int) -> Path:
        """The folder that the manifest names for this sample."""
        return Path(self._roots[self._root_numbers[place]])

    def path(self, place: int) -> Path:
        """The photograph of this sample."""
        return self.root(place) / str(self._paths[place].decode())


def read_columns(manifest: Path | str) -> Columns:
    """Read a manifest as columns.

    Raises:
        ManifestError: as `iter_manifest`.
    """
    ids: list[bytes] = []
    paths: list[bytes] = []
    sha256, splits, masked = bytearray(), bytearray(), bytearray()
    sizes, root_numbers = array("i"), array("i")
    roots: dict[str, int] = {}
    for sample in iter_manifest(manifest):
        ids.append(sample.id.encode())
        paths.append(sample.image.encode())
        sha256 += bytes.fromhex(sample.sha256)
        splits.append(SPLITS.index(sample.split))
        masked.append(sample.mask is not None)
        sizes.append(sample.height)
        sizes.append(sample.width)
        root_numbers.append(roots.setdefault(sample.root, len(roots)))
    id_column = np.array(ids, dtype=np.bytes_)
    del ids
    order = np.argsort(id_column, kind="stable")
    images = Images(
        ids=id_column[order],
        sha256=np.frombuffer(sha256, np.uint8).reshape(-1, 32)[order],
        sizes=np.frombuffer(sizes, np.int32).reshape(-1, 2)[order],
    )
    path_column = np.array(paths, dtype=np.bytes_)[order]
    return Columns(
        images=images,
        splits=np.frombuffer(splits, np.uint8)[order],
        masked=np.frombuffer(masked, np.bool_)[order],
        _paths=path_column,
        _root_numbers=np.frombuffer(root_numbers, np.int32)[order],
        _roots=list(roots),
    )
