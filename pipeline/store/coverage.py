"""How much of a manifest has masks and labels, by split: what a training run reports before it starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from pipeline.manifest import SPLITS, Sample
from pipeline.store.reader import LabelReader

__all__ = ["Coverage", "SplitCoverage", "coverage"]


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
        head = f"{'split':<7}{'samples':>9}{'masks':>9}{'labels':>9}{'both':>9}{'stale':>9}"
        rows = [*self.splits, self.total]
        return "\n".join(
            [head] + [f"{r.split:<7}{r.samples:>9}{r.masks:>9}{r.labels:>9}{r.both:>9}{r.stale:>9}" for r in rows]
        )


def coverage(samples: Iterable[Sample], reader: LabelReader | None) -> Coverage:
    """Count the samples with mask, with label, with both, for each split. No reader: no labels."""
    samples = list(samples)
    absent, stale = _without_label(samples, reader)
    counts: Counter[tuple[str, bool, bool, bool]] = Counter()
    missing = []
    for sample in samples:
        is_stale = sample.id in stale
        labelled = not is_stale and sample.id not in absent
        counts[sample.split, sample.mask is not None, labelled, is_stale] += 1
        if not labelled:
            missing.append(sample.id)
    splits = [_summed(split, [split], counts) for split in SPLITS]
    present = tuple(entry for entry in splits if entry.samples)
    return Coverage(splits=present, total=_summed("all", SPLITS, counts), missing=tuple(missing))


def _without_label(samples: list[Sample], reader: LabelReader | None) -> tuple[set[str], set[str]]:
    """The ids without a label, and those whose label is of another photograph."""
    if reader is None:
        return {sample.id for sample in samples}, set()
    absent = reader.missing(sample.id for sample in samples)
    return set(absent), set(reader.stale({sample.id: sample.sha256 for sample in samples}))


def _summed(name: str, splits: Sequence[str], counts: Counter[tuple[str, bool, bool, bool]]) -> SplitCoverage:
    rows = [(masked, labelled, stale, n) for (split, masked, labelled, stale), n in counts.items() if split in splits]
    return SplitCoverage(
        split=name,
        samples=sum(n for *_, n in rows),
        masks=sum(n for masked, _, _, n in rows if masked),
        labels=sum(n for _, labelled, _, n in rows if labelled),
        both=sum(n for masked, labelled, _, n in rows if masked and labelled),
        stale=sum(n for _, _, stale, n in rows if stale),
    )
