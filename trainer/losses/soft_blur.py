"""Blur distillation: a blur logit against another student's blur probability. See `BlurDistillation`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.config import BlurDistillation
from trainer.losses.targets import Target, as_target
from trainer.losses.terms import Term, average, mean

__all__ = ["soft_blur_loss", "soft_blur_terms", "soften"]

LEAST = 1e-3  # probabilities nearer to 0 or 1 than this are not told apart: labels are float16 in a batch


def soft_blur_loss(logits: Tensor, probability: Tensor, weights: BlurDistillation) -> Tensor:
    """The weighted sum of the chosen terms at one scale; both (B, 1, H, W), NaN = unknown."""
    return average(soft_blur_terms(logits.float(), as_target(probability), weights))


def soft_blur_terms(logits: Tensor, teacher: Target, weights: BlurDistillation, factor: float = 1.0) -> list[Term]:
    """The terms that have a weight, each times `factor`, at one scale (B, 1, h, w).

    `kl` is the Kullback-Leibler divergence from the teacher's to the student's probability of blur, both
    softened by the temperature T, times T^2 so that gradients keep their size: Hinton, Vinyals and Dean,
    Distilling the Knowledge in a Neural Network, 2015, section 2. Its gradient is that of cross-entropy
    with the teacher's probability as target; less the teacher's entropy it is 0 where the two agree.
    `l1` is the mean |p - q| of the probabilities as they are.
    """
    probability, known = teacher
    temperature = weights.temperature
    terms: list[Term] = []
    if weights.kl:
        soft = soften(probability, temperature)
        cross_entropy = F.binary_cross_entropy_with_logits(logits / temperature, soft, reduction="none")
        entropy = -torch.special.xlogy(soft, soft) - torch.special.xlogy(1 - soft, 1 - soft)
        terms.append(mean(factor * weights.kl * temperature**2, cross_entropy - entropy, known))
    if weights.l1:
        terms.append(mean(factor * weights.l1, (logits.sigmoid() - probability).abs(), known))
    return terms


def soften(probability: Tensor, temperature: float) -> Tensor:
    """sigmoid(logit(p) / T), p limited to [0.001, 0.999]; p itself at T = 1."""
    if temperature == 1:
        return probability
    return torch.sigmoid(torch.logit(probability, eps=LEAST) / temperature)
