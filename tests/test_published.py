"""The paper's published weights become a student, and nothing else does."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from test_paper import FIXTURE, formula_image, formula_state
from torch import Tensor

from cli import main
from pipeline.contract import SoftfocusError
from trainer.checkpoint import CheckpointError, load_student
from trainer.students.published import import_weights, read_official


@pytest.fixture(scope="module")
def vgg_state() -> dict[str, Tensor]:
    return formula_state("vgg16")


@pytest.fixture(scope="module")
def imported(vgg_state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The student that the command makes of an official file, nested and prefixed as a training script leaves it."""
    folder = tmp_path_factory.mktemp("imported")
    prefixed = {f"module.{name}": value for name, value in vgg_state.items()}
    torch.save({"epoch": 3, "best": 0.07, "state_dict": prefixed}, folder / "vgg_best.pth")
    done = CliRunner().invoke(
        main, ["import-weights", str(folder / "vgg_best.pth"), "-o", str(folder / "vgg.safetensors"), "--json"]
    )
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["parameters"] == 19_436_634
    return folder / "vgg.safetensors"


def test_the_imported_student_computes_what_the_official_network_does(imported: Path) -> None:
    """All twelve outputs are those of the official modules, blur negated; the file says where it comes from."""
    student, config, figures = load_student(imported)
    assert config.student.name == "paper-vgg16"
    assert figures["source"] == "github.com/vinthony/depth-distillation: vgg_best.pth"
    with torch.inference_mode():
        output = student(formula_image())
    expected = json.loads(FIXTURE.read_text(encoding="utf-8"))["vgg16"]
    for found, row in zip(
        [-m for m in output.blur] + output.depth, expected["in_focus"] + expected["depth"], strict=True
    ):
        places = np.linspace(0, found.numel() - 1, len(row["values"])).astype(int)
        np.testing.assert_allclose(found.flatten()[places], row["values"], rtol=0, atol=1e-4)


def test_the_imported_student_predicts_and_is_scored(imported: Path, small_set: Path, tmp_path: Path) -> None:
    """`predict` writes blur and depth, `evaluate` scores; a size that does not fit is named with one that does."""
    photographs = small_set.parent / "photos" / "image" / "00.png"
    small = ["--input-size", "64", "--device", "cpu"]
    done = CliRunner().invoke(
        main, ["predict", str(photographs), "-o", str(tmp_path / "maps"), "--model", str(imported), "--depth", *small]
    )
    assert done.exit_code == 0, done.stderr
    assert sorted(p.name for p in (tmp_path / "maps").iterdir()) == ["00.depth.png", "00.png"]
    done = CliRunner().invoke(main, ["evaluate", str(small_set), "--model", str(imported), "--json", *small])
    assert json.loads(done.stdout)["measures"]["dffnet"]["mae"] >= 0, done.stderr
    for command in (["predict", str(photographs), "-o", str(tmp_path / "m")], ["evaluate", str(small_set)]):
        done = CliRunner().invoke(main, [*command, "--model", str(imported), "--input-size", "70"])
        assert done.exit_code == 1
        assert "70" in done.stderr
        assert "96" in done.stderr or "64" in done.stderr


def test_state_dicts_are_found_wherever_they_are(tmp_path: Path) -> None:
    """Bare, prefixed, nested, in half precision, and in the format of before torch 1.6."""
    weights = {"fusion.weight": torch.arange(5.0).half(), "fusion.bias": torch.zeros(1)}
    forms: list[Any] = [
        weights,
        {f"module.module.{name}": value for name, value in weights.items()},
        {"epoch": 3, "step": torch.tensor(7), "state_dict": weights, "log": ["a", 1.5, None]},
        {
            "generator": {"model": {f"module.{name}": value for name, value in weights.items()}},
            "optimizer": {"lr": 0.1},
        },
    ]
    for number, form in enumerate(forms):
        for zipped in (True, False):
            file = tmp_path / f"{number}.pth"
            torch.save(form, file, _use_new_zipfile_serialization=zipped)
            found = read_official(file)
            assert {name: value.tolist() for name, value in found.items()} == {
                "fusion.weight": [0, 1, 2, 3, 4],
                "fusion.bias": [0],
            }
            assert {value.dtype for value in found.values()} == {torch.float32}


class Trap:
    """Pickled, it would make a folder when it is loaded."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("trapped",)


def test_a_file_with_code_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The object is named, and nothing in the file has been executed."""
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"fusion.bias": torch.zeros(1)}, "extra": Trap()}, "trap.pth")
    with pytest.raises(CheckpointError, match=r"trap\.pth: refused.*mkdir.*run code; give res_best\.pth"):
        import_weights("trap.pth", "out.safetensors")
    assert not Path("trapped").exists()
    assert not Path("out.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fusion.bias": None}, r"fusion\.bias is missing"),
        ({"deconv9.weight": torch.zeros(1)}, r"deconv9\.weight is unknown"),
        ({"fusion.bias": torch.zeros(2)}, r"fusion\.bias is \(2,\), not \(1,\)"),
        ({"fusion.bias": torch.tensor([torch.nan])}, "not finite"),
        ({"pretrained_net.features.0.weight": None}, "neither its ResNeXt-101 nor its VGG-16"),
    ],
)
def test_other_weights_are_refused(
    vgg_state: dict[str, Tensor], change: dict[str, Tensor | None], words: str, tmp_path: Path
) -> None:
    """What is missing, unknown, or of another shape is named, and no student is written."""
    changed = {name: value for name, value in (vgg_state | change).items() if value is not None}
    torch.save(changed, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=words) as caught:
        import_weights(tmp_path / "other.pth", tmp_path / "out.safetensors")
    assert "other.pth" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.safetensors").exists()


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    """An absent file, a folder, a web page, an empty file, a file cut short, no tensors; and another suffix."""
    torch.save({"epoch": 3}, tmp_path / "numbers.pth")
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><p>Google Drive can't scan this file for viruses")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "tensor.pth").read_bytes()[:200])
    for name in ("absent", "numbers.pth", "tensor.pth", "page.pth", "empty.pth", "cut.pth", "."):
        with pytest.raises(CheckpointError, match="res_best") as caught:
            import_weights(tmp_path / name, tmp_path / "out.safetensors")
        assert "\n" not in str(caught.value), name
    with pytest.raises(SoftfocusError, match=r"out\.pth: a student is a \.safetensors file"):
        import_weights(tmp_path / "numbers.pth", tmp_path / "out.pth")
