"""What is behind the things: rooms, gardens, streets, skies, lights at night. Far to near, real sizes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from pipeline.synthetic import cutouts, textures
from pipeline.synthetic.camera import Array, View, circle_of_confusion_px
from pipeline.synthetic.colour import mix, pick, vary
from pipeline.synthetic.kit import LARGE, SMALL, Kit
from pipeline.synthetic.materials import Material, texture
from pipeline.synthetic.noise import field
from pipeline.synthetic.prints import book_shelf, facade
from pipeline.synthetic.shapes import Ellipsoid, Frustum, Quad, box
from pipeline.synthetic.things import Part, Thing

__all__ = ["FAR_M", "INDOORS", "OUTDOORS", "Backdrop", "lights"]

FAR_M = 1000.0  # where the sky hangs: near enough to infinity for any lens
Backdrop = Callable[[Kit, float, float], list[Thing]]  # kit, distance_m, width_m that is in view there


def _standing(name: str, material: Material, z: float, width: float, y: float, height: float, *, solid: bool) -> Thing:
    """An upright plane across the view at distance z, its middle at height y."""
    return Thing(name, [Part(Quad((0, y, z), (width, height)), material)], z, height, solid=solid)


def _filled(name: str, material: Material, z: float, width: float) -> Thing:
    """An upright plane that fills the view."""
    return _standing(name, material, z, width * 8, 0, width * 8, solid=True)


def wall(kit: Kit, z: float, width: float) -> list[Thing]:
    """A room's wall: painted, brick or wood, with pictures, furniture and perhaps a window."""
    painter = textures.WALLS[int(kit.rng.integers(len(textures.WALLS)))]
    things = [_filled("wall", kit.large(painter, tile_m=kit.between(0.7, 1.4)), z, width)]
    parts: list[Part] = []
    for _ in range(int(kit.rng.integers(0, 4))):
        size = width * kit.between(0.12, 0.3)
        at = (kit.between(-0.5, 0.5) * width, kit.between(-0.1, 0.35) * width, z - 0.02)
        parts.append(Part(Quad((at[0], at[1], at[2] + 0.005), (size * 1.1, size * 1.1)), kit.plain(gloss=0)))
        parts.append(Part(Quad(at, (size, size)), kit.printed()))
    if parts:
        things.append(Thing("pictures", parts, z - 0.02))
    if kit.chance(0.35):
        things.append(_window(kit, z - 0.03, width))
    return things + _furniture(kit, z, width)


def _window(kit: Kit, z: float, width: float) -> Thing:
    """A bright window with bars."""
    sky = Material(
        texture(mix(pick(kit.rng, "cfe0ee", "f4ead8"), pick(kit.rng, "9fb38a", "8a9a8a"), _clouds(kit, 0.4))), None
    )
    pane = Material(sky.texture, None, 0.0, emission=kit.between(1.5, 3.5))
    x, w, h = kit.between(-0.5, 0.5) * width, width * kit.between(0.25, 0.5), width * kit.between(0.35, 0.7)
    bars = kit.plain(pick(kit.rng, "e4dfd4", "3a2f28"), gloss=0)
    parts = [Part(Quad((x, 0.1 * width, z), (w, h)), pane)]
    for i in range(3):
        parts.append(Part(Quad((x + (i - 1) * w / 2, 0.1 * width, z - 0.01), (w * 0.05, h)), bars))
        parts.append(Part(Quad((x, 0.1 * width + (i - 1) * h / 2, z - 0.01), (w, w * 0.05)), bars))
    return Thing("window", parts, z)


def _clouds(kit: Kit, strength: float) -> Array:
    return np.asarray(0.4 + strength * field(kit.rng, SMALL, slope=1.5), dtype=np.float32)


