"""How much of a manifest has masks and labels, by split: what a training run reports before it starts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from pipeline.manifest import SPLITS, Sample
from pipeline.store.reader import LabelReader

__all__ = ["Coverage", "SplitCoverage", "count_splits", "coverage", "split_table"]


class SplitCoverage(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of samples of one split ("all" for the sum).

    `stale` labels were made from another photograph than the manifest has now; they do not count as labels.
    """

    split: str
    samples: int
    masks: int
    labels: int
    both: int
    stale: int


class Coverage(msgspec.Struct, frozen=True, kw_only=True):
    """Coverage by split; `print` shows it as a table.

    Attributes:
        splits: one entry a split that has samples.
        total: their sum.
        missing: ids without a label, in the manifest's order, `stale` ones included.
    """

    splits: tuple[SplitCoverage, ...]
    total: SplitCoverage
    missing: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether every sample has a label."""
        return not self.missing

    def __str__(self) -> str:
        return "\n".join(split_table([*self.splits, self.total]))


def split_table(rows: Sequence[SplitCoverage]) -> list[str]:
    """The lines of a table."""
    head = f"{'split':<7}{'samples':>9}{'masks':>9}{'labels':>9}{'both':>9}{'stale':>9}"
    return [head] + [f"{r.split:<7}{r.samples:>9}{r.masks:>9}{r.labels:>9}{r.both:>9}{r.stale:>9}" for r in rows]


def coverage(samples: Iterable[Sample], reader: LabelReader | None) -> Coverage:
    """Count the samples with mask, with label, with both, for each split. No reader: no labels."""
    samples = list(samples)
    absent, stale = _without_label(samples, reader)
    labelled = np.array([sample.id not in absent and sample.id not in stale for sample in samples], np.bool_)
    splits, total = count_splits(
        splits=np.array([SPLITS.index(sample.split) for sample in samples], np.uint8),
        masked=np.array([sample.mask is not None for sample in samples], np.bool_),
        labelled=labelled,
        stale=np.array([sample.id in stale for sample in samples], np.bool_),
    )
    missing = tuple(sample.id for sample, is_labelled in zip(samples, labelled, strict=True) if not is_labelled)
    return Coverage(splits=splits, total=total, missing=missing)


def count_splits(
    *,
    splits: npt.NDArray[np.uint8],
    masked: npt.NDArray[np.bool_],
    labelled: npt.NDArray[np.bool_],
    stale: npt.NDArray[np.bool_],
) -> tuple[tuple[SplitCoverage, ...], SplitCoverage]:
    """Coverage of the splits that have samples, and their sum, from columns (M,).

    Args:
        splits: places in SPLITS.
        labelled: stale ones do not count.
    """

    def counted(name: str, chosen: npt.NDArray[np.bool_]) -> SplitCoverage:
        columns = {
            "samples": chosen,
            "masks": masked & chosen,
            "labels": labelled & chosen,
            "both": masked & labelled & chosen,
            "stale": stale & chosen,
        }
        return SplitCoverage(split=name, **{key: int(np.count_nonzero(rows)) for key, rows in columns.items()})

    entries = [counted(name, splits == number) for number, name in enumerate(SPLITS)]
    return tuple(entry for entry in entries if entry.samples), counted("all", np.ones(len(splits), np.bool_))


def _without_label(samples: list[Sample], reader: LabelReader | None) -> tuple[set[str], set[str]]:
    """The ids without a label, and those whose label is of another photograph."""
    if reader is None:
        return {sample.id for sample in samples}, set()
    absent = reader.missing(sample.id for sample in samples)
    return set(absent), set(reader.stale({sample.id: sample.sha256 for sample in samples}))
