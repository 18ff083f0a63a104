"""Textures that look like materials: square, tileable images (size, size, 3) of linear reflectance."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.synthetic.camera import Array
from pipeline.synthetic.colour import mix, pick, vary
from pipeline.synthetic.noise import cells, field, grid

__all__ = ["GROUNDS", "TABLES", "WALLS", "Painter", "asphalt", "bark", "brick", "ceramic", "checks", "cloth"]

Painter = Callable[[np.random.Generator, int], Array]
Generator = np.random.Generator


def _relief(colour: Array, height: npt.NDArray[np.floating[Any]], strength: float) -> Array:
    """Light from the upper left on a bumpy surface, painted into the colour."""
    slope = height - np.roll(height, (1, 1), (0, 1))
    relief: Array = colour * np.clip(1 + strength * slope, 0.35, 1.8)[..., None]
    return relief


def _wave(phase: Array) -> Array:
    return np.asarray(0.5 + 0.5 * np.sin(2 * np.pi * phase), dtype=np.float32)


def wood(rng: Generator, size: int) -> Array:
    """Wood, the grain along v."""
    pairs = (("5a3a22", "a9743f"), ("6e4a2c", "c79a62"), ("3b2417", "6d4327"), ("b58b5a", "dcb98a"))
    dark, light = (vary(rng, pick(rng, c), 0.04) for c in pairs[int(rng.integers(len(pairs)))])
    u, _ = grid(size)
    warp = field(rng, size, slope=2.0, stretch=10)
    rings = _wave(u * int(rng.integers(3, 7)) + rng.uniform(0.3, 0.9) * warp)
    streaks = field(rng, size, slope=0.7, stretch=24)
    colour = mix(dark, light, 0.45 + 0.35 * (rings - 0.5) + 0.13 * streaks)
    grained: Array = colour * (1 - 0.22 * np.clip(streaks - 1.1, 0, 1))[..., None]
    return grained


def planks(rng: Generator, size: int) -> Array:
    """Boards side by side along v, with dark joints."""
    colour = wood(rng, size)
    count = int(rng.choice([3, 4, 6, 8]))
    edges = np.linspace(0, size, count + 1).astype(int)
    for left, right in pairwise(edges):
        board = np.roll(colour[:, left:right], int(rng.integers(size)), 0)
        colour[:, left:right] = board * rng.uniform(0.78, 1.15)
        colour[:, left : left + max(1, size // 200)] *= 0.3
        colour[:, left + max(1, size // 200) : left + max(2, size // 100)] *= 0.75
    return colour


def _bonded(rng: Generator, size: int, rows: int, columns: int, shift: float) -> tuple[Array, Array]:
    """Height (0 in the joint) and a random number a stone, of stones in rows."""
    u, v = grid(size)
    row = np.floor(v * rows).astype(int)
    across = u * columns + shift * (row % 2)
    column = np.floor(across).astype(int) % columns
    wobble = 0.015 * field(rng, size, slope=1.0)
    inside_v = np.minimum(v * rows % 1, 1 - v * rows % 1) + wobble
    inside_u = (np.minimum(across % 1, 1 - across % 1) + wobble) * (rows / columns)
    height = np.clip(np.minimum(inside_u, inside_v) / 0.09 - 0.35, 0, 1)
    return height.astype(np.float32), rng.random((rows, columns)).astype(np.float32)[row, column]


def brick(rng: Generator, size: int) -> Array:
    """A brick wall; painted white now and then."""
    height, chance = _bonded(rng, size, int(rng.choice([8, 10, 12])), int(rng.choice([3, 4])), 0.5)
    painted = rng.random() < 0.25
    body = pick(rng, "d8d2c6", "cfd4d6") if painted else pick(rng, "8e4a33", "a65c3e", "6f3b2e", "b27a55")
    mortar = body * 0.8 if painted else pick(rng, "a9a197", "8d867d", "c9c2b5")
    noise = field(rng, size, slope=1.0)
    spread = 0.1 if painted else 0.55
    stone = body * (1 + spread * (chance - 0.5) + 0.11 * noise)[..., None]
    return _relief(mix(mortar * (1 + 0.1 * noise)[..., None], stone, height), height + 0.05 * noise, 0.6)


def tiles(rng: Generator, size: int) -> Array:
    """Square tiles or paving slabs with joints."""
    count = int(rng.choice([2, 3, 4, 6]))
    height, chance = _bonded(rng, size, count, count, float(rng.choice([0.0, 0.5])))
    body = pick(rng, "b9b2a6", "9a948b", "c9b79c", "7d8488", "d9d5cc", "a8826a")
    noise = 0.7 * field(rng, size, slope=1.0) + 0.5 * field(rng, size, slope=0.4)
    stone = body * (1 + 0.22 * (chance - 0.5) + 0.07 * noise)[..., None]
    return _relief(mix(body * 0.45, stone, height), height + 0.06 * noise, 0.5)


def pebbles(rng: Generator, size: int) -> Array:
    """Pebbles or cobbles, each of its own grey or brown."""
    height, label = cells(rng, size, int(rng.choice([60, 140, 320])))
    tone = rng.normal(0, 0.25, label.max() + 1).astype(np.float32)
    warm = mix(
        pick(rng, "8d8a86", "7a7f85"), pick(rng, "a38a6d", "94755c"), rng.random(label.max() + 1).astype(np.float32)
    )
    noise = field(rng, size, slope=0.8)
    stone = warm[label] * np.exp(tone[label] + 0.1 * noise)[..., None]
    shaded = stone * (0.25 + 0.85 * height)[..., None]
    return _relief(shaded, height, 1.6)


def stone(rng: Generator, size: int) -> Array:
    """Concrete, plaster or rough stone: noise of many octaves."""
    body = pick(rng, "a7a39b", "8a8782", "c4b8a3", "6f7275", "b9ada0")
    noise = 0.7 * field(rng, size, slope=1.2) + 0.6 * field(rng, size, slope=0.5)
    pits = np.clip(field(rng, size, slope=0.6) - 1.7, 0, 1)
    colour = body * np.exp(rng.uniform(0.08, 0.2) * noise - 0.9 * pits)[..., None]
    return _relief(colour, noise, 0.2)


def marble(rng: Generator, size: int) -> Array:
    """Polished stone with veins."""
    body, vein = (pick(rng, "e6e2db", "d8d3cc"), pick(rng, "7c7a7a", "8f8168"))
    if rng.random() < 0.3:
        body, vein = pick(rng, "2a2c30", "23302c"), pick(rng, "a8a29a", "c0a878")
    warp = field(rng, size, slope=1.7)
    veins = np.exp(-np.abs(warp + 0.25 * field(rng, size, slope=1.0)) * rng.uniform(5, 14))
    cloud = field(rng, size, slope=1.8)
    return mix(body * (1 + 0.05 * cloud)[..., None], vein, 0.65 * veins * np.clip(0.6 + 0.5 * cloud, 0, 1))


def terrazzo(rng: Generator, size: int) -> Array:
    """Chips of stone in cement, or a speckled counter top."""
    height, label = cells(rng, size, 320)
    chips = np.stack([pick(rng, "c9b8a0", "6d6a68", "a86f52", "e4dfd6", "4d5b57") for _ in range(7)])
    count = label.max() + 1
    kind, big = rng.integers(7, size=count), rng.random(count) < rng.uniform(0.3, 0.8)
    body = pick(rng, "d9d4ca", "bfbab2", "8c8f90")
    chip = (height > 0.55) & big[label]
    colour = np.where(chip[..., None], chips[kind[label]], body)
    return np.asarray(colour * (1 + 0.05 * field(rng, size, slope=0.6))[..., None], dtype=np.float32)


def asphalt(rng: Generator, size: int) -> Array:
    """Asphalt, sand or bare earth: fine grains."""
    body = pick(rng, "56565a", "6b6a68", "b39a78", "7a6248", "9c8a70")
    grain = field(rng, size, slope=0.25)
    colour = body * np.exp(0.16 * grain + 0.09 * field(rng, size, slope=1.4))[..., None]
    return _relief(colour, grain, 0.1)


def plaster(rng: Generator, size: int) -> Array:
    """A painted wall: almost even."""
    body = pick(rng, "d9d4c8", "c8cfd2", "b9c4b2", "d8bfa8", "8fa3ad", "a65f4a", "566a5c", "c9a66b", "3f4a57")
    cloud, grain = field(rng, size, slope=1.6), field(rng, size, slope=0.5)
    return _relief(body * (1 + 0.05 * cloud + 0.02 * grain)[..., None], grain, 0.03)


def cloth(rng: Generator, size: int, *colours: Array) -> Array:
    """Woven cloth: plain, striped or tartan, with visible threads."""
    first = colours[0] if colours else pick(rng, "c8b79c", "7d8ca3", "8f4b45", "e4dccb", "4f5f52")
    second = colours[1] if len(colours) > 1 else pick(rng, "efe9dc", "31405a", "b98b5e", "6f2f33")
    threads = int(rng.choice([64, 96]))
    u, v = grid(size)
    over = (np.floor(u * threads) + np.floor(v * threads)) % 2
    bulge_u, bulge_v = _wave(u * threads - 0.25), _wave(v * threads - 0.25)
    light = 0.72 + 0.38 * np.where(over > 0, bulge_u, bulge_v) + 0.05 * field(rng, size, slope=0.6)
    warp_colour, weft_colour = _stripes_of(rng, first, second, u), _stripes_of(rng, first, second, v)
    if rng.random() < 0.45:
        warp_colour = weft_colour = first * np.ones((1, 1, 1), np.float32)
    woven = np.where(over[..., None] > 0, warp_colour, weft_colour)
    folds = 1 + 0.05 * field(rng, size, slope=2.0)
    return np.asarray(woven * (light * folds)[..., None], dtype=np.float32)


def _stripes_of(rng: Generator, first: Array, second: Array, line: Array) -> Array:
    """Random stripes of two colours along one coordinate."""
    count = int(rng.integers(4, 14))
    pattern = rng.random(count) < rng.uniform(0.25, 0.5)
    repeat = int(rng.choice([1, 2, 4]))
    chosen = pattern[(np.floor(line * count * repeat) % count).astype(int)]
    return np.where(chosen[..., None], second, first).astype(np.float32)


def checks(rng: Generator, size: int, *colours: Array) -> Array:
    """Checks, stripes, zigzags or dots in two colours."""
    first = colours[0] if colours else pick(rng, "efe9dc", "e8e4da")
    second = colours[1] if len(colours) > 1 else pick(rng, "8f3a36", "2f4a6a", "3f5c46", "2a2a2c")
    u, v = grid(size)
    n = int(rng.choice([4, 6, 8, 12]))
    kind = int(rng.integers(5))
    weight: npt.NDArray[np.floating[Any] | np.bool_]
    if kind == 0:
        weight = ((np.floor(u * n) + np.floor(v * n)) % 2) + 0 * v
    elif kind == 1:
        weight = (0.5 * (np.floor(u * n) % 2) + 0.5 * (np.floor(v * n) % 2)) + 0 * v
    elif kind == 2:
        weight = (np.floor(u * n) % 2) + 0 * v
    elif kind == 3:
        weight = np.floor(u * n + 0.6 * np.abs((v * n) % 1 - 0.5) * 2) % 2
    else:
        weight = np.hypot((u * n) % 1 - 0.5, (v * n + 0.5 * (np.floor(u * n) % 2)) % 1 - 0.5) < 0.28
    noise = 1 + 0.04 * field(rng, size, slope=0.6) + 0.03 * field(rng, size, slope=1.8)
    return mix(first, second, np.asarray(weight, dtype=np.float32)) * noise[..., None]


def ceramic(rng: Generator, size: int, *colours: Array) -> Array:
    """Glazed or painted: even, with a few specks."""
    body = colours[0] if colours else pick(rng, "e8e2d6", "c9d3d6", "4c6a78", "b5654a", "2f3a40")
    specks = np.clip(field(rng, size, slope=0.2) - 2.6, 0, 1) if rng.random() < 0.4 else 0
    cloud = 1 + 0.03 * field(rng, size, slope=1.6) - 0.8 * specks
    return np.asarray(body * cloud[..., None], dtype=np.float32)


def bark(rng: Generator, size: int) -> Array:
    """Bark, cracked along v."""
    ridges = field(rng, size, slope=1.0, stretch=4)
    dark, light = pick(rng, "2f251e", "3a332c"), pick(rng, "7a6552", "8c857a", "6a5a45")
    colour = mix(dark, light, 0.5 + 0.3 * ridges + 0.08 * field(rng, size, slope=0.6))
    return _relief(colour, ridges, 0.5)


def metal(rng: Generator, size: int, *colours: Array) -> Array:
    """Brushed or painted metal, a little worn."""
    body = colours[0] if colours else pick(rng, "8a8d90", "5c6064", "b08d57", "3b3e42")
    streaks = field(rng, size, slope=0.5, stretch=20)
    worn = np.clip(field(rng, size, slope=1.2) - 1.6, 0, 1)
    return mix(body * (1 + 0.06 * streaks)[..., None], pick(rng, "5a3b28"), 0.8 * worn)


def peel(rng: Generator, size: int, *colours: Array) -> Array:
    """The skin of fruit: two colours that run into each other from pole to pole, with spots."""
    first = colours[0] if colours else pick(rng, "b02a1e", "c9461f", "d98a1c", "7d9a2e")
    second = pick(rng, "d8b03c", "e0952a", "9db23f")
    _, v = grid(size)
    streaks = field(rng, size, slope=0.8, stretch=10)
    colour = mix(first, second, 1.6 * (v - 0.55) + 0.18 * streaks + 0.25 * field(rng, size, slope=1.9))
    spots = np.clip(field(rng, size, slope=0.3) - 2.2, 0, 1)
    return mix(colour, second, spots)


def lawn(rng: Generator, size: int) -> Array:
    """Grass, moss or fallen leaves seen from above."""
    blades = field(rng, size, slope=0.45, stretch=2.5)
    patches = field(rng, size, slope=1.7)
    dark, light = pick(rng, "25361a", "33401f", "3b3a1c"), pick(rng, "7d9440", "93a04a", "a39a52", "6b8a3a")
    colour = mix(dark, light, 0.48 + 0.26 * blades + 0.12 * patches)
    dry = np.clip(field(rng, size, slope=0.9) - 1.2, 0, 1)
    return _relief(mix(colour, pick(rng, "b39a5c", "8a6a3c"), 0.8 * dry), blades, 0.25)


TABLES: tuple[Painter, ...] = (wood, planks, wood, planks, cloth, marble, terrazzo, checks, stone)
GROUNDS: tuple[Painter, ...] = (lawn, lawn, pebbles, tiles, asphalt, planks, brick, stone)
WALLS: tuple[Painter, ...] = (plaster, plaster, plaster, brick, planks, tiles, stone, cloth)
