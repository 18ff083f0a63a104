"""Things for a table: made at the origin, standing on y = 0, in their real size."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from pipeline.synthetic import cutouts, textures
from pipeline.synthetic.colour import pick
from pipeline.synthetic.kit import Kit
from pipeline.synthetic.materials import Material
from pipeline.synthetic.shapes import Ellipsoid, Frustum, Quad, box, turned
from pipeline.synthetic.things import Part, Thing

__all__ = ["ON_TABLE", "Maker", "thing_of"]

Maker = Callable[[Kit], Thing]
Point = tuple[float, float, float]


def thing_of(name: str, parts: list[Part], height_m: float, radius_m: float) -> Thing:
    """A thing at the origin."""
    return Thing(name, parts, 0.0, height_m, (0.0, 0.0, radius_m), 0.0)


def tube(
    y: float, height: float, bottom: float, top: float, material: Material, x: float = 0.0, z: float = 0.0
) -> Part:
    """An upright cylinder or cone whose lower end is at height y."""
    return Part(Frustum((x, y + height / 2, z), height, bottom, top), material)


def ball(x: float, y: float, z: float, radius: float, material: Material, flat: float = 1.0) -> Part:
    """A ball around a point; `flat` scales its height."""
    return Part(Ellipsoid((x, y, z), (radius, radius * flat, radius)), material)


def limb(start: Point, end: Point, first: float, last: float, material: Material) -> Part:
    """A cone from one point to another, with its radii there."""
    way = np.subtract(start, end)
    length = float(np.linalg.norm(way))
    up = way / length
    side = np.cross(up, (0.0, 0.0, 1.0))
    side /= np.linalg.norm(side)
    axes = np.stack([side, up, np.cross(side, up)], 1)
    x, y, z = np.add(start, end) / 2
    return Part(Frustum((float(x), float(y), float(z)), length, last, first, axes), material)


def bottle(kit: Kit) -> Thing:
    """A bottle with a label."""
    r, body, neck = kit.between(0.03, 0.042), kit.between(0.12, 0.19), kit.between(0.05, 0.09)
    glass = kit.plain(pick(kit.rng, "24402c", "5a2f14", "d8d5c8", "3a5a78", "1c1c22", "b8864a"), gloss=1.0)
    parts = [
        tube(0, body, r, r, glass),
        tube(body, 0.035, r, r * 0.4, glass),
        tube(body + 0.035, neck, r * 0.4, r * 0.36, glass),
        tube(body + 0.035 + neck, 0.02, r * 0.42, r * 0.42, kit.plain(gloss=0.5)),
        tube(body * 0.2, body * 0.6, r * 1.01, r * 1.01, _around(kit.printed())),
    ]
    return thing_of("bottle", parts, body + neck + 0.055, r)


def _around(material: Material) -> Material:
    """The print twice around, so that one of them is in view."""
    return Material(material.texture, 0.13, material.gloss)


def mug(kit: Kit) -> Thing:
    """A mug or a bowl with something to drink."""
    r, h = kit.between(0.035, 0.048), kit.between(0.07, 0.11)
    clay = kit.surface(0.08) if kit.chance(0.4) else kit.plain(gloss=0.8)
    parts = [
        tube(0, h, r * kit.between(0.75, 1.0), r, clay),
        tube(h - 0.006, 0.0065, r * 0.93, r * 0.93, kit.plain(pick(kit.rng, "3a2214", "7a5a38", "b5722a"), gloss=0.4)),
    ]
    grip = kit.cut_out(_ring)
    parts.append(Part(Quad((r + 0.012, h * 0.5, 0.0), (0.05, h * 0.75), None), grip))
    return thing_of("mug", parts, h, r)


def _ring(rng: np.random.Generator, size: int) -> np.ndarray:
    line = (np.arange(size) + 0.5) / size - 0.5
    radius = np.hypot(line[None, :], line[:, None])
    image = np.empty((size, size, 4), np.float32)
    image[..., :3] = pick(rng, "d8d2c4", "4a4f57", "b9654a")
    image[..., 3] = (radius < 0.48) & (radius > 0.34)
    return image


def vase(kit: Kit) -> Thing:
    """A vase with flowers or leaves."""
    r, h = kit.between(0.03, 0.05), kit.between(0.1, 0.18)
    clay = kit.plain(gloss=kit.between(0.0, 0.9))
    parts = [ball(0, r * 1.1, 0, r * 1.25, clay, 0.9), tube(r * 1.5, h - r * 1.5, r * 0.85, r * 0.5, clay)]
    stem = kit.plain(pick(kit.rng, "3d5a24", "5a6a2c"), gloss=0.0)
    heads = [kit.cut_out(cutouts.flower), kit.cut_out(cutouts.leaf)]
    for _ in range(int(kit.rng.integers(4, 9))):
        lean, turn, length = kit.between(4, 32), kit.between(0, 360), kit.between(0.08, 0.2)
        axis = turned(turn, lean)
        middle, tip = axis @ (0, length / 2, 0), axis @ (0, length, 0)
        parts.append(Part(Frustum((middle[0], h + middle[1], middle[2]), length, 0.0015, 0.001, axis), stem))
        face = turned(kit.between(-60, 60), kit.between(-10, 50), kit.between(-40, 40))
        size = kit.between(0.045, 0.085)
        parts.append(Part(Quad((tip[0], h + tip[1], tip[2]), (size, size), face), heads[int(kit.rng.integers(2))]))
    return thing_of("vase", parts, h + 0.2, r * 1.2)


def books(kit: Kit) -> Thing:
    """A few books in a pile, or one that stands."""
    parts: list[Part] = []
    y = 0.0
    for _ in range(int(kit.rng.integers(1, 5))):
        width, depth, thick = kit.between(0.13, 0.2), kit.between(0.1, 0.15), kit.between(0.015, 0.04)
        turn = turned(kit.between(-20, 20))
        paper = kit.made_of(_pages, tile_m=0.1)
        cover, back = kit.printed(), kit.printed()
        parts += [
            Part(face, paper) for face in box((0, y + thick / 2, 0), (width * 0.97, thick * 0.9, depth * 0.97), turn)
        ]
        for at in (y + 0.001, y + thick - 0.001):
            parts += [Part(face, cover) for face in box((0, at, 0), (width, 0.003, depth), turn)]
        spine = turn @ (0, 0, -depth / 2)
        parts += [Part(face, back) for face in box((spine[0], y + thick / 2, spine[2]), (width, thick, 0.003), turn)]
        y += thick
    return thing_of("books", parts, y, 0.1)


def _pages(rng: np.random.Generator, size: int) -> np.ndarray:
    lines = 1 - 0.25 * rng.random((size, 1, 1)) ** 2
    return np.asarray(pick(rng, "e8dfc8", "d9cdb0") * lines * np.ones((1, size, 1)), dtype=np.float32)


def carton(kit: Kit) -> Thing:
    """A printed box, a block of wood or a gift."""
    w, h, d = kit.between(0.05, 0.14), kit.between(0.05, 0.2), kit.between(0.04, 0.1)
    kind = kit.rng.random()
    material = kit.printed() if kind < 0.5 else kit.surface(0.12)
    parts = [Part(face, material) for face in box((0, h / 2, 0), (w, h, d))]
    if kind > 0.75:
        ribbon = kit.plain(gloss=0.5)
        parts += [Part(face, ribbon) for face in box((0, h / 2, 0), (w * 0.14, h * 1.01, d * 1.01))]
        parts += [ball(s * 0.018, h + 0.008, 0, 0.017, ribbon, 0.6) for s in (-1, 1)]
    return thing_of("carton", parts, h, max(w, d) * 0.6)


def fruit(kit: Kit) -> Thing:
    """An apple, an orange or a few of them."""
    parts: list[Part] = []
    count = int(kit.rng.integers(1, 4))
    stem = kit.plain(pick(kit.rng, "4a3520"), gloss=0.0)
    for i in range(count):
        r = kit.between(0.03, 0.042)
        angle, apart = 2 * math.pi * i / count + 1.0, 0.0 if count == 1 else 0.045
        x, z = apart * math.cos(angle), apart * math.sin(angle)
        parts.append(ball(x, r * 0.93, z, r, kit.made_of(textures.peel, gloss=0.45), 0.93))
        parts.append(tube(r * 1.8, 0.015, 0.002, 0.0015, stem, x, z))
    return thing_of("fruit", parts, 0.07, 0.035 if count == 1 else 0.075)


def sphere(kit: Kit) -> Thing:
    """A ball."""
    r = kit.between(0.03, 0.07)
    return thing_of("ball", [ball(0, r, 0, r, kit.surface(r * 3))], 2 * r, r)


def pot_plant(kit: Kit) -> Thing:
    """A plant in a pot."""
    r, h = kit.between(0.04, 0.065), kit.between(0.06, 0.1)
    clay = kit.surface(0.1) if kit.chance(0.5) else kit.plain(pick(kit.rng, "b5654a", "e4dccb", "4a4f57"), gloss=0.2)
    parts = [tube(0, h, r * 0.75, r, clay), tube(h - 0.002, 0.003, r * 0.9, r * 0.9, kit.made_of(textures.asphalt))]
    leaves = [kit.cut_out(cutouts.leaf) for _ in range(2)] if kit.chance(0.6) else [kit.cut_out(cutouts.grass)]
    count = int(kit.rng.integers(8, 16)) if len(leaves) == 2 else 4
    for i in range(count):
        lean, size = kit.between(5, 65), kit.between(0.08, 0.15)
        axis = turned(360 / count * i + kit.between(-20, 20), lean if len(leaves) == 2 else 8)
        middle = axis @ (0, size * 0.5, 0)
        face = axis @ turned(kit.between(-30, 30))
        shape = Quad((middle[0], h + middle[1], middle[2]), (size * (0.6 if len(leaves) == 2 else 1.1), size), face)
        parts.append(Part(shape, leaves[i % len(leaves)]))
    return thing_of("plant", parts, h + 0.12, r)


def piece(kit: Kit) -> Thing:
    """A turned piece: a pawn, a candlestick or a skittle."""
    s = kit.between(0.7, 1.8)
    wood = kit.made_of(textures.wood, gloss=0.5) if kit.chance(0.5) else kit.plain(gloss=0.8)
    parts = [
        tube(0, 0.012 * s, 0.03 * s, 0.028 * s, wood),
        tube(0.012 * s, 0.012 * s, 0.024 * s, 0.016 * s, wood),
        tube(0.024 * s, 0.045 * s, 0.016 * s, 0.009 * s, wood),
        tube(0.067 * s, 0.006 * s, 0.018 * s, 0.018 * s, wood),
        ball(0, 0.085 * s, 0, 0.016 * s, wood),
    ]
    return thing_of("piece", parts, 0.1 * s, 0.03 * s)


def candle(kit: Kit) -> Thing:
    """A candle that burns."""
    r, h = kit.between(0.02, 0.04), kit.between(0.05, 0.14)
    flame = Material(kit.plain(pick(kit.rng, "ffd28a")).texture, None, 0.0, emission=14.0)
    parts = [
        tube(0, h, r, r, kit.plain(pick(kit.rng, "efe6d0", "b5433a", "d8c9a8", "55708a"), gloss=0.2)),
        tube(h, 0.012, 0.001, 0.001, kit.plain(pick(kit.rng, "1c1a18"), gloss=0)),
        Part(Ellipsoid((0, h + 0.022, 0), (0.006, 0.014, 0.006)), flame),
    ]
    return thing_of("candle", parts, h + 0.03, r)


def jar(kit: Kit) -> Thing:
    """A jar or a tin with a lid and a label."""
    r, h = kit.between(0.03, 0.05), kit.between(0.07, 0.13)
    parts = [
        tube(0, h, r, r, kit.plain(gloss=0.7)),
        tube(h, 0.018, r * 1.02, r * 0.98, kit.made_of(textures.metal, gloss=0.7)),
        tube(h * 0.18, h * 0.62, r * 1.01, r * 1.01, _around(kit.printed())),
    ]
    return thing_of("jar", parts, h + 0.018, r)


def frame(kit: Kit) -> Thing:
    """A framed picture that leans back a little."""
    w, h = kit.between(0.1, 0.2), kit.between(0.12, 0.2)
    lean = turned(0, 8)
    wood = kit.made_of(textures.wood, tile_m=0.1)
    parts = [Part(face, wood) for face in box((0, h / 2, 0), (w, h, 0.012), lean)]
    front = np.asarray((0, h / 2, 0)) + lean @ (0, 0, -0.0065)
    parts.append(Part(Quad((front[0], front[1], front[2]), (w * 0.84, h * 0.84), lean), kit.printed()))
    return thing_of("frame", parts, h, w * 0.4)


def toy_car(kit: Kit) -> Thing:
    """A toy car."""
    paint, rubber = kit.plain(gloss=0.8), kit.plain(pick(kit.rng, "1c1c1e"), gloss=0.1)
    window = kit.plain(pick(kit.rng, "2a3a48", "55707f"), gloss=1.0)
    parts = [Part(face, paint) for face in box((0, 0.026, 0), (0.13, 0.026, 0.055))]
    parts += [Part(face, window) for face in box((-0.005, 0.048, 0), (0.066, 0.02, 0.048))]
    parts += [Part(face, paint) for face in box((-0.005, 0.06, 0), (0.07, 0.006, 0.052))]
    on_side = turned(0, 90)
    for x in (-0.04, 0.04):
        for z in (-0.026, 0.026):
            parts.append(Part(Frustum((x, 0.015, z), 0.014, 0.015, 0.015, on_side), rubber))
    return thing_of("car", parts, 0.065, 0.07)


def blocks(kit: Kit) -> Thing:
    """Building blocks on top of one another."""
    parts: list[Part] = []
    side, y = kit.between(0.03, 0.05), 0.0
    for _ in range(int(kit.rng.integers(2, 5))):
        turn = turned(kit.between(-35, 35))
        material = kit.surface(side * 2)
        shift = kit.between(-0.2, 0.2) * side
        parts += [Part(face, material) for face in box((shift, y + side / 2, 0), (side, side, side), turn)]
        y += side
    return thing_of("blocks", parts, y, side * 0.7)


ON_TABLE: tuple[Maker, ...] = (
    bottle, bottle, mug, mug, vase, books, books, carton, carton, fruit, fruit, sphere, pot_plant, pot_plant, piece,
    candle, jar, frame, toy_car, blocks,
)  # fmt: skip
