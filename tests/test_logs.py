"""What a run writes as it goes on: pictures of the same samples, figures of each image, TensorBoard."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from conftest import QUICK
from PIL import Image

from pipeline.contract import LabelReader, SoftfocusError, read_image, read_manifest
from trainer.config import load_config
from trainer.report import draw_curves, draw_groups
from trainer.runs.logs import RunLog, Shown, aligned, choose_shown
from trainer.samples.data import Photographs
from trainer.students.model import create_student
from trainer.train import train


@pytest.fixture
def shown(small_set: Path, small_labels: Path) -> Shown:
    """Two samples of the training split."""
    samples = read_manifest(small_set, split="train")
    chosen = choose_shown(Photographs(samples, LabelReader(small_labels), size=32), count=2)
    assert chosen is not None
    return chosen


def test_the_shown_samples_are_spread_over_the_split(shown: Shown, small_set: Path) -> None:
    """First and last of two, all of few, none of none; never at random."""
    assert shown.ids == ["small/00", "small/11"]
    assert shown.ratios == [64 / 48] * 2
    photographs = Photographs(read_manifest(small_set, split="val"), None, size=32)
    few = choose_shown(photographs, count=9)
    assert few is not None
    assert len(few.ids) == 3
    assert choose_shown(photographs, count=0) is None
    assert choose_shown(Photographs([], None, size=32), count=5) is None


def test_pictures_show_the_masks_as_they_are(shown: Shown, tmp_path: Path) -> None:
    """A sheet of five columns; the second is the mask, white where blurred. The student keeps its mode."""
    student = create_student("lite", encoder="test_efficientnet", channels=16)
    log = RunLog(tmp_path, shown=shown)
    log.pictures(student, {"epoch": 7, "step": 21})
    log.close()
    assert student.training
    sheet = read_image(tmp_path / "samples" / "0007.png").mean(-1)
    assert sheet.shape[1] == 5 * 192 + 4 * 6
    tile = sheet[18 : 18 + 144, 198 : 198 + 192]
    mask = np.asarray(Image.fromarray(shown.batch.masks[0, 0].numpy()).resize((192, 144)))
    assert np.abs(tile.astype(float) - mask).mean() < 10


def test_depths_are_shown_in_one_range() -> None:
    """A scaled and shifted copy looks the same; one that runs the wrong way still does; unknown stays unknown."""
    label = np.array([[2.0, 4.0], [6.0, np.nan]])
    theirs, ours = aligned(label, np.array([[10.0, 20.0], [30.0, 40.0]]))
    np.testing.assert_allclose(theirs, [[0, 0.5], [1, np.nan]])
    np.testing.assert_allclose(ours, [[0, 0.5], [1, 1.5]])
    np.testing.assert_allclose(aligned(label, np.array([[3.0, 2.0], [1.0, 0.0]]))[1], [[1, 0.5], [0, -0.5]])
    alone = aligned(np.full((2, 2), np.nan), np.array([[1.0, 2.0], [2.0, 3.0]]))[1]
    assert alone[0, 1] == pytest.approx(0.5)


def test_figures_of_each_image_are_kept_for_best_and_last(tmp_path: Path) -> None:
    """The best is replaced by a better one alone; an epoch that was not validated changes nothing."""
    log = RunLog(tmp_path)
    log.epoch({"epoch": 1, "step": 1}, per_image=[{"id": "a", "mae": 0.1}], best=True)
    log.epoch({"epoch": 2, "step": 2}, per_image=[{"id": "a", "mae": 0.2}])
    log.epoch({"epoch": 3, "step": 3})
    log.close()
    assert [table(tmp_path / f"validation-{epoch}.csv")[0]["mae"] for epoch in ("best", "last")] == ["0.1", "0.2"]


def table(file: Path) -> list[dict[str, str]]:
    """Rows of a CSV file."""
    return list(csv.DictReader(file.read_text().splitlines()))


def test_tensorboard_has_what_metrics_has(small_set: Path, small_labels: Path, tmp_path: Path) -> None:
    """Scalars at their steps, and the pictures; asking for it changes nothing else about a run."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = tmp_path / "run"
    config = load_config(overrides=[*QUICK, "log.tensorboard=true", "log.pictures=2", "epochs=2"])
    train(small_set, out=run, labels=small_labels, config=config, device="cpu")
    events = accumulator.EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    rows = table(run / "metrics.csv")
    assert [e.step for e in events.Scalars("training/loss")] == [int(row["step"]) for row in rows]
    assert events.Scalars("validation/mae")[-1].value == pytest.approx(float(rows[-1]["val_mae"]), rel=1e-5)
    assert events.Tags()["images"] == ["samples"]
    quiet = load_config(overrides=[*QUICK, "log.pictures=0", "epochs=2", "data.workers=2"])
    train(small_set, out=run, labels=small_labels, config=quiet, device="cpu")  # goes on: nothing that counts differs


def test_tensorboard_that_is_not_there_is_an_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is named."""
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(SoftfocusError, match=r"softfocus\[tensorboard\]"):
        RunLog(tmp_path, tensorboard=True)


def test_curves_take_what_there_is(tmp_path: Path) -> None:
    """Losses without validation, terms of any name, groups of unequal length: a picture each time."""
    rows = [{"epoch": e, "step": e, "lr": 0.1, "loss": 1 / e, "edges": 2 / e} for e in (1, 2, 3)]
    draw_curves(rows, tmp_path / "losses.png")
    validated = [row | {"val_mae": 0.1, "val_depth": 0.2} for row in rows]
    draw_curves(validated, tmp_path / "all.png")
    draw_groups({"a": [validated, validated[:2]], "b": [rows]}, tmp_path / "groups.png")
    draw_groups({"b": [rows]}, tmp_path / "nothing.png")
    sizes = [read_image(tmp_path / f"{name}.png").shape[:2] for name in ("losses", "all", "groups", "nothing")]
    assert sizes[1] > sizes[0], "validation has panels of its own"
    assert np.min(sizes) > 100
