"""Colours of a scene: palettes as in photographs, and the way between sRGB and linear light."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.synthetic.camera import Array

__all__ = ["linear", "mix", "pick", "scene_palette", "srgb", "vary"]

PALETTES = (
    ("b5532d", "e2b07e", "4f6d6a", "ede3d0", "2d3a3a", "8c9c76"),  # terracotta and sage
    ("274060", "5899e2", "e8e9eb", "c97b4a", "1b1f2a", "9fb1bc"),  # harbour
    ("8a2a2b", "d9a441", "f1e8d8", "384b3c", "6d4c3d", "202020"),  # autumn market
    ("f0c9c0", "c7dbe6", "f7f1e5", "8fb8a8", "d98880", "6a7b8c"),  # pastel kitchen
    ("22333b", "5e503f", "c6ac8f", "eae0d5", "0a0908", "a44a3f"),  # leather and linen
    ("f2b705", "d94f30", "2f7f86", "f3efe6", "1d3b53", "86a873"),  # toys
    ("e9ecef", "adb5bd", "495057", "212529", "7f9172", "c8553d"),  # studio grey
    ("6b8f3c", "a7c957", "f2e8cf", "bc4749", "386641", "d4a373"),  # garden
    ("3d2c2e", "855a5c", "8a8e91", "b8d4e3", "eeffdb", "d8a47f"),  # dusk
    ("0d3b66", "faf0ca", "f4d35e", "ee964b", "f95738", "4a5859"),  # beach
    ("33261d", "7a5c3e", "b89b72", "d8cbb3", "566246", "2f3e46"),  # woods
    ("7b2d26", "f0f3f5", "0b7a75", "d7c9aa", "19535f", "c9a0a0"),  # old town
)


def linear(code: str) -> Array:
    """Linear light (3,) of a hexadecimal sRGB colour such as "b5532d"."""
    values = np.array([int(code[i : i + 2], 16) for i in (0, 2, 4)], dtype=np.float32) / np.float32(255)
    return _decode(values)


def _decode(values: Array) -> Array:
    low = values / 12.92
    return np.where(values <= 0.04045, low, ((values + 0.055) / 1.055) ** 2.4).astype(np.float32)


DECODE = _decode(np.arange(256, dtype=np.float32) / np.float32(255))  # 8-bit sRGB to linear light


def srgb(values: Array) -> Array:
    """sRGB values in 0 to 1 of linear light (IEC 61966-2-1), any shape; clipped."""
    values = np.clip(values, 0, 1)
    return np.where(values <= 0.0031308, 12.92 * values, 1.055 * values ** (1 / 2.4) - 0.055).astype(np.float32)


def scene_palette(rng: np.random.Generator) -> list[Array]:
    """Six linear colours that go together, a little different each time, in random order."""
    codes = PALETTES[int(rng.integers(len(PALETTES)))]
    order = rng.permutation(len(codes))
    return [vary(rng, linear(codes[i]), 0.08) for i in order]


def vary(rng: np.random.Generator, colour: Array, amount: float) -> Array:
    """A colour of about the same look: brightness and each channel off by about `amount`."""
    factor = np.exp(rng.normal(0, 0.5 * amount, 3) + rng.normal(0, amount * 1.5))
    return np.clip(colour * factor, 0.004, 0.92).astype(np.float32)


def mix(a: npt.ArrayLike, b: npt.ArrayLike, weight: Array) -> Array:
    """Colours (..., 3) between `a` (weight 0) and `b` (weight 1); weight has shape (...)."""
    first, second = np.asarray(a, dtype=np.float32), np.asarray(b, dtype=np.float32)
    return first + (second - first) * np.clip(weight, 0, 1)[..., None]


def pick(rng: np.random.Generator, *codes: str) -> Array:
    """One of the given hexadecimal colours, varied a little, as linear light."""
    return vary(rng, linear(codes[int(rng.integers(len(codes)))]), 0.07)
