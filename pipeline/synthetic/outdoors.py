"""Things for open ground: made at the origin, standing on y = 0, in their real size."""

from __future__ import annotations

import numpy as np

from pipeline.synthetic import cutouts, textures
from pipeline.synthetic.camera import Array
from pipeline.synthetic.colour import pick
from pipeline.synthetic.kit import Kit
from pipeline.synthetic.materials import Material
from pipeline.synthetic.props import Maker, ball, limb, thing_of, tube
from pipeline.synthetic.shapes import Ellipsoid, Quad, box, turned
from pipeline.synthetic.things import Part, Thing

__all__ = ["IN_THE_GRASS", "ON_GROUND"]


def person(kit: Kit) -> Thing:
    """Somebody who stands there: head, hair, coat, trousers."""
    s = kit.between(0.92, 1.06)
    coat, trousers = (
        kit.made_of(textures.cloth, kit.colour(), kit.colour(), tile_m=0.5),
        kit.made_of(textures.cloth, kit.colour(), tile_m=0.4),
    )
    skin, hair = kit.plain(pick(kit.rng, "e0b08c", "c68e68", "8a5a3c", "5a3a28"), gloss=0.1), kit.made_of(textures.bark)
    shoe = kit.plain(pick(kit.rng, "2a2220", "d8d4cc", "5a3a28"), gloss=0.3)
    parts = [
        Part(Ellipsoid((0, 1.60 * s, 0), (0.085 * s, 0.115 * s, 0.1 * s)), skin),
        Part(Ellipsoid((0, 1.645 * s, 0.018 * s), (0.098 * s, 0.1 * s, 0.105 * s)), hair),
        tube(1.44 * s, 0.08 * s, 0.055 * s, 0.05 * s, skin),
        Part(Ellipsoid((0, 1.24 * s, 0), (0.205 * s, 0.26 * s, 0.125 * s)), coat),
        Part(Ellipsoid((0, 1.0 * s, 0), (0.185 * s, 0.24 * s, 0.13 * s)), coat),
    ]
    for side in (-1, 1):
        shoulder, hip = (side * 0.175 * s, 1.39 * s, 0.0), (side * 0.085 * s, 0.92 * s, 0.0)
        hand = (side * kit.between(0.22, 0.34) * s, 0.84 * s, kit.between(-0.15, 0.1) * s)
        foot = (side * kit.between(0.08, 0.13) * s, 0.05 * s, kit.between(-0.14, 0.14) * s)
        parts += [
            ball(*shoulder, 0.066 * s, coat),
            limb(shoulder, hand, 0.064 * s, 0.042 * s, coat),
            ball(*hand, 0.045 * s, skin),
        ]
        parts += [limb(hip, foot, 0.1 * s, 0.06 * s, trousers)]
        parts.append(Part(Ellipsoid((foot[0], 0.04 * s, foot[2] - 0.04), (0.05 * s, 0.045 * s, 0.13 * s)), shoe))
    return thing_of("person", parts, 1.74 * s, 0.25)


def tree(kit: Kit) -> Thing:
    """A trunk and a crown."""
    trunk, height = kit.between(0.09, 0.2), kit.between(1.4, 2.6)
    parts = [tube(0, height * 1.3, trunk, trunk * 0.7, kit.made_of(textures.bark, tile_m=0.6))]
    leaves, size = kit.cut_out(cutouts.crown, 512), kit.between(2.2, 3.6)
    for turn in (0.0, 60.0, 120.0):
        at = (kit.between(-0.3, 0.3), height + size * 0.33 + kit.between(-0.2, 0.2), kit.between(-0.3, 0.3))
        parts.append(Part(Quad(at, (size, size), turned(turn)), leaves))
    return thing_of("tree", parts, height + size * 0.8, trunk * 1.3)


def bush(kit: Kit) -> Thing:
    """A bush."""
    size = kit.between(0.7, 1.5)
    leaves = kit.cut_out(cutouts.crown, 512)
    core = kit.made_of(textures.lawn, tile_m=0.5)
    parts = [Part(Ellipsoid((0, size * 0.36, 0), (size * 0.34, size * 0.36, size * 0.34)), core)]
    for turn in (0.0, 45.0, 90.0, 135.0):
        at = (kit.between(-0.15, 0.15) * size, size * 0.42, kit.between(-0.15, 0.15) * size)
        parts.append(Part(Quad(at, (size * 1.3, size * 1.2), turned(turn)), leaves))
    return thing_of("bush", parts, size, size * 0.4)


