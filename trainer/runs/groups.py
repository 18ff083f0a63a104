"""Runs that differ in nothing but their seed are one group; what groups differ in gives them their names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from trainer.runs.figures import Figure
from trainer.runs.listing import Run
from trainer.runs.run_folder import is_incidental

__all__ = ["Group", "Spread", "group_runs", "spread", "values_that_differ"]

SOURCES = ("manifest", "labels", "blur_labels")


class Spread(msgspec.Struct, frozen=True):
    """A figure over seeds: mean, standard deviation (n - 1; None for one run), and how many runs have it."""

    mean: float
    deviation: float | None
    runs: int

    def __str__(self) -> str:
        return f"{self.mean:.4f}" if self.deviation is None else f"{self.mean:.4f} ± {self.deviation:.4f}"


class Group(msgspec.Struct, frozen=True):
    """Runs that differ in nothing but their seed.

    Attributes:
        name: the values in which it differs from the other groups, `key=value` and commas between.
        values: the same, by key.
        runs: ordered by seed.
    """

    name: str
    values: dict[str, Any]
    runs: list[Run]


def values_that_differ(runs: Sequence[Run]) -> list[str]:
    """Dotted keys in which runs differ; without the seed, what follows it, and what is incidental.

    A value follows the seed if in every run it equals the seed (`data.mask_seed` of a sweep, for instance).
    Manifest and label stores of a run that has saved no weights yet are not known, which is no difference.
    """
    keys = dict.fromkeys(key for run in runs for key in run.values)
    return [
        key
        for key in keys
        if len({_shown(run, key) for run in runs if key in run.values or key not in SOURCES}) > 1
        and not is_incidental(key)
        and not all(run.values.get(key) == run.seed for run in runs)
    ]


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Groups of runs, in the order in which their first runs come."""
    keys = values_that_differ(runs)
    by_values: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        by_values.setdefault(tuple(_shown(run, key) for key in keys), []).append(run)
    # where manifest and labels differ with another value, that value says it in words
    spoken = [key for key in keys if key not in SOURCES]
    if len({tuple(_shown(members[0], key) for key in spoken) for members in by_values.values()}) < len(by_values):
        spoken = keys
    return [
        Group(
            name=",".join(f"{key}={_shown(members[0], key)}" for key in spoken) or "all",
            values={key: members[0].values.get(key) for key in keys},
            runs=sorted(members, key=lambda run: run.seed),
        )
        for members in by_values.values()
    ]


def spread(runs: Sequence[Run], figure: Figure) -> Spread | None:
    """A figure's mean and deviation over runs; None where no run has it."""
    values = [value for run in runs if (value := figure.of(run)) is not None]
    if not values:
        return None
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Spread(float(np.mean(values)), deviation, len(values))


def _shown(run: Run, key: str) -> str:
    value = run.values.get(key, "absent")
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
