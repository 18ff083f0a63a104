"""The evaluation protocols, against tables worked out by hand and figures of the official scripts."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F

from trainer.metrics import PROTOCOLS, Evaluation
from trainer.resizing import resize_bilinear, resize_nearest

EVERY = tuple(PROTOCOLS)
FLOORED = ("f_at_half", "f_at_half_floored")

# Two images of four pixels: probability of blur, and True = blur. In the second, 3/4 are in focus.
FIRST = ([[0.9, 0.6], [0.2, 0.4]], [[True, False], [False, True]])
SECOND = ([[0.3, 0.1], [0.8, 0.9]], [[False, False], [False, True]])


def score(*images: tuple[Any, Any], protocols: tuple[str, ...] = EVERY) -> dict[str, dict[str, float]]:
    evaluation = Evaluation(protocols=protocols)
    for n, (prediction, mask) in enumerate(images):
        evaluation.update(np.asarray(prediction, np.float32), np.asarray(mask, bool), f"image {n}")
    return evaluation.result()


def f_of(result: dict[str, float]) -> float:
    """The protocol's own F-measure."""
    return next(value for name, value in result.items() if name.startswith("f_"))


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        # blur from 0.5 up: tp 1 of 2 predicted and 2 actual: 1.3 x 1 / (0.3 x 2 + 2)
        ("dffnet", {"mae": 0.375, "f_at_half": 0.5, "f_at_half_floored": 2.6 / 4.6, "iou": 1 / 3}),
        # in focus .1 .4 .8 .6: only .8 exceeds 1.5 x mean (.71): tp 1 of 1 and 2: 1.3 x 1 / (0.3 x 2 + 1)
        ("paper", {"mae": 0.375, "f_adaptive": 0.8125}),
        ("paper_corrected", {"mae": 0.375, "f_adaptive": 0.8125}),
        ("adaptive", {"mae": 0.375, "f_adaptive": 0.8125}),
        ("best_per_image", {"mae": 0.375, "f_best_per_image": 0.8125}),
        ("max", {"mae": 0.375, "f_max": 0.8125}),
    ],
)
def test_one_image_by_hand(protocol: str, expected: dict[str, float]) -> None:
    """The figures of one image are those worked out by hand."""
    assert score(FIRST, protocols=(protocol,))[protocol] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        # image 2: F 1.3 / 2.3, IoU 1 / 2; F is a mean, IoU pools 2 of 5 pixels
        ("dffnet", {"mae": 0.35, "f_at_half": (0.5 + 1.3 / 2.3) / 2, "f_at_half_floored": 1.3 / 2.3, "iou": 0.4}),
        # image 2's mask turns all out of focus: tp 1 + 0 of 1 + 1 predicted and 2 + 0 actual
        ("paper", {"mae": 0.35, "f_adaptive": 1.3 / 2.6}),
        # it stays: tp 1 + 1 of 1 + 1 predicted and 2 + 3 actual
        ("paper_corrected", {"mae": 0.35, "f_adaptive": 2.6 / 3.5}),
        # the same pixels, image by image
        ("adaptive", {"mae": 0.35, "f_adaptive": (0.8125 + 1.3 / 1.9) / 2}),
        # image 2 can be split without a mistake
        ("best_per_image", {"mae": 0.35, "f_best_per_image": (0.8125 + 1) / 2}),
        # best at .7 (tp 3 of 3 and 5) and again at .2 (tp 5 of 6 and 5)
        ("max", {"mae": 0.35, "f_max": 3.9 / 4.5}),
    ],
)
def test_two_images_by_hand(protocol: str, expected: dict[str, float]) -> None:
    """Pooling over pixels and averaging over images come out as worked out by hand."""
    assert score(FIRST, SECOND, protocols=(protocol,))[protocol] == pytest.approx(expected, abs=1e-6)


