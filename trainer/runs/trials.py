"""The runs that a sweep is made of: every combination of values with every seed, each with a folder's name."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml

from pipeline.contract import SoftfocusError

__all__ = ["SweepError", "Trial", "parse_seeds", "parse_values", "plan_trials"]


MOST_SEEDS = 1000  # more is a slip of the keyboard


class SweepError(SoftfocusError):
    """A sweep that cannot be made as asked; the message names what and the mend."""


class Trial(msgspec.Struct, frozen=True):
    """One run of a sweep: its folder below the sweep's, the values that were varied, and its seed."""

    folder: str
    values: dict[str, Any]
    seed: int


def parse_seeds(text: str) -> list[int]:
    """`0-4`, `0,3,7`, or both.

    Raises:
        SweepError: not seeds.
    """
    seeds: dict[int, None] = {}
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise SweepError(f"--seeds {text}: not seeds; give for instance 0-4 or 0,3,7")
        some = range(int(first), int(last or first) + 1)
        if len(some) > MOST_SEEDS:
            raise SweepError(f"--seeds {text}: {len(some)} seeds, a run each; give {MOST_SEEDS} at most")
        seeds |= dict.fromkeys(some)
    if not seeds:
        raise SweepError(f"--seeds {text}: no seed in it; give for instance 0-4")
    return list(seeds)


def parse_values(asked: Sequence[str]) -> dict[str, list[Any]]:
    """`KEY=A,B,...` for each key to vary; values are YAML (a list is written `[1, 2]`).

    Raises:
        SweepError: not like that, or a key twice.
    """
    values: dict[str, list[Any]] = {}
    for text in asked:
        key, equals, listed = text.partition("=")
        key = key.strip()
        try:
            found = yaml.safe_load(f"[{listed}]")
        except yaml.YAMLError:
            found = None
        if not equals or not key or not found:
            raise SweepError(f"--vary {text}: not KEY=VALUE,VALUE,..., for instance depth_loss.weight=0,0.5")
        if key in values:
            raise SweepError(f"--vary {key} is given twice; give all of its values at once")
        if key == "seed":
            raise SweepError("--vary seed: give the seeds with --seeds")
        values[key] = found
    return values


def plan_trials(values: Mapping[str, Sequence[Any]], seeds: Sequence[int]) -> list[Trial]:
    """Every combination of values with every seed.

    Raises:
        SweepError: two combinations would share a folder.
    """
    trials = []
    for seed in seeds:
        for combination in itertools.product(*values.values()):
            chosen = dict(zip(values, combination, strict=True))
            group = ",".join(f"{key}={_word(value)}" for key, value in chosen.items())
            trials.append(Trial(folder=str(Path(group, f"seed-{seed}")), values=chosen, seed=seed))
    folders = [trial.folder for trial in trials]
    twice = [folder for folder in folders if folders.count(folder) > 1]
    if twice:
        raise SweepError(f"two of the values would share the folder {twice[0]}; give values with different names")
    return trials


def _word(value: Any) -> str:
    """A value as part of a folder's name: of a path its last part."""
    text = "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text.rstrip("/").rpartition("/")[2].replace(" ", "") or "empty"
