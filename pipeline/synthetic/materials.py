"""A texture with its smaller copies, how it lies on a surface, and how it takes the light."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.synthetic.camera import Array

__all__ = ["Material", "Texture", "sample", "texture", "unevenness"]


@dataclass(frozen=True)
class Texture:
    """A square image and its halvings, one below the other: texels (N, 4) of linear RGB and coverage."""

    texels: Array
    size: int


@dataclass(frozen=True)
class Material:
    """A texture on a surface.

    tile_m: the width that one copy of the texture covers, in metres; None: one copy over the whole surface.
    gloss: 0 is chalk, 1 is glazed china. emission: how much light it gives by itself.
    cut_out: where the coverage is under one half there is nothing. uneven: brightness also varies over
    many tiles, so that the repetition does not show.
    """

    texture: Texture
    tile_m: float | None = None
    gloss: float = 0.0
    emission: float = 0.0
    cut_out: bool = False
    uneven: bool = False


def texture(image: Array) -> Texture:
    """A Texture of a square image (size, size, 3 or 4), its size a power of two; alpha is 0 to 1."""
    size = image.shape[0]
    level = np.ones((size, size, 4), np.float32)
    level[..., : image.shape[2]] = image
    levels = [level.reshape(-1, 4)]
    while level.shape[0] > 1:
        rows = level[0::2] + level[1::2]
        level = (rows[:, 0::2] + rows[:, 1::2]) * np.float32(0.25)
        levels.append(level.reshape(-1, 4))
    return Texture(np.concatenate(levels), size)


def sample(source: Texture, u: Array, v: Array, texels_per_sample: Array) -> Array:
    """Linear RGB and coverage (N, 4) at (u, v), where 1 is one copy; it repeats.

    The halving that suits the distance between samples is read, with bilinear interpolation inside it.
    """
    deepest = source.size.bit_length() - 1
    level = np.clip(np.rint(np.log2(np.maximum(texels_per_sample, 1e-6))), 0, deepest).astype(np.int64)
    if level.size and level.min() == level.max():
        level = level[:1]
    side = np.right_shift(source.size, level)
    start = (source.size**2 - side**2) // 3 * 4  # the sum of the squares of all larger levels
    x, y = u * side.astype(np.float32) - np.float32(0.5), v * side.astype(np.float32) - np.float32(0.5)
    left, top = np.floor(x), np.floor(y)
    across, down = (x - left)[:, None], (y - top)[:, None]
    columns, rows = left.astype(np.int64), top.astype(np.int64)
    upper, lower = start + (rows & (side - 1)) * side, start + ((rows + 1) & (side - 1)) * side
    first, second = columns & (side - 1), (columns + 1) & (side - 1)
    above = _between(source.texels, upper + first, upper + second, across)
    below = _between(source.texels, lower + first, lower + second, across)
    below -= above
    below *= down
    above += below
    return above


def unevenness(source: Texture, u: Array, v: Array) -> Array:
    """A factor (N, 1) around 1: the brightness of the same texture, coarse, turned and eleven times as large."""
    level = max(source.size.bit_length() - 6, 0)
    across, down = u * np.float32(0.081) + v * np.float32(0.043), v * np.float32(0.083) - u * np.float32(0.039)
    coarse = sample(source, across, down, np.full(1, 2.0**level, np.float32))[:, 1:2]
    mean = source.texels[-1, 1]
    return np.asarray(np.clip(1 + 1.6 * (coarse / mean - 1), 0.55, 1.7), dtype=np.float32)


def _between(texels: Array, first: npt.NDArray[np.int64], second: npt.NDArray[np.int64], weight: Array) -> Array:
    start = np.take(texels, first, axis=0)
    end = np.take(texels, second, axis=0)
    end -= start
    end *= weight
    start += end
    return start
