"""Whether a GPU waits: the share of the time in which it computes, from the profiler's intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch.profiler import ProfilerActivity, profile

__all__ = ["busy_share", "covered"]


def busy_share(work: Callable[[], object], *, calls: int) -> float:
    """Share of the time from the first to the last kernel of `calls` calls in which any kernel or copy runs.

    The profiler slows the CPU, so the share is if anything too low.
    """
    work()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(calls):
            work()
        torch.cuda.synchronize()
    times = [event.time_range for event in profiler.events() if "CUDA" in str(event.device_type)]
    spans = [(float(t.start), float(t.end)) for t in times]
    if not spans:
        return float("nan")
    begun, ended = min(start for start, _ in spans), max(end for _, end in spans)
    return covered(spans) / max(ended - begun, 1e-12)


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(end - max(start, reached), 0.0)
        reached = max(reached, end)
    return total
