"""Is A better than B? Two groups of runs, paired by seed and by image, as one difference with its intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from trainer.runs.figures import Figure
from trainer.runs.groups import SOURCES, values_that_differ
from trainer.runs.intervals import bootstrap_interval, crossed_interval, t_interval
from trainer.runs.listing import Run, RunError

__all__ = ["Comparison", "Pair", "compare"]

FEW_IMAGES = 20


class Pair(msgspec.Struct, frozen=True):
    """One seed's two figures."""

    seed: int
    a: float
    b: float

    @property
    def difference(self) -> float:
        return self.a - self.b


class Comparison(msgspec.Struct, frozen=True):
    """A minus B.

    Attributes:
        figure: what was compared, in words.
        lower_is_better: whether a negative difference speaks for A.
        confidence: of all intervals.
        pairs: the figures, by seed.
        differs: dotted key -> its value in A and in B.
        difference: mean of the pairs' differences.
        deviation: their standard deviation (n - 1); None for one pair.
        over_seeds: t interval for other seeds on these photographs.
        images: photographs whose figures were compared; 0 where they were not saved.
        over_images: bootstrap interval for other photographs, differences averaged over these seeds.
        over_both: interval for other seeds and other photographs at once.
        warnings: what to know before believing it.
    """

    figure: str
    lower_is_better: bool
    confidence: float
    pairs: list[Pair]
    differs: dict[str, tuple[Any, Any]]
    difference: float
    deviation: float | None
    over_seeds: tuple[float, float] | None
    images: int
    over_images: tuple[float, float] | None
    over_both: tuple[float, float] | None
    warnings: list[str]

    @property
    def lines(self) -> list[str]:
        """The result in plain words, a line for each interval."""
        runs = "seed" if len(self.pairs) == 1 else "seeds"
        seeds = f"over {len(self.pairs)} {runs}"
        if self.over_seeds is None:
            lines = [f"A minus B: {self.difference:+.4f} {seeds}: one pair has no interval; train more seeds"]
        else:
            lines = [f"A minus B: {self.difference:+.4f}, {self._words(self.over_seeds)} {seeds}"]
            lines[0] += f": {self._verdict(self.over_seeds)}"
        for interval, over in (
            (self.over_images, f"over {self.images} images (averaged over the {runs})"),
            (self.over_both, "over other seeds and other images at once"),
        ):
            if interval is not None:
                lines.append(f"           {self._words(interval)} {over}: {self._verdict(interval)}")
        return lines

    def _words(self, interval: tuple[float, float]) -> str:
        return f"{100 * self.confidence:g} % {interval[0]:+.4f} to {interval[1]:+.4f}"

    def _verdict(self, interval: tuple[float, float]) -> str:
        low, high = interval
        if low <= 0 <= high:
            return "no difference shown"
        return "A is better" if (high < 0) == self.lower_is_better else "B is better"


def compare(
    a: Sequence[Run],
    b: Sequence[Run],
    *,
    figure: Figure | None = None,
    by: Sequence[str] = (),
    paired_only: bool = False,
    confidence: float = 0.95,
) -> Comparison:
    """Compare two groups of finished runs, seed by seed.

    Args:
        a: runs that differ in nothing but their seed, and at most in `by`: each may start from a student of its own.
        b: likewise, with the same seeds.
        figure: what is compared; by default the validation MAE of the best epoch.
        by: the dotted keys in which A and B are meant to differ; any other difference is an error. Without
            them more than one difference is a warning.
        paired_only: leave out seeds that only one group has, with a warning; otherwise they are an error.
        confidence: of the intervals.

    Raises:
        RunError: a group is no group, an unfinished run, a figure that is missing, no pair, or differences
            that were not meant.
    """
    figure = figure or Figure()
    ours, theirs = _by_seed(a, "A", by), _by_seed(b, "B", by)
    warnings: list[str] = []
    seeds = _common_seeds(ours, theirs, paired_only, warnings)
    differs = _differences([*a, *b], a[0], b[0], by, warnings)
    pairs = [Pair(seed, _value(figure, ours[seed]), _value(figure, theirs[seed])) for seed in seeds]
    differences = np.array([pair.difference for pair in pairs])
    matrix = _per_image([(ours[seed], theirs[seed]) for seed in seeds], figure, warnings)
    if 0 < matrix.shape[1] < FEW_IMAGES:
        warnings.append(f"{matrix.shape[1]} images are few: the intervals over images are rough")
    return Comparison(
        figure=str(figure),
        lower_is_better=figure.lower_is_better,
        confidence=confidence,
        pairs=pairs,
        differs=differs,
        difference=float(differences.mean()),
        deviation=float(differences.std(ddof=1)) if len(pairs) > 1 else None,
        over_seeds=t_interval(differences, confidence),
        images=matrix.shape[1],
        over_images=bootstrap_interval(matrix.mean(0), confidence) if matrix.size else None,
        over_both=crossed_interval(matrix, confidence) if matrix.size else None,
        warnings=warnings,
    )


