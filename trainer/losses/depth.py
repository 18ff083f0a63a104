"""The distillation loss: a student's depth against the stored label, whatever the scale and shift of either."""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.config import DepthLoss
from trainer.losses.targets import Target, as_target
from trainer.losses.terms import Term, average, over_sample, weighted_mean

__all__ = ["GRADIENT_SCALES", "depth_loss", "depth_terms", "gradient_terms", "normalise_depth", "ssi_l1_loss"]

EPSILON = 1e-6
GRADIENT_SCALES = 4


def depth_loss(prediction: Tensor, label: Tensor, weights: DepthLoss, *, confidence: Tensor | None = None) -> Tensor:
    """The weighted sum of the chosen terms at one scale; all (B, 1, H, W), NaN = unknown in the label."""
    return average(depth_terms(prediction.float(), as_target(label, confidence), weights))


def ssi_l1_loss(prediction: Tensor, label: Tensor) -> Tensor:
    """Scale-and-shift-invariant L1 alone: 0 iff prediction = a * label + b with a > 0."""
    return depth_loss(prediction, label, DepthLoss(l1=1.0, gradient=0.0))


def depth_terms(prediction: Tensor, label: Target, weights: DepthLoss, factor: float = 1.0) -> list[Term]:
    """The terms with a weight, each times `factor`, at one scale (B, 1, h, w)."""
    known = label.weights
    difference = normalise_depth(prediction, known) - normalise_depth(label.values, known)
    terms = []
    if weights.l1:
        terms.append(weighted_mean(factor * weights.l1, difference.abs(), known))
    if weights.gradient:
        terms += gradient_terms(factor * weights.gradient, difference, known)
    return terms


def normalise_depth(depth: Tensor, weights: Tensor) -> Tensor:
    """(d - mean) / mean |d - mean| of each sample, weighted means; of no meaning where the weight is 0.

    The scale-and-shift-invariant normalisation of Ranftl et al., Towards Robust Monocular Depth
    Estimation, TPAMI 2022, eq. 5, with the mean in the median's place: a batched masked median is
    not to be had cheaply, and the labels come from one smooth teacher without outliers.
    """
    total = over_sample(weights)
    share = weights / torch.where(total > 0, total, 1.0).view(-1, 1, 1, 1)
    centred = depth - over_sample(depth * share).view(-1, 1, 1, 1)
    scale = over_sample(centred.abs() * share).view(-1, 1, 1, 1)
    return centred / scale.clamp_min(EPSILON)


def gradient_terms(factor: float, difference: Tensor, weights: Tensor) -> list[Term]:
    """Mean |d/dx R| + |d/dy R| of R = normalised prediction - label, summed over halvings of the size.

    Li and Snavely, MegaDepth, CVPR 2018, eq. 6, on normalised inverse depth as in Ranftl et al. A pair
    of pixels counts by the product of its weights.
    """
    terms = []
    for scale in range(GRADIENT_SCALES):
        r, w = difference[..., :: 2**scale, :: 2**scale], weights[..., :: 2**scale, :: 2**scale]
        if min(r.shape[-2:]) < 2:
            break
        for axis in (-2, -1):
            length = r.shape[axis] - 1
            both = w.narrow(axis, 1, length) * w.narrow(axis, 0, length)
            terms.append(weighted_mean(factor, r.diff(dim=axis).abs(), both))
    return terms
