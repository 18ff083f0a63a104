"""Rendered scenes: exact depth, exact defocus, the same again, and resumable."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.synthetic import THRESHOLD_PX, Camera, SynthError, circle_of_confusion_px, render_scene, synthesize

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
    np.testing.assert_allclose(scene.coc_px, circle_of_confusion_px(scene.depth_m, camera), rtol=1e-5)
    np.testing.assert_array_equal(scene.mask, scene.coc_px > THRESHOLD_PX)
    assert scene.image.shape == (*SIZE, 3)
    assert scene.image.dtype == np.uint8
    assert np.isfinite(scene.depth_m).all()
    assert (scene.depth_m > 0).all()
    assert scene.image.std() > 8, "the picture is flat"


def test_sharp_regions_hold_more_detail_than_blurred_ones() -> None:
    """Over a few scenes the gradient inside the focus is stronger than outside."""
    inside, outside = [], []
    for index in range(8):
        scene = render_scene(index, seed=1, size=(128, 192))
        gradient = np.abs(np.diff(scene.image.astype(float).mean(-1), axis=1))
        mask = scene.coc_px[:, 1:] > 2 * THRESHOLD_PX
        sharp = scene.coc_px[:, 1:] < THRESHOLD_PX / 2
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
        mask = np.asarray(Image.open(tmp_path / "mask" / f"{row['name']}.png")) > 0
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
    synthesize(tmp_path / "set", count=1, size=SIZE, jobs=1)
    with pytest.raises(SynthError, match="choose another folder"):
        synthesize(tmp_path / "set", count=1, size=SIZE, seed=1, jobs=1)
    (tmp_path / "set" / "exact" / "000000.npz").write_bytes(b"half")
    with pytest.raises(SynthError, match=r"000000\.npz"):
        synthesize(tmp_path / "set", count=1, size=SIZE, jobs=1)
