"""The solid shapes of a scene and where rays meet them.

A shape has its own frame: `centre` and `rotation` (columns: its axes in the world; None: the world's).
Rays are given as an origin and a direction of three broadcastable arrays each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.synthetic.camera import Array

__all__ = ["Ellipsoid", "Frustum", "Quad", "Shape", "box", "corners", "resized", "to_local", "turned"]

Vector = tuple[float, float, float]
Rays = tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike]
Local = tuple[Array, Array, Array]
Matrix = npt.NDArray[np.float64]
NEAR_M = 0.02


class Shape(Protocol):
    """What the renderer needs of a shape, which is a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def centre(self) -> Vector:
        """Its middle, in the world."""

    @property
    def rotation(self) -> Matrix | None:
        """Its axes in the world as columns; None: the world's."""

    @property
    def half(self) -> Vector:
        """Half the size along each of the shape's own axes, in metres."""

    @property
    def extent_m(self) -> tuple[float, float]:
        """Length of the texture's u and v direction over the surface, in metres."""

    def distance(self, origin: Rays, direction: Rays) -> Array:
        """How far along the rays the surface is, in the shape's own frame; infinite where it is missed."""

    def surface(self, x: Array, y: Array, z: Array) -> tuple[Array, Array, Array]:
        """Unit normals (3, N), or (3, 1) if flat, and texture coordinates u, v (N,) in 0 to 1, at points of it."""


def turned(yaw_deg: float = 0.0, pitch_deg: float = 0.0, roll_deg: float = 0.0) -> Matrix:
    """Rotation: roll about z, then pitch about x, then yaw about the vertical y."""
    yaw, pitch, roll = (math.radians(a) for a in (yaw_deg, pitch_deg, roll_deg))
    about_y = np.array([[math.cos(yaw), 0, math.sin(yaw)], [0, 1, 0], [-math.sin(yaw), 0, math.cos(yaw)]])
    about_x = np.array([[1, 0, 0], [0, math.cos(pitch), -math.sin(pitch)], [0, math.sin(pitch), math.cos(pitch)]])
    about_z = np.array([[math.cos(roll), -math.sin(roll), 0], [math.sin(roll), math.cos(roll), 0], [0, 0, 1]])
    return np.asarray(about_y @ about_x @ about_z)


