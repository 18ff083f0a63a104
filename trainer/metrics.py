"""How good a blur map is, by the protocols in use in the field, each under its own name.

A prediction is the probability of OUT OF FOCUS, float (h, w) in [0, 1], of any size; a mask is bool (H, W),
True = out of focus. Every measure is over the mask's pixels: the prediction is resized to the mask. Figures of
different protocols do not compare: they differ in the positive class, the threshold, the resizing, and in
whether pixels are pooled over the set or an image's figures averaged.

| Protocol | Positive | Threshold | F over | Resizing |
|---|---|---|---|---|
| `dffnet` | blur | 0.5 | images | nearest |
| `paper` | in focus | 1.5 x mean, capped at 255 of 255, also on the mask | pooled pixels | bilinear |
| `paper_corrected` | in focus | 1.5 x mean, capped at 0.9 x maximum, prediction only | pooled pixels | bilinear |
| `adaptive` | in focus | 1.5 x mean, capped at 1 | images | bilinear |
| `best_per_image` | in focus | the image's best of 255 | images | bilinear |
| `max` | in focus | the set's best of 256 | pooled pixels | bilinear |

F-measures have beta squared = 0.3; they are 0 where no true positive exists (where P and R are both 0, or
undefined). MAE is the mean absolute difference of probability and mask, per image, then mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.protocols import PROTOCOLS, BoolMap, DffnetProtocol

__all__ = ["PROTOCOLS", "Evaluation"]


class Evaluation:
    """Scores a set image by image, in all or some of the `PROTOCOLS`; keeps counts and figures, never pixels."""

    def __init__(self, *, protocols: Sequence[str] = tuple(PROTOCOLS)) -> None:
        unknown = [name for name in protocols if name not in PROTOCOLS]
        if unknown:
            raise ValueError(f"no protocol is called {unknown[0]!r}: choose from {', '.join(PROTOCOLS)}")
        self._ids: dict[str, None] = {}
        self._asked = tuple(protocols)
        self._dffnet = DffnetProtocol()  # always there: `per_image` comes from it
        self._others = {name: PROTOCOLS[name]() for name in protocols if name != "dffnet"}

    def update(self, prediction: npt.NDArray[Any], mask: BoolMap, sample_id: str) -> None:
        """Score one image. Neither array is changed.

        prediction: probability of OUT OF FOCUS, float (h, w) in [0, 1]; scored in single precision.
        mask: bool (H, W), True = out of focus. ValueError where one is not like that, or the id came before.
        """
        _check(prediction, mask, sample_id)
        if sample_id in self._ids:
            raise ValueError(f"{sample_id}: was scored already; each sample counts once")
        self._ids[sample_id] = None
        prediction = prediction.astype(np.float32)
        for protocol in (self._dffnet, *self._others.values()):
            protocol.update(prediction, mask)

    def result(self) -> dict[str, dict[str, float]]:
        """Protocol -> measure -> figure; a measure's name carries its threshold rule. ValueError before any image."""
        if not self._ids:
            raise ValueError("no image was scored")
        protocols = {"dffnet": self._dffnet} | self._others
        return {name: protocols[name].result() for name in self._asked}

    @property
    def per_image(self) -> list[dict[str, Any]]:
        """One row per image in the order of scoring, D-DFFNet's protocol, for paired comparisons.

        Keys: id, mae, f_at_half, iou (NaN where neither mask nor prediction has blur).
        """
        names = ("mae", "f_at_half", "iou")
        rows = zip(self._ids, self._dffnet.rows, strict=True)
        return [{"id": sample_id} | {name: row[name] for name in names} for sample_id, row in rows]


def _check(prediction: npt.NDArray[Any], mask: npt.NDArray[Any], sample_id: str) -> None:
    if mask.dtype != np.bool_ or mask.ndim != 2 or not mask.size:
        raise ValueError(f"{sample_id}: the mask is {mask.dtype} {mask.shape}, not bool (height, width)")
    if not np.issubdtype(prediction.dtype, np.floating) or prediction.ndim != 2 or not prediction.size:
        raise ValueError(f"{sample_id}: the prediction is {prediction.dtype} {prediction.shape}, not float (h, w)")
    if not (prediction.min() >= 0 and prediction.max() <= 1):  # NaN fails both
        raise ValueError(f"{sample_id}: the prediction is not a probability: it leaves [0, 1] or holds NaN")
