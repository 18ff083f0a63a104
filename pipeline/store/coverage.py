"""How much of a manifest has masks and labels, by split."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from pipeline.manifest import SPLITS

__all__ = ["SplitCoverage", "count_splits", "split_table"]


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


def split_table(rows: Sequence[SplitCoverage]) -> list[str]:
    """The lines of a table."""
    head = f"{'split':<7}{'samples':>9}{'masks':>9}{'labels':>9}{'both':>9}{'stale':>9}"
    return [head] + [f"{r.split:<7}{r.samples:>9}{r.masks:>9}{r.labels:>9}{r.both:>9}{r.stale:>9}" for r in rows]


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
