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
    passes of its own, and every process gets the same number of each, those with masks first; with fewer than four
    samples a process the kinds are mixed.

    Args:
        samples: to learn from.
        batch_size: of all processes together, a multiple of their number.
        seed: of the shuffling.
        masked_share: share of each batch that has masks; by default as among the samples. Every process gets two
            of each kind at least; a share of 1 leaves samples without masks out.
        processes: that share a batch, each a run of it.

    Attributes:
        groups: how many samples with and without masks follow each other in a process's share of a batch.
        is_mixed: whether there are both kinds and they are not told apart.
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
        if masked and masked_share == 1:
            others = []
        share = batch_size // processes
        self._processes = processes
        self.is_mixed = bool(masked and others) and share < 2 * FEWEST
        if not masked or not others or self.is_mixed:
            self._pools, self.groups = [_Passes(sorted(masked + others), seed)], [share]
            return
        wanted = round(share * (len(masked) / len(samples) if masked_share is None else masked_share))
        count = min(max(wanted, FEWEST), share - FEWEST)
        self._pools, self.groups = [_Passes(masked, seed), _Passes(others, seed + 1)], [count, share - count]

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
