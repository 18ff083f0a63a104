"""Blur maps as files, and figures of a student: sizes, names, bad photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.contract import SoftfocusError
from trainer.checkpoint import load_student, save_student
from trainer.config import load_config
from trainer.evaluate import evaluate, predict_maps
from trainer.metrics import PROTOCOLS
from trainer.predict import predict
from trainer.resizing import resize_bilinear
from trainer.students.model import create_student


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny student with random weights, as a file."""
    config = load_config(
        overrides=[
            "student.encoder=test_efficientnet",
            "student.channels=16",
            "data.input_size=64",
            "data.prepared_size=64",
        ]
    )
    torch.manual_seed(0)
    network = create_student("lite", encoder="test_efficientnet", channels=16)
    path = tmp_path_factory.mktemp("student") / "tiny.safetensors"
    save_student(path, network.state_dict(), config, half=True)
    return path


def photograph(path: Path, height: int = 30, width: int = 50) -> Path:
    """A random photograph on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(1).integers(0, 255, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_a_map_has_its_photographs_size_and_name(student: Path, tmp_path: Path) -> None:
    """Any size, any suffix, folders kept, names beyond ASCII; 8-bit grey."""
    photograph(tmp_path / "in" / "a.jpg", 30, 50)
    photograph(tmp_path / "in" / "deep" / "Blüte im Mai.PNG", 70, 20)
    summary = predict([tmp_path / "in"], out=tmp_path / "out", model=student, device="cpu")
    assert summary.failed == []
    assert sorted(summary.written) == [
        str(tmp_path / "out" / "a.png"),
        str(tmp_path / "out" / "deep" / "Blüte im Mai.png"),
    ]
    with Image.open(tmp_path / "out" / "a.png") as picture:
        assert (picture.mode, picture.size) == ("L", (50, 30))
    with Image.open(tmp_path / "out" / "deep" / "Blüte im Mai.png") as picture:
        assert picture.size == (20, 70)


def test_an_upright_map_for_a_turned_photograph(student: Path, tmp_path: Path) -> None:
    """A photograph stored on its side gets a map as people see the photograph."""
    path = photograph(tmp_path / "turned.jpg", 30, 50)
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(path) as picture:
        picture.copy().save(path, exif=exif)
    predict([path], out=tmp_path / "out", model=student, device="cpu")
    with Image.open(tmp_path / "out" / "turned.png") as picture:
        assert picture.size == (30, 50)


def test_depth_is_written_on_request(student: Path, tmp_path: Path) -> None:
    """STEM.depth.png beside STEM.png, over the full range."""
    predict([photograph(tmp_path / "a.png")], out=tmp_path / "out", model=student, depth=True, device="cpu")
    depth = np.asarray(Image.open(tmp_path / "out" / "a.depth.png"))
    assert depth.shape == (30, 50)
    assert depth.max() > 200
    assert depth.min() < 50


def test_one_bad_photograph_does_not_end_the_run(student: Path, tmp_path: Path) -> None:
    """It is listed with its reason; the others are done."""
    photograph(tmp_path / "in" / "good.png")
    (tmp_path / "in" / "bad.jpg").write_bytes(b"not a photograph")
    summary = predict([tmp_path / "in"], out=tmp_path / "out", model=student, device="cpu")
    assert len(summary.written) == 1
    assert len(summary.failed) == 1
    assert "bad.jpg" in summary.failed[0]


def test_what_cannot_be_predicted_is_named(student: Path, tmp_path: Path) -> None:
    """No photograph, two for one name, no model, a model that is none."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(SoftfocusError, match="no photograph found"):
        predict([tmp_path / "empty"], out=tmp_path / "out", model=student)
    one, two = photograph(tmp_path / "a" / "x.png"), photograph(tmp_path / "b" / "x.jpg")
    with pytest.raises(SoftfocusError, match="would both become"):
        predict([one, two], out=tmp_path / "out", model=student)
    with pytest.raises(SoftfocusError, match="no-run"):
        predict([one], out=tmp_path / "out", model=tmp_path / "no-run")
    (tmp_path / "other.safetensors").write_bytes(b"12345678 no weights")
    with pytest.raises(SoftfocusError, match=r"other\.safetensors"):
        predict([one], out=tmp_path / "out", model=tmp_path / "other.safetensors")
    with pytest.raises(SoftfocusError, match="choose 64 or 96"):
        predict([one], out=tmp_path / "out", model=student, input_sizes=[70], device="cpu")
    assert not (tmp_path / "out").exists()


def test_evaluation_has_every_protocol_and_every_image(student: Path, small_set: Path, small_labels: Path) -> None:
    """Three test images, all protocols, and depth against the store."""
    report = evaluate(small_set, model=student, labels=small_labels, device="cpu")
    assert report.images == 3
    assert list(report.measures) == list(PROTOCOLS)
    assert [row["id"] for row in report.per_image] == ["small/15", "small/16", "small/17"]
    mean = sum(row["mae"] for row in report.per_image) / 3
    assert report.measures["dffnet"]["mae"] == pytest.approx(mean)
    assert -1 <= report.depth["rank_correlation"] <= 1


def test_a_split_without_masks_cannot_be_scored(student: Path, small_set: Path, tmp_path: Path) -> None:
    """The message names the manifest and the split."""
    lines = [line for line in small_set.read_text().splitlines() if '"split":"val"' not in line]
    manifest = small_set.with_name("no-val.jsonl")
    manifest.write_text("\n".join(lines) + "\n")
    with pytest.raises(SoftfocusError, match="'val'"):
        evaluate(manifest, model=student, split="val", device="cpu")


def test_several_sizes_are_averaged(student: Path) -> None:
    """Two input sizes: the mean of both maps at the larger one."""
    network, _, _ = load_student(student)
    image = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
    small, large = (predict_maps(network, image, sizes=[size])[0] for size in (64, 96))
    both, depth = predict_maps(network, image, sizes=[64, 96])
    np.testing.assert_allclose(both, (resize_bilinear(small, (96, 96)) + large) / 2, atol=1e-6)
    assert depth.shape == (96, 96)


def test_a_student_of_masks_alone_gives_no_depth(tmp_path: Path) -> None:
    """What was never learnt is not written."""
    config = load_config(overrides=["student.encoder=test_efficientnet", "student.channels=16", "depth_loss.weight=0"])
    network = create_student("lite", encoder="test_efficientnet", channels=16)
    save_student(tmp_path / "tiny.safetensors", network.state_dict(), config)
    with pytest.raises(SoftfocusError, match="masks alone"):
        predict(
            [photograph(tmp_path / "a.png")],
            out=tmp_path / "maps",
            model=tmp_path / "tiny.safetensors",
            depth=True,
            device="cpu",
        )


def test_no_map_is_written_over_a_photograph(student: Path, tmp_path: Path) -> None:
    """PNG photographs and maps have the same names: their folder is refused as the maps' one, and nothing changes."""
    path = photograph(tmp_path / "in" / "a.png")
    before = path.read_bytes()
    with pytest.raises(SoftfocusError, match=r"a\.png: is a photograph"):
        predict([tmp_path / "in"], out=tmp_path / "in", model=student, device="cpu")
    assert path.read_bytes() == before


def test_maps_below_the_photographs_are_no_photographs(student: Path, tmp_path: Path) -> None:
    """The same command twice writes the same maps."""
    photograph(tmp_path / "in" / "a.jpg")
    for _ in range(2):
        summary = predict([tmp_path / "in"], out=tmp_path / "in" / "maps", model=student, device="cpu")
        assert summary.written == [str(tmp_path / "in" / "maps" / "a.png")]
