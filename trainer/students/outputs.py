"""What every student returns, whatever network it is."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["StudentOutput"]


class StudentOutput(NamedTuple):
    """A student's answer for a batch: one list of maps for each of its two tasks.

    In both lists the first map is the fused output (B, 1, H, W) at the size of the input; the side
    outputs follow at their own scales, coarse to fine, each (B, 1, h, w).
    """

    blur: list[Tensor]
    """Logits: their sigmoid is the probability that a pixel is OUT OF FOCUS."""
    depth: list[Tensor]
    """Relative inverse depth: large = near, known up to scale and shift."""
