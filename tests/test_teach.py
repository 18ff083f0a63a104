"""Students as teachers: the shipped one is whole, small and sees depth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from pipeline.contract import SoftfocusError, read_image
from pipeline.teachers import Teacher
from trainer.samples.data import squash
from trainer.students.initial import SHIPPED_DEPTH_STUDENT
from trainer.teach import load_demo, load_student_teacher


def test_the_shipped_teacher_is_small_and_obeys_the_interface() -> None:
    """At most 8 MiB; float32 maps of the input's size; provenance that names its weights."""
    assert SHIPPED_DEPTH_STUDENT.stat().st_size <= 8 * 2**20
    teacher = load_demo("", device="cpu")
    assert isinstance(teacher, Teacher)
    size = teacher.input_size(427, 640)
    images = np.random.default_rng(0).integers(0, 255, (2, *size, 3), np.uint8)
    depth = teacher.predict(images)
    assert depth.shape == (2, *size)
    assert depth.dtype == np.float32
    np.testing.assert_array_equal(depth, teacher.predict(images))
    assert teacher.provenance.kind == "demo"
    assert len(teacher.provenance.weights_sha256) == 64


def test_the_shipped_teacher_sees_depth(shared: Path) -> None:
    """Rank correlation with Middlebury's true disparity, a view it has never seen."""
    view = read_image(shared / "data" / "motorcycle" / "left.png")
    with np.load(shared / "data" / "motorcycle" / "disparity.npz") as file:
        disparity = file[file.files[0]]
    teacher = load_demo("", device="cpu")
    size = teacher.input_size(*view.shape[:2])
    depth = teacher.predict(squash(view, size[0])[None])[0]
    rows = (np.arange(disparity.shape[0]) * size[0] // disparity.shape[0])[:, None]
    columns = np.arange(disparity.shape[1]) * size[1] // disparity.shape[1]
    known = np.isfinite(disparity)
    correlation = spearmanr(depth[rows, columns][known], disparity[known]).statistic
    print(f"rank correlation with disparity: {correlation:.3f}")
    assert correlation > 0.6


def test_what_cannot_teach_is_named(tmp_path: Path) -> None:
    """An absent run and a precision that is not offered."""
    with pytest.raises(SoftfocusError, match="absent"):
        load_student_teacher(str(tmp_path / "absent"), device="cpu")
    with pytest.raises(SoftfocusError, match="float16"):
        load_demo("", device="cpu", precision="float16")
