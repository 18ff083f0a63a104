"""What a run leaves behind: a student to use, and a state to go on from. Nothing in either is code.

`best.safetensors` and `last.safetensors` hold a student's averaged weights with the configuration in the
file's own metadata, so that one file is enough to predict. `state.pt` holds all that a step depends on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from pipeline.contract import SoftfocusError, new_file
from trainer.config import Config, stored_config
from trainer.runs.run_folder import BEST, LAST
from trainer.students.model import build_student

__all__ = ["CheckpointError", "find_student", "load_state", "load_student"]
__all__ += ["randomness", "require_student_name", "restore_randomness", "save_state", "save_student"]

FORMAT = "softfocus-student-1"
SHIPPED = Path(__file__).parent / "weights"


class CheckpointError(SoftfocusError):
    """A file that is not the checkpoint asked for; the message names it and the mend."""


def save_student(
    path: Path | str,
    weights: Mapping[str, torch.Tensor],
    config: Config,
    *,
    figures: Mapping[str, Any] | None = None,
    half: bool = False,
) -> None:
    """Write a student's weights, atomically.

    Args:
        path: a `.safetensors` file.
        weights: the student's state dict.
        config: of the run.
        figures: what is worth knowing beside the weights, as JSON: epoch, validation figures, store.
        half: store float tensors as float16 (they are read back as float32).
    """
    tensors = {
        name: (value.half() if half and value.is_floating_point() else value).detach().cpu().contiguous().clone()
        for name, value in weights.items()
    }
    metadata = {
        "format": FORMAT,
        "config": msgspec.json.encode(config).decode(),
        "figures": msgspec.json.encode(dict(figures or {})).decode(),
    }
    with new_file(path) as temporary:
        temporary.write_bytes(save(tensors, metadata=metadata))


def require_student_name(out: Path | str) -> None:
    """Refuse, before any work, a name that no student is found by.

    Raises:
        SoftfocusError: `out` has another suffix.
    """
    if Path(out).suffix != ".safetensors":
        raise SoftfocusError(f"{out}: a student is a .safetensors file; choose such a name")


def find_student(model: Path | str) -> Path:
    """The weights file of a run folder (its best, else its last), the file itself, or a shipped student by name.

    Raises:
        CheckpointError: there is none.
    """
    path = Path(model)
    if path.is_file():
        return path
    if not path.exists() and (SHIPPED / f"{model}.safetensors").is_file():
        return SHIPPED / f"{model}.safetensors"
    for name in (BEST, LAST):
        if (path / name).is_file():
            return path / name
    shipped = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.safetensors")))
    raise CheckpointError(
        f"{path}: neither a student's .safetensors file, nor a run folder that holds one, nor a shipped one ({shipped})"
    )


def load_student(model: Path | str, *, device: torch.device | str = "cpu") -> tuple[nn.Module, Config, dict[str, Any]]:
    """A student in evaluation mode, its run's configuration, and the figures stored with it.

    Raises:
        CheckpointError: no such file, not a student's, or damaged.
    """
    path = find_student(model)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error}); train or copy it again") from error
    if metadata.get("format") != FORMAT:
        found = metadata.get("format", "other weights")
        raise CheckpointError(f"{path}: holds {found}, not {FORMAT}; give a student that `softfocus train` wrote")
    try:
        config = stored_config(msgspec.json.decode(metadata["config"]))
        student = build_student(config.student)
        student.load_state_dict(tensors)
    except (msgspec.ValidationError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{path}: weights and configuration do not fit ({reason}); train it again") from error
    figures: dict[str, Any] = msgspec.json.decode(metadata.get("figures", "{}"))
    return student.eval().to(device), config, figures


def save_state(path: Path | str, state: dict[str, Any]) -> None:
    """Write a training state, atomically; it loads with `weights_only=True`."""
    with new_file(path) as temporary:
        torch.save(state, temporary)


def randomness() -> dict[str, torch.Tensor]:
    """The state of torch's random numbers, which networks with dropout use."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore_randomness(states: Mapping[str, torch.Tensor]) -> None:
    """Go on with the random numbers of `randomness`."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def load_state(path: Path | str) -> dict[str, Any]:
    """A training state on the CPU.

    Raises:
        CheckpointError: damaged, or not a state.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises kinds of its own, pickle's and zip's
        raise CheckpointError(f"{path}: cannot be read ({error}); delete it to start the run anew") from error
    if not isinstance(state, dict) or "step" not in state:
        raise CheckpointError(f"{path}: not a training state; delete it to start the run anew")
    return state
