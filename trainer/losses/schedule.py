"""The weight of a distillation loss over a run."""

from __future__ import annotations

import math

from trainer.config import Distillation

__all__ = ["weight_at"]


def weight_at(settings: Distillation, progress: float) -> float:
    """The weight at a point of the run: a function of its arguments alone.

    It rises linearly from 0 over the first `warmup` of the run and then stays at `weight` (`constant`), or
    falls to `final * weight` at the end of the run in a line (`linear`) or half a cosine (`cosine`).

    Args:
        settings: with `weight`, `schedule`, `warmup` and `final`.
        progress: share of the run's steps that are done, in [0, 1].
    """
    if progress < settings.warmup:
        return settings.weight * progress / settings.warmup
    if settings.schedule == "constant":
        return settings.weight
    left = 1 - (progress - settings.warmup) / max(1 - settings.warmup, 1e-9)
    if settings.schedule == "cosine":
        left = 0.5 * (1 - math.cos(math.pi * left))
    return settings.weight * (settings.final + (1 - settings.final) * left)
