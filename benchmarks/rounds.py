"""Times of several things within one run, taken in turns, so that what disturbs one disturbs all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

import torch

__all__ = ["seconds_a_call", "seconds_of_each"]

Name = TypeVar("Name", bound=Hashable)


def seconds_of_each(
    things: Mapping[Name, Callable[[], object]],
    *,
    device: torch.device,
    rounds: int = 5,
    seconds: float = 0.2,
    warm_up: int = 2,
    say: Callable[[str], None] = lambda line: None,
) -> dict[Name, float]:
    """Median seconds a call of each thing, over rounds in which all take turns.

    Args:
        things: what to time, by name.
        device: on a GPU, CUDA events time what was queued there.
        rounds: turns.
        seconds: a turn takes about so long, and one call at least.
        warm_up: calls before the first round.
        say: told a first time of each, so that a measurement that is cut short has said something.
    """
    calls = {}
    for name, thing in things.items():
        for _ in range(warm_up):
            thing()
        once = seconds_a_call(thing, 1, device)
        say(f"  {name}: {1000 * once:.2f} ms a call at first")
        calls[name] = max(round(seconds / max(once, 1e-9)), 1)
    times: dict[Name, list[float]] = {name: [] for name in things}
    for _ in range(rounds):
        for name, thing in things.items():
            times[name].append(seconds_a_call(thing, calls[name], device))
    return {name: statistics.median(values) for name, values in times.items()}


def seconds_a_call(thing: Callable[[], object], calls: int, device: torch.device) -> float:
    """Mean seconds of `calls` calls in a row, until the device has done them."""
    if device.type != "cuda":
        began = time.perf_counter()
        for _ in range(calls):
            thing()
        return (time.perf_counter() - began) / calls
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    torch.cuda.synchronize(device)
    first.record()
    for _ in range(calls):
        thing()
    last.record()
    torch.cuda.synchronize(device)
    return float(first.elapsed_time(last)) / 1000 / calls
