"""Memory that several processes see, without a name that could be left behind.

Each slab is a file of Linux that has no name and is in memory alone; it goes when the last process that has it
open ends, however that is. It does not count against the size of /dev/shm, which containers keep small.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Slab", "Slabs", "attached"]

_TOO_LARGE = 4

Bytes = npt.NDArray[np.uint8]

PageLock = Callable[[Bytes], Callable[[], None] | None]
"""Lets a device reach memory by itself; returns what undoes it, None where that cannot be had."""


@dataclass(frozen=True, eq=False)
class Slab:
    """A piece of memory.

    Attributes:
        key: by which the other processes find it.
        unlock: see PageLock.
    """

    key: int
    data: Bytes
    unlock: Callable[[], None] | None


class Slabs:
    """Slabs of one process, taken and given back; what was given back is taken again, as locking pages is slow.

    One that is many times too large is left for others, so that not all of them become large with time.
    """

    def __init__(self, page_lock: PageLock) -> None:
        self._page_lock = page_lock
        self._all: list[Slab] = []
        self._free: list[Slab] = []

    def take(self, size: int) -> Slab:
        """At least so many bytes."""
        fitting = [slab for slab in self._free if size <= len(slab.data) <= _TOO_LARGE * max(size, mmap.PAGESIZE)]
        if fitting:
            slab = min(fitting, key=lambda slab: len(slab.data))
            self._free.remove(slab)
            return slab
        return self._make(_rounded(size))

    def give_back(self, slab: Slab) -> None:
        self._free.append(slab)

    def close(self) -> None:
        """Let go of all of them; other processes keep what they have open."""
        for slab in self._all:
            if slab.unlock is not None:
                slab.unlock()
            os.close(slab.key)
        self._all, self._free = [], []

    def _make(self, size: int) -> Slab:
        key = os.memfd_create("softfocus")
        os.ftruncate(key, size)
        data = np.frombuffer(mmap.mmap(key, size), np.uint8)
        self._all.append(Slab(key, data, self._page_lock(data)))
        return self._all[-1]


def _rounded(size: int) -> int:
    """Up to two binary digits and zeros, so that slabs for labels of many sizes are of few sizes."""
    step = 1 << max(size.bit_length() - 3, 12)
    return -(-size // step) * step


def attached(owner: int, key: int) -> Bytes:
    """The slab of another process (its number, the slab's key)."""
    handle = os.open(f"/proc/{owner}/fd/{key}", os.O_RDWR)
    try:
        return np.frombuffer(mmap.mmap(handle, 0), np.uint8)
    finally:
        os.close(handle)
