"""Ray-casting: each thing of a scene, alone, to a layer of linear light and depth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy.ndimage import minimum_filter

from pipeline.synthetic.blur import Layer
from pipeline.synthetic.camera import Array, View, Window, circle_of_confusion_px
from pipeline.synthetic.light import Light, Shade, ground_shade, shaded
from pipeline.synthetic.materials import sample, unevenness
from pipeline.synthetic.shapes import Quad, Shape, corners, to_local
from pipeline.synthetic.things import Part, Thing

__all__ = ["draw", "draw_all"]

COARSE_PX = 4.0  # where every disc is wider, one sample a pixel is enough


def draw_all(things: list[Thing], view: View, light: Light) -> list[Layer]:
    """The layers of a scene's things, in their order: from far to near.

    What lies so far behind the edges of nearer things that no disc brings it into view is left out.
    """
    hidden = np.zeros(view.shape, bool)
    layers = []
    for thing in reversed(things):
        layer = draw(thing, view, light, things, hidden)
        if layer is not None:
            layers.append(layer)
            _hide(hidden, layer, 2 * view.margin + 1)
    return layers[::-1]


def _hide(hidden: npt.NDArray[np.bool_], layer: Layer, reach: int) -> None:
    """Add what is more than `reach` pixels inside a layer's outline, or at the frame's edge, to `hidden`."""
    top, left, bottom, right = layer.window
    full = layer.colour[3] == 1
    if full.sum() > 0.06 * hidden.size:
        inner = minimum_filter(full.view(np.uint8), 2 * reach + 1, mode="nearest").view(bool)
        for edge, (rows, columns) in (
            (top > 0, (slice(0, reach), slice(None))),
            (left > 0, (slice(None), slice(0, reach))),
            (bottom < hidden.shape[0], (slice(-reach, None), slice(None))),
            (right < hidden.shape[1], (slice(None), slice(-reach, None))),
        ):
            if edge:
                inner[rows, columns] = False
        hidden[top:bottom, left:right] |= inner


def draw(
    thing: Thing, view: View, light: Light, others: list[Thing], hidden: npt.NDArray[np.bool_] | None = None
) -> Layer | None:
    """The layer of one thing, or None where nothing of it is in the frame.

    `others` cast shadows on it; pixels that are True in `hidden` (of the padded frame) are left out.
    """
    windows = [_window(part.shape, view) for part in thing.parts]
    window = _union(windows)
    if window[0] >= window[2] or window[1] >= window[3]:
        return None
    if _blur_px(thing, view) > COARSE_PX:
        view = replace(view, samples=1)
    if hidden is not None:
        window = _seen(window, hidden)
        if window[0] >= window[2]:
            return None
        windows = [_intersection(inner, window) for inner in windows]
    n = view.samples
    height, width = (window[2] - window[0]) * n, (window[3] - window[1]) * n
    depth = np.full((height, width), np.inf, np.float32)
    if hidden is not None:
        depth[_repeat(hidden[window[0] : window[2], window[1] : window[3]], n)] = 0
    colour = np.zeros((height, width, 4), np.float32)
    shade = (
        ground_shade(view, window, thing.stands_at_m or 0.0, light, _casters(thing, others))
        if thing.catches_shadows
        else None
    )
    for part, inner in zip(thing.parts, windows, strict=True):
        if inner[0] < inner[2] and inner[1] < inner[3]:
            rows = slice((inner[0] - window[0]) * n, (inner[2] - window[0]) * n)
            columns = slice((inner[1] - window[1]) * n, (inner[3] - window[1]) * n)
            _cast(part, thing, view, inner, light, shade, depth[rows, columns], colour[rows, columns])
    if not colour[..., 3].any():
        return None
    return _reduced(depth, colour, n, window, thing.solid)


def _blur_px(thing: Thing, view: View) -> float:
    """The narrowest disc of a thing, or 0 where it reaches behind the camera or through the plane in focus."""
    depths = np.concatenate([view.depth_of(corners(part.shape)) for part in thing.parts])
    low, high, focus = float(depths.min()), float(depths.max()), view.camera.focus_distance_m
    if low <= 0.02 or low <= focus <= high:
        return 0.0
    return float(circle_of_confusion_px(high if high < focus else low, view.camera))


def _seen(window: Window, hidden: npt.NDArray[np.bool_]) -> Window:
    """The part of a window that holds all of its pixels that are not hidden; empty if there are none."""
    top, left, bottom, right = window
    open_ = ~hidden[top:bottom, left:right]
    rows, columns = np.flatnonzero(open_.any(1)), np.flatnonzero(open_.any(0))
    if not rows.size:
        return 0, 0, 0, 0
    return top + int(rows[0]), left + int(columns[0]), top + int(rows[-1]) + 1, left + int(columns[-1]) + 1


def _intersection(a: Window, b: Window) -> Window:
    return max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])


def _repeat(pixels: npt.NDArray[np.bool_], n: int) -> npt.NDArray[np.bool_]:
    return pixels.repeat(n, 0).repeat(n, 1)


def _casters(thing: Thing, others: list[Thing]) -> list[Thing]:
    return [other for other in others if other is not thing and other.stands_at_m == thing.stands_at_m]


def _window(shape: Shape, view: View) -> Window:
    if isinstance(shape, Quad) and shape.one_sided and not _faces(shape, view):
        return 0, 0, 0, 0
    return view.window_of(corners(shape))


def _faces(quad: Quad, view: View) -> bool:
    axes = np.eye(3) if quad.rotation is None else quad.rotation
    return float(-axes[:, 2] @ (np.asarray(view.origin) - quad.centre)) > 0


def _union(windows: list[Window]) -> Window:
    real = [w for w in windows if w[0] < w[2] and w[1] < w[3]]
    if not real:
        return 0, 0, 0, 0
    tops, lefts, bottoms, rights = zip(*real, strict=True)
    return min(tops), min(lefts), max(bottoms), max(rights)


def _cast(
    part: Part, thing: Thing, view: View, window: Window, light: Light, shade: Shade | None, depth: Array, colour: Array
) -> None:
    """Draw one part into the depth and colour (h, w, 4) of its window where it is nearest so far."""
    rays = view.rays(window)
    origin, direction = to_local(part.shape, view.origin, rays)
    t = np.broadcast_to(part.shape.distance(origin, direction), depth.shape)
    hit = t < depth
    if not hit.any():
        return
    far = t[hit]
    local = [np.float32(o) + far * _at(d, hit) for o, d in zip(origin, direction, strict=True)]
    normal, u, v = part.shape.surface(local[0], local[1], local[2])
    texel = _texels(part, u, v, far, view)
    if part.material.cut_out:
        kept = texel[:, 3] > 0.5
        hit[hit] = kept
        far, texel = far[kept], texel[kept]
        normal = normal if normal.shape[1] == 1 else normal[:, kept]
    if part.shape.rotation is not None:
        normal = part.shape.rotation.astype(np.float32) @ normal
    if isinstance(part.shape, Quad) and not _faces(part.shape, view):
        normal = -normal
    x, y, z = (_at(d, hit) for d in rays)
    openness = _openness(thing, np.float32(view.origin[1]) + far * y)
    shadow = None if shade is None else shade.at(hit)
    lit = shaded(texel[:, :3], normal, (x, y, z), light, part.material, openness, shadow)
    depth[hit] = far
    colour[hit, :3] = lit
    colour[hit, 3] = 1


def _at(values: Array, hit: npt.NDArray[np.bool_]) -> Array:
    """The entries of an array (1, w), (h, 1) or (h, w) where `hit` (h, w) is true."""
    return np.broadcast_to(values, hit.shape)[hit]


def _texels(part: Part, u: Array, v: Array, depth: Array, view: View) -> Array:
    """The material's linear RGB and coverage (N, 4) at texture coordinates in 0 to 1."""
    material, (width, height) = part.material, part.shape.extent_m
    across, down = 1.0, 1.0
    if material.tile_m is not None:
        across, down = max(width / material.tile_m, 0.02), max(height / material.tile_m, 0.02)
        if not isinstance(part.shape, Quad):
            across = max(1.0, round(across))  # no seam behind
    texels_per_m = material.texture.size * max(across / width, down / height) * 0.7
    step_m = depth / np.float32(view.camera.f_px * view.samples)
    u, v = u * np.float32(across), v * np.float32(down)
    texels = sample(material.texture, u, v, step_m * np.float32(texels_per_m))
    if material.uneven:
        texels[:, :3] *= unevenness(material.texture, u, v)
    return texels


