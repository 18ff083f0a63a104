"""Where a new student's weights come from."""

from __future__ import annotations

from torch import nn

from trainer.checkpoint import SHIPPED, load_student
from trainer.config import Config
from trainer.students.model import ModelError, build_student

__all__ = ["SHIPPED_DEPTH_STUDENT", "initial_student"]

SHIPPED_DEPTH_STUDENT = SHIPPED / "demo_teacher.safetensors"


def initial_student(config: Config) -> tuple[nn.Module, str]:
    """A student at the start of its training, and where its encoder's weights come from."""
    if config.student.start is not None:
        return _started_student(config, config.student.start)
    asked = config.student.encoder_weights
    if asked in ("auto", "hub"):
        try:
            return build_student(config.student, encoder_weights="hub"), "the hub's ImageNet weights"
        except ModelError:
            if asked == "hub":
                raise
    if asked in ("auto", "shipped"):
        return _with_shipped_encoder(config, asked)
    student = build_student(config.student, encoder_weights=asked)
    return student, "random weights" if asked == "none" else asked


def _started_student(config: Config, start: str) -> tuple[nn.Module, str]:
    """A student that goes on from another run's weights."""
    before, theirs, _ = load_student(start)
    student = build_student(config.student)
    try:
        student.load_state_dict(before.state_dict())
    except RuntimeError as error:
        raise ModelError(
            f"{start}: a student of another kind ({theirs.student.name}, {theirs.student.encoder}, "
            f"{theirs.student.channels} channels, context {theirs.student.context}); set the same student.* values"
        ) from error
    return student, str(start)


def _with_shipped_encoder(config: Config, asked: str) -> tuple[nn.Module, str]:
    why = " (the hub's ImageNet weights cannot be fetched)" if asked == "auto" else ""
    for file in sorted(SHIPPED.glob("*.safetensors"), key=lambda file: file.stem):
        shipped, theirs, _ = load_student(file)
        if (config.student.name, config.student.encoder) == (theirs.student.name, theirs.student.encoder):
            student = build_student(config.student)
            encoder: nn.Module = student.encoder
            encoder.load_state_dict(shipped.encoder.state_dict())  # type: ignore[union-attr]
            return student, f"the encoder of the shipped {file.stem}{why}"
    raise ModelError(
        f"encoder {config.student.encoder!r} of {config.student.name}: its ImageNet weights cannot be fetched "
        "and none are shipped; give a local file with --encoder-weights FILE, or none"
    )
