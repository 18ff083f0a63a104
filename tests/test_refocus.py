"""Refocused photographs: circles from depth alone, layers that hide no hole, the same again, resumable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import BrightnessTeacher
from PIL import Image

from pipeline.datasets import index
from pipeline.distill import label
from pipeline.manifest import read_manifest
from pipeline.provenance import BLUR_PROBABILITY
from pipeline.refocus import refocus
from pipeline.refocus.contours import evened, stepped
from pipeline.refocus.sheets import cut
from pipeline.refocus.take import Focus, relative_circle_px, take
from pipeline.store import LabelReader
from pipeline.synthetic import SynthError, usual_threshold_px
from pipeline.synthetic.blur import compose
from pipeline.synthetic.camera import Camera, circle_of_confusion_px

SIZE = (64, 96)


def scene(height: int = 160, width: int = 240) -> tuple[np.ndarray, np.ndarray]:
    """A checked thing before a striped wall, all sharp, uint8 (H, W, 3), and its inverse depth."""
    y, x = np.indices((height, width))
    wall = np.where((x // 4) % 2, 200, 60)[..., None] * np.array([0.6, 0.8, 1.0])
    thing = np.where((x // 3 + y // 3) % 2, 240, 30)[..., None] * np.array([1.0, 0.5, 0.4])
    near = np.hypot(y - height / 2, x - width / 2) < height / 4
    return np.where(near[..., None], thing, wall).astype(np.uint8), np.where(near, 1.0, 0.1).astype(np.float32)


def test_the_circle_is_that_of_a_thin_lens() -> None:
    """Linear in inverse depth: the camera's formula, with its aperture, focal length and focus in the gain."""
    camera = Camera(
        focal_length_mm=50, f_number=2, focus_distance_m=2, sensor_width_mm=36, height_px=667, width_px=1000
    )
    depth_m = np.array([0.5, 1.0, 2.0, 4.0, 100.0])
    gain_px = 25 * 50 * 2000 / (2000 - 50) / 1000 / 0.036  # per 1/m
    np.testing.assert_allclose(
        relative_circle_px(1 / depth_m, Focus(0.5, gain_px)), circle_of_confusion_px(depth_m, camera), atol=1e-9
    )


def test_a_surface_cut_into_layers_has_no_seam() -> None:
    """An even wall stays even when it runs through many layers and is blurred on the way."""
    depth = np.broadcast_to(np.linspace(1, 2, 120, dtype=np.float32), (60, 120))
    light = np.full((3, 60, 120), 0.5, np.float32)
    layers = cut(light, depth, np.linspace(1, 2, 6)[1:-1], reach=8)
    assert len(layers) == 5
    picture, inverse_depth = compose(layers, (60, 120), diameter_px=lambda d: relative_circle_px(d, Focus(1.0, 12)))
    inner = picture[:, 10:-10, 10:-10]  # what a margin is for
    np.testing.assert_allclose(inner, 0.5, atol=0.01)
    np.testing.assert_array_equal(inverse_depth, depth)


def test_a_sharp_wall_shows_through_a_blurred_outline() -> None:
    """Past its outline a blurred thing is mixed with the wall; far from it both are untouched."""
    near = np.zeros((64, 64), bool)
    near[:, 32:] = True
    depth = np.where(near, 2.0, 1.0).astype(np.float32)
    light = np.where(near, 1.0, 0.0).astype(np.float32)[None].repeat(3, 0)
    layers = cut(light, depth, np.array([1.5]), reach=8)
    picture, _ = compose(layers, (64, 64), diameter_px=lambda d: relative_circle_px(d, Focus(1.0, 10)))
    row = picture[0, 32]
    assert row[20] == 0
    assert row[44] == pytest.approx(1, abs=1e-3)
    assert 0.3 < row[31] < 0.7
    assert (np.diff(row[:50]) > -1e-4).all()


def test_a_sloped_outline_becomes_a_step_at_the_contour() -> None:
    """The network's slope lies beside the contour; afterwards depth steps where the colours change."""
    picture = np.zeros((40, 80, 3), np.float32)
    picture[:, 40:] = (0.9, 0.6, 0.2)
    x = np.arange(80)
    depth = np.broadcast_to(np.clip((x - 33) / 10, 0, 1), (40, 80)).astype(np.float32)  # middle at 38
    result = stepped(depth, picture, reach=8)
    np.testing.assert_allclose(result[20, :39], 0, atol=0.05)
    np.testing.assert_allclose(result[20, 41:], 1, atol=0.05)


def test_depth_without_steps_stays_as_it_is() -> None:
    """Neither sharpening nor smoothing bends a floor; smoothing takes bumps away and leaves a step alone."""
    floor = np.broadcast_to(np.linspace(0, 1, 160, dtype=np.float32)[:, None], (160, 100))
    picture = np.random.default_rng(0).random((160, 100, 3)).astype(np.float32)
    np.testing.assert_allclose(stepped(floor, picture, reach=4), floor, atol=1e-6)
    np.testing.assert_allclose(evened(floor, reach=8)[20:-20], floor[20:-20], atol=0.01)
    step = np.where(np.arange(100) < 50, 0.2, 0.8).astype(np.float32)[None].repeat(60, 0)
    bumps = np.float32(0.02) * np.random.default_rng(1).standard_normal((60, 100)).astype(np.float32)
    smooth = evened(step + bumps, reach=10)
    assert np.abs(smooth - step).max() < 0.02
    assert np.abs(smooth - step).mean() < 0.3 * np.abs(bumps).mean()


