"""The task loss: a blur logit against the mask."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from trainer.config import BlurLoss
from trainer.losses.targets import Target, as_target
from trainer.losses.terms import Term, average, over_sample, weighted_mean

__all__ = ["blur_loss", "blur_terms", "soft_iou"]


def blur_loss(logits: Tensor, mask: Tensor, weights: BlurLoss) -> Tensor:
    """The weighted sum of the chosen terms at one scale: logits and mask (B, 1, H, W), NaN = unknown."""
    return average(blur_terms(logits.float(), as_target(mask), weights))


def blur_terms(logits: Tensor, mask: Target, weights: BlurLoss, factor: float = 1.0) -> list[Term]:
    """The terms with a weight, each times `factor`, at one scale (B, 1, h, w)."""
    target, known = mask
    probability = logits.sigmoid()
    terms = []
    if weights.bce:
        cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        terms.append(weighted_mean(factor * weights.bce, cross_entropy, known))
    if weights.iou:
        terms.append(soft_iou(factor * weights.iou, probability, target, known))
        terms.append(soft_iou(factor * weights.iou, 1 - probability, 1 - target, known))
    if weights.l1:
        terms.append(weighted_mean(factor * weights.l1, (probability - target).abs(), known))
    return terms


def soft_iou(factor: float, probability: Tensor, target: Tensor, known: Tensor) -> Term:
    """1 - sum(p t) / sum(p + t - p t) of each sample over its known pixels.

    Rahman and Wang, Optimizing Intersection-over-Union in Deep Neural Networks for Image Segmentation,
    ISVC 2016, with 1 added to both sums, so that an absent class that is not predicted costs nothing.
    """
    product = over_sample(probability * target * known)
    union = over_sample((probability + target) * known) - product
    used = (over_sample(known) > 0).float()
    return Term(factor, (1 - (product + 1) / (union + 1)) * used, used)
