"""Several stores as one teacher: a photograph's label is what the teachers of all of them say together.

The labelling job does the rest, so a fused store is planned, resumed, verified and read as any other. No
photograph is read: what joins the stores is its SHA-256.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.distill.columns import read_columns
from pipeline.provenance import Provenance, Source
from pipeline.store import LabelReader, MissingLabel, StoreError, tool_version
from pipeline.teachers.agreement import AGREEMENT_WORDS, fuse

__all__ = ["FUSED", "TRIM", "StoresTeacher"]

TRIM = 0.2
"""Share of the pixels that the alignment of a map leaves out, as the worst fitting ones."""

FUSED = (
    "teachers: agreement of the maps of all sources; each was resized (bilinear, antialiased) to the size of the first "
    "source's and brought to its scale and shift by least squares without the "
    f"{TRIM:.0%} of the pixels that fit worst; the stored map is their median; {AGREEMENT_WORDS}"
)


class StoresTeacher:
    """Label stores of the same photographs behind the interface of a teacher. The first one gives sizes and units.

    Args:
        stores: two or more.
        manifest: whose photographs are to be labelled; all must be planned in the first store.

    Raises:
        StoreError: fewer than two stores, two with the same labels, one that cannot be read, or photographs
            that the first one does not know.
    """

    precision = "float32"

    def __init__(self, stores: Sequence[Path | str], manifest: Path | str) -> None:
        if len(stores) < 2:
            raise StoreError(f"{', '.join(map(str, stores))}: one store has nothing to be fused with; name two or more")
        self._readers = [LabelReader(store) for store in stores]
        fingerprints = [reader.fingerprint for reader in self._readers]
        for place, fingerprint in enumerate(fingerprints):
            if fingerprint in fingerprints[:place]:
                twin = stores[fingerprints.index(fingerprint)]
                raise StoreError(f"{stores[place]}: labels of the same teacher as {twin}; name each teacher once")
        self._sizes = _label_sizes(self._readers[0], manifest)
        sources = [Source(fingerprint=r.fingerprint, provenance=r.description.provenance) for r in self._readers]
        self.provenance = Provenance(
            kind="fuse",
            name=" + ".join(source.provenance.name for source in sources),
            weights_sha256=hashlib.sha256("".join(fingerprints).encode()).hexdigest(),
            direction="inverse depth",
            preprocessing={"size": "that of the first source's label"},
            versions={"softfocus": tool_version(), "numpy": np.__version__},
            confidence=FUSED,
            sources=tuple(sources),
        )

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """The first store's size of label for photographs of this size."""
        return self._sizes[height, width]

    def prepare(self, path: Path, sha256: bytes, size: tuple[int, int], *, root: Path) -> NDArray[Any] | str:
        """In place of reading a photograph: its fused map and confidence (h, w, 2), or why there is none."""
        try:
            maps = [reader.of_photograph(sha256.hex()) for reader in self._readers]
        except MissingLabel as error:
            return str(error)
        first, *others = maps
        return np.moveaxis(fuse([first, *(_resized(each, size) for each in others)], trim=TRIM), 0, -1)

    def predict(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """What `prepare` gave, (B, h, w, 2), as (B, 2, h, w)."""
        return np.ascontiguousarray(np.moveaxis(images, -1, 1), np.float32)

    def close(self) -> None:
        """Close the stores."""
        for reader in self._readers:
            reader.close()


def _label_sizes(reader: LabelReader, manifest: Path | str) -> dict[tuple[int, int], tuple[int, int]]:
    """Size of a photograph -> size of its label."""
    columns = read_columns(manifest)
    sizes: dict[tuple[int, int], tuple[int, int]] = {}
    for place, (height, width) in enumerate(columns.images.sizes.tolist()):
        if (height, width) in sizes:
            continue
        with contextlib.suppress(MissingLabel):
            sizes[height, width] = reader.size_of_photograph(columns.images.sha256[place].tobytes().hex())
    for place, (height, width) in enumerate(columns.images.sizes.tolist()):
        if (height, width) not in sizes:
            name = columns.images.ids[place].decode()
            raise StoreError(f"{reader.store}: does not know {name!r}; label {manifest} with its teacher first")
    return sizes


def _resized(values: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """A map (H, W) at another size; what reaches into unknown pixels is unknown."""
    if values.shape == size:
        return values
    known = np.isfinite(values)
    filled = values if known.all() else np.where(known, values, values[known].mean() if known.any() else 0)
    resized = _bilinear(filled, size)
    return resized if known.all() else np.where(_bilinear(known, size) > 0.999, resized, np.nan).astype(np.float32)


def _bilinear(values: NDArray[Any], size: tuple[int, int]) -> NDArray[np.float32]:
    image = Image.fromarray(values.astype(np.float32))
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR), np.float32)