@dataclass(frozen=True)
class Quad:
    """A flat rectangle in its own x-y plane, facing its own -z; u runs along x, v down y.

    Seen from both sides, unless it is `one_sided`: then only from the side that it faces.
    """

    centre: Vector
    size: tuple[float, float]
    rotation: Matrix | None = None
    one_sided: bool = False

    @property
    def half(self) -> Vector:
        return self.size[0] / 2, self.size[1] / 2, 0.0

    @property
    def extent_m(self) -> tuple[float, float]:
        return self.size

    def distance(self, origin: Rays, direction: Rays) -> Array:
        (ox, oy, oz), (dx, dy, dz) = origin, direction
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            t = -np.asarray(oz) / np.asarray(dz)
            x, y = ox + t * dx, oy + t * dy
            inside = (np.abs(x) <= self.size[0] / 2) & (np.abs(y) <= self.size[1] / 2)
        return _where(inside, t)

    def surface(self, x: Array, y: Array, z: Array) -> tuple[Array, Array, Array]:
        normal = np.array([[0], [0], [-1]], np.float32)
        return normal, x / np.float32(self.size[0]) + 0.5, 0.5 - y / np.float32(self.size[1])


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid; u runs around its y axis, v from top to bottom."""

    centre: Vector
    radii: Vector
    rotation: Matrix | None = None

    @property
    def half(self) -> Vector:
        return self.radii

    @property
    def extent_m(self) -> tuple[float, float]:
        return math.pi * (self.radii[0] + self.radii[2]), math.pi * self.radii[1]

    def distance(self, origin: Rays, direction: Rays) -> Array:
        ox, oy, oz = (np.asarray(o) / r for o, r in zip(origin, self.radii, strict=True))
        dx, dy, dz = (np.asarray(d) / r for d, r in zip(direction, self.radii, strict=True))
        a = dx * dx + dy * dy + dz * dz
        b = ox * dx + oy * dy + oz * dz
        c = ox * ox + oy * oy + oz * oz - 1
        root = b * b - a * c
        with np.errstate(invalid="ignore"):
            return _where(root > 0, (-b - np.sqrt(root)) / a)

    def surface(self, x: Array, y: Array, z: Array) -> tuple[Array, Array, Array]:
        rx, ry, rz = (np.float32(r) for r in self.radii)
        normal = np.stack([x / rx**2, y / ry**2, z / rz**2])
        normal /= np.sqrt((normal**2).sum(0))
        u = np.arctan2(x / rx, -z / rz) / np.float32(2 * np.pi) + 0.5
        return normal, u, np.arccos(np.clip(y / ry, -1, 1)) / np.float32(np.pi)


@dataclass(frozen=True)
class Frustum:
    """A cylinder or a cone with its tip cut off, closed at both ends; its axis is its own y."""

    centre: Vector
    height: float
    bottom: float  # radius
    top: float  # radius
    rotation: Matrix | None = None

    @property
    def half(self) -> Vector:
        radius = max(self.bottom, self.top)
        return radius, self.height / 2, radius

    @property
    def extent_m(self) -> tuple[float, float]:
        return math.pi * (self.bottom + self.top), self.height

    @property
    def slope(self) -> float:
        """Growth of the radius per metre of height."""
        return (self.top - self.bottom) / self.height

    def distance(self, origin: Rays, direction: Rays) -> Array:
        (ox, oy, oz), (dx, dy, dz) = (tuple(np.asarray(v) for v in rays) for rays in (origin, direction))
        middle, k = (self.bottom + self.top) / 2 + self.slope * oy, self.slope
        a = dx * dx + dz * dz - k * k * dy * dy
        b = ox * dx + oz * dz - k * dy * middle
        root = b * b - a * (ox * ox + oz * oz - middle * middle)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            side = (-b - np.sqrt(root)) / a
            best = _where((root > 0) & (np.abs(oy + side * dy) <= self.height / 2), side)
            for y, radius in ((self.height / 2, self.top), (-self.height / 2, self.bottom)):
                cap = (y - oy) / dy
                inside = (ox + cap * dx) ** 2 + (oz + cap * dz) ** 2 <= radius * radius
                best = np.minimum(best, _where(inside, cap))
        return best

    def surface(self, x: Array, y: Array, z: Array) -> tuple[Array, Array, Array]:
        radius = np.hypot(x, z)
        on_side = np.abs(y) < np.float32(self.height / 2 * 0.9999)
        normal = np.stack([x, -self.slope * radius, z]).astype(np.float32)
        normal /= np.sqrt((normal**2).sum(0)) + np.float32(1e-12)
        normal[:, ~on_side] = 0
        normal[1, ~on_side] = np.sign(y[~on_side])
        u = np.arctan2(x, -z) / np.float32(2 * np.pi) + 0.5
        v = np.where(on_side, 0.5 - y / np.float32(self.height), radius / np.float32(max(self.half[0], 1e-6)) * 0.2)
        return normal, u, v.astype(np.float32)


def box(centre: Vector, size: Vector, rotation: Matrix | None = None) -> list[Quad]:
    """The six faces of a box (width, height, depth along its own axes), their textures upright."""
    axes = np.eye(3) if rotation is None else rotation
    width, height, depth = size
    faces = (
        (np.array([0, 0, -1.0]), turned(), (width, height), depth),
        (np.array([0, 0, 1.0]), turned(180), (width, height), depth),
        (np.array([1.0, 0, 0]), turned(-90), (depth, height), width),
        (np.array([-1.0, 0, 0]), turned(90), (depth, height), width),
        (np.array([0, 1.0, 0]), turned(0, 90), (width, depth), height),
        (np.array([0, -1.0, 0]), turned(0, -90), (width, depth), height),
    )
    quads = []
    for outwards, turn, face, thickness in faces:
        x, y, z = np.asarray(centre) + axes @ outwards * thickness / 2
        quads.append(Quad((float(x), float(y), float(z)), face, axes @ turn, one_sided=True))
    return quads


def resized(shape: Shape, factor: float) -> Shape:
    """A shape `factor` times as large, seen from the world's origin."""
    x, y, z = (factor * c for c in shape.centre)
    if isinstance(shape, Quad):
        return replace(shape, centre=(x, y, z), size=(shape.size[0] * factor, shape.size[1] * factor))
    if isinstance(shape, Frustum):
        sizes = {name: getattr(shape, name) * factor for name in ("height", "bottom", "top")}
        return replace(shape, centre=(x, y, z), **sizes)
    if isinstance(shape, Ellipsoid):
        rx, ry, rz = (factor * r for r in shape.radii)
        return replace(shape, centre=(x, y, z), radii=(rx, ry, rz))
    raise TypeError(f"no such shape: {shape!r}")


def corners(shape: Shape) -> npt.NDArray[np.float64]:
    """The corners (8, 3) of the box around a shape, in the world."""
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=np.float64)
    local = signs * np.asarray(shape.half)
    rotated: npt.NDArray[np.float64] = local if shape.rotation is None else local @ shape.rotation.T
    return np.asarray(shape.centre, dtype=np.float64) + rotated


def to_local(shape: Shape, origin: Rays, direction: Rays) -> tuple[Local, Local]:
    """Origin and direction of rays in a shape's own frame; zero terms are left out to keep arrays small."""
    (ox, oy, oz), (cx, cy, cz), (dx, dy, dz) = origin, shape.centre, direction
    moved = _moved(ox, cx), _moved(oy, cy), _moved(oz, cz)
    ways = np.asarray(dx, dtype=np.float32), np.asarray(dy, dtype=np.float32), np.asarray(dz, dtype=np.float32)
    if shape.rotation is None:
        return moved, ways
    return _rotated(shape.rotation, moved), _rotated(shape.rotation, ways)


def _moved(coordinate: npt.ArrayLike, centre: float) -> Array:
    moved: Array = np.asarray(coordinate, dtype=np.float32) - np.float32(centre)
    return moved


def _rotated(rotation: Matrix, vector: Local) -> Local:
    result: list[Array] = []
    for column in rotation.T:
        terms = [np.float32(f) * v for f, v in zip(column, vector, strict=True) if abs(f) > 1e-9]
        result.append(np.asarray(sum(terms[1:], terms[0]), dtype=np.float32))
    x, y, z = result
    return x, y, z


def _where(hit: npt.NDArray[np.bool_], t: npt.NDArray[np.floating[Any]]) -> Array:
    return np.where(hit & (t > NEAR_M), t, np.float32(np.inf)).astype(np.float32)
