"""The mean of several students' weights: runs of a few seeds as one student, at the cost of one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch

from pipeline.contract import SoftfocusError
from trainer.checkpoint import find_student, load_student, save_student
from trainer.config import Config
from trainer.runs.run_folder import flatten

__all__ = ["AverageSummary", "average"]

# what makes two networks one: the same weights mean the same, of the same quantities, at the same sizes
ALIKE = (
    *("student.name", "student.encoder", "student.channels", "student.context", "student.sab"),
    *("data.input_size", "data.test_sizes", "learns_blur", "learns_depth"),
)


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
    if Path(out).suffix != ".safetensors":
        raise SoftfocusError(f"{out}: a student is a .safetensors file; choose such a name")
    files = [find_student(model) for model in models]
    if len(files) < 2:
        raise SoftfocusError("one student has no mean; give two or more run folders or .safetensors files")
    first: dict[str, Any] = {}
    total: dict[str, torch.Tensor] = {}
    starts, manifests = set(), set()
    for place, file in enumerate(files):
        if file.resolve() in {other.resolve() for other in files[:place]}:
            raise SoftfocusError(f"{file}: is given twice; give each student once")
        student, config, figures = load_student(file)
        facts = _facts(config)
        first = first or facts
        for key in ALIKE:
            if facts[key] != first[key]:
                raise SoftfocusError(
                    f"{file}: {key} is {facts[key]}, and {first[key]} in {files[0]}; average students that differ in "
                    "their weights alone"
                )
        starts.add(config.student.start)
        manifests.add(figures.get("manifest_sha256"))
        for name, value in student.state_dict().items():
            share = value.double() / len(files) if value.is_floating_point() else value
            total[name] = total[name] + share if place and value.is_floating_point() else share
    mean = {name: value.float() if value.is_floating_point() else value for name, value in total.items()}
    known = {"manifest_sha256": manifests.pop()} if len(manifests) == 1 else {}
    save_student(out, mean, config, figures={"mean_of": [str(file) for file in files], **known}, half=half)
    return AverageSummary(
        out=str(out),
        students=[str(file) for file in files],
        parameters=sum(parameter.numel() for parameter in student.parameters()),
        one_start=len(starts) == 1 and starts != {None},
    )


def _facts(config: Config) -> dict[str, Any]:
    learns = {"learns_blur": config.learns_blur, "learns_depth": config.depth_loss.weight > 0}
    return flatten(msgspec.to_builtins(config)) | learns
