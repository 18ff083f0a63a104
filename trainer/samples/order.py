"""Which samples a step takes: a function of the seed and the step's number, whatever ran before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from pipeline.contract import Sample

__all__ = ["Order"]


class Order:
    """Which samples a step takes: endless passes, each a shuffle of all, cut into batches.

    A function of seed and step alone. With `masked_share`, that share of each batch comes from the samples
    that have a mask and the rest from the others, each in passes of their own.
    """

    def __init__(
        self, samples: Sequence[Sample], *, batch_size: int, seed: int, masked_share: float | None = None
    ) -> None:
        everything = list(range(len(samples)))
        masked = [i for i in everything if samples[i].mask is not None]
        others = [i for i in everything if samples[i].mask is None]
        if masked_share is None or not masked or not others:
            self._pools = [(_Passes(everything, seed), batch_size)]
        else:
            count = min(max(round(batch_size * masked_share), 1), batch_size)
            self._pools = [(_Passes(masked, seed), count), (_Passes(others, seed + 1), batch_size - count)]

    def rows(self, step: int) -> Tensor:
        """(batch_size,) positions of samples."""
        return torch.cat([pool.take(step * count, count) for pool, count in self._pools])


class _Passes:
    def __init__(self, positions: Iterable[int], seed: int) -> None:
        self._positions, self._seed = torch.tensor(list(positions)), seed
        self._last: tuple[int, Tensor] = (-1, self._positions)

    def take(self, start: int, count: int) -> Tensor:
        taken, size = [], len(self._positions)
        while count > 0:
            number, offset = divmod(start, size)
            part = self._shuffle(number)[offset : offset + count]
            taken.append(part)
            start, count = start + len(part), count - len(part)
        return torch.cat(taken) if taken else self._positions[:0]

    def _shuffle(self, number: int) -> Tensor:
        if self._last[0] != number:
            generator = torch.Generator().manual_seed((self._seed << 20) + number)
            self._last = number, self._positions[torch.randperm(len(self._positions), generator=generator)]
        return self._last[1]