def _openness(thing: Thing, height: Array) -> Array | None:
    """How much of the sky a point of a standing thing sees: less near the plane it stands on."""
    if thing.stands_at_m is None or thing.catches_shadows:
        return None
    above = (height - np.float32(thing.stands_at_m)) / np.float32(0.5 * thing.height_m)
    openness: Array = np.float32(0.5) + np.float32(0.5) * np.sqrt(np.clip(above, 0, 1))
    return openness


def _reduced(depth: Array, colour: Array, n: int, window: Window, solid: bool) -> Layer:
    """Average the samples of each pixel: premultiplied colour, coverage, and 1 / depth over the covered ones."""
    inverse = np.divide(1, depth, out=np.zeros_like(depth), where=colour[..., 3] > 0)
    pixels = _mean(colour, n)
    covered = pixels[..., 3]
    inverse = np.divide(_mean(inverse, n), covered, out=np.zeros_like(covered), where=covered > 0)
    return Layer(np.ascontiguousarray(pixels.transpose(2, 0, 1)), inverse, window, solid)


def _mean(samples: Array, n: int) -> Array:
    parts = [samples[i::n, j::n] for i in range(n) for j in range(n)]
    return np.asarray(sum(parts[1:], parts[0]) / np.float32(n * n), dtype=np.float32)
