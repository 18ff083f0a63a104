"""The beginning and the end of a run folder: whose it is, and what came of it."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import timm
import torch

from pipeline.contract import SoftfocusError, new_file
from trainer.checkpoint import load_state
from trainer.config import Config, dump_config, stored_config
from trainer.runs.run_folder import CONFIG, RECORD, STATE, differing_keys, flatten
from trainer.samples.sources import Sources

__all__ = ["open_run", "write_record"]


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
    with contextlib.suppress(msgspec.ValidationError):  # one that cannot be read differs, and is told key by key
        before["config"] = msgspec.to_builtins(stored_config(before["config"]))
    keys = differing_keys(_plain(before), _plain(identity))
    if keys:
        raise SoftfocusError(
            f"{run}: holds a run with other {', '.join(keys)}; choose another folder with -o, or delete this one"
        )
    return state


def _plain(identity: Mapping[str, Any]) -> dict[str, Any]:
    values = msgspec.json.decode(msgspec.json.encode(identity))  # lists and tuples are the same
    return {key.removeprefix("config."): value for key, value in flatten(values).items()}


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