def _by_seed(runs: Sequence[Run], name: str, by: Sequence[str]) -> dict[int, Run]:
    if not runs:
        raise RunError(f"group {name} holds no run")
    unfinished = [str(run.folder) for run in runs if not run.finished]
    if unfinished:
        raise RunError(f"{unfinished[0]} is not finished: go on with its `softfocus train`, or leave it out")
    keys = [key for key in values_that_differ(runs) if key not in by]
    if keys:
        raise RunError(
            f"group {name} is no group: beside the seed its runs differ in {', '.join(keys)} "
            f"(`softfocus runs list` shows how); name runs of one configuration, or give --by the value that is "
            "meant to differ"
        )
    for seed, count in Counter(run.seed for run in runs).items():
        if count > 1:
            twice = " and ".join(str(run.folder) for run in runs if run.seed == seed)
            raise RunError(f"group {name} has seed {seed} more than once: {twice}; leave out all but one")
    return {run.seed: run for run in sorted(runs, key=lambda run: run.seed)}


def _common_seeds(ours: dict[int, Run], theirs: dict[int, Run], paired_only: bool, warnings: list[str]) -> list[int]:
    alone = [f"{group[s].folder} (seed {s})" for group in (ours, theirs) for s in group if (s in ours) != (s in theirs)]
    common = [seed for seed in ours if seed in theirs]
    if not common:
        raise RunError(f"the groups have no seed in common, so nothing is paired: {', '.join(alone)}")
    if alone and not paired_only:
        raise RunError(f"without a partner of the same seed: {', '.join(alone)}; train it, or add --paired-only")
    if alone:
        warnings.append(f"left out for want of a partner of the same seed: {', '.join(alone)}")
    return common


def _differences(
    runs: Sequence[Run], a: Run, b: Run, by: Sequence[str], warnings: list[str]
) -> dict[str, tuple[Any, Any]]:
    keys = values_that_differ(runs)
    # training without a store reads no labels: the weight of that loss says it already
    for name in ("labels", "blur_labels"):
        if name in keys and len(keys) > 1 and None in (a.values.get(name), b.values.get(name)):
            keys.remove(name)
    differs = {key: (a.values.get(key), b.values.get(key)) for key in keys}
    shown = "; ".join(f"{key}: {ours} and {theirs}" for key, (ours, theirs) in differs.items())
    unknown = [key for key in by if key not in a.values and key not in b.values and key not in SOURCES]
    if unknown:
        raise RunError(f"--by {unknown[0]}: no run has that value; `softfocus runs list` shows what differs")
    others = [key for key in keys if key not in by]
    if by and others:
        raise RunError(
            f"A and B differ also in {', '.join(others)} ({shown}); compare runs that differ in {by[0]} alone"
        )
    if len(keys) > 1 and not by:
        warnings.append(f"A and B differ in {len(keys)} values, any of which may be the cause ({shown})")
    if not keys:
        warnings.append("A and B have the same configuration: a difference between them is chance")
    return differs


def _value(figure: Figure, run: Run) -> float:
    value = figure.of(run)
    if value is None:
        others = [msgspec.structs.replace(figure, name=name) for name in ("mae", "f", "iou", "depth")]
        there = [other.name for other in others if other.of(run) is not None]
        if there:
            mend = f"it has {', '.join(there)}"
        elif figure.evaluation is None:
            mend = "train with a validation split"
        else:
            mend = f"run `softfocus evaluate` with --model {run.folder}"
        raise RunError(f"{run.folder}: has no {figure}; {mend}")
    return value


def _per_image(pairs: Sequence[tuple[Run, Run]], figure: Figure, warnings: list[str]) -> np.ndarray:
    """Differences (seeds, images); (seeds, 0) where the figures of each image were not saved."""
    tables = [[figure.per_image(run) for run in pair] for pair in pairs]
    ids = list(tables[0][0])
    if not all(table for pair in tables for table in pair):
        return np.empty((len(pairs), 0))
    if any(set(table) != set(ids) for pair in tables for table in pair):
        warnings.append("the runs were scored on different images, so there is no interval over images")
        return np.empty((len(pairs), 0))
    return np.array([[a[i] - b[i] for i in ids] for a, b in tables])
