"""Losses of a student: blur from the mask (the task), depth from the stored label (the distillation).

targets   masks and labels at the outputs' scales, with weights in place of NaN
terms     how a term is averaged over a batch of which some samples have no target
blur      terms of the task, by name
depth     terms of the distillation, by name
joint     the sum that a step minimises
"""

from __future__ import annotations

from trainer.losses.blur import blur_loss
from trainer.losses.depth import depth_loss, normalise_depth, ssi_l1_loss
from trainer.losses.joint import joint_loss

__all__ = ["blur_loss", "depth_loss", "joint_loss", "normalise_depth", "ssi_l1_loss"]
