"""Which samples a step takes: a function of the seed and the step's number, whatever ran before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from pipeline.contract import Sample

__all__ = ["Order"]

FEWEST = 2  # samples of a kind in a batch of both: batch norm takes no single one where a feature is one pixel


class Order:
    """Which samples a step takes: endless passes, each a shuffle of all, cut into batches.

    A function of seed and step alone. Where some samples have a mask and some have none, each kind is taken in
    passes of its own, and every process gets the same number of each, those with masks first.

    Args:
        samples: to learn from.
        batch_size: of all processes together, a multiple of their number.
        seed: of the shuffling.
        masked_share: share of each batch that has masks; by default as among the samples. At least two of
            each kind, but for a share of 1; a process with fewer than four samples takes both kinds as one.
        processes: that share a batch, each a run of it.

    Attributes:
        groups: how many samples with and without masks follow each other in a process's share of a batch.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        *,
        batch_size: int,
        seed: int,
        masked_share: float | None = None,
        processes: int = 1,
    ) -> None:
        masked = [i for i, sample in enumerate(samples) if sample.mask is not None]
        others = [i for i, sample in enumerate(samples) if sample.mask is None]
        share = batch_size // processes
        self._processes = processes
        if not masked or not others or share < 2 * FEWEST:
            self._pools, self.groups = [_Passes(range(len(samples)), seed)], [share]
            return
        wanted = round(share * (len(masked) / len(samples) if masked_share is None else masked_share))
        count = share if masked_share == 1 else min(max(wanted, FEWEST), share - FEWEST)
        pools = [(_Passes(masked, seed), count), (_Passes(others, seed + 1), share - count)]
        self._pools = [pool for pool, size in pools if size]
        self.groups = [size for _, size in pools if size]

    def rows(self, step: int) -> Tensor:
        """(batch_size,) positions of samples."""
        taken = [
            pool.take(step * count * self._processes, count * self._processes).view(self._processes, count)
            for pool, count in zip(self._pools, self.groups, strict=True)
        ]
        return torch.cat(taken, 1).flatten()


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
