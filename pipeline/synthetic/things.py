"""What a scene is made of: parts that form things, and how a thing is put in its place."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pipeline.synthetic.materials import Material
from pipeline.synthetic.shapes import Shape, resized, turned

__all__ = ["Part", "Thing", "placed", "scaled"]


@dataclass(frozen=True)
class Part:
    """A shape and what it is made of."""

    shape: Shape
    material: Material


@dataclass(frozen=True)
class Thing:
    """Parts that hide one another by depth, drawn as one layer.

    distance_m: from the camera, for the order of the layers. solid: it fills the frame.
    stands_at_m: height of the plane it stands on; None where it stands on nothing.
    catches_shadows: it is the level plane at height stands_at_m that things stand on.
    """

    name: str
    parts: list[Part]
    distance_m: float
    height_m: float = 1.0
    footprint: tuple[float, float, float] = (0.0, 0.0, 0.0)  # x, z, radius
    stands_at_m: float | None = None
    catches_shadows: bool = False
    solid: bool = False


def placed(thing: Thing, x: float, y: float, z: float, yaw_deg: float, distance_m: float) -> Thing:
    """A thing that was made at the origin, turned about the vertical and set down at (x, y, z)."""
    turn = turned(yaw_deg)
    parts = []
    for part in thing.parts:
        centre = turn @ np.asarray(part.shape.centre) + (x, y, z)
        rotation = turn if part.shape.rotation is None else turn @ part.shape.rotation
        where = float(centre[0]), float(centre[1]), float(centre[2])
        parts.append(Part(replace(part.shape, centre=where, rotation=rotation), part.material))
    return replace(thing, parts=parts, distance_m=distance_m, footprint=(x, z, thing.footprint[2]), stands_at_m=y)


def scaled(thing: Thing, factor: float) -> Thing:
    """The same thing in another size, its patterns too."""
    parts = []
    for part in thing.parts:
        tile_m = part.material.tile_m
        material = part.material if tile_m is None else replace(part.material, tile_m=tile_m * factor)
        parts.append(Part(resized(part.shape, factor), material))
    x, z, radius = thing.footprint
    footprint = (x * factor, z * factor, radius * factor)
    return replace(thing, parts=parts, height_m=thing.height_m * factor, footprint=footprint)
