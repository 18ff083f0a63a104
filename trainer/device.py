"""Where a network runs, and in which precision."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch

from pipeline.contract import SoftfocusError

__all__ = ["autocast", "choose_device"]


def choose_device(name: str) -> torch.device:
    """`auto` is the first GPU, else the CPU.

    Raises:
        SoftfocusError: the device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise SoftfocusError(f"device {name!r} cannot be used ({reason}); choose auto, cpu or cuda") from error
    return device


def autocast(precision: str, device: torch.device) -> Callable[[], contextlib.AbstractContextManager[Any]]:
    """A factory of contexts for the forward pass: bfloat16 where asked, or by `auto` where the GPU has it."""
    auto = device.type == "cuda" and torch.cuda.is_bf16_supported()
    if precision == "bfloat16" or (precision == "auto" and auto):
        # casts of weights are not kept: no weight is used twice, and a CUDA graph could not use what is kept
        return lambda: torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=False)
    return contextlib.nullcontext