@pytest.mark.parametrize("seed", range(3))
def test_mask_circle_and_depth_agree_and_the_picture_with_them(seed: int) -> None:
    """The circle follows from depth and focus, the mask from circle and threshold, and blur takes detail away."""
    photograph, depth = scene()
    rng = np.random.default_rng(seed)
    picture = take(photograph, depth, rng, size=(96, 144), threshold_px=2.0, split="train")
    focus = Focus(picture.facts["focus"], picture.facts["gain_px"])
    expected = relative_circle_px(picture.depth["inverse_depth"], focus)
    np.testing.assert_allclose(picture.coc_px, expected, rtol=1e-3, atol=0.02)
    np.testing.assert_array_equal(picture.mask, picture.coc_px > 2.0)
    assert picture.image.shape == (96, 144, 3)
    assert 0.05 < picture.mask.mean() < 0.95
    gradient = np.abs(np.diff(picture.image.astype(float).mean(-1), axis=1))
    blurred, sharp = picture.coc_px[:, 1:] > 5, picture.coc_px[:, 1:] < 0.5
    if blurred.mean() > 0.05:
        assert gradient[sharp].mean() > 1.5 * gradient[blurred].mean()


def test_upright_photographs_give_upright_pictures() -> None:
    """The size's sides change places, nothing is stretched or cut to a strip."""
    photograph, depth = scene(240, 160)
    picture = take(photograph, depth, np.random.default_rng(0), size=SIZE, threshold_px=2.0, split="val")
    assert picture.image.shape == (*SIZE[::-1], 3)
    left, top, right, bottom = picture.facts["part"]
    assert (right - left) * 160 / ((bottom - top) * 240) == pytest.approx(SIZE[0] / SIZE[1], rel=0.01)


@pytest.fixture
def photographs(tmp_path: Path) -> tuple[Path, Path]:
    """A manifest of two photographs and a store with their labels."""
    (tmp_path / "photos").mkdir()
    for k in range(2):
        Image.fromarray(np.roll(scene()[0], 40 * k, 1)).save(tmp_path / "photos" / f"{k}.png")
    index("images", tmp_path / "photos", out=tmp_path / "photos.jsonl", val_fraction=0, jobs=1)
    label(tmp_path / "photos.jsonl", tmp_path / "labels", load_teacher=BrightnessTeacher, workers=1)
    return tmp_path / "photos.jsonl", tmp_path / "labels"


def test_a_set_is_a_synth_dataset_and_goes_on_where_it_stopped(photographs: tuple[Path, Path], tmp_path: Path) -> None:
    """`index synth` reads it; what is there is kept to the byte; each photograph serves in turn."""
    out = tmp_path / "set"
    assert refocus(*photographs, out, count=3, size=SIZE, jobs=1).rendered == 3
    before = {p.name: p.read_bytes() for p in (out / "image").iterdir()}
    (out / "exact" / "000001.npz").unlink()
    summary = refocus(*photographs, out, count=4, size=SIZE, jobs=1)
    assert (summary.rendered, summary.kept) == (2, 2)
    after = {p.name: p.read_bytes() for p in (out / "image").iterdir()}
    assert all(after[name] == content for name, content in before.items())
    index("synth", out, out=tmp_path / "set.jsonl", val_fraction=0, jobs=1)
    samples = read_manifest(tmp_path / "set.jsonl")
    assert [sample.split for sample in samples] == ["train"] * 4
    for name in ("000000", "000002"):
        with np.load(out / "exact" / f"{name}.npz") as exact:
            mask = np.asarray(Image.open(out / "mask" / f"{name}.png")) > 0
            np.testing.assert_array_equal(mask, exact["coc_px"] > np.float64(usual_threshold_px(SIZE)))
            assert '"photograph": "photos/0"' in str(exact["scene"])


def test_what_cannot_be_refocused_is_named(
    photographs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Photographs without a label or with an old one, another set in the folder, bad options."""
    manifest, labels = photographs
    with pytest.raises(SynthError, match="at least 64"):
        refocus(manifest, labels, tmp_path / "set", count=1, size=(20, 200))
    with pytest.raises(SynthError, match="2 of 2 photographs are smaller"):
        refocus(manifest, labels, tmp_path / "set", count=1, size=(64, 250))
    with monkeypatch.context() as patch:
        patch.setattr(LabelReader, "quantity", BLUR_PROBABILITY)
        with pytest.raises(SynthError, match="holds blur probability"):
            refocus(manifest, labels, tmp_path / "set", count=1, size=SIZE, jobs=1)
    refocus(manifest, labels, tmp_path / "set", count=1, size=SIZE, jobs=1)
    with pytest.raises(SynthError, match="choose another folder"):
        refocus(manifest, labels, tmp_path / "set", count=1, size=SIZE, seed=1, jobs=1)
    Image.fromarray(scene()[0][::-1]).save(tmp_path / "photos" / "1.png")
    index("images", tmp_path / "photos", out=manifest, val_fraction=0, jobs=1)
    with pytest.raises(SynthError, match="another photograph"):
        refocus(manifest, labels, tmp_path / "set", count=1, size=SIZE, jobs=1)
    Image.fromarray(scene()[0]).save(tmp_path / "photos" / "2.png")
    index("images", tmp_path / "photos", out=manifest, val_fraction=0, jobs=1)
    with pytest.raises(SynthError, match="no label of 1 of 3"):
        refocus(manifest, labels, tmp_path / "set", count=1, size=SIZE, jobs=1)
    assert len(LabelReader(labels)) == 2
