"""Tileable noise, drawn once a process and reused under random shifts and flips: cheap and still varied."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import scipy.fft
from scipy.spatial import cKDTree

from pipeline.synthetic.camera import Array

__all__ = ["cells", "field", "grid"]

BANK = 3  # different fields of each kind; shifts and flips make them look like many more


@lru_cache(maxsize=4)
def grid(size: int) -> tuple[Array, Array]:
    """Coordinates (u, v) of a square texture's pixels in [0, 1); shapes (1, size) and (size, 1)."""
    line = ((np.arange(size) + 0.5) / size).astype(np.float32)
    return line[None, :], line[:, None]


def field(rng: np.random.Generator, size: int, *, slope: float = 2.0, stretch: float = 1.0) -> Array:
    """Noise (size, size) with mean 0 and deviation 1 whose amplitude falls as 1 / frequency**slope.

    Slope 0.5 is grainy, 1 is like stone, 2 is like clouds. `stretch` makes it longer along v. It tiles.
    """
    noise = _field(size, slope, stretch, int(rng.integers(BANK)))
    return _shuffle(rng, noise)


def cells(rng: np.random.Generator, size: int, count: int) -> tuple[Array, npt.NDArray[np.int64]]:
    """Rounded cells, like pebbles: (size, size) height in 0 (joint) to 1 (middle), and number of the cell."""
    number = int(rng.integers(BANK))
    height, label = _cells(size, count, number)
    shift = tuple(int(n) for n in rng.integers(size, size=2))
    return np.roll(height, shift, (0, 1)), np.roll(label, shift, (0, 1))


def _shuffle(rng: np.random.Generator, noise: Array) -> Array:
    rows, columns = (int(n) for n in rng.integers(noise.shape[0], size=2))
    noise = np.roll(noise, (rows, columns), (0, 1))
    return noise[:: 1 if rng.random() < 0.5 else -1, :: 1 if rng.random() < 0.5 else -1]


@lru_cache(maxsize=128)
def _field(size: int, slope: float, stretch: float, number: int) -> Array:
    rng = np.random.default_rng([size, round(slope * 16), round(stretch * 16), number])
    v = scipy.fft.fftfreq(size)[:, None] * size * stretch
    u = scipy.fft.rfftfreq(size)[None, :] * size
    frequency = np.maximum(np.hypot(u, v), 1.0)
    amplitude = frequency**-slope
    amplitude[0, 0] = 0.0
    spectrum = amplitude * np.exp(2j * np.pi * rng.random(amplitude.shape))
    noise = scipy.fft.irfft2(spectrum, s=(size, size))
    return np.asarray(noise / noise.std(), dtype=np.float32)


@lru_cache(maxsize=32)
def _cells(size: int, count: int, number: int) -> tuple[Array, npt.NDArray[np.int64]]:
    rng = np.random.default_rng([size, count, number])
    points = _spread(rng, count)
    tiled = np.concatenate([points + np.array((a, b)) for a in (-1, 0, 1) for b in (-1, 0, 1)])
    u, v = grid(size)
    where = np.stack(np.broadcast_arrays(u, v), -1).reshape(-1, 2)
    distance, nearest = cKDTree(tiled).query(where, k=2)
    edge = (distance[:, 1] - distance[:, 0]) * np.sqrt(count)
    height = np.sqrt(np.clip(edge, 0, 1)).reshape(size, size)
    return height.astype(np.float32), (nearest[:, 0] % count).reshape(size, size)


def _spread(rng: np.random.Generator, count: int) -> npt.NDArray[np.float64]:
    """Points of the unit square that keep some distance: each the farthest of a few random ones."""
    points = [rng.random(2)]
    for _ in range(count - 1):
        candidates = rng.random((4, 2))
        apart = np.abs(candidates[:, None] - np.asarray(points)[None])
        apart = np.minimum(apart, 1 - apart)
        points.append(candidates[(apart**2).sum(-1).min(1).argmax()])
    return np.asarray(points)
