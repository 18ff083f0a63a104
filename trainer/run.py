"""A run folder: what identifies a run, what it has measured, and what it came to."""

from __future__ import annotations

import csv
import platform
from pathlib import Path
from typing import Any

import msgspec
import timm
import torch

from pipeline.contract import LabelReader, SoftfocusError, new_file
from trainer.checkpoint import STATE, load_state
from trainer.config import Config, dump_config

__all__ = ["best_row", "open_run", "write_metrics", "write_record"]


def open_run(run: Path, config: Config, identity: dict[str, Any], *, first: bool = True) -> dict[str, Any] | None:
    """The state to go on from, or None in a new folder; refuses a folder of another run.

    Of several processes only the `first` writes.
    """
    state_file = run / STATE
    if not state_file.exists():
        if not first:
            return None
        if run.exists() and any(run.iterdir()) and not (run / "config.yaml").exists():
            raise SoftfocusError(f"{run}: is not empty and not a run folder; choose another folder with -o")
        with new_file(run / "config.yaml") as temporary:
            temporary.write_text(dump_config(config), encoding="utf-8")
        return None
    state = load_state(state_file)
    before = msgspec.json.decode(str(state["identity"]))
    now = msgspec.json.decode(msgspec.json.encode(identity))
    if before != now:
        keys = _differences(before, now)
        raise SoftfocusError(
            f"{run}: holds a run with other {', '.join(keys)}; choose another folder with -o, or delete this one"
        )
    return state


def _differences(a: Any, b: Any, prefix: str = "") -> list[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        return [d for k in sorted(a.keys() | b.keys()) for d in _differences(a.get(k), b.get(k), f"{prefix}{k}.")]
    return [] if a == b else [prefix.rstrip(".").removeprefix("config.")]


def best_row(history: list[dict[str, Any]], measure: str) -> dict[str, Any]:
    """The row with the lowest `measure`; the last row where nothing was validated."""
    return min((row for row in history if measure in row), key=lambda row: row[measure], default=history[-1])


def write_metrics(path: Path, history: list[dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(key for row in history for key in row))
    with new_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(history)


def write_record(
    run: Path,
    manifest: Path | str,
    labels: Path | str | None,
    reader: LabelReader | None,
    identity: dict[str, Any],
    device: torch.device,
    summary: dict[str, Any],
) -> None:
    record = {
        "manifest": str(manifest),
        "labels": str(labels) if labels is not None else None,
        "teacher": msgspec.to_builtins(reader.description.provenance) if reader else None,
        "manifest_sha256": identity["manifest_sha256"],
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        "versions": {
            "torch": str(torch.__version__),
            "timm": timm.__version__,
            "python": platform.python_version(),
        },
        "summary": summary,
    }
    with new_file(run / "run.json") as temporary:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2))
