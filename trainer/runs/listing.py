"""Run folders as they lie on disk, finished or not; `trainer.runs.run_folder` says what is in them."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import yaml
from safetensors import SafetensorError, safe_open

from pipeline.contract import SoftfocusError
from trainer.config import stored_config
from trainer.runs.run_folder import CONFIG, LAST, METRICS, RECORD, best_row, evaluation_file, flatten, per_image_file

__all__ = ["Run", "RunError", "find_runs", "read_run"]


class RunError(SoftfocusError):
    """A run folder that cannot be used as asked; the message names it and the mend."""


class Run(msgspec.Struct, frozen=True):
    """A run folder.

    Attributes:
        folder: where it lies.
        values: dotted key -> value of its configuration; and, once weights were saved, under `manifest` and
            `labels` the first digits of their fingerprints (None: masks alone).
        history: a row an epoch, as in metrics.csv.
        record: what training wrote at its end; empty before.
        evaluations: name -> report of `softfocus evaluate`.
    """

    folder: Path
    values: dict[str, Any]
    history: list[dict[str, float]]
    record: dict[str, Any]
    evaluations: dict[str, dict[str, Any]]

    @property
    def epochs(self) -> int:
        """Epochs that are done."""
        return int(self.history[-1]["epoch"]) if self.history else 0

    @property
    def finished(self) -> bool:
        return bool(self.record) and self.epochs >= int(self.values.get("epochs", 1))

    @property
    def seed(self) -> int:
        return int(self.values.get("seed", 0))

    @property
    def measure(self) -> str:
        """The column that its best epoch is chosen by."""
        there = {key for row in self.history for key in row}
        return next((measure for measure in ("val_mae", "val_soft_blur") if measure in there), "val_depth")

    def row(self, epoch: str) -> dict[str, float]:
        """The row of the `best` or the `last` epoch that was validated; empty where none was."""
        validated = [row for row in self.history if self.measure in row]
        if not validated:
            return {}
        return best_row(validated, self.measure) if epoch == "best" else validated[-1]

    def per_image(self, epoch: str) -> list[dict[str, Any]]:
        """Validation figures of each image (id, mae, f_at_half, iou) at the `best` or `last` epoch, if saved."""
        return [
            {key: value if key == "id" else float(value or "nan") for key, value in row.items()}
            for row in _read_csv(per_image_file(self.folder, epoch))
        ]


def find_runs(folders: Iterable[Path | str]) -> list[Path]:
    """Run folders: those given, those that a pattern (`runs/depth-*`) matches, and those anywhere below one given.

    Returns them once each; below one of `folders` in natural order, seed-2 before seed-10.

    Raises:
        RunError: one of `folders` leads to no run.
    """
    found: dict[Path, None] = {}
    for folder in map(Path, folders):
        starts = [folder] if folder.exists() else sorted(_matches(folder), key=_natural)
        runs = [run for start in starts for run in _runs_below(start)]
        if not runs:
            raise RunError(f"{folder}: no run folder there or below; give one that `softfocus train` made")
        found |= dict.fromkeys(runs)
    return list(found)


def read_run(folder: Path | str) -> Run:
    """Read a run folder.

    Raises:
        RunError: it holds no run, or one of its files is damaged.
    """
    run = Path(folder)
    if not (run / CONFIG).is_file():
        raise RunError(f"{run}: not a run folder ({CONFIG} is missing); give one that `softfocus train` made")
    evaluations = sorted(run.glob(evaluation_file(run, "*").name))
    return Run(
        folder=run,
        values=_read(run / CONFIG, _config) | _sources(run),
        history=_read(run / METRICS, _history),
        record=_read(run / RECORD, _json) if (run / RECORD).exists() else {},
        evaluations={file.stem.removeprefix("evaluation-"): _read(file, _json) for file in evaluations},
    )


def _read(file: Path, reading: Any) -> Any:
    try:
        return reading(file)
    except (OSError, yaml.YAMLError, ValueError, TypeError, KeyError, RecursionError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:160]
        raise RunError(f"{file}: cannot be read ({reason}); delete it, or the run, and make it again") from error


def _config(file: Path) -> dict[str, Any]:
    """Dotted keys; those that came after the run have the values that they had in effect."""
    tree = dict(yaml.safe_load(file.read_text("utf-8")))
    try:
        tree = msgspec.json.decode(msgspec.json.encode(stored_config(tree)))  # lists, as YAML has them
    except msgspec.ValidationError:  # a later version's, or damaged
        if not all(type(tree.get(key, 0)) is int for key in ("seed", "epochs")):
            raise
    return flatten(tree)


def _json(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text(encoding="utf-8")))


def _history(file: Path) -> list[dict[str, float]]:
    rows = [{key: float(value) for key, value in row.items() if value} for row in _read_csv(file)]
    return [{**row, "epoch": int(row["epoch"])} for row in rows]


def _sources(run: Path) -> dict[str, Any]:
    """Fingerprints of manifest and labels, from the header of the last weights; nothing before there are any."""
    if not (run / LAST).exists():
        return {}
    figures = _read(run / LAST, _figures)
    return {
        name: str(figures[key])[:8] if figures.get(key) else None
        for name, key in (("manifest", "manifest_sha256"), ("labels", "labels"), ("blur_labels", "blur_labels"))
    }


def _figures(file: Path) -> dict[str, Any]:
    with safe_open(file, framework="np") as weights:
        return dict(json.loads((weights.metadata() or {}).get("figures", "{}")))


def _runs_below(start: Path) -> Iterator[Path]:
    for folder, below, files in os.walk(start):
        if CONFIG in files:
            below.clear()  # a run holds no other runs
            yield Path(folder)
        below.sort(key=lambda name: _natural(Path(name)))


def _matches(pattern: Path) -> Iterator[Path]:
    root = Path(pattern.anchor)
    return root.glob(str(pattern.relative_to(root)))


def _natural(path: Path) -> list[str | int]:
    """A key for sorting in which the numbers of a name count as numbers."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(path))]


def _read_csv(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
