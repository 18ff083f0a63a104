"""Students as teachers: a trained student labels photographs for stage 1, through its plug-in point.

`demo` is a depth-only student that this project distilled and ships; `student:RUN` is any run's student.
Stage 1 knows these only by name (see `register_kind` in `pipeline.teachers`), and training knows neither.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from pipeline.contract import Provenance, SoftfocusError, sha256_file
from trainer.augment import normalise
from trainer.checkpoint import find_student, load_student
from trainer.device import choose_device
from trainer.initial import SHIPPED_DEPTH_STUDENT
from trainer.model import IMAGENET_MEAN, IMAGENET_STD

__all__ = ["StudentTeacher", "load_demo", "load_student_teacher"]


class StudentTeacher:
    """A student's fused depth as relative inverse depth, behind stage 1's interface for teachers."""

    def __init__(self, model: Path | str, *, kind: str, device: str, size: int | None, precision: str) -> None:
        self._device = choose_device(device)
        self._student, config, _ = load_student(model, device=self._device)
        self._student.requires_grad_(False)
        self._size = size or config.data.input_size
        bf16 = self._device.type == "cuda" and torch.cuda.is_bf16_supported()
        if precision not in ("auto", "float32", "bfloat16"):
            raise SoftfocusError(f"precision {precision!r} is not offered by {kind}; choose auto, float32 or bfloat16")
        self._bf16 = bf16 if precision == "auto" else precision == "bfloat16"
        self.provenance = Provenance(
            kind=kind,
            name=f"{config.student.name} ({config.student.encoder})",
            weights_sha256=sha256_file(find_student(model)),
            direction="inverse depth",
            preprocessing={
                "colour": "RGB",
                "range": [0, 1],
                "mean": list(IMAGENET_MEAN),
                "std": list(IMAGENET_STD),
                "size": f"{self._size} x {self._size}, aspect ratio not kept",
                "interpolation": "bicubic, antialiased",
            },
            versions={"torch": str(torch.__version__)},
        )

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """Every photograph is squashed to one square, as the student was trained."""
        return self._size, self._size

    def predict(self, images: np.ndarray) -> np.ndarray:
        """uint8 (B, h, w, 3) to relative inverse depth, float32 (B, h, w), large = near."""
        batch = torch.from_numpy(images).to(self._device).permute(0, 3, 1, 2)
        with torch.inference_mode(), torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
            depth = self._student(normalise(batch.float() / 255)).depth[0][:, 0]
        maps: np.ndarray = depth.float().cpu().numpy()
        return maps

    def close(self) -> None:
        """Nothing to release."""


def load_demo(
    name: str,
    *,
    device: str = "auto",
    card: str | None = None,
    size: int | None = None,
    precision: str = "auto",
) -> StudentTeacher:
    """The depth student that comes with the package; `name` and `card` are not used."""
    return StudentTeacher(SHIPPED_DEPTH_STUDENT, kind="demo", device=device, size=size, precision=precision)


def load_student_teacher(
    name: str,
    *,
    device: str = "auto",
    card: str | None = None,
    size: int | None = None,
    precision: str = "auto",
) -> StudentTeacher:
    """The depth of the student in a run folder or `.safetensors` file `name`."""
    return StudentTeacher(name, kind="student", device=device, size=size, precision=precision)
