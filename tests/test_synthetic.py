"""Rendered scenes: exact depth, exact defocus, the same again, and resumable."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.synthetic import Camera, SynthError, circle_of_confusion_px, render_scene, synthesize, usual_threshold_px
from pipeline.synthetic.aperture import ROUND, Aperture, kernel

SIZE = (72, 96)


def files(folder: Path) -> dict[str, bytes]:
    """Every picture and array of a dataset."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.*")) if p.suffix != ".jsonl"}


def test_circle_of_confusion_by_hand() -> None:
    """50 mm at f/2 focused at 2 m, a point at 4 m: 25 * 50 / 1950 * 2 / 4 = 0.3205 mm; 36 mm over 1000 px."""
    camera = Camera(
        focal_length_mm=50, f_number=2, focus_distance_m=2, sensor_width_mm=36, height_px=667, width_px=1000
    )
    assert circle_of_confusion_px(4.0, camera) == pytest.approx(0.32051 / 0.036, rel=1e-4)
    assert circle_of_confusion_px(2.0, camera) == 0
    assert circle_of_confusion_px(1.0, camera) > circle_of_confusion_px(1.5, camera) > 0


@pytest.mark.parametrize("index", range(3))
def test_mask_circle_and_depth_agree(index: int) -> None:
    """The circle follows from depth and camera alone, the mask from the circle and the threshold."""
    scene = render_scene(index, seed=4, size=SIZE)
    camera = Camera(**scene.facts["camera"])
    expected = circle_of_confusion_px(scene.depth["depth_m"], camera)
    np.testing.assert_allclose(scene.coc_px, expected, rtol=2**-11, atol=1e-6)
    np.testing.assert_array_equal(scene.mask, scene.coc_px > np.float64(usual_threshold_px(SIZE)))
    assert scene.image.shape == (*SIZE, 3)
    assert scene.image.dtype == np.uint8
    assert np.isfinite(scene.depth["depth_m"]).all()
    assert (scene.depth["depth_m"] > 0).all()
    assert scene.image.std() > 8, "the picture is flat"


