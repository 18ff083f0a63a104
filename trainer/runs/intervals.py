"""Confidence intervals of a mean difference: over seeds, over images, and over both at once.

A difference that holds for other seeds may be one of these photographs only, and the other way round. A
`(S, I)` matrix of paired differences (S seeds, I images, each seed trained and each image scored with both
methods) answers for all three.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

__all__ = ["bootstrap_interval", "crossed_interval", "t_interval"]

Interval = tuple[float, float]
RESAMPLES = 9999


def t_interval(values: Sequence[float] | npt.NDArray[np.float64], confidence: float = 0.95) -> Interval | None:
    """Student's t interval of the mean, deviation with n - 1; None for fewer than two values."""
    x = np.asarray(values, np.float64)
    if len(x) < 2:
        return None
    return _around(float(x.mean()), float(x.std(ddof=1) / np.sqrt(len(x))), len(x) - 1, confidence)


def bootstrap_interval(
    values: Sequence[float] | npt.NDArray[np.float64], confidence: float = 0.95, *, seed: int = 0
) -> Interval | None:
    """BCa bootstrap interval of the mean (Efron, Better Bootstrap Confidence Intervals, JASA 1987).

    For figures of images, whose distribution has a long tail. The same values give the same interval. None
    for fewer than two values.
    """
    x = np.asarray(values, np.float64)
    if len(x) < 2:
        return None
    if np.ptp(x) == 0:
        return float(x[0]), float(x[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # too few values for BCa: the result is then not finite
        result = stats.bootstrap(
            (x,),
            np.mean,
            confidence_level=confidence,
            n_resamples=RESAMPLES,
            batch=999,
            rng=np.random.default_rng(seed),
        )
    low, high = float(result.confidence_interval.low), float(result.confidence_interval.high)
    return (low, high) if np.isfinite([low, high]).all() else t_interval(x, confidence)


def crossed_interval(differences: npt.NDArray[np.float64], confidence: float = 0.95) -> Interval | None:
    """Interval of the mean of (S, I) differences for other seeds and other images at once.

    Seeds and images are two crossed random factors without replication. Their mean squares estimate the
    variance of the grand mean as (MS_seeds + MS_images - MS_rest) / (S I), never below that of either factor
    alone; the degrees of freedom are Satterthwaite's (An Approximate Distribution of Estimates of Variance
    Components, Biometrics 1946). None for fewer than two seeds or images.
    """
    x = np.asarray(differences, np.float64)
    if min(x.shape) < 2:
        return None
    seeds, images = x.shape
    mean, rows, columns = x.mean(), x.mean(1), x.mean(0)
    rest = x - rows[:, None] - columns[None, :] + mean
    freedoms = np.array([seeds - 1, images - 1, (seeds - 1) * (images - 1)], np.float64)
    squares = np.array([images * ((rows - mean) ** 2).sum(), seeds * ((columns - mean) ** 2).sum(), (rest**2).sum()])
    mean_squares = squares / freedoms
    candidates = [np.array([1.0, 1.0, -1.0]), np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])]
    weights = max(candidates, key=lambda w: float(w @ mean_squares))
    total = float(weights @ mean_squares)
    freedom = total**2 / max(float(((weights * mean_squares) ** 2 / freedoms).sum()), 1e-300)
    return _around(float(mean), float(np.sqrt(total / (seeds * images))), max(freedom, 1.0), confidence)


def _around(mean: float, error: float, freedom: float, confidence: float) -> Interval:
    reach = float(stats.t.ppf(0.5 + confidence / 2, freedom)) * error
    return mean - reach, mean + reach
