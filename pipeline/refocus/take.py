"""One picture: a part of a photograph, focused somewhere, with a lens wide open."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import gaussian_filter

from pipeline.refocus.contours import evened, stepped
from pipeline.refocus.sheets import cut
from pipeline.synthetic.aperture import Aperture, draw_aperture
from pipeline.synthetic.blur import compose
from pipeline.synthetic.camera import Array
from pipeline.synthetic.colour import DECODE
from pipeline.synthetic.develop import draw_jpeg_quality, expose
from pipeline.synthetic.folder import WIDTH_PX, Picture

__all__ = ["Focus", "relative_circle_px", "take", "turned_like"]

WIDEST_PX = (9.0, 36.0)  # the frame's widest circle of confusion, drawn in this range; at WIDTH_PX
PART = (0.6, 1.0)  # of the photograph's side
BLURRED = (0.25, 0.9)  # share of blurred pixels that is wanted, drawn in this range
FOCUSES = 16  # tried for that
LAYERS = 7
DOUBTFUL = 1.6  # a circle within this factor of the threshold looks neither sharp nor blurred
SURFACE = 0.04  # of the width: what is smoothed over
SLOPE = 0.014  # of the width: how wide a depth network draws an outline


class Focus(NamedTuple):
    """Inverse depth in focus, and pixels of the circle of confusion for a difference of 1 to it."""

    inverse_depth: float
    gain_px: float


def relative_circle_px(inverse_depth: npt.ArrayLike, focus: Focus) -> npt.NDArray[np.float64]:
    """Diameter in pixels of the circle of confusion at relative inverse depths, any shape.

    A thin lens of focal length f and f-number N, focused at s, spreads a point at depth z over

        c = (f / N) * f / (s - f) * |z - s| / z = (f / N) * f * s / (s - f) * |1/z - 1/s|

    (M. Potmesil and I. Chakravarty, "A lens and aperture camera model for synthetic image generation",
    SIGGRAPH 1981). So c is proportional to the difference of inverse depths, whose unknown shift falls out
    of the difference and whose unknown scale is part of the gain.
    """
    difference = np.abs(np.asarray(inverse_depth, dtype=np.float64) - focus.inverse_depth)
    return np.asarray(focus.gain_px * difference, dtype=np.float64)


def take(
    photograph: npt.NDArray[np.uint8],
    label: Array,
    rng: np.random.Generator,
    *,
    size: tuple[int, int],
    threshold_px: float,
    split: str,
) -> Picture:
    """Blur a part of a photograph by its depth.

    Args:
        photograph: uint8 sRGB (H, W, 3), ideally sharp all over.
        label: relative inverse depth of the whole photograph, large = near, NaN where unknown.
        size: (height, width) of the picture; the two change places for an upright photograph.
        threshold_px: a wider circle of confusion is out of focus.
        split: for the facts.
    """
    size = turned_like(photograph.shape[:2], size)
    box = _part(photograph.shape[:2], size, rng)
    pixels = np.asarray(
        Image.fromarray(photograph).resize(size[::-1], Image.Resampling.LANCZOS, box=_scaled(box, photograph.shape))
    )
    depth = _depth(label, box, size)
    if rng.random() < 0.5:
        pixels, depth = pixels[:, ::-1], depth[:, ::-1]
    encoded = pixels.astype(np.float32) / np.float32(255)
    width = max(size)
    depth = stepped(depth, encoded, reach=max(2, round(SLOPE * width)))
    depth = 1 + evened(depth, reach=round(SURFACE * width))
    focus = _focus(depth, _detail(encoded), rng, threshold_px, width / WIDTH_PX)
    coc_px = relative_circle_px(depth, focus).astype(np.float16)
    aperture = draw_aperture(rng)
    image = expose(np.minimum(_through_lens(_light(pixels, rng), depth, focus, aperture), 1), rng)
    facts: dict[str, Any] = {
        "split": split,
        "part": [round(v, 4) for v in box],
        "focus": focus.inverse_depth,
        "gain_px": focus.gain_px,
        "blades": aperture.blades,
    }
    return Picture(image, {"inverse_depth": depth}, coc_px, threshold_px, draw_jpeg_quality(rng), facts)


def _through_lens(light: Array, depth: Array, focus: Focus, aperture: Aperture) -> Array:
    """Linear light (3, H, W) blurred by inverse depth (H, W); beyond the frame both go on mirrored."""
    widest = float(relative_circle_px(depth, focus).max())
    margin = math.ceil(widest * 0.6) + 1  # 0.6: a pentagon's corners lie farther out than the disc
    light = np.pad(light, ((0, 0), (margin, margin), (margin, margin)), mode="reflect")
    depth = np.pad(depth, margin, mode="reflect")
    edges = np.linspace(depth.min(), depth.max(), LAYERS + 1)[1:-1]

    def diameter_px(inverse_depth: Array) -> npt.NDArray[np.float64]:
        return relative_circle_px(inverse_depth, focus)

    layers = cut(light, depth, edges, reach=margin)
    blurred, _ = compose(layers, depth.shape, diameter_px=diameter_px, aperture=aperture)
    return blurred[:, margin:-margin, margin:-margin]


def turned_like(photograph: tuple[int, ...], size: tuple[int, int]) -> tuple[int, int]:
    """The size (height, width) for a photograph of that shape: its sides change places for an upright one."""
    return size[::-1] if (photograph[0] > photograph[1]) != (size[0] > size[1]) else size


def _part(
    photograph: tuple[int, ...], size: tuple[int, int], rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """A random part of the picture's shape: left, top, right, bottom in 0 to 1 of the photograph."""
    height, width = photograph[:2]
    largest = min(width / size[1], height / size[0])
    scale = min(largest, max(largest * rng.uniform(*PART), 1.0))  # not enlarged: that would be blur
    w, h = scale * size[1] / width, scale * size[0] / height
    left, top = rng.uniform(0, 1 - w), rng.uniform(0, 1 - h)
    return left, top, left + w, top + h


