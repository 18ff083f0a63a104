"""Students as teachers: a trained student labels photographs for stage 1, through its plug-in point.

`demo` is a depth-only student that this project distilled and ships; `student:RUN` is any run's student,
whose depth or probability of blur becomes the label.
Stage 1 knows these only by name (see `register_kind` in `pipeline.teachers`), and training knows neither.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from pipeline.contract import BLUR_PROBABILITY, INVERSE_DEPTH, Provenance, SoftfocusError, sha256_file
from trainer.checkpoint import find_student, load_student
from trainer.device import choose_device
from trainer.samples.augment import normalise
from trainer.students.initial import SHIPPED_DEPTH_STUDENT
from trainer.students.model import IMAGENET_MEAN, IMAGENET_STD, require_size

__all__ = ["StudentTeacher", "load_demo", "load_student_teacher"]


class StudentTeacher:
    """A student's fused depth, or its probability of blur, behind stage 1's interface for teachers.

    Args:
        model: a run folder or `.safetensors` file.
        quantity: `depth` or `blur`.

    Raises:
        SoftfocusError: no such model, or one that has not learnt this quantity, takes no input of this size, or
            does not run in this precision.
    """

    def __init__(
        self,
        model: Path | str,
        *,
        kind: str,
        device: str,
        size: int | None,
        precision: str,
        quantity: str = "depth",
    ) -> None:
        self._device = choose_device(device)
        self._student, config, _ = load_student(model, device=self._device)
        self._student.requires_grad_(False)
        self._is_blur = quantity == "blur"
        if not (config.learns_blur if self._is_blur else config.depth_loss.weight):
            other = "depth" if self._is_blur else "blur"
            raise SoftfocusError(f"{model}: this student has not learnt {quantity}; ask for --quantity {other}")
        self._size = size or config.data.input_size
        require_size(self._student, self._size)
        bf16 = self._device.type == "cuda" and torch.cuda.is_bf16_supported()
        if precision not in ("auto", "float32", "bfloat16"):
            raise SoftfocusError(f"precision {precision!r} is not offered by {kind}; choose auto, float32 or bfloat16")
        self._bf16 = bf16 if precision == "auto" else precision == "bfloat16"
        self.provenance = Provenance(
            kind=kind,
            name=f"{config.student.name} ({config.student.encoder})",
            weights_sha256=sha256_file(find_student(model)),
            quantity=BLUR_PROBABILITY if self._is_blur else INVERSE_DEPTH,
            direction="1 = out of focus" if self._is_blur else "inverse depth",
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
        """uint8 (B, h, w, 3) to float32 (B, h, w): relative inverse depth, or blur probability from 0 to 1."""
        batch = torch.from_numpy(images).to(self._device).permute(0, 3, 1, 2)
        with torch.inference_mode(), torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
            output = self._student(normalise(batch.float() / 255))
        values = output.blur[0].float().sigmoid() if self._is_blur else output.depth[0].float()
        maps: np.ndarray = values[:, 0].cpu().numpy()
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
    """The depth student that comes with the package; `name` is not used, and a `card` is refused."""
    _refuse_card("demo", card)
    return StudentTeacher(SHIPPED_DEPTH_STUDENT, kind="demo", device=device, size=size, precision=precision)


def load_student_teacher(
    name: str,
    *,
    device: str = "auto",
    card: str | None = None,
    size: int | None = None,
    precision: str = "auto",
    quantity: str = "depth",
) -> StudentTeacher:
    """The student in a run folder or `.safetensors` file `name`; a `card` is refused."""
    _refuse_card("student", card)
    return StudentTeacher(name, kind="student", device=device, size=size, precision=precision, quantity=quantity)


def _refuse_card(kind: str, card: str | None) -> None:
    if card is not None:
        raise SoftfocusError(f"--card {card}: tells of an ONNX teacher, and {kind} knows its input; leave it away")
