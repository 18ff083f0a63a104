"""The evaluation protocols of the field, one class each; `trainer.metrics` describes and runs them.

A protocol takes images one by one, `update(prediction, mask)`: the probability of OUT OF FOCUS, float32 (h, w),
and the mask, bool (H, W), True = out of focus. It keeps counts and sums, never pixels. `result()` is measure ->
figure over all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from trainer.resizing import FloatMap, resize_bilinear, resize_nearest

__all__ = ["BETA_SQUARED", "PROTOCOLS", "BoolMap", "Counts", "DffnetProtocol"]

BETA_SQUARED = 0.3

Integers = npt.NDArray[np.int64]
BoolMap = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Counts:
    """Pixel counts of a binary prediction against a binary truth; counts of several images add up."""

    true_positive: int = 0
    predicted: int = 0
    actual: int = 0

    @classmethod
    def of(cls, predicted: BoolMap, actual: BoolMap) -> Counts:
        """Counts of two maps of one shape, True = positive."""
        return cls(*(int(np.count_nonzero(x)) for x in (predicted & actual, predicted, actual)))

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.true_positive + other.true_positive, self.predicted + other.predicted, self.actual + other.actual
        )

    def f_measure(self) -> float:
        """(1 + b) P R / (b P + R) with b = `BETA_SQUARED`; 0 without a true positive."""
        return float(_f_measure(self.true_positive, self.predicted, self.actual))

    def iou(self) -> float:
        """Intersection over union; NaN where nothing is positive in either map."""
        union = self.predicted + self.actual - self.true_positive
        return self.true_positive / union if union else float("nan")


def _f_measure(true_positive: Integers | int, predicted: Integers | int, actual: int) -> npt.NDArray[np.float64]:
    # with P = tp / predicted and R = tp / actual the formula comes to (1 + b) tp / (b actual + predicted)
    denominator = np.maximum(BETA_SQUARED * actual + np.asarray(predicted), 1e-12)
    return (1 + BETA_SQUARED) * np.asarray(true_positive) / denominator


class DffnetProtocol:
    """D-DFFNet's (`test.py`, `test1.py`, `test_iou.py`, `utils.py` of yuxinjin-whu/D-DFFNet): blur is positive.

    Measures: `mae`; `f_at_half`, F at 0.5 (as in `test1.py`, which scores the peers' maps);
    `f_at_half_floored`, the larger of that and F of a map that is blur everywhere (what `test.py`
    computes for D-DFFNet itself: it goes on to take the best of 255 thresholds of the binary map, of which the
    first is 0); `iou`, pooled over the pixels of the set.

    Their code thresholds the in-focus probability and then turns it round, at >= 0.5 for F and > 0.5 for IoU.
    So a pixel of exactly 0.5 is in focus for F and blur for IoU. A mask without blur has F 0, and where
    no pixel of the whole set is blur in mask or prediction the IoU is NaN (their code divides by zero).
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self._pooled = Counts()

    def update(self, prediction: FloatMap, mask: BoolMap) -> None:
        prediction = resize_nearest(prediction, mask.shape)
        at_half = Counts.of(prediction > 0.5, mask)
        all_blur = Counts(at_half.actual, mask.size, at_half.actual)
        for_iou = Counts.of(prediction >= 0.5, mask)
        self._pooled += for_iou
        self.rows.append(
            {
                "mae": _absolute_error(prediction, mask),
                "f_at_half": at_half.f_measure(),
                "f_at_half_floored": max(at_half.f_measure(), all_blur.f_measure()),
                "iou": for_iou.iou(),
            }
        )

    def result(self) -> dict[str, float]:
        means = {name: float(np.mean([row[name] for row in self.rows])) for name in self.rows[0] if name != "iou"}
        return means | {"iou": self._pooled.iou()}


class _InFocusProtocol:
    """What the protocols share in which IN FOCUS is positive: MAE, and bilinear resizing."""

    f_name: ClassVar[str]

    def __init__(self) -> None:
        self._images = 0
        self._error = 0.0

    def update(self, prediction: FloatMap, mask: BoolMap) -> None:
        in_focus = resize_bilinear(1 - prediction, mask.shape)
        self._images += 1
        self._error += _absolute_error(in_focus, ~mask)
        self._count(in_focus, ~mask)

    def result(self) -> dict[str, float]:
        return {"mae": self._error / self._images, self.f_name: self._f()}

    def _count(self, in_focus: FloatMap, actual: BoolMap) -> None:
        raise NotImplementedError

    def _f(self) -> float:
        raise NotImplementedError


class PaperProtocol(_InFocusProtocol):
    """The paper's, to the letter (`eval.ipynb` of vinthony/depth-distillation).

    Prediction and mask become 8-bit (truncated), and a pixel is positive where it is strictly above
    min(1.5 x the map's mean, 255), on both; counts are pooled over the set. Known flaw, kept: where two thirds
    of a mask or more are in focus, the threshold is 255 and the mask turns all out of focus; a prediction's
    mean of 170 or more empties the prediction likewise. Where the pooled F is 0 / 0 in the notebook it is 0 here.
    """

    f_name = "f_adaptive"

    def __init__(self) -> None:
        super().__init__()
        self._pooled = Counts()

    def _count(self, in_focus: FloatMap, actual: BoolMap) -> None:
        self._pooled += Counts.of(_above_mean(_to_bytes(in_focus)), _above_mean(actual.astype(np.uint8) * 255))

    def _f(self) -> float:
        return self._pooled.f_measure()


class CorrectedPaperProtocol(PaperProtocol):
    """The paper's protocol without its flaw: the mask is taken as it is, and no prediction is emptied.

    A prediction, in 8 bit, is positive strictly above min(1.5 x mean, 0.9 x maximum), both of the map itself. This is
    the paper's own threshold up to a mean of 0.6 x maximum; above, it still leaves the confident pixels. So no
    prediction comes out empty, save one of zeros everywhere.
    """

    def _count(self, in_focus: FloatMap, actual: BoolMap) -> None:
        values = _to_bytes(in_focus)
        threshold = min(1.5 * float(values.mean()), 0.9 * float(values.max()))
        self._pooled += Counts.of(values > threshold, actual)


class AdaptiveProtocol(_InFocusProtocol):
    """SG's and M2CS's (`eval.py` of jerysaw/M2CS): positive at or above min(1.5 x mean, 1); per image, then mean.

    A prediction of zeros has threshold 0 and counts as in focus everywhere, as in the original. There both
    maps are resized to 320 x 320 first; here the prediction is resized to the mask.
    """

    f_name = "f_adaptive"

    def __init__(self) -> None:
        super().__init__()
        self._sum = 0.0

    def _count(self, in_focus: FloatMap, actual: BoolMap) -> None:
        threshold = min(1.5 * float(in_focus.mean(dtype=np.float64)), 1.0)
        self._sum += Counts.of(in_focus >= threshold, actual).f_measure()

    def _f(self) -> float:
        return self._sum / self._images


class BestPerImageProtocol(_InFocusProtocol):
    """APL's and MLDBD's (`evaluate_dbd` of wdzhao123/APL): the prediction divided by its maximum, then the best F of
    255 thresholds (i x 0.00392157, at or above) for each image by itself, then mean.

    As in the original, a prediction of zeros is left out of the mean (NaN where all are), and a mask with nothing
    in focus is scored turned round, blur against blur.
    """

    f_name = "f_best_per_image"
    thresholds: ClassVar[npt.NDArray[np.float64]] = np.arange(1, 256, dtype=np.float64) * 0.00392157

    def __init__(self) -> None:
        super().__init__()
        self._sum = 0.0
        self._scored = 0

    def _count(self, in_focus: FloatMap, actual: BoolMap) -> None:
        if not in_focus.any():
            return
        values: npt.NDArray[Any] = in_focus.astype(np.float64) / in_focus.max()
        if not actual.any():
            values, actual = 1 - values, ~actual
        levels = np.searchsorted(self.thresholds, values, side="right")  # how many thresholds a pixel reaches
        self._sum += float(_f_curve(_histogram(levels[actual]), _histogram(levels))[1:].max())
        self._scored += 1

    def _f(self) -> float:
        return self._sum / self._scored if self._scored else float("nan")


class MaxProtocol(_InFocusProtocol):
    """Max-F: the best F on the precision-recall curve of all pixels of the set.

    Predictions are 8-bit (rounded); thresholds are 0 to 255, positive at or above, so that the curve begins with
    everything in focus.
    """

    f_name = "f_max"

    def __init__(self) -> None:
        super().__init__()
        self._actual = np.zeros(256, np.int64)
        self._all = np.zeros(256, np.int64)

    def _count(self, in_focus: FloatMap, actual: BoolMap) -> None:
        values = np.rint(in_focus * 255).astype(np.uint8)
        self._actual += _histogram(values[actual])
        self._all += _histogram(values)

    def _f(self) -> float:
        return float(_f_curve(self._actual, self._all).max())


def _absolute_error(probability: FloatMap, mask: BoolMap) -> float:
    return float(np.abs(probability - mask).mean(dtype=np.float64))


def _to_bytes(values: FloatMap) -> npt.NDArray[np.uint8]:
    scaled: FloatMap = values * np.float32(255)
    return scaled.astype(np.uint8)


def _above_mean(values: npt.NDArray[np.uint8]) -> BoolMap:
    return values > min(1.5 * float(values.mean()), 255)


def _histogram(levels: npt.NDArray[np.integer[Any]]) -> Integers:
    return np.bincount(levels.ravel(), minlength=256)


def _f_curve(actual: Integers, everything: Integers) -> npt.NDArray[np.float64]:
    """F at each of 256 thresholds, from the histograms of the positive pixels and of all pixels."""
    true_positive, predicted = (np.cumsum(histogram[::-1])[::-1] for histogram in (actual, everything))
    return _f_measure(true_positive, predicted, int(actual.sum()))


PROTOCOLS: dict[str, Callable[[], DffnetProtocol | _InFocusProtocol]] = {
    "dffnet": DffnetProtocol,
    "paper": PaperProtocol,
    "paper_corrected": CorrectedPaperProtocol,
    "adaptive": AdaptiveProtocol,
    "best_per_image": BestPerImageProtocol,
    "max": MaxProtocol,
}
