"""The mean of several students' weights: runs of a few seeds as one student, at the cost of one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch

from pipeline.contract import SoftfocusError
from trainer.checkpoint import find_student, load_student, require_student_name, save_student
from trainer.config import Config

__all__ = ["AverageSummary", "average"]


class AverageSummary(msgspec.Struct, frozen=True):
    """What was averaged: weights files, the number of learnt parameters of the mean, and whether all the students
    started from one (`student.start`)."""

    out: str
    students: list[str]
    parameters: int
    one_start: bool


def average(models: Sequence[Path | str], *, out: Path | str, half: bool = False) -> AverageSummary:
    """Write the mean of the weights of students as a student.

    Students that were trained on from one student lie close enough to each other for their mean to be as good as
    the best of them, or better (Wortsman et al., Model soups, ICML 2022); the mean of students that started apart
    is of no use. Means are taken in double precision, those of batch norm's statistics too.

    Args:
        models: run folders or `.safetensors` files, at least two.
        out: a `.safetensors` file.
        half: store float16 in place of float32.

    Raises:
        SoftfocusError: `out` has another suffix or cannot be written; fewer than two students, one given twice, or
            students that differ in more than their weights.
    """
    require_student_name(out)
    files = [find_student(model) for model in models]
    if len(files) < 2:
        raise SoftfocusError("one student has no mean; give two or more run folders or .safetensors files")
    for place, file in enumerate(files):
        if file.resolve() in {other.resolve() for other in files[:place]}:
            raise SoftfocusError(f"{file}: is given twice; give each student once")
    students, configs, figures = zip(*map(load_student, files), strict=True)
    expected = _facts(configs[0])
    for file, config in zip(files, configs, strict=True):
        for key, value in _facts(config).items():
            if value != expected[key]:
                raise SoftfocusError(
                    f"{file}: {key} is {value}, and {expected[key]} in {files[0]}; average students that differ in "
                    "their weights alone"
                )
    states = [student.state_dict() for student in students]
    mean = states[-1] | {  # batch norm's counters have no mean
        name: torch.stack([state[name].double() for state in states]).mean(0).float()
        for name, value in states[0].items()
        if value.is_floating_point()
    }
    starts = {config.student.start for config in configs}
    manifests = {known.get("manifest_sha256") for known in figures}
    known = {"manifest_sha256": manifests.pop()} if len(manifests) == 1 else {}
    save_student(out, mean, configs[0], figures={"mean_of": [str(file) for file in files], **known}, half=half)
    return AverageSummary(
        out=str(out),
        students=[str(file) for file in files],
        parameters=sum(parameter.numel() for parameter in students[0].parameters()),
        one_start=len(starts) == 1 and starts != {None},
    )


def _facts(config: Config) -> dict[str, Any]:
    """What makes the weights of two students mean the same: their network, what they see and what they learnt."""
    student, data = config.student, config.data
    return {
        "student.name": student.name,
        "student.encoder": student.encoder,
        "student.channels": student.channels,
        "student.context": student.context,
        "student.sab": student.sab,
        "data.input_size": data.input_size,
        "data.test_sizes": data.test_sizes,
        "learns_blur": config.learns_blur,
        "learns_depth": config.depth_loss.weight > 0,
    }