def bollard(kit: Kit) -> Thing:
    """A bollard, a post or a traffic cone."""
    if kit.chance(0.35):
        stripes = kit.made_of(_bands, tile_m=None)
        parts = [
            Part(face, kit.plain(pick(kit.rng, "d9541e", "2a2a2c"))) for face in box((0, 0.02, 0), (0.38, 0.04, 0.38))
        ]
        return thing_of("cone", [*parts, tube(0.04, 0.62, 0.14, 0.03, stripes)], 0.66, 0.2)
    r, h = kit.between(0.05, 0.13), kit.between(0.7, 1.1)
    body = kit.made_of(textures.metal, kit.colour(), tile_m=0.5, gloss=0.4) if kit.chance(0.6) else kit.surface(0.4)
    parts = [
        tube(0, h, r, r * 0.92, body),
        ball(0, h, 0, r * 0.95, body, 0.6),
        tube(h * 0.8, 0.07, r * 1.02, r * 1.02, kit.plain()),
    ]
    return thing_of("bollard", parts, h + r * 0.6, r)


def _bands(rng: np.random.Generator, size: int) -> Array:
    rows = (np.arange(size) * 5 // size % 2)[:, None, None]
    colour = np.where(rows == 1, pick(rng, "f0ede6"), pick(rng, "d9541e", "c9341e"))
    return np.asarray(colour * np.ones((1, size, 1)), dtype=np.float32)


def lamp_post(kit: Kit) -> Thing:
    """A lamp on a pole."""
    h = kit.between(2.2, 3.4)
    iron = kit.made_of(textures.metal, pick(kit.rng, "23282a", "2f4a3c", "4a4a4a"), tile_m=0.4, gloss=0.4)
    glow = Material(kit.plain(pick(kit.rng, "ffe0b0", "f4f0e8")).texture, None, 0.3, emission=kit.between(0.4, 5.0))
    parts = [tube(0, 0.3, 0.12, 0.08, iron), tube(0.3, h - 0.3, 0.05, 0.035, iron), tube(h, 0.06, 0.06, 0.13, iron)]
    parts += [ball(0, h + 0.2, 0, 0.17, glow), tube(h + 0.35, 0.05, 0.1, 0.02, iron)]
    return thing_of("lamp", parts, h + 0.4, 0.12)


def fence(kit: Kit) -> Thing:
    """A piece of wooden fence."""
    wood = kit.made_of(textures.planks if kit.chance(0.3) else textures.wood, tile_m=0.5)
    n, gap, h = int(kit.rng.integers(5, 10)), kit.between(0.14, 0.24), kit.between(0.8, 1.2)
    parts: list[Part] = []
    for i in range(n):
        x = (i - (n - 1) / 2) * gap
        parts += [Part(face, wood) for face in box((x, h / 2, 0), (0.09, h * kit.between(0.95, 1.03), 0.025))]
    for y in (0.28 * h, 0.75 * h):
        parts += [Part(face, wood) for face in box((0, y, 0.03), (n * gap, 0.08, 0.03))]
    return thing_of("fence", parts, h, 0.3)


def crate(kit: Kit) -> Thing:
    """Wooden crates, hay bales or stone blocks in a small pile."""
    painter = (textures.planks, textures.stone, textures.brick)[int(kit.rng.choice(3, p=(0.6, 0.2, 0.2)))]
    parts: list[Part] = []
    y = 0.0
    for _ in range(int(kit.rng.integers(1, 4))):
        w, h, d = kit.between(0.45, 0.7), kit.between(0.3, 0.5), kit.between(0.4, 0.6)
        material = kit.made_of(painter, tile_m=0.6)
        parts += [
            Part(face, material)
            for face in box((kit.between(-0.06, 0.06), y + h / 2, 0), (w, h, d), turned(kit.between(-14, 14)))
        ]
        y += h
    return thing_of("crate", parts, y, 0.36)


def barrel(kit: Kit) -> Thing:
    """A barrel or an oil drum."""
    r, h = kit.between(0.22, 0.32), kit.between(0.6, 0.95)
    wooden = kit.chance(0.5)
    body = (
        kit.made_of(textures.planks, tile_m=0.5)
        if wooden
        else kit.made_of(textures.metal, kit.colour(), tile_m=0.7, gloss=0.3)
    )
    hoop = kit.made_of(textures.metal, gloss=0.4)
    parts = [
        tube(0, h / 2, r * (0.86 if wooden else 1), r, body),
        tube(h / 2, h / 2, r, r * (0.86 if wooden else 1), body),
    ]
    parts += [tube(h * y, h * 0.05, r * 0.985, r * 0.985, hoop) for y in (0.22, 0.72)]
    return thing_of("barrel", parts, h, r)


def sign(kit: Kit) -> Thing:
    """A sign on a pole."""
    h, w = kit.between(1.1, 2.0), kit.between(0.4, 0.7)
    parts = [tube(0, h + w * 0.8, 0.03, 0.03, kit.made_of(textures.metal, gloss=0.5))]
    parts.append(Part(Quad((0, h + w * 0.4, -0.035), (w, w * kit.between(0.7, 1.2))), kit.printed()))
    return thing_of("sign", parts, h + w, 0.12)


def rock(kit: Kit) -> Thing:
    """A boulder or two."""
    material = kit.made_of(textures.stone, tile_m=0.9)
    parts = []
    for _ in range(int(kit.rng.integers(1, 4))):
        r = kit.between(0.15, 0.4)
        at = (kit.between(-0.3, 0.3), r * 0.4, kit.between(-0.25, 0.25))
        parts.append(
            Part(Ellipsoid(at, (r * 1.2, r * 0.75, r), turned(kit.between(0, 90), 0, kit.between(-15, 15))), material)
        )
    return thing_of("rock", parts, 0.4, 0.6)


def planter(kit: Kit) -> Thing:
    """A box of flowers."""
    w, h, d = kit.between(0.5, 0.9), kit.between(0.25, 0.45), 0.35
    trough = kit.made_of(textures.planks if kit.chance(0.5) else textures.stone, tile_m=0.5)
    parts = [Part(face, trough) for face in box((0, h / 2, 0), (w, h, d))]
    heads, blades = [kit.cut_out(cutouts.flower) for _ in range(2)], kit.cut_out(cutouts.crown)
    parts += [
        Part(Quad((kit.between(-0.3, 0.3) * w, h + 0.1, z), (w * 0.9, 0.42), turned(kit.between(-20, 20))), blades)
        for z in (-0.08, 0.08)
    ]
    for _ in range(int(kit.rng.integers(6, 16))):
        at = (kit.between(-0.45, 0.45) * w, h + kit.between(0.05, 0.3), kit.between(-0.5, 0.4) * d)
        size, face = kit.between(0.08, 0.14), turned(kit.between(-50, 50), kit.between(0, 40), kit.between(0, 90))
        parts.append(Part(Quad(at, (size, size), face), heads[int(kit.rng.integers(2))]))
    return thing_of("planter", parts, h + 0.3, w * 0.55)


def football(kit: Kit) -> Thing:
    """A ball to play with."""
    r = kit.between(0.09, 0.14)
    return thing_of("ball", [ball(0, r, 0, r, kit.surface(r * 3))], 2 * r, r)


def tuft(kit: Kit) -> Thing:
    """A tuft of grass, some 15 to 40 centimetres high."""
    size = kit.between(0.15, 0.4)
    blades = kit.cut_out(cutouts.grass)
    parts = [Part(Quad((0, size / 2, 0), (size, size), turned(turn)), blades) for turn in (0.0, 60.0, 120.0)]
    return thing_of("tuft", parts, size, size * 0.25)


def mushroom(kit: Kit) -> Thing:
    """A mushroom."""
    h, r = kit.between(0.06, 0.12), kit.between(0.03, 0.06)
    cap = kit.made_of(
        textures.checks,
        pick(kit.rng, "b5321e", "8a5a32", "c9a06a"),
        pick(kit.rng, "efe6d8", "a87848"),
        tile_m=r * 3,
        gloss=0.3,
    )
    parts = [
        tube(0, h, r * 0.32, r * 0.24, kit.made_of(textures.stone, tile_m=0.1)),
        Part(Ellipsoid((0, h, 0), (r, r * 0.62, r)), cap),
    ]
    return thing_of("mushroom", parts, h + r * 0.6, r * 0.5)


def bloom(kit: Kit) -> Thing:
    """A flower or two on their stems."""
    parts: list[Part] = []
    head, stem = kit.cut_out(cutouts.flower), kit.plain(pick(kit.rng, "3d5a24", "6a7a34"), gloss=0.0)
    blade, tallest = kit.cut_out(cutouts.leaf), 0.0
    for _ in range(int(kit.rng.integers(1, 4))):
        x, z, h, size = (
            kit.between(-0.06, 0.06),
            kit.between(-0.06, 0.06),
            kit.between(0.12, 0.3),
            kit.between(0.06, 0.11),
        )
        parts.append(tube(0, h, 0.003, 0.0025, stem, x, z))
        parts.append(
            Part(
                Quad(
                    (x, h, z - 0.004),
                    (size, size),
                    turned(kit.between(-40, 40), kit.between(0, 45), kit.between(0, 90)),
                ),
                head,
            )
        )
        parts.append(
            Part(
                Quad((x + 0.03, h * 0.35, z), (0.06, 0.12), turned(kit.between(-40, 40), 20, kit.between(-70, -30))),
                blade,
            )
        )
        tallest = max(tallest, h + size / 2)
    return thing_of("flower", parts, tallest, 0.04)


ON_GROUND: tuple[Maker, ...] = (
    person, person, person, tree, bush, bollard, bollard, lamp_post, fence, crate, barrel, sign, rock, planter,
    football,
)  # fmt: skip
IN_THE_GRASS: tuple[Maker, ...] = (tuft, tuft, mushroom, bloom, bloom, bloom)
