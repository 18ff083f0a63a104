"""What a training step minimises: the task loss and the distillation losses over a student's outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.config import BlurDistillation, BlurLoss, DepthLoss
from trainer.losses.blur import blur_terms
from trainer.losses.depth import depth_terms
from trainer.losses.soft_blur import soft_blur_terms
from trainer.losses.targets import pyramid
from trainer.losses.terms import Term, average
from trainer.students.outputs import StudentOutput

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
    soft_blur: Tensor | None = None,
    blur_distillation: BlurDistillation | None = None,
    blur_distillation_weight: Tensor | float | None = None,
) -> dict[str, Tensor]:
    """Task and distillation losses over fused and side outputs, in float32.

    A term is the mean over the samples that have its target; without any it is 0 and has zero gradient.
    While shapes stay the same it compiles into one graph: nothing depends on the data's values.

    Args:
        output: of a student.
        mask: (B, 1, H, W) in [0, 1], 1 = out of focus, NaN = unknown; all NaN for a sample without a mask.
        depth: (B, 1, H, W) relative inverse depth, NaN = unknown; all NaN for a sample without a label.
        blur, distillation, blur_distillation: which terms, by their weights.
        confidence: (B, 1, H, W), how much each pixel's depth counts, at least 0, NaN = 0; None: all the same.
        soft_blur: (B, 1, H, W), another student's probability of blur, NaN = unknown; None: there is none.
        distillation_weight, blur_distillation_weight: in place of `weight` of that loss (a number or a
            scalar tensor), where it changes during a run: see `weight_at`. A `weight` of 0 leaves the loss
            out all the same.

    Returns:
        Unweighted `blur`, `depth` and `soft_blur` (the last two unless left out), and `loss`, their weighted sum.
    """
    maps = {"blur": mask}
    if distillation.weight:
        maps["depth"] = depth
    if soft_blur is not None and blur_distillation is not None and blur_distillation.weight:
        maps["soft_blur"] = soft_blur
    certain = None
    if confidence is not None and "depth" in maps:
        certain = torch.cat([confidence if n == "depth" else torch.ones_like(confidence) for n in maps], 1)
    channel = {name: number for number, name in enumerate(maps)}
    levels = pyramid(torch.cat(list(maps.values()), 1), [(m.shape[-2], m.shape[-1]) for m in output.blur], certain)

    terms: dict[str, list[Term]] = {name: [] for name in maps}
    for place, level in enumerate(levels):
        targets = {name: level.channel(number) for name, number in channel.items()}
        logits = output.blur[place].float()
        if blur.weight and (factor := blur.side if place else 1.0):
            terms["blur"] += blur_terms(logits, targets["blur"], blur, factor)
        if "depth" in maps and (factor := distillation.side if place else 1.0):
            terms["depth"] += depth_terms(output.depth[place].float(), targets["depth"], distillation, factor)
        if "soft_blur" in maps and blur_distillation and (factor := blur_distillation.side if place else 1.0):
            terms["soft_blur"] += soft_blur_terms(logits, targets["soft_blur"], blur_distillation, factor)

    values = {name: average(found, like=mask) for name, found in terms.items()}
    loss = blur.weight * values["blur"]
    if "depth" in maps:
        loss = loss + (distillation.weight if distillation_weight is None else distillation_weight) * values["depth"]
    if "soft_blur" in maps and blur_distillation:
        weight = blur_distillation.weight if blur_distillation_weight is None else blur_distillation_weight
        loss = loss + weight * values["soft_blur"]
    return {"loss": loss, **values}
