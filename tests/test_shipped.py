"""The students that come with softfocus: small, whole, with a card, one of them used where no model is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from benchmarks.student import count_size
from cli import main
from pipeline.contract import read_blur_mask, read_image
from trainer.checkpoint import SHIPPED, find_student, load_student
from trainer.config import load_config
from trainer.evaluate import predict_maps, sizes_in_use
from trainer.students.initial import initial_student

STUDENTS = ("lite", "lite-cuhk")


@pytest.mark.parametrize("name", STUDENTS)
def test_a_shipped_student_is_within_its_limits(name: str) -> None:
    """12 MiB, 5 M parameters and 6 GFLOPs at 320 x 320 at most; built as its preset says; with a card."""
    file = SHIPPED / f"{name}.safetensors"
    assert file.stat().st_size <= 12 * 2**20
    assert (SHIPPED / f"{name}.md").is_file()
    size = count_size("lite")
    assert size.parameters <= 5e6
    assert size.gflops <= 6
    _, config, _ = load_student(name)
    preset = load_config(preset="lite")
    assert (config.student.encoder, config.student.channels) == (preset.student.encoder, preset.student.channels)
    assert config.data.input_size == preset.data.input_size


@pytest.mark.parametrize("name", STUDENTS)
def test_a_shipped_student_tells_sharp_from_blurred(name: str, shared: Path) -> None:
    """On five photographs of DUT, which it has never seen, in another polarity."""
    student, config, _ = load_student(name)
    errors = []
    for file in sorted((shared / "data/dut5/gt").iterdir()):
        image = shared / "data/dut5/image" / f"{file.stem}.jpg"
        mask = read_blur_mask(file, blur="black", size=read_image(image).shape[:2])
        blur, _ = predict_maps(student, read_image(image), sizes=sizes_in_use(config)[:1])
        small = np.array(Image.fromarray(mask).resize(blur.shape[::-1]))
        errors.append(float(np.abs(blur - small).mean()))
    print("MAE on DUT:", [round(e, 3) for e in errors])
    assert np.mean(errors) < 0.05


def test_predict_and_evaluate_use_it_by_default(tmp_path: Path) -> None:
    """No --model: the shipped one; a folder that has its name is taken for a run."""
    photograph = tmp_path / "photograph.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)).save(photograph)
    command = ["predict", str(photograph), "-o", str(tmp_path / "maps"), "--input-size", "64", "--json"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "maps" / "photograph.png").is_file()
    assert json.loads(done.stdout)["written"]
    assert find_student("lite") == SHIPPED / "lite.safetensors"


def test_training_can_start_from_its_encoder() -> None:
    """Where ImageNet's weights cannot be fetched, and it says so."""
    student, origin = initial_student(load_config(preset="lite", overrides=["student.encoder_weights=shipped"]))
    shipped, _, _ = load_student("lite")
    name = "encoder.blocks.6.0.conv_pw.weight"
    assert (student.state_dict()[name] == shipped.state_dict()[name]).all()
    assert "lite" in origin


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDENTS)
def test_the_card_holds(name: str, shared: Path, tmp_path: Path) -> None:
    """TE-1's MAE is the card's."""
    manifest = tmp_path / "cuhk.jsonl"
    for command in (
        ["index", "cuhk", str(shared / "data/cuhk"), "-o", str(manifest)],
        ["evaluate", str(manifest), "--model", name, "--device", "cpu", "--json"],
    ):
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 0, done.output
    mae = json.loads(done.stdout)["measures"]["dffnet"]["mae"]
    assert f"{mae:.4f}"[1:] in (SHIPPED / f"{name}.md").read_text()
