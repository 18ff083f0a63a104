"""Flat things with an irregular outline: leaves, flowers, tree crowns, grass. (size, size, 4), linear."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from pipeline.synthetic.camera import Array
from pipeline.synthetic.colour import DECODE, mix, pick, srgb, vary
from pipeline.synthetic.noise import field, grid

__all__ = ["crown", "flower", "foliage", "grass", "leaf", "ridge"]

Generator = np.random.Generator
Points = npt.NDArray[np.float64]


def leaf(rng: Generator, size: int) -> Array:
    """One leaf, its tip at v = 0, with veins."""
    u, v = grid(size)
    along = (0.92 - v) / 0.92  # 0 at the stalk, 1 at the tip
    widest, fat = rng.uniform(0.3, 0.5), rng.uniform(0.2, 0.42)
    shape = np.clip(along / widest, 0, 1) ** 0.6 * np.clip((1 - along) / (1 - widest), 0, 1) ** 0.75
    teeth = 1 + rng.choice([0.0, 0.06]) * np.sin(2 * np.pi * 16 * along)
    side = np.abs(u - 0.5 - 0.05 * np.sin(3 * along)) / np.maximum(fat * shape * teeth, 1e-3)
    dark, light = pick(rng, "2f4a1c", "3d5a24", "5a4a1a"), pick(rng, "6f9a3a", "8fae45", "b08a2e")
    vein = np.exp(-(((along * 9 - side * 1.8) % 1 - 0.5) ** 2) / 0.006) * 0.35 + np.exp(-((side / 0.05) ** 2))
    tone = 0.35 + 0.25 * side + 0.16 * field(rng, size, slope=1.2) + 0.5 * vein
    blade = (side < 1) & (along > 0.01)
    stalk = (np.abs(u - 0.5) < 0.012) & (along <= 0.05)
    return _with_alpha(mix(dark, light, tone), blade | stalk)


def flower(rng: Generator, size: int) -> Array:
    """A flower from the front: petals around a disc."""
    u, v = grid(size)
    x, y = u - 0.5, v - 0.5
    radius, angle = np.hypot(x, y) * 2, np.arctan2(y, x)
    petals = int(rng.choice([5, 6, 8, 13]))
    lobe = np.abs(np.cos(angle * petals / 2 + rng.uniform(0, 6))) ** rng.uniform(0.35, 0.9)
    edge = 0.45 + 0.5 * lobe + 0.02 * field(rng, size, slope=1.5)
    body = pick(rng, "f2efe6", "e05a7a", "f0b429", "b06ab3", "d93a2b", "f6d7d9", "5a78c9")
    inner = pick(rng, "f7e08a", "8a2a4a", "d97a1a")
    colour = mix(inner, body, radius * 2.2 - 0.2) * (0.55 + 0.45 * lobe)[..., None]
    heart = radius < rng.uniform(0.16, 0.3)
    grain = 1 + 0.25 * field(rng, size, slope=0.3)
    colour = np.where(heart[..., None], pick(rng, "d9a21b", "6b4a1c", "e8c93a") * grain[..., None], colour)
    return _with_alpha(colour, radius < edge)


def crown(rng: Generator, size: int) -> Array:
    """The crown of a tree or a bush: many leaves around a few centres, lighter at the top."""
    centres = np.clip(rng.normal(0.5, 0.15, (int(rng.integers(7, 14)), 2)), 0.24, 0.76)
    return _leaves(rng, size, centres, 0.11, 1100, _greens(rng), rng.uniform(0.022, 0.036))


def foliage(rng: Generator, size: int) -> Array:
    """A hedge or the inside of a wood: leaves everywhere over darkness, with gaps. Tiles."""
    dark, light = _greens(rng)
    centres = rng.random((40, 2))
    picture = _leaves(rng, size, centres, 0.5, 1400, (dark, light), rng.uniform(0.012, 0.035))
    tone = 0.5 + 0.4 * field(rng, size, slope=1.6)
    behind = mix(dark * 0.15, dark * 0.8, tone)
    clumps = np.exp(0.45 * field(rng, size, slope=1.5))[..., None]
    colour = np.where(picture[..., 3:] > 0.5, picture[..., :3] * clumps, behind)
    return np.clip(colour, 0, 1).astype(np.float32)


def grass(rng: Generator, size: int) -> Array:
    """A tuft of grass: blades that fan out from the bottom."""
    image = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    dark, light = _greens(rng)
    t = np.linspace(0, 1, 9)
    for _ in range(int(rng.integers(30, 90))):
        foot, lean, tall = rng.uniform(0.25, 0.75), rng.normal(0, 0.22), rng.uniform(0.35, 0.95)
        x = foot + lean * t**1.8
        y = 1 - tall * t + 0.15 * abs(lean) * t**3
        half = rng.uniform(0.004, 0.011) * (1 - t)
        outline = np.concatenate([np.stack([x - half, y], 1), np.stack([x + half, y], 1)[::-1]]) * size
        tone = mix(dark, light, np.float32(rng.random()) * np.ones((), np.float32))
        draw.polygon([(float(a), float(b)) for a, b in outline], fill=_rgba(tone))
    return _decoded(image)


def ridge(rng: Generator, size: int, body: Array, *, rough: float, level: float = 0.5) -> Array:
    """A band with a rough upper edge over its whole width: hills, a tree line. Tiles along u."""
    _, v = grid(size)
    line = field(rng, size, slope=1.2 if rough < 0.5 else 0.9)[0] * (0.03 + 0.05 * rough) + (1 - level)
    tone = 1 + rough * (0.3 * field(rng, size, slope=0.9) + 0.25 * field(rng, size, slope=0.4))
    colour = body * np.clip(tone, 0.2, 2.5)[..., None]
    return _with_alpha(colour, v > line[None, :])


def _greens(rng: Generator) -> tuple[Array, Array]:
    pairs = (
        ("1f3316", "6f8f3a"),
        ("2a3d1a", "9aa84a"),
        ("263a2a", "5f8a5a"),
        ("4a2f14", "c98a2e"),
        ("3a1f14", "b5532d"),
    )
    weights = (0.35, 0.25, 0.22, 0.12, 0.06)
    dark, light = pairs[int(rng.choice(len(pairs), p=weights))]
    return pick(rng, dark), pick(rng, light)


def _leaves(
    rng: Generator,
    size: int,
    centres: Points,
    spread: float,
    count: int,
    colours: tuple[Array, Array],
    length: float,
) -> Array:
    """Small leaves around centres, drawn from the dark ones to the light ones."""
    image = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    places = centres[rng.integers(len(centres), size=count)] + rng.normal(0, spread, (count, 2)) * rng.random(
        (count, 1)
    )
    lengths = length * np.exp(rng.normal(0, 0.3, count))
    angles = rng.uniform(0, 2 * np.pi, count)
    depth = np.sort(rng.random(count))  # later leaves lie on top and get more light
    tones = np.clip(0.75 * depth + 0.35 * (0.6 - places[:, 1]) + rng.normal(0, 0.12, count), 0, 1)
    dark, light = colours
    fills = mix(dark * 0.5, vary(rng, light, 0.1), tones.astype(np.float32))
    template = np.array([[1, 0], [0.35, 0.36], [-0.4, 0.3], [-1, 0], [-0.4, -0.3], [0.35, -0.36]])
    turn = np.stack([np.cos(angles), np.sin(angles), -np.sin(angles), np.cos(angles)], 1).reshape(-1, 2, 2)
    outlines = (template @ turn * lengths[:, None, None] + places[:, None]) * size
    for outline, fill in zip(outlines.reshape(count, -1).tolist(), fills, strict=True):
        draw.polygon(outline, fill=_rgba(fill))
    return _decoded(image)


def _rgba(colour: Array) -> tuple[int, int, int, int]:
    red, green, blue = (int(255 * value) for value in srgb(colour))
    return red, green, blue, 255


def _decoded(image: Image.Image) -> Array:
    pixels = np.asarray(image)
    return _with_alpha(DECODE[pixels[..., :3]], pixels[..., 3] > 127)


def _with_alpha(colour: npt.NDArray[np.floating[Any]], solid: npt.NDArray[np.bool_]) -> Array:
    """Colour and coverage; outside, the mean colour, so that smaller copies get no dark fringe."""
    mean = colour[solid].mean(0) if solid.any() else colour.reshape(-1, 3).mean(0)
    result = np.empty((*solid.shape, 4), np.float32)
    result[..., :3] = np.where(solid[..., None], colour, mean)
    result[..., 3] = solid
    return result
