"""The paper's published weights (`res_best.pth`, `vgg_best.pth`) as a student of this project."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from pipeline.contract import sha256_file
from trainer.checkpoint import CheckpointError, require_student_name, save_student
from trainer.config import load_config
from trainer.students.official import convert_official, official_encoder

__all__ = ["ImportSummary", "import_weights", "read_official"]

REPOSITORY = "github.com/vinthony/depth-distillation"
EXPECTED = f"give res_best.pth or vgg_best.pth of {REPOSITORY}"


class ImportSummary(msgspec.Struct, frozen=True):
    """What was made of which file."""

    model: str
    student: str
    parameters: int
    source: str
    source_sha256: str


def import_weights(file: Path | str, out: Path | str) -> ImportSummary:
    """Write an official checkpoint as a student that `evaluate`, `predict` and `label` take.

    The student's configuration is the preset of its name. What the official network was trained on and
    how is not known here; the figures stored with it name the file instead.

    Args:
        file: as published, or nested in what a training script saved, with or without `module.` prefixes.
        out: a `.safetensors` file.

    Raises:
        CheckpointError: anything but the weights of one of the two official networks.
        SoftfocusError: `out` has another suffix, or cannot be written.
    """
    require_student_name(out)
    weights = read_official(file)
    try:
        encoder = official_encoder(weights)
        converted = convert_official(weights, encoder)
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}; {EXPECTED}") from error
    for name, value in converted.items():
        if not torch.isfinite(value).all():
            raise CheckpointError(f"{file}: {name} holds numbers that are not finite; copy the file again")
    config = load_config(preset=f"paper-{encoder}")
    source = {"source": f"{REPOSITORY}: {Path(file).name}", "source_sha256": sha256_file(file)}
    save_student(out, converted, config, figures=source)
    kept = (".running_mean", ".running_var", ".num_batches_tracked")  # batch norm's, not learnt
    parameters = sum(value.numel() for name, value in converted.items() if not name.endswith(kept))
    return ImportSummary(str(out), config.student.name, parameters, str(file), source["source_sha256"])


def read_official(file: Path | str) -> dict[str, Tensor]:
    """The state dict in a file of torch's, wherever it is nested, without `module.` prefixes; float32.

    Nothing in the file is run: it may hold tensors, numbers, strings, and containers of them.

    Raises:
        CheckpointError: no such file, not torch's, one with other objects in it, or one without tensors.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle protocol of old files
            content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror or error}); {EXPECTED}") from error
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named is None:
            raise CheckpointError(f"{file}: not a checkpoint of torch; {EXPECTED}") from error
        raise CheckpointError(
            f"{file}: refused, as it holds more than tensors and numbers ({named[1]}), and loading that would run "
            f"code; {EXPECTED}"
        ) from error
    except Exception as error:  # torch raises kinds of its own, pickle's and zip's
        raise CheckpointError(f"{file}: not a checkpoint of torch, or damaged ({_line(error)}); {EXPECTED}") from error
    found = max(_state_dicts(content), key=len, default={})
    if not found:
        raise CheckpointError(f"{file}: holds no named tensors; {EXPECTED}")
    return {name: value.float() if value.is_floating_point() else value for name, value in found.items()}


def _state_dicts(content: Any) -> Iterator[dict[str, Tensor]]:
    """The mapping's own tensors by their names, then those of the mappings in it."""
    if not isinstance(content, Mapping):
        return
    yield {_plain(name): v for name, v in content.items() if isinstance(name, str) and isinstance(v, Tensor)}
    for value in content.values():
        yield from _state_dicts(value)


def _plain(name: str) -> str:
    while name.startswith("module."):
        name = name.removeprefix("module.")
    return name


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
