"""The task loss: a blur logit against the mask. Its terms are chosen by their weights in `BlurLoss`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.config import BlurLoss
from trainer.losses.targets import Target, as_target
from trainer.losses.terms import Term, average, mean, overlap

__all__ = ["blur_loss", "blur_terms", "boundary_band", "dice", "focal", "soft_iou", "ssim"]

FOCUSING = 2  # gamma of the focal loss
BAND = 1 / 64  # the boundary band reaches this share of the map's side to either side of the boundary
WINDOW = 7  # pixels, of SSIM
SSIM_CONSTANTS = 0.01**2, 0.03**2


def blur_loss(logits: Tensor, mask: Tensor, weights: BlurLoss) -> Tensor:
    """The weighted sum of the chosen terms at one scale: logits and mask (B, 1, H, W), NaN = unknown."""
    return average(blur_terms(logits.float(), as_target(mask), weights))


def blur_terms(logits: Tensor, mask: Target, weights: BlurLoss, factor: float = 1.0) -> list[Term]:
    """The terms that have a weight, each times `factor`, at one scale (B, 1, h, w)."""
    target, known = mask
    probability = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    terms: list[Term] = []
    if weights.bce:
        terms.append(mean(factor * weights.bce, cross_entropy, known))
    if weights.focal:
        terms.append(mean(factor * weights.focal, focal(cross_entropy, probability, target), known))
    if weights.edge:
        terms.append(mean(factor * weights.edge, cross_entropy, boundary_band(target, known)))
    if weights.l1:
        terms.append(mean(factor * weights.l1, (probability - target).abs(), known))
    for weight, term in ((weights.iou, soft_iou), (weights.dice, dice)):
        if weight:
            terms.append(term(factor * weight, probability, target, known))
            terms.append(term(factor * weight, 1 - probability, 1 - target, known))
    if weights.ssim:
        terms.append(ssim(factor * weights.ssim, probability, target, known))
    return terms


def focal(cross_entropy: Tensor, probability: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy times |t - p|^2: pixels that are right already count little.

    Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, eq. 4, with gamma 2 and no alpha, in the
    form for soft targets of Li et al., Generalized Focal Loss, NeurIPS 2020, eq. 6.
    """
    return cross_entropy * (target - probability).abs() ** FOCUSING


def soft_iou(factor: float, probability: Tensor, target: Tensor, known: Tensor) -> Term:
    """1 - sum(p t) / sum(p + t - p t) of each sample over its known pixels.

    Rahman and Wang, Optimizing Intersection-over-Union in Deep Neural Networks for Image Segmentation,
    ISVC 2016, with 1 added to both sums, so that an absent class that is not predicted costs nothing.
    The loss takes it of both classes.
    """
    product = probability * target
    return overlap(factor, product, probability + target - product, known)


def dice(factor: float, probability: Tensor, target: Tensor, known: Tensor) -> Term:
    """1 - 2 sum(p t) / sum(p^2 + t^2) of each sample over its known pixels.

    Milletari, Navab and Ahmadi, V-Net, 3DV 2016, eq. 3, with 1 added to both sums. The loss takes it of
    both classes.
    """
    return overlap(factor, 2 * probability * target, probability**2 + target**2, known)


def boundary_band(target: Tensor, known: Tensor) -> Tensor:
    """Weights (B, 1, h, w): 1 near a boundary of the mask, 0 elsewhere and where unknown.

    The mask's morphological gradient (Rivest, Soille and Beucher, Morphological gradients, Journal of
    Electronic Imaging 1993), largest minus smallest mask value in a square window around the pixel. Its
    half width is 1/64 of the map's shorter side, at least one pixel. Unknown pixels make no boundary.
    A sample whose mask has no boundary has no say.
    """
    reach = max(1, round(min(target.shape[-2:]) * BAND))
    both = torch.cat([target * known, -torch.where(known > 0, target, 1.0)], 1)
    highest, lowest = F.max_pool2d(both, 2 * reach + 1, stride=1, padding=reach).chunk(2, 1)
    return (highest + lowest).clamp_min(0.0) * known


def ssim(factor: float, probability: Tensor, target: Tensor, known: Tensor) -> Term:
    """1 - SSIM of probability and mask, the mean over all windows that are known and inside as a whole.

    Wang et al., Image Quality Assessment: From Error Visibility to Structural Similarity, IEEE TIP 2004,
    eq. 13, for values in [0, 1]: a square window of 7 x 7 with equal weights (less in smaller maps), K1 =
    0.01, K2 = 0.03, variances of the population. As a loss for maps: Qin et al., BASNet, CVPR 2019.
    """
    window = min(WINDOW, *target.shape[-2:])
    window -= 1 - window % 2
    planes = torch.cat([probability, target, probability**2, target**2, probability * target, known], 1)
    p, t, pp, tt, pt, share = F.avg_pool2d(planes, window, stride=1, padding=window // 2).chunk(6, 1)
    c1, c2 = SSIM_CONSTANTS
    similarity = (2 * p * t + c1) * (2 * (pt - p * t) + c2)
    similarity = similarity / ((p**2 + t**2 + c1) * (pp - p**2 + tt - t**2 + c2))
    return mean(factor, 1 - similarity, (share > 1 - 0.5 / window**2).float())
