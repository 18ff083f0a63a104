"""How a term's value is kept until the end: per sample, as a weighted sum and the sum of its weights.

A batch's value of a term is the mean over the samples that have any weight, each sample's value being
its weighted mean. All terms of a step are brought to one number together: on a GPU a reduction over a
few dozen values costs as much as one over a million, so they must not have one each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Term", "average", "over_sample", "weighted_mean"]


class Term(NamedTuple):
    """One term at one scale.

    Attributes:
        factor: weight of the term in the loss.
        sums: (B,) sum of weight * value of each sample.
        weights: (B,) sum of weights; 0 for a sample that has no say.
    """

    factor: float
    sums: Tensor
    weights: Tensor


def over_sample(values: Tensor) -> Tensor:
    """Sum of (B, 1, H, W) over each sample, (B,)."""
    return values.sum((1, 2, 3))


def weighted_mean(factor: float, values: Tensor, weights: Tensor) -> Term:
    """The term of a map of values, both (B, 1, H, W)."""
    return Term(factor, over_sample(values * weights), over_sample(weights))


def average(terms: Sequence[Term]) -> Tensor:
    """Sum over the terms of factor * mean over the samples that have a say; 0 where none has.

    At least one term.
    """
    sums = torch.stack([term.sums * term.factor for term in terms])
    weights = torch.stack([term.weights for term in terms])
    used = weights > 0
    per_sample = torch.where(used, sums / torch.where(used, weights, 1.0), 0.0)
    return (per_sample.sum(1) / used.sum(1).clamp_min(1)).sum()