def _furniture(kit: Kit, z: float, width: float) -> list[Thing]:
    """Blocks, lamps and round things before a wall."""
    things = []
    for _ in range(int(kit.rng.integers(0, 4))):
        near, x = z - kit.between(0.05, 0.3) * min(z, 2.0), kit.between(-0.55, 0.55) * width
        w, h = width * kit.between(0.1, 0.35), width * kit.between(0.1, 0.4)
        y = kit.between(-0.45, -0.1) * width
        material = kit.surface(w)
        if kit.chance(0.6):
            parts = [Part(face, material) for face in box((x, y, near), (w, h, 0.2 * w))]
        elif kit.chance(0.5):
            parts = [Part(Frustum((x, y, near), h, w * 0.3, w * 0.22), material)]
        else:
            glow = Material(kit.plain(pick(kit.rng, "ffd9a0", "fff0d8")).texture, None, 0.0, kit.between(0.8, 4.0))
            parts = [Part(Ellipsoid((x, y + h * 0.4, near), (w * 0.25, w * 0.25, w * 0.25)), glow)]
        things.append(Thing("furniture", parts, near))
    return sorted(things, key=lambda thing: -thing.distance_m)


def shelves(kit: Kit, z: float, width: float) -> list[Thing]:
    """A wall of books."""
    image = book_shelf(kit.rng, LARGE, kit.palette)
    return [_filled("books", Material(texture(image), kit.between(1.0, 1.6)), z, width)]


def hedge(kit: Kit, z: float, width: float) -> list[Thing]:
    """Leaves, with the sun behind them here and there."""
    tile = width * kit.between(0.4, 0.9)
    leaves = Material(texture(cutouts.foliage(kit.rng, LARGE) * np.float32(kit.between(0.8, 2.0))), tile)
    return [_filled("foliage", leaves, z, width)]


def meadow(kit: Kit, z: float, width: float) -> list[Thing]:
    """Something green and soft far behind, with lighter and darker places."""
    dark, light = pick(kit.rng, "2a3a1c", "3a4a2a", "4a3a24"), pick(kit.rng, "9fb060", "b8b47a", "c9a86a", "7d9a6a")
    rng = kit.rng
    cloud = 0.5 + 0.28 * field(rng, LARGE, slope=1.3) + 0.12 * field(rng, LARGE, slope=0.8)
    spots = np.clip(field(rng, LARGE, slope=1.0) - 1.6, 0, 1)
    image = mix(mix(dark, light, cloud), kit.colour(), 0.9 * spots)
    return [_filled("meadow", Material(texture(image), width * kit.between(0.8, 1.6)), z, width)]


def sky(kit: Kit, z: float, width: float) -> list[Thing]:
    """Sky, hills, and trees or houses at the distance z."""
    scale = FAR_M / z
    things = [_heaven(kit, width * scale)]
    haze = pick(kit.rng, "a8b8c4", "b4b8b0", "8fa3b5")
    for far in (0.6, 0.3):
        body = mix(pick(kit.rng, "3a4a34", "4a5240", "5a5a48"), haze, np.float32(far + 0.2) * np.ones((), np.float32))
        image = cutouts.ridge(kit.rng, LARGE, body, rough=0.3)
        things.append(_band(kit, "hills", image, FAR_M * far, width * scale * far, kit.between(0.04, 0.16)))
    if kit.chance(0.3):
        return things + _houses(kit, z, width)
    body = pick(kit.rng, "33452a", "3f4a2c", "2a3a2a", "5a4a2a")
    for near in (1.0, 0.75):
        image = cutouts.ridge(kit.rng, LARGE, vary(kit.rng, body, 0.12), rough=1.0)
        things.append(_band(kit, "trees", image, z * near, width * near, kit.between(0.08, 0.3)))
    return things


def _heaven(kit: Kit, width: float) -> Thing:
    v = np.linspace(0, 1, LARGE, dtype=np.float32)[:, None]
    top, low = (
        pick(kit.rng, "3f74b5", "5a8cc4", "6f93bb", "7d8894"),
        pick(kit.rng, "c4daec", "e6dccb", "f0d3b0", "d5dadd"),
    )
    blue = mix(top, low, np.clip((v - 0.3) * 4.5, 0, 1) * np.ones((1, LARGE), np.float32))
    clouds = np.clip(field(kit.rng, LARGE, slope=1.4) * 0.6 + kit.between(-0.4, 0.25), 0, 0.95)
    image = mix(blue, pick(kit.rng, "eef0f0", "e2ddd8"), clouds)
    material = Material(texture(image * 0.8), None, emission=1.0)
    return _standing("sky", material, FAR_M, width * 3, 0, width * 3, solid=True)