def _scaled(box: tuple[float, float, float, float], shape: tuple[int, ...]) -> tuple[float, float, float, float]:
    """A part in pixels of an array, held inside it."""
    height, width = shape[:2]
    return box[0] * width, box[1] * height, min(box[2] * width, width), min(box[3] * height, height)


def _depth(label: Array, box: tuple[float, float, float, float], size: tuple[int, int]) -> Array:
    """The label's part at the picture's size, 0 to 1 over nearly all of the photograph's range."""
    known = label[np.isfinite(label)]
    low, high = np.percentile(known, (0.5, 99.5)) if known.size else (0.0, 1.0)
    values = np.where(np.isfinite(label), label, low).astype(np.float32)
    part = Image.fromarray(values).resize(size[::-1], Image.Resampling.BICUBIC, box=_scaled(box, label.shape))
    return np.asarray(np.clip((np.asarray(part) - low) / max(high - low, 1e-9), 0, 1), dtype=np.float32)


def _detail(encoded: Array) -> Array:
    """How much fine detail there is around a pixel (H, W): what a photographer focuses on, and what is sharp."""
    grey = encoded.mean(-1)
    fine = np.abs(grey - gaussian_filter(grey, 1.0))
    return np.asarray(gaussian_filter(fine, 0.02 * max(grey.shape)), dtype=np.float32)


def _focus(depth: Array, detail: Array, rng: np.random.Generator, threshold_px: float, scale: float) -> Focus:
    """Focus on something with detail, so that about the wanted share is blurred and little is in doubt."""
    chance = detail.ravel().astype(np.float64)
    wanted = rng.uniform(*BLURRED)
    best, least = Focus(1.0, 0.0), math.inf
    for place in rng.choice(chance.size, FOCUSES, p=chance / chance.sum()):
        in_focus = float(depth.ravel()[place])
        farthest = float(np.abs(depth - in_focus).max())
        widest = math.exp(rng.uniform(*np.log(WIDEST_PX))) * scale
        focus = Focus(in_focus, widest / max(farthest, 0.05))
        circle_px = relative_circle_px(depth, focus)
        share = float((circle_px > threshold_px).mean())
        doubtful = (circle_px > threshold_px / DOUBTFUL) & (circle_px < threshold_px * DOUBTFUL)
        price = float(doubtful.mean()) + abs(share - wanted)
        if price < least:
            best, least = focus, price
    return best


def _light(pixels: npt.NDArray[np.uint8], rng: np.random.Generator) -> Array:
    """Linear light (3, H, W); what is burnt out gets up to a few times the light it had, as lamps and glints do."""
    light: Array = DECODE[pixels].transpose(2, 0, 1)
    burnt = np.clip((light.min(0) - 0.75) / 0.25, 0, 1)
    lost = np.float32(math.exp(rng.uniform(0, math.log(5))) - 1)
    few = np.float32(np.clip(1 - burnt.mean() / 0.05, 0, 1))  # a white sky is no lamp
    brighter: Array = light * (1 + few * lost * burnt * burnt)
    return brighter
