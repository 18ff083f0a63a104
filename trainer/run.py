"""A run folder as training writes it: what identifies a run, what it has measured, and what it came to.

`trainer.runs` reads what is written here.
"""

from __future__ import annotations

import csv
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import timm
import torch

from pipeline.contract import SoftfocusError, new_file
from trainer.checkpoint import STATE, load_state
from trainer.config import Config, dump_config
from trainer.sources import Sources

__all__ = ["CONFIG", "METRICS", "RECORD", "best_row", "differing_keys", "evaluation_file", "flatten"]
__all__ += ["is_incidental", "open_run", "per_image_file", "write_evaluation", "write_metrics", "write_per_image"]
__all__ += ["write_record"]

CONFIG, METRICS, RECORD = "config.yaml", "metrics.csv", "run.json"
# how a run is made and what is kept of it, not what it comes to
INCIDENTAL = ("data.workers", "data.cache_gib", "data.cache", "keep_every", "log.")


def open_run(run: Path, config: Config, identity: dict[str, Any], *, first: bool = True) -> dict[str, Any] | None:
    """The state to go on from, or None in a new folder; refuses a folder of another run.

    Of several processes only the `first` writes.
    """
    state_file = run / STATE
    if not state_file.exists():
        if not first:
            return None
        if run.exists() and any(run.iterdir()) and not (run / CONFIG).exists():
            raise SoftfocusError(f"{run}: is not empty and not a run folder; choose another folder with -o")
        with new_file(run / CONFIG) as temporary:
            temporary.write_text(dump_config(config), encoding="utf-8")
        return None
    state = load_state(state_file)
    before = msgspec.json.decode(str(state["identity"]))
    now = msgspec.json.decode(msgspec.json.encode(identity))
    keys = differing_keys(_plain(before), _plain(now))
    if keys:
        raise SoftfocusError(
            f"{run}: holds a run with other {', '.join(keys)}; choose another folder with -o, or delete this one"
        )
    return state


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


def _plain(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {key.removeprefix("config."): value for key, value in flatten(identity).items()}


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


def write_record(run: Path, sources: Sources, device: torch.device, summary: dict[str, Any]) -> None:
    """Write run.json: the data, its teachers, what the samples have, the machine, and what the run came to."""
    readers = {"teacher": sources.reader, "blur_teacher": sources.blur_reader}
    record = {
        "manifest": str(sources.manifest),
        "manifest_sha256": sources.manifest_sha256,
        **{name: _text(getattr(sources, name)) for name in ("labels", "blur_labels")},
        **{name: msgspec.to_builtins(r.description.provenance) if r else None for name, r in readers.items()},
        "coverage": [msgspec.to_builtins(row) for row in (*sources.covered.splits, sources.covered.total)],
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        "versions": {
            "torch": str(torch.__version__),
            "timm": timm.__version__,
            "python": platform.python_version(),
        },
        "summary": summary,
    }
    with new_file(run / RECORD) as temporary:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2))


def _text(path: Path | str | None) -> str | None:
    return None if path is None else str(path)
