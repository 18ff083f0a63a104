"""What moves the weights: timm's optimisers and schedules, with a rate for each block of the encoder."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]
from timm.scheduler import create_scheduler_v2  # type: ignore[attr-defined]
from torch import nn

from pipeline.contract import SoftfocusError
from trainer.config import Config
from trainer.students.encoders import block_of, network_of

__all__ = ["Schedule", "create_optimiser", "encoder_blocks", "freeze"]

WITHOUT_BETAS = ("sgd", "nesterov", "momentum", "rmsprop")
FUSED = ("adam", "adamw", "sgd")  # torch updates all weights in one kernel


def encoder_blocks(student: nn.Module) -> list[str]:
    """Names of the encoder's blocks, from the input on (see `trainer.students.encoders.block_of`)."""
    blocks = (block_of(name) for name, _ in student.named_parameters())
    return list(dict.fromkeys(block for block in blocks if block is not None))


def freeze(student: nn.Module, count: int) -> None:
    """Leave the first `count` blocks of the encoder as they are; -1: all of them.

    They are put into evaluation mode too: their batch norms neither use nor learn the batch's statistics.

    Raises:
        SoftfocusError: the encoder has fewer blocks.
    """
    blocks = encoder_blocks(student)
    if count > len(blocks):
        raise SoftfocusError(f"student.freeze is {count}; this encoder has {len(blocks)} blocks (-1: all of them)")
    frozen = set(blocks if count < 0 else blocks[:count])
    for name, parameter in student.named_parameters():
        if block_of(name) in frozen:
            parameter.requires_grad_(False)
    for name, module in student.named_modules():
        if block_of(name) in frozen:
            module.eval()


def create_optimiser(student: nn.Module, config: Config) -> torch.optim.Optimizer:
    """The optimiser, with groups by block of the encoder and by weight decay (none on norms and biases).

    A group's `lr_scale` is `encoder_lr` x `layer_decay` to the number of blocks above it in its network, and 1 outside
    the encoder.

    Raises:
        SoftfocusError: timm knows no such optimiser, or it does not take these settings.
    """
    settings = config.optimiser
    scales: dict[str | None, float] = {None: 1.0}
    above: Counter[str] = Counter()
    for block in reversed(encoder_blocks(student)):
        scales[block] = settings.encoder_lr * settings.layer_decay ** above[network_of(block)]
        above[network_of(block)] += 1
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in student.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((scales[block_of(name)], parameter.ndim > 1), []).append(parameter)
    options: list[dict[str, Any]] = [
        {
            "params": parameters,
            "lr": settings.lr * scale,
            "lr_scale": scale,
            "weight_decay": settings.weight_decay if decays else 0.0,
        }
        for (scale, decays), parameters in groups.items()
    ]
    more: dict[str, Any] = {} if settings.name in WITHOUT_BETAS else {"betas": settings.betas}
    if settings.name in FUSED and next(student.parameters()).is_cuda:
        more["fused"] = True
    try:
        return create_optimizer_v2(
            options, opt=settings.name, lr=settings.lr, weight_decay=settings.weight_decay, **more
        )
    except (AssertionError, TypeError, ValueError) as error:
        raise SoftfocusError(f"optimiser.name={settings.name}: {error}; choose one of timm's, such as adamw") from error


class Schedule:
    """Sets the learning rate of each group as a function of the step alone, by one of timm's schedules.

    Raises:
        SoftfocusError: timm knows no such schedule.
    """

    def __init__(self, optimiser: torch.optim.Optimizer, config: Config, steps: int) -> None:
        settings = config.optimiser
        self._optimiser = optimiser
        self._warmup = max(round(settings.warmup * steps), 1)
        for group in optimiser.param_groups:
            group["initial_lr"] = group["lr"] = settings.lr  # timm's schedules multiply by lr_scale themselves
        try:
            self._scheduler, _ = create_scheduler_v2(
                optimiser,
                sched=settings.schedule,
                num_epochs=steps,
                warmup_epochs=self._warmup,
                warmup_lr=settings.lr * 1e-3,
                step_on_epochs=False,
                updates_per_epoch=1,
            )
        except (AssertionError, TypeError, ValueError, RuntimeError) as error:
            raise SoftfocusError(f"optimiser.schedule={settings.schedule}: {error}; choose one of timm's") from error
        if self._scheduler is None:
            raise SoftfocusError(f"optimiser.schedule={settings.schedule}: timm has none of that name; such as cosine")

    def set(self, step: int) -> None:
        """Rates for step number `step`, from 0."""
        self._scheduler.step_update(step)

    @property
    def largest(self) -> float:
        """The rate outside the encoder."""
        return max(float(group["lr"]) for group in self._optimiser.param_groups)
