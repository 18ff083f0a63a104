"""What lies where in a run folder, in which form, and when two runs are the same; loads no torch.

`trainer.runs.listing` reads what training and `softfocus evaluate` write by this.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from pipeline.contract import new_file

__all__ = ["BEST", "CONFIG", "LAST", "METRICS", "RECORD", "STATE", "best_row", "differing_keys", "evaluation_file"]
__all__ += ["flatten", "is_incidental", "per_image_file", "write_evaluation", "write_metrics", "write_per_image"]

CONFIG, METRICS, RECORD = "config.yaml", "metrics.csv", "run.json"
BEST, LAST, STATE = "best.safetensors", "last.safetensors", "state.pt"
# how a run is made and what is kept of it, not what it comes to
INCIDENTAL = ("data.workers", "data.cache_gib", "data.cache", "keep_every", "log.")


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one of dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def differing_keys(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Dotted keys whose values differ, or that only one has; incidental ones left out."""
    return [key for key in sorted(a.keys() | b.keys()) if a.get(key) != b.get(key) and not is_incidental(key)]


def is_incidental(key: str) -> bool:
    """Whether a value of the configuration cannot change what a run comes to."""
    return any(key == known or (known.endswith(".") and key.startswith(known)) for known in INCIDENTAL)


def best_row(history: list[dict[str, Any]], measure: str) -> dict[str, Any]:
    """The row with the lowest `measure`; the last row where nothing was validated."""
    return min((row for row in history if measure in row), key=lambda row: row[measure], default=history[-1])


def write_metrics(path: Path, history: list[dict[str, Any]]) -> None:
    """A row an epoch, as CSV; what an epoch has not measured stays empty."""
    columns = list(dict.fromkeys(key for row in history for key in row))
    with new_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(history)


def per_image_file(run: Path, epoch: str) -> Path:
    """Validation figures of each image at the `best` or the `last` epoch."""
    return run / f"validation-{epoch}.csv"


def write_per_image(run: Path, rows: list[dict[str, Any]], *, epoch: str) -> None:
    """Keep the validation figures of each image, so that runs can be compared over images.

    Args:
        run: run folder.
        rows: id and figures of each image, as `trainer.metrics.Evaluation.per_image` has them; none, no file.
        epoch: `best` or `last`.
    """
    if rows:
        write_metrics(per_image_file(run, epoch), rows)


def evaluation_file(run: Path, name: str) -> Path:
    """Where a report of `softfocus evaluate` is kept."""
    return run / f"evaluation-{name}.json"


def write_evaluation(run: Path, name: str, report: Any) -> None:
    """Keep a report of `softfocus evaluate` in the folder of the run it judges."""
    with new_file(evaluation_file(run, name)) as temporary:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2))