def official_maps(n: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Six images for which the official scripts' figures are known; degenerate masks and exact 0.5 among them."""
    random = np.random.RandomState(n)
    height, width = ((37, 53), (40, 40), (24, 64), (50, 31), (33, 33), (48, 30))[n]
    share, trust = (0.5, 0.3, 0.8, 0.1, 1.0, 0.0)[n], (0.7, 0.6, 0.8, 0.0, 0.7, 0.6)[n]
    mask, truth = np.ones((height, width), bool), np.ones((32, 32))
    mask[:, : round(width * share)] = False
    truth[:, : round(32 * share)] = 0
    prediction = np.round(16 * (trust * truth + (1 - trust) * random.random_sample((32, 32)))) / 16
    return prediction.astype(np.float32), mask


def test_dffnet_agrees_with_its_official_scripts() -> None:
    """MAE, both F-measures and IoU are what D-DFFNet's own functions give for the same maps.

    Run once outside this project, commit d75c1da of yuxinjin-whu/D-DFFNet: `test.py` (MAE, floored F),
    `test1.py` (F) and `test_iou.py`; their single-precision sums allow 1e-7.
    """
    expected = {
        "mae": 0.22438730175296465,
        "f_at_half": 0.784025533597207,
        "f_at_half_floored": 0.8146195809046427,
        "iou": 0.8431555389779933,
    }
    assert score(*map(official_maps, range(6)))["dffnet"] == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(
    ("images", "mae", "f"),
    [(range(6), 0.2214564524259003, 0.8248347919271299), ((0, 1, 3), 0.28752366540983615, 0.896486460254295)],
)
def test_paper_agrees_with_its_official_notebook(images: tuple[int, ...], mae: float, f: float) -> None:
    """MAE and F are what the cell of `eval.ipynb` printed for the same maps, run once outside this project."""
    result = score(*map(official_maps, images))["paper"]
    assert result == pytest.approx({"mae": mae, "f_adaptive": f}, abs=1e-7)


def test_paper_is_the_notebooks_formula() -> None:
    """Written straight down pixel by pixel, the notebook's formulas give the same figures."""
    random = np.random.default_rng(5)
    images = [(random.random((6, 7), dtype=np.float32), random.random((6, 7)) < share) for share in (0.2, 0.5, 0.8)]
    hits = found = there = 0
    errors = []
    for blur, mask in images:
        pred_float, gt_float = 1 - blur, (~mask).astype(float)
        errors.append(np.sum(np.abs(gt_float - pred_float)) / pred_float.size)
        pred, gt = np.uint8(pred_float * 255), np.uint8(gt_float * 255)
        for a, b in zip(pred.ravel(), gt.ravel(), strict=True):
            positive, truth = a > min(1.5 * np.mean(pred), 255), b > min(1.5 * np.mean(gt), 255)
            hits, found, there = hits + (positive and truth), found + positive, there + truth
    precision, recall = hits / found, hits / there
    f = (1 + 0.3) * precision * recall / (0.3 * precision + recall)
    assert score(*images)["paper"] == pytest.approx({"mae": np.mean(errors), "f_adaptive": f}, abs=1e-6)


def test_mostly_sharp_images_break_the_papers_protocol_and_not_the_corrected() -> None:
    """With 4/5 in focus a perfect prediction scores 0 in the paper's protocol, as there, and 1 in the corrected."""
    mask = np.arange(5) == 0
    result = score((mask[None], mask[None]))
    assert result["paper"]["f_adaptive"] == 0
    assert result["paper_corrected"]["f_adaptive"] == 1


def test_corrected_threshold_is_the_papers_for_ordinary_maps() -> None:
    """Where a prediction's mean is under 0.6 of its maximum and the mask under 2/3 sharp, both protocols agree."""
    result = score(*map(official_maps, (0, 1, 3)))
    assert result["paper_corrected"] == result["paper"]


@pytest.mark.parametrize("in_focus", [0.01, 0.4, 0.7, 0.995, 1.0])
def test_corrected_threshold_empties_no_prediction(in_focus: float) -> None:
    """A map of one value is positive everywhere, so that F is that of the whole image; only zeros are empty."""
    mask = [[True, False]]
    assert score(([[1 - in_focus] * 2], mask))["paper_corrected"]["f_adaptive"] == pytest.approx(1.3 / 2.3)
    assert score(([[1.0, 1.0]], mask))["paper_corrected"]["f_adaptive"] == 0


@pytest.mark.parametrize("protocol", EVERY)
def test_perfect_prediction_is_perfect(protocol: str) -> None:
    """The mask itself as prediction has MAE 0, and F and IoU 1."""
    mask = [[True, False, True], [True, False, True]]
    result = score((mask, mask), protocols=(protocol,))[protocol]
    assert result == pytest.approx({name: 0.0 if name == "mae" else 1.0 for name in result})


@pytest.mark.parametrize("protocol", EVERY)
def test_good_prediction_beats_a_bad_one(protocol: str) -> None:
    """More noise on the mask means a larger MAE and a smaller F."""
    random = np.random.default_rng(0)
    mask = np.add.outer(np.arange(20), np.arange(30)) > 22
    noise = random.random(mask.shape, dtype=np.float32)
    good, bad = (score(((1 - n) * mask + n * noise, mask))[protocol] for n in (0.3, 0.8))
    assert good["mae"] < bad["mae"]
    assert f_of(good) > f_of(bad)
    assert good.get("iou", 1) > bad.get("iou", 0)


def test_inputs_are_not_changed() -> None:
    """Arrays that cannot be written to are scored, and twice the same."""
    prediction, mask = np.array(FIRST[0]), np.array(FIRST[1])
    before = prediction.copy(), mask.copy()
    prediction.flags.writeable = mask.flags.writeable = False
    evaluation = Evaluation(protocols=EVERY)
    evaluation.update(prediction, mask, "a")
    np.testing.assert_array_equal(prediction, before[0])
    np.testing.assert_array_equal(mask, before[1])


def test_half_is_sharp_for_f_and_blur_for_iou() -> None:
    """A probability of exactly 0.5 falls on the side that D-DFFNet's scripts put it."""
    result = score(([[0.5, 0.9]], [[True, True]]))["dffnet"]
    assert result["f_at_half"] == pytest.approx(1.3 * 1 / (0.3 * 2 + 1))
    assert result["iou"] == 1


def test_mask_without_blur() -> None:
    """Nothing to find: F of blur is 0, IoU undefined, and 0 once a pixel is called blur; MAE holds."""
    sharp = score(([[0.0, 0.2]], [[False, False]]))["dffnet"]
    assert [sharp[name] for name in FLOORED] == [0, 0]
    assert sharp["mae"] == pytest.approx(0.1)
    assert math.isnan(sharp["iou"])
    assert score(([[0.0, 0.9]], [[False, False]]))["dffnet"]["iou"] == 0


@pytest.mark.parametrize("protocol", ["paper", "paper_corrected", "adaptive", "max"])
def test_mask_with_nothing_in_focus(protocol: str) -> None:
    """F of in-focus pixels is 0 where none exists."""
    assert f_of(score(([[1.0, 0.2]], [[True, True]]))[protocol]) == 0


def test_best_per_image_turns_a_mask_round_that_has_nothing_in_focus() -> None:
    """Then blur is scored against blur: in focus 0 and 1 (by its maximum) is blur 1 and 0, which finds one of two."""
    result = score(([[1.0, 0.4]], [[True, True]]))["best_per_image"]
    assert result["f_best_per_image"] == pytest.approx(1.3 * 1 / (0.3 * 2 + 1))


def test_best_per_image_leaves_empty_predictions_out() -> None:
    """A prediction without any focus does not enter the mean, as in the original; alone it leaves NaN."""
    empty = ([[1.0, 1.0]], [[True, False]])
    assert score(FIRST, empty)["best_per_image"]["f_best_per_image"] == pytest.approx(0.8125)
    assert math.isnan(score(empty)["best_per_image"]["f_best_per_image"])


def test_adaptive_counts_an_empty_prediction_as_sharp_everywhere() -> None:
    """At or above a threshold of 0 lies everything, as in the original."""
    assert score(([[1.0, 1.0]], [[True, False]]))["adaptive"]["f_adaptive"] == pytest.approx(1.3 / 2.3)


def test_prediction_is_resized_to_the_mask() -> None:
    """A prediction of half the size is repeated by the nearest neighbour and blended by the bilinear protocols."""
    mask = np.array([[True, True, False, False]])
    result = score(([[1.0, 0.0]], mask))
    assert result["dffnet"]["mae"] == 0
    assert result["paper"]["mae"] == pytest.approx((0 + 0.25 + 0.25 + 0) / 4)


@pytest.mark.parametrize("size", [(320, 320), (427, 640), (50, 37), (33, 7), (1, 1), (64, 32)])
@pytest.mark.parametrize("source", [(320, 320), (32, 33), (1, 5)])
def test_resizing_is_torchs(source: tuple[int, int], size: tuple[int, int]) -> None:
    """Nearest is equal to torch's and bilinear within rounding, larger or smaller."""
    values = np.random.default_rng(1).random(source, dtype=np.float32)
    tensor = torch.from_numpy(values)[None, None]
    np.testing.assert_array_equal(resize_nearest(values, size), F.interpolate(tensor, size, mode="nearest")[0, 0])
    bilinear = resize_bilinear(values, size)
    assert bilinear.dtype == np.float32
    np.testing.assert_allclose(bilinear, F.interpolate(tensor, size, mode="bilinear")[0, 0], rtol=0, atol=5e-6)


def test_nearest_is_torchs_for_every_size() -> None:
    """The rounding of positions agrees for all pairs of small sizes and for photograph sizes."""
    pairs = [(a, b) for a in range(1, 60, 7) for b in range(1, 60)] + [(320, b) for b in range(400, 700)]
    for size, out in pairs:
        values = np.arange(size, dtype=np.float32)[None]
        expected = F.interpolate(torch.from_numpy(values)[None, None], (1, out), mode="nearest")[0, 0]
        np.testing.assert_array_equal(resize_nearest(values, (1, out)), expected)


def test_per_image_rows_are_those_of_dffnet() -> None:
    """One row per image in order, with its id and its own figures, whatever protocols were asked for."""
    evaluation = Evaluation(protocols=("max",))
    evaluation.update(np.array(FIRST[0]), np.array(FIRST[1]), "cuhk/b")
    evaluation.update(np.array(SECOND[0]), np.array(SECOND[1]), "cuhk/a")
    first, second = evaluation.per_image
    assert first == pytest.approx({"id": "cuhk/b", "mae": 0.375, "f_at_half": 0.5, "iou": 1 / 3}, abs=1e-6)
    assert second == pytest.approx({"id": "cuhk/a", "mae": 0.325, "f_at_half": 1.3 / 2.3, "iou": 0.5}, abs=1e-6)
    assert evaluation.result().keys() == {"max"}


def test_what_is_kept_does_not_grow_with_pixels() -> None:
    """After a megapixel an evaluation holds as little as after four pixels."""
    sizes = []
    for side in (2, 1000):
        evaluation = Evaluation(protocols=EVERY)
        evaluation.update(np.full((side, side), 0.3), np.zeros((side, side), bool), "a")
        sizes.append(len(pickle.dumps(evaluation)))
    assert abs(sizes[1] - sizes[0]) < 100


@pytest.mark.parametrize(
    ("prediction", "mask", "message"),
    [
        (np.zeros((2, 2), np.uint8), np.zeros((2, 2), bool), r"a: the prediction is uint8 \(2, 2\), not float"),
        (np.zeros((1, 2, 2)), np.zeros((2, 2), bool), "a: the prediction is float64"),
        (np.zeros((0, 2)), np.zeros((2, 2), bool), "a: the prediction is float64"),
        (np.zeros((2, 2)), np.zeros((2, 2)), r"a: the mask is float64 \(2, 2\), not bool"),
        (np.zeros((2, 2)), np.zeros(2, bool), "a: the mask is bool"),
        (np.full((2, 2), np.nan), np.zeros((2, 2), bool), "a: the prediction is not a probability"),
        (np.full((2, 2), 1.1), np.zeros((2, 2), bool), "a: the prediction is not a probability"),
        (np.full((2, 2), -0.1), np.zeros((2, 2), bool), "a: the prediction is not a probability"),
    ],
)
def test_bad_maps_are_refused(prediction: npt.NDArray[Any], mask: npt.NDArray[Any], message: str) -> None:
    """Maps of another kind, shape or range raise, name the sample, and leave the evaluation as it was."""
    evaluation = Evaluation()
    with pytest.raises(ValueError, match=message):
        evaluation.update(prediction, mask, "a")
    assert evaluation.per_image == []


def test_bad_calls_are_refused() -> None:
    """An unknown protocol, a sample scored twice, and a result of nothing raise."""
    with pytest.raises(ValueError, match="no protocol is called 'f1': choose from dffnet, paper"):
        Evaluation(protocols=("f1",))
    evaluation = Evaluation()
    with pytest.raises(ValueError, match="no image was scored"):
        evaluation.result()
    evaluation.update(np.zeros((1, 1)), np.zeros((1, 1), bool), "a")
    with pytest.raises(ValueError, match="a: was scored already"):
        evaluation.update(np.zeros((1, 1)), np.zeros((1, 1), bool), "a")
