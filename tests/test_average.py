"""`softfocus average`: the mean of students' weights, and which students have none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from conftest import QUICK

from cli import main
from pipeline.contract import SoftfocusError
from trainer.average import average
from trainer.checkpoint import load_student, save_student
from trainer.config import load_config
from trainer.students.model import build_student

MakeStudent = Callable[..., Path]


@pytest.fixture
def make_student(tmp_path: Path) -> MakeStudent:
    """Saves a student with random weights: `make_student(name, seed, *overrides)`."""

    def make(name: str, seed: int, *overrides: str) -> Path:
        config = load_config(overrides=[*QUICK, "student.encoder_weights=none", *overrides])
        torch.manual_seed(seed)
        weights = build_student(config.student).state_dict()
        save_student(tmp_path / f"{name}.safetensors", weights, config, figures={"manifest_sha256": "m"})
        return tmp_path / f"{name}.safetensors"

    return make


def test_the_mean_is_that_of_every_tensor(make_student: MakeStudent, tmp_path: Path) -> None:
    """By hand, in single and in half precision; the manifest stays known where it is the same."""
    files = [make_student(str(seed), seed, "student.start=first") for seed in range(3)]
    command = ["average", *map(str, files), "-o", str(tmp_path / "mean.safetensors"), "--json"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["one_start"]
    assert "warning" not in done.stderr
    states = [load_student(file)[0].state_dict() for file in files]
    mean, _, figures = load_student(tmp_path / "mean.safetensors")
    for name, value in mean.state_dict().items():
        expected = torch.stack([state[name].double() for state in states]).mean(0)
        torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-7)
    assert figures == {"mean_of": [str(file) for file in files], "manifest_sha256": "m"}
    average(files, out=tmp_path / "half.safetensors", half=True)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * (tmp_path / "mean.safetensors").stat().st_size


def test_students_that_started_apart_are_told(make_student: MakeStudent, tmp_path: Path) -> None:
    """From different students, or from none."""
    alone, one, other = (
        make_student("a", 0),
        make_student("b", 1, "student.start=x"),
        make_student("c", 2, "student.start=y"),
    )
    for pair in ((alone, make_student("d", 3)), (one, other), (alone, one)):
        done = CliRunner().invoke(main, ["average", *map(str, pair), "-o", str(tmp_path / "mean.safetensors")])
        assert done.exit_code == 0
        assert "did not start from the same student" in done.stderr


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("student.channels=24", "student.channels is 24, and 16"),
        ("student.sab=true", "student.sab is True, and False"),
        ("data.input_size=40", "data.input_size is 40, and 32"),
        ("depth_loss.weight=0", "learns_depth is False, and True"),
    ],
)
def test_unlike_students_have_no_mean(make_student: MakeStudent, tmp_path: Path, override: str, message: str) -> None:
    """The message names the file and what differs; nothing is written."""
    with pytest.raises(SoftfocusError, match=rf"b\.safetensors: {message}"):
        average([make_student("a", 0), make_student("b", 1, override)], out=tmp_path / "mean.safetensors")
    assert not (tmp_path / "mean.safetensors").exists()


def test_one_student_or_the_same_twice_is_refused(make_student: MakeStudent, tmp_path: Path) -> None:
    """A mean takes two; and a student is a file of its kind."""
    one = make_student("a", 0)
    with pytest.raises(SoftfocusError, match="choose such a name"):
        average([one, make_student("b", 1)], out=tmp_path / "mean.pth")
    for given, message in (([one], "give two or more"), ([one, one], "given twice")):
        with pytest.raises(SoftfocusError, match=message):
            average(given, out=tmp_path / "mean.safetensors")
