"""Terms of a loss, and how a batch's terms become one number.

On a GPU a sum over a few dozen numbers costs as much as one over a million, and so does each small step
that follows it. So sums are not taken term by term: the maps of all terms of one size are summed
together, over rows and then over samples, and what is left is one small table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Term", "average", "mean", "overlap", "sample_sums"]


class Term(NamedTuple):
    """sum(above) / sum(below) of each sample, its mean over the samples with any weight; all (B, 1, h, w)."""

    above: Tensor
    below: Tensor
    weights: Tensor


def mean(factor: float, values: Tensor, weights: Tensor) -> Term:
    """`factor` times the weighted mean of a map; where the weight is 0 the value may be any finite number."""
    return Term(factor * values * weights, weights, weights)


def overlap(factor: float, common: Tensor, whole: Tensor, weights: Tensor) -> Term:
    """`factor` times what two maps do not share: 1 - (sum(w common) + 1) / (sum(w whole) + 1).

    The ones make it 0 where both maps are empty. Where the weight is 0 the maps may be any finite number.
    """
    pixels = weights.shape[-2] * weights.shape[-1]
    return Term(factor * (whole - common) * weights, whole * weights + 1 / pixels, weights)


def sample_sums(maps: Sequence[Tensor]) -> Tensor:
    """The sum of each of several maps of one shape (B, 1, h, w) over each sample: (maps, B)."""
    return torch.stack([values.sum((1, 3)) for values in maps]).sum(2)


def average(terms: Sequence[Term]) -> Tensor:
    """The sum of the terms' values; a term of which no sample has any weight is 0. At least one term."""
    by_shape: dict[torch.Size, list[Term]] = {}
    for term in terms:
        by_shape.setdefault(term.weights.shape, []).append(term)
    sums = [
        sample_sums([values for part in zip(*group, strict=True) for values in part]).view(3, len(group), -1)
        for group in by_shape.values()
    ]
    above, below, weights = torch.cat(sums, 1).unbind()  # (terms, B)
    used = weights > 0
    per_sample = torch.where(used, above / torch.where(used, below, 1.0), 0.0)
    return (per_sample.sum(1) / used.sum(1).clamp_min(1)).sum()
