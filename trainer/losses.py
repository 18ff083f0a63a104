"""Losses of a student: blur from the mask (the task), depth from the stored label (the distillation).

All take float32 and return one scalar, the mean over the samples that `known` marks; a batch without a
known sample costs 0 and has zero gradient. Pixels that are not known are NaN in the target.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.config import BlurLoss, DepthLoss
from trainer.outputs import StudentOutput

__all__ = [
    "blur_loss",
    "depth_loss",
    "gradient_loss",
    "joint_loss",
    "normalise_depth",
    "soft_iou_loss",
    "ssi_l1_loss",
]

EPSILON = 1e-6


def joint_loss(
    output: StudentOutput,
    mask: Tensor,
    depth: Tensor,
    *,
    blur: BlurLoss,
    distillation: DepthLoss,
    confidence: Tensor | None = None,
    distillation_weight: Tensor | float | None = None,
) -> dict[str, Tensor]:
    """Task and distillation loss over fused and side outputs.

    Args:
        output: of a student.
        mask: (B, 1, H, W) in [0, 1], 1 = out of focus; all NaN for a sample without a mask.
        depth: (B, 1, H, W) relative inverse depth, NaN = unknown; all NaN for a sample without a label.

    Returns:
        `blur`, `depth` (unweighted) and `loss`, their weighted sum.
    """
    terms = {"blur": _over_scales(partial(blur_loss, weights=blur), output.blur, mask, blur.side)}
    terms["loss"] = terms["blur"]
    if distillation.weight:
        terms["depth"] = _over_scales(partial(depth_loss, weights=distillation), output.depth, depth, distillation.side)
        weight = distillation.weight if distillation_weight is None else distillation_weight
        terms["loss"] = terms["blur"] + weight * terms["depth"]
    return terms


def _over_scales(loss: Callable[[Tensor, Tensor], Tensor], maps: list[Tensor], target: Tensor, side: float) -> Tensor:
    """The loss of the fused map, plus `side` times that of each side output at its own scale."""
    total = loss(maps[0].float(), target)
    for output in maps[1:] if side else ():
        total = total + side * loss(output.float(), _shrink(target, (output.shape[-2], output.shape[-1])))
    return total


def _shrink(target: Tensor, size: tuple[int, int]) -> Tensor:
    """Area average of a target down to a side output's size, over the pixels that are known."""
    if target.shape[-2:] == size:
        return target
    known = torch.isfinite(target)
    mean = F.adaptive_avg_pool2d(torch.where(known, target, 0.0), size)
    share = F.adaptive_avg_pool2d(known.float(), size)
    return torch.where(share > 0.5, mean / share.clamp_min(EPSILON), torch.nan)


def blur_loss(logits: Tensor, mask: Tensor, weights: BlurLoss) -> Tensor:
    """Weighted sum of cross-entropy, soft IoU of both classes and L1, on (B, 1, H, W)."""
    known = torch.isfinite(mask)
    target = torch.where(known, mask, 0.0)
    probability = logits.sigmoid()
    total = logits.new_zeros(())
    if weights.bce:
        bce = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        total = total + weights.bce * _sample_mean(bce, known)
    if weights.iou:
        iou = soft_iou_loss(probability, target, known) + soft_iou_loss(1 - probability, 1 - target, known)
        total = total + weights.iou * iou
    if weights.l1:
        total = total + weights.l1 * _sample_mean((probability - target).abs(), known)
    return total


def soft_iou_loss(probability: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """1 - sum(p t) / sum(p + t - p t) of each sample over its known pixels, then the mean.

    Rahman and Wang, Optimizing Intersection-over-Union in Deep Neural Networks for Image Segmentation,
    ISVC 2016, with 1 added to both sums, so that an absent class that is not predicted costs nothing.
    """
    product = (probability * target * known).sum((1, 2, 3))
    union = ((probability + target) * known).sum((1, 2, 3)) - product
    used = known.flatten(1).any(1)
    return ((1 - (product + 1) / (union + 1)) * used).sum() / used.sum().clamp_min(1)


def depth_loss(prediction: Tensor, target: Tensor, weights: DepthLoss) -> Tensor:
    """Weighted sum of the scale-and-shift-invariant L1 and its multi-scale gradient term."""
    known = torch.isfinite(target)
    ours, theirs = normalise_depth(prediction, known), normalise_depth(target, known)
    difference = torch.where(known, ours - theirs, 0.0)
    total = prediction.new_zeros(())
    if weights.l1:
        total = total + weights.l1 * _sample_mean(difference.abs(), known)
    if weights.gradient:
        total = total + weights.gradient * gradient_loss(difference, known)
    return total


def ssi_l1_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Scale-and-shift-invariant L1 alone: 0 iff prediction = a * target + b with a > 0."""
    return depth_loss(prediction, target, DepthLoss(l1=1.0, gradient=0.0))


def normalise_depth(depth: Tensor, known: Tensor) -> Tensor:
    """(d - mean) / mean |d - mean| of each sample over its known pixels.

    The scale-and-shift-invariant normalisation of Ranftl et al., Towards Robust Monocular Depth
    Estimation, TPAMI 2022, eq. 5, with the mean in the median's place: a batched masked median is
    not to be had cheaply, and the labels come from one smooth teacher without outliers.
    """
    filled = torch.where(known, depth, 0.0)
    count = known.sum((1, 2, 3), keepdim=True).clamp_min(1)
    shift = filled.sum((1, 2, 3), keepdim=True) / count
    centred = torch.where(known, filled - shift, 0.0)
    scale = centred.abs().sum((1, 2, 3), keepdim=True) / count
    return centred / scale.clamp_min(EPSILON)


def gradient_loss(difference: Tensor, known: Tensor, *, scales: int = 4) -> Tensor:
    """Mean |d/dx R| + |d/dy R| of R = normalised prediction - target, summed over `scales` halvings.

    Li and Snavely, MegaDepth, CVPR 2018, eq. 6, on normalised inverse depth as in Ranftl et al.
    """
    total = difference.new_zeros(())
    for scale in range(scales):
        r, k = difference[..., :: 2**scale, :: 2**scale], known[..., :: 2**scale, :: 2**scale]
        if min(r.shape[-2:]) < 2:
            break
        for axis in (-2, -1):
            step = r.diff(dim=axis).abs()
            both = k.narrow(axis, 1, k.shape[axis] - 1) & k.narrow(axis, 0, k.shape[axis] - 1)
            total = total + _sample_mean(step, both)
    return total


def _sample_mean(values: Tensor, known: Tensor) -> Tensor:
    """Mean over the known pixels of each sample, then over the samples that have any."""
    count = known.sum((1, 2, 3))
    per_sample = torch.where(known, values, 0.0).sum((1, 2, 3)) / count.clamp_min(1)
    return per_sample.sum() / (count > 0).sum().clamp_min(1)
