"""Refocused photographs as a dataset on disk, made from a manifest and a label store."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.images import read_image
from pipeline.manifest import Sample, read_manifest
from pipeline.provenance import INVERSE_DEPTH
from pipeline.refocus.take import take, turned_like
from pipeline.store import LabelReader
from pipeline.synthetic.camera import Array
from pipeline.synthetic.folder import Picture, SynthError, SynthSummary, check_request, fill, usual_threshold_px

__all__ = ["refocus"]

OVERSIZE = 4  # a JPEG is decoded at no more than this many times the picture's size or so


def refocus(
    manifest: Path | str,
    labels: Path | str,
    out: Path | str,
    *,
    count: int = 100,
    size: tuple[int, int] = (320, 480),
    seed: int = 0,
    jobs: int = -1,
    threshold_px: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SynthSummary:
    """Blur photographs by their own depth labels: pictures 0 to `count` - 1, in the layout of `synthesize`.

    Picture i shows photograph i modulo their number, each time another part of it with another focus; its
    split is the photograph's, so that one photograph is never on two sides. It is a function of the seed, i,
    size, threshold, photographs and labels; pictures that are there are kept. exact/NAME.npz holds
    `inverse_depth` (relative, 1 to 2) and `coc_px`, from which the mask is cut. Masks are right for the
    picture as far as the photograph was sharp.

    Args:
        manifest: photographs, best sharp all over; their masks play no part.
        labels: store of their depth labels; photographs without one are an error.
        out, count, size, seed, jobs, threshold_px, progress: as in `synthesize`.

    Raises:
        SynthError: a bad option; photographs too small, unlabelled or changed since; `out` holds other pictures.
        SoftfocusError: manifest, store or a photograph cannot be read, or a file cannot be written.
    """
    threshold_px = usual_threshold_px(size) if threshold_px is None else threshold_px
    check_request(count, size, threshold_px)
    samples = tuple(read_manifest(manifest))
    reader = LabelReader(labels)
    if reader.quantity != INVERSE_DEPTH:
        raise SynthError(f"{labels}: holds {reader.quantity}, and pictures are refocused by depth; give depth labels")
    _check_sizes(samples, size, manifest)
    _check_labels(samples, reader, labels, manifest)
    how = {
        "seed": seed,
        "size": list(size),
        "threshold_px": threshold_px,
        "photographs": hashlib.sha256("".join(f"{s.id}\n{s.sha256}\n" for s in samples).encode()).hexdigest()[:16],
        "labels": reader.fingerprint,
    }
    maker = _Maker(samples, reader, seed, size, threshold_px)
    return fill(out, maker, count=count, how=how, jobs=jobs, progress=progress)


def _check_sizes(samples: tuple[Sample, ...], size: tuple[int, int], manifest: Path | str) -> None:
    small = []
    for sample in samples:
        height, width = turned_like((sample.height, sample.width), size)
        if sample.height < height or sample.width < width:
            small.append(sample)
    if small:
        raise SynthError(
            f"{manifest}: {len(small)} of {len(samples)} photographs are smaller than the pictures, such as "
            f"{small[0].id!r} ({small[0].height} x {small[0].width}), and enlarged they would not be sharp; "
            "choose a smaller size or leave them out"
        )


def _check_labels(samples: tuple[Sample, ...], reader: LabelReader, labels: Path | str, manifest: Path | str) -> None:
    missing = reader.missing(sample.id for sample in samples)
    if missing:
        raise SynthError(
            f"{labels}: no label of {len(missing)} of {len(samples)} photographs, such as {missing[0]!r}; "
            f"run `softfocus label {manifest} {labels}`"
        )
    stale = reader.stale({sample.id: sample.sha256 for sample in samples})
    if stale:
        raise SynthError(
            f"{labels}: the label of {stale[0]!r} is of another photograph; run `softfocus label {manifest} {labels}`"
        )


@dataclass(frozen=True)
class _Maker:
    """Number to picture; goes to other processes."""

    samples: tuple[Sample, ...]
    reader: LabelReader
    seed: int
    size: tuple[int, int]
    threshold_px: float

    def __call__(self, index: int) -> Picture:
        sample = self.samples[index % len(self.samples)]
        rng = np.random.default_rng([self.seed, index])
        photograph = _photograph(sample.image_path, OVERSIZE * max(self.size))
        label: Array = self.reader[sample.id]
        picture = take(photograph, label, rng, size=self.size, threshold_px=self.threshold_px, split=sample.split)
        picture.facts["photograph"] = sample.id
        return picture


@lru_cache(maxsize=4)
def _photograph(path: Path, side: int) -> npt.NDArray[np.uint8]:
    return read_image(path, at_least=(side // 2, side // 2))
