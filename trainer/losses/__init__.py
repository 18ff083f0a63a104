"""Losses of a student: blur from the mask (the task), depth and soft blur from stored labels (the distillation).

targets     masks and labels at the outputs' scales, with weights in place of NaN
terms       what a term is, and how a batch's terms become one number
blur        terms of the task, by name
depth       terms of depth distillation, by name;  pairs: the pairs of pixels of the ranking term
soft_blur   terms of blur distillation, by name
schedule    the weight of a distillation over a run
joint       the sum that a step minimises
"""

from __future__ import annotations

from trainer.losses.blur import blur_loss
from trainer.losses.depth import depth_loss, ssi_l1_loss
from trainer.losses.joint import joint_loss
from trainer.losses.schedule import weight_at
from trainer.losses.soft_blur import soft_blur_loss

__all__ = ["blur_loss", "depth_loss", "joint_loss", "soft_blur_loss", "ssi_l1_loss", "weight_at"]
