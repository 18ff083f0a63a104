"""Light: a lamp or sun, the sky above, the ground's own glow, shadows and gloss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from pipeline.synthetic.camera import Array, View, Window
from pipeline.synthetic.materials import Material, sample
from pipeline.synthetic.shapes import corners, to_local
from pipeline.synthetic.things import Part, Thing

__all__ = ["Light", "Shade", "ground_shade", "shaded"]


@dataclass(frozen=True)
class Light:
    """Where light comes from. Colours are linear RGB (3,), 1 = white paper is white.

    towards: unit vector (3,) to the lamp or the sun. softness_px: how far its shadows' edges run, at a
    width of 480 pixels. dapple (size, size): share of the key light that leaves above let through to level
    planes, repeated every `dapple_m` metres.
    """

    towards: Array
    key: Array
    sky: Array
    bounce: Array
    softness_px: float = 2.0
    dapple: Array | None = None
    dapple_m: float = 4.0


@dataclass(frozen=True)
class Shade:
    """Of a level plane, one value a sample: the share of the key light and the share of the sky that arrive."""

    key: Array
    sky: Array

    def at(self, hit: npt.NDArray[np.bool_]) -> tuple[Array, Array]:
        """The shares (N,) at some samples."""
        return self.key[hit], self.sky[hit]


def shaded(
    albedo: Array,
    normal: Array,
    towards: tuple[Array, Array, Array],
    light: Light,
    material: Material,
    openness: Array | None,
    shade: tuple[Array, Array] | None,
) -> Array:
    """Light (N, 3) that leaves points towards the camera.

    albedo (N, 3); unit normal (3, N or 1) on the camera's side; towards: ray directions (N,) each, from the
    camera; openness and shade: shares (N,) of the light that arrives.
    """
    lamp = light.towards @ normal
    key = np.clip((lamp + np.float32(0.12)) / np.float32(1.12), 0, None)
    up = np.float32(0.5) + np.float32(0.5) * normal[1]
    low = 1 - up
    if openness is not None:
        up, low, key = up * openness, low * openness, key * np.sqrt(openness)
    if shade is not None:
        key, up = key * shade[0], up * shade[1]
    shares = np.stack(np.broadcast_arrays(key, up, low), -1)
    received = shares @ np.stack([light.key, light.sky, light.bounce])
    if material.emission > 0:
        received = received + np.float32(material.emission)
    result = albedo * received
    if material.gloss > 0:
        result += _gloss(normal, towards, key, light, material.gloss)
    return np.asarray(result, dtype=np.float32)


def _gloss(normal: Array, towards: tuple[Array, Array, Array], key: Array, light: Light, gloss: float) -> Array:
    """Highlight (Blinn and Phong) and the sky's reflection, stronger at grazing angles (Schlick)."""
    x, y, z = towards
    length = np.sqrt(x * x + y * y + z * z)
    cosine = -(normal[0] * x + normal[1] * y + normal[2] * z) / length
    # |lamp + eye| for two unit vectors is sqrt(2 + 2 lamp.eye)
    between = -(light.towards[0] * x + light.towards[1] * y + light.towards[2] * z) / length
    half = (light.towards @ normal + cosine) / np.sqrt(np.maximum(2 + 2 * between, np.float32(1e-6)))
    spot = np.clip(half, 0, 1) ** np.float32(20 + 180 * gloss) * (key > 0)
    fresnel = np.float32(0.04) + np.float32(0.5) * (1 - np.clip(cosine, 0, 1)) ** 4
    mirror = fresnel * np.clip(np.float32(0.6) + np.float32(0.4) * normal[1], 0, 1)
    shares = np.stack([np.float32(3 * gloss) * spot, np.float32(gloss) * mirror], -1)
    return np.asarray(shares @ np.stack([light.key, light.sky]), dtype=np.float32)


def ground_shade(view: View, window: Window, plane_m: float, light: Light, casters: list[Thing]) -> Shade:
    """Shadows and contact darkness on the level plane at height `plane_m`, one value a sample of the window."""
    top, left, bottom, right = window
    x, y, z = view.rays(window, 1)
    with np.errstate(divide="ignore"):
        depth = np.where(y < -1e-4, (plane_m - view.origin[1]) / y, 0).astype(np.float32)
    ground = depth * x, np.broadcast_to(depth * z, (bottom - top, right - left))
    key = np.ones((bottom - top, right - left), np.float32)
    sky = np.ones_like(key)
    for thing in casters:
        _darken_contact(sky, ground, thing)
        for part in thing.parts:
            _cast_shadow(key, ground, part, view, window, plane_m, light)
    if light.dapple is not None:
        size = light.dapple.shape[0]
        columns, rows = (np.floor(g * np.float32(size / light.dapple_m)).astype(np.int64) % size for g in ground)
        key *= light.dapple[rows, columns]
    soft = light.softness_px * view.camera.width_px / 480
    key = gaussian_filter(key, soft) if soft > 0.3 else key
    n = view.samples
    return Shade(key.repeat(n, 0).repeat(n, 1), sky.repeat(n, 0).repeat(n, 1))


def _darken_contact(sky: Array, ground: tuple[Array, Array], thing: Thing) -> None:
    """Less sky arrives beside a thing, within about its own size."""
    x, z, radius = thing.footprint
    if radius <= 0:
        return
    reach = 0.45 * min(thing.height_m, 2 * radius)
    apart = np.maximum(np.hypot(ground[0] - np.float32(x), ground[1] - np.float32(z)) - np.float32(0.8 * radius), 0)
    sky *= 1 - np.float32(0.65) * np.exp(-apart / np.float32(reach))


def _cast_shadow(
    key: Array, ground: tuple[Array, Array], part: Part, view: View, window: Window, plane_m: float, light: Light
) -> None:
    """No key light where the way to the lamp meets the part."""
    east, up, north = light.towards
    towards = float(east), float(up), float(north)
    edges = corners(part.shape)
    edges = edges - (edges[:, 1:2] - plane_m) / towards[1] * np.asarray(towards)
    top, left, bottom, right = view.window_of(edges)
    top, bottom = max(top, window[0]) - window[0], min(bottom, window[2]) - window[0]
    left, right = max(left, window[1]) - window[1], min(right, window[3]) - window[1]
    if top >= bottom or left >= right:
        return
    region = slice(top, bottom), slice(left, right)
    origin, direction = to_local(part.shape, (ground[0][region], np.float32(plane_m), ground[1][region]), towards)
    t = np.broadcast_to(part.shape.distance(origin, direction), key[region].shape)
    dark = np.isfinite(t)
    if part.material.cut_out and dark.any():
        local = [np.broadcast_to(o, t.shape)[dark] + t[dark] * d for o, d in zip(origin, direction, strict=True)]
        _, u, v = part.shape.surface(*local)
        dark[dark] = sample(part.material.texture, u, v, np.full(u.shape, 4.0, np.float32))[:, 3] > 0.5
    key[region] *= ~dark
