"""What a training step minimises: the task loss and the distillation loss over a student's outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.config import BlurLoss, DepthLoss
from trainer.losses.blur import blur_terms
from trainer.losses.depth import depth_terms
from trainer.losses.targets import pyramid
from trainer.losses.terms import average
from trainer.outputs import StudentOutput

__all__ = ["joint_loss"]


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
    """Task and distillation loss over fused and side outputs, in float32.

    A term is the mean over the samples that have a target; without any it is 0 and has zero gradient.
    With shapes that stay the same it compiles into one graph: nothing depends on the data's values.

    Args:
        output: of a student.
        mask: (B, 1, H, W) in [0, 1], 1 = out of focus, NaN = unknown; all NaN for a sample without a mask.
        depth: (B, 1, H, W) relative inverse depth, NaN = unknown; all NaN for a sample without a label.
        blur, distillation: which terms, by their weights.
        confidence: (B, 1, H, W), how much each pixel's depth counts, at least 0, NaN = 0; None: all the same.
        distillation_weight: in place of `distillation.weight` (a number or a scalar tensor), where that
            changes during a run. `distillation.weight` of 0 leaves the depth out all the same.

    Returns:
        `blur`, `depth` (unweighted) and `loss`, their weighted sum. `depth` is not there if it is left out.
    """
    sizes = [(m.shape[-2], m.shape[-1]) for m in output.blur]
    maps = [mask, depth] if distillation.weight else [mask]
    certain = None
    if confidence is not None and distillation.weight:
        certain = torch.cat([torch.ones_like(confidence), confidence], 1)
    levels = pyramid(torch.cat(maps, 1), sizes, certain)
    blur_sum, depth_sum = [], []
    for place, level in enumerate(levels):
        if place == 0 or blur.side:
            factor = blur.side if place else 1.0
            blur_sum += blur_terms(output.blur[place].float(), level.channel(0), blur, factor)
        if distillation.weight and (place == 0 or distillation.side):
            factor = distillation.side if place else 1.0
            depth_sum += depth_terms(output.depth[place].float(), level.channel(1), distillation, factor)
    terms = {"blur": average(blur_sum) if blur_sum else mask.new_zeros(())}
    terms["loss"] = terms["blur"]
    if distillation.weight:
        weight = distillation.weight if distillation_weight is None else distillation_weight
        terms["depth"] = average(depth_sum)
        terms["loss"] = terms["blur"] + weight * terms["depth"]
    return terms