@pytest.mark.parametrize("blades", [0, 5, 6, 9])
@pytest.mark.parametrize("diameter_px", [1.0, 2.0, 7.3, 30.0])
def test_a_kernel_has_the_aperture_s_area(blades: int, diameter_px: float) -> None:
    """Shares sum to 1; a pixel that lies wholly inside has 1 / area, whatever the shape."""
    shares = kernel(Aperture(blades, 10.0), diameter_px)
    assert shares.sum() == pytest.approx(1, abs=1e-5)
    assert shares.shape[0] == shares.shape[1] == 2 * (shares.shape[0] // 2) + 1
    if diameter_px > 3:
        area = np.pi * diameter_px**2 / 4
        assert shares.max() == pytest.approx(1 / area, rel=0.01)


def test_a_small_disc_by_hand() -> None:
    """A disc of 1 px stays in its pixel; of one of 2 px the middle pixel gets 1 / pi, a corner the least."""
    np.testing.assert_array_equal(kernel(ROUND, 1.0), [[1.0]])
    shares = kernel(ROUND, 2.0)
    assert shares.shape == (3, 3)
    assert shares[1, 1] == pytest.approx(1 / np.pi, rel=0.005)
    side = 2 * (np.sqrt(3) / 4 / 2 + np.pi / 12 - 0.25)  # circle of radius 1: x from 0.5 to 1, |y| below 0.5
    assert shares[1, 2] == pytest.approx(side / np.pi, rel=0.005)
    np.testing.assert_allclose(shares, shares.T, rtol=0.02)


def test_sharp_regions_hold_more_detail_than_blurred_ones() -> None:
    """Over a few scenes the gradient inside the focus is stronger than outside."""
    inside, outside = [], []
    for index in range(8):
        scene = render_scene(index, seed=1, size=(128, 192))
        gradient = np.abs(np.diff(scene.image.astype(float).mean(-1), axis=1))
        mask = scene.coc_px[:, 1:] > 4
        sharp = scene.coc_px[:, 1:] < 1
        if mask.mean() > 0.05 and sharp.mean() > 0.05:
            inside.append(gradient[sharp].mean())
            outside.append(gradient[mask].mean())
    assert len(inside) >= 3
    assert np.mean(inside) > 1.5 * np.mean(outside)


def test_a_scene_depends_on_nothing_but_its_number(tmp_path: Path) -> None:
    """Other counts and numbers of processes give the same bytes."""
    synthesize(tmp_path / "a", count=3, size=SIZE, seed=7, jobs=1)
    synthesize(tmp_path / "b", count=2, size=SIZE, seed=7, jobs=2)
    a, b = files(tmp_path / "a"), files(tmp_path / "b")
    assert len(b) == 6
    assert all(a[name] == content for name, content in b.items() if not name.endswith(".npz"))


def test_a_dataset_holds_what_it_says(tmp_path: Path) -> None:
    """Picture, mask, exact arrays and the list agree."""
    summary = synthesize(tmp_path, count=10, size=SIZE, jobs=1)
    assert (summary.rendered, summary.kept) == (10, 0)
    rows = [json.loads(line) for line in (tmp_path / "scenes.jsonl").read_text().splitlines()]
    assert [row["split"] for row in rows] == ["train"] * 9 + ["test"]
    for row in rows:
        with np.load(tmp_path / "exact" / f"{row['name']}.npz") as exact:
            expected = circle_of_confusion_px(exact["depth_m"].astype(float), Camera(**row["camera"]))
            np.testing.assert_allclose(exact["coc_px"], expected, rtol=0.05, atol=0.05)
            blurred = exact["coc_px"] > np.float64(row["threshold_px"])
        mask = np.asarray(Image.open(tmp_path / "mask" / f"{row['name']}.png")) > 0
        np.testing.assert_array_equal(mask, blurred)
        assert mask.mean() == pytest.approx(row["blurred_share"], abs=1e-3)


def test_rendering_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """A scene that lacks its last file is rendered again, whole ones are kept, more are added."""
    synthesize(tmp_path, count=3, size=SIZE, jobs=1)
    before = files(tmp_path)
    (tmp_path / "exact" / "000001.npz").unlink()
    (tmp_path / "scenes.jsonl").unlink()
    summary = synthesize(tmp_path, count=4, size=SIZE, jobs=1)
    assert (summary.rendered, summary.kept) == (2, 2)
    after = files(tmp_path)
    assert all(after[name] == content for name, content in before.items() if not name.endswith(".npz"))


def test_what_cannot_be_rendered_is_named(tmp_path: Path) -> None:
    """Bad options, scenes of another kind in the folder, damage, a folder without photographs."""
    with pytest.raises(SynthError, match="at least 1"):
        synthesize(tmp_path, count=0)
    with pytest.raises(SynthError, match="at least 64"):
        synthesize(tmp_path, count=1, size=(20, 200))
    with pytest.raises(SynthError, match="above 0"):
        synthesize(tmp_path, count=1, threshold_px=0)
    with pytest.raises(SynthError, match="no JPEG or PNG"):
        synthesize(tmp_path, count=1, textures=tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "store.json").touch()
    with pytest.raises(SynthError, match=r"holds 'store\.json' and no pictures"):
        synthesize(tmp_path / "other", count=1, size=SIZE, jobs=1)
    synthesize(tmp_path / "set", count=1, size=SIZE, jobs=1)
    with pytest.raises(SynthError, match="choose another folder"):
        synthesize(tmp_path / "set", count=1, size=SIZE, seed=1, jobs=1)
    Image.new("RGB", (600, 600), "red").save(tmp_path / "print.png")
    with pytest.raises(SynthError, match="textures"):
        synthesize(tmp_path / "set", count=1, size=SIZE, textures=tmp_path, jobs=1)
    (tmp_path / "set" / "exact" / "000000.npz").write_bytes(b"half")
    with pytest.raises(SynthError, match=r"000000\.npz"):
        synthesize(tmp_path / "set", count=1, size=SIZE, jobs=1)
