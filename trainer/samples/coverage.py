"""What the samples of a manifest have: masks, depth labels, soft blur labels."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from pipeline.contract import LabelReader, Sample

__all__ = ["Holdings", "SplitHoldings", "holdings", "labelled"]

Flags = npt.NDArray[np.bool_]


class SplitHoldings(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of samples of one split ("all" for the sum).

    Attributes:
        masks, depth, soft_blur: samples that have it.
        everything, nothing: samples that have all that is asked for, or none of it. Soft blur is asked for
            where there is a store of it, depth likewise.
        stale: samples with a label of another photograph, which does not count.
    """

    split: str
    samples: int
    masks: int
    depth: int
    soft_blur: int
    everything: int
    nothing: int
    stale: int


class Holdings(msgspec.Struct, frozen=True, kw_only=True):
    """What samples have, by split; as text it is a table.

    Attributes:
        splits: one entry a split that has samples, in the order of the samples.
        total: their sum.
        incomplete: ids that lack something that is asked for, in the order of the samples.
        empty: ids that have nothing.
    """

    splits: tuple[SplitHoldings, ...]
    total: SplitHoldings
    incomplete: tuple[str, ...]
    empty: tuple[str, ...]

    def __str__(self) -> str:
        columns = SplitHoldings.__struct_fields__
        rows = [[name.replace("_", " ") for name in columns]]
        rows += [[str(getattr(row, name)) for name in columns] for row in (*self.splits, self.total)]
        return "\n".join(f"{first:<7}" + "".join(f"{cell:>12}" for cell in rest) for first, *rest in rows)


def holdings(
    samples: Sequence[Sample], depth: LabelReader | None, soft_blur: LabelReader | None, *, masks: bool = True
) -> Holdings:
    """What each sample has; without a store of a kind no sample has a label of it, and none is asked for.

    Args:
        samples: of a manifest.
        depth, soft_blur: stores of labels, or None.
        masks: whether they are asked for.
    """
    masked = np.array([sample.mask is not None for sample in samples], np.bool_)
    near, near_stale = labelled(samples, depth)
    blur, blur_stale = labelled(samples, soft_blur)
    every = np.ones(len(samples), np.bool_)
    kinds = ((masked, masks), (near, depth is not None), (blur, soft_blur is not None))
    columns = {
        "samples": every,
        "masks": masked,
        "depth": near,
        "soft_blur": blur,
        "everything": np.logical_and.reduce([every, *(has for has, is_asked in kinds if is_asked)]),
        "nothing": ~(masked | near | blur),
        "stale": near_stale | blur_stale,
    }

    def counted(name: str, chosen: Flags) -> SplitHoldings:
        return SplitHoldings(split=name, **{key: int((flags & chosen).sum()) for key, flags in columns.items()})

    splits = np.array([sample.split for sample in samples], np.str_)
    return Holdings(
        splits=tuple(counted(name, splits == name) for name in dict.fromkeys(splits.tolist())),
        total=counted("all", columns["samples"]),
        incomplete=tuple(samples[place].id for place in np.flatnonzero(~columns["everything"]).tolist()),
        empty=tuple(samples[place].id for place in np.flatnonzero(columns["nothing"]).tolist()),
    )


def labelled(samples: Sequence[Sample], reader: LabelReader | None) -> tuple[Flags, Flags]:
    """Which samples have a label, and which have one of another photograph, (M,) each; none without a reader."""
    if reader is None:
        return np.zeros(len(samples), np.bool_), np.zeros(len(samples), np.bool_)
    absent = set(reader.missing(sample.id for sample in samples))
    stale = set(reader.stale({sample.id: sample.sha256 for sample in samples}))
    has_stale = np.array([sample.id in stale for sample in samples], np.bool_)
    return np.array([sample.id not in absent for sample in samples], np.bool_) & ~has_stale, has_stale