def _band(kit: Kit, name: str, image: Array, z: float, width: float, height: float) -> Thing:
    """A band whose upper edge is about `height` times the view's width above the horizon."""
    material = Material(texture(image), None, cut_out=True)
    return _standing(name, material, z, width * 2, 0.0, width * 2 * max(height, 0.05), solid=False)


def _houses(kit: Kit, z: float, width: float) -> list[Thing]:
    """A row of houses."""
    things, x = [], -0.8 * width
    while x < 0.8 * width:
        w, h, near = width * kit.between(0.25, 0.6), width * kit.between(0.25, 0.9), z * kit.between(0.9, 1.0)
        front = Material(texture(facade(kit.rng, SMALL)), None)
        things.append(_standing("house", front, near, w, h / 2 - 0.1 * width, h, solid=False))
        x += w * kit.between(0.85, 1.3)
    return sorted(things, key=lambda thing: -thing.distance_m)


def street(kit: Kit, z: float, width: float) -> list[Thing]:
    """The front of one building, or an old wall."""
    if kit.chance(0.6):
        material = Material(texture(facade(kit.rng, LARGE)), width * kit.between(0.6, 1.2))
    else:
        painter = (textures.brick, textures.stone, textures.planks)[int(kit.rng.integers(3))]
        material = kit.large(painter, tile_m=kit.between(1.0, 2.0))
    return [_filled("front", material, z, width)]


def photograph(kit: Kit, z: float, width: float) -> list[Thing]:
    """One of the caller's photographs as a backdrop."""
    image = kit.photographs.crop(kit.rng, LARGE, sharp=True)
    return [_filled("photograph", Material(texture(image), width * kit.between(1.05, 1.4)), z, width)]


def night(kit: Kit, z: float, width: float) -> list[Thing]:
    """Darkness, a little coloured, for lights to stand in."""
    dark = mix(
        pick(kit.rng, "1a1c28", "241c18", "14202a"), kit.colour() * 0.35, 0.4 + 0.4 * field(kit.rng, SMALL, slope=1.6)
    )
    return [_filled("night", Material(texture(dark), width * 0.9), z, width)]


def lights(kit: Kit, view: View, z: float, width: float, *, brightness: float, count: int) -> Thing:
    """Small lamps near the distance z whose discs look about `brightness` bright, however blurred."""
    hues = [pick(kit.rng, "ffd9a0", "fff0d8", "ffb45a", "a8d0ff", "ff8a6a", "ffe9c4") for _ in range(3)]
    middle = np.array([kit.between(-0.3, 0.3), kit.between(0.0, 0.25)]) * width
    parts = []
    for _ in range(count):
        near = z * kit.between(0.8, 0.99)
        disc_px = float(circle_of_confusion_px(near, view.camera))
        radius = near / view.camera.f_px * kit.between(0.8, 1.6)
        gain = (
            brightness
            * (disc_px / 2 + 1) ** 2
            / (radius * view.camera.f_px / near) ** 2
            * math.exp(kit.rng.normal(0, 0.5))
        )
        hue = np.broadcast_to(vary(kit.rng, hues[int(kit.rng.integers(3))], 0.1), (2, 2, 3))
        x, y = middle + kit.rng.normal(0, (0.35, 0.16)) * width
        glow = Material(texture(np.asarray(hue, np.float32)), None, 0.0, emission=max(gain, 0.5))
        parts.append(Part(Ellipsoid((x, y, near), (radius, radius, radius)), glow))
    return Thing("lights", parts, z * 0.9)


INDOORS: tuple[Backdrop, ...] = (wall, wall, wall, wall, shelves, hedge, meadow)
OUTDOORS: tuple[Backdrop, ...] = (hedge, hedge, meadow, sky, sky, sky, street, street)
