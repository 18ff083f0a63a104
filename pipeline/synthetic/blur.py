"""Defocus: every layer is spread by the discs of its own depths, then laid over what is behind it.

A layer is one thing, seen alone, so what is hidden behind it is known and can bleed past its blurred edge,
and its own edge stays sharp where it is in focus. Within a layer every pixel spreads its own light over its
own disc; discs of the widths in between are mixed from the two nearest of a fixed series.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.fft

from pipeline.synthetic.aperture import ROUND, Aperture, kernel
from pipeline.synthetic.camera import Array, Window

__all__ = ["Layer", "blur", "compose"]

STEP = 1.2  # ratio of neighbouring disc diameters
SHARP_PX = 1.0  # a disc that fits in one pixel leaves the pixel as it is
COVERED = 0.5


@dataclass(frozen=True)
class Layer:
    """One thing alone: premultiplied linear colour and coverage (4, h, w), inverse depth (h, w), its place.

    inverse_depth is 0 where nothing is covered. `solid`: the layer covers its whole window (a wall, a sky).
    """

    colour: Array
    inverse_depth: Array
    window: Window
    solid: bool = False


def compose(
    layers: list[Layer],
    shape: tuple[int, int],
    *,
    diameter_px: Callable[[Array], npt.NDArray[np.float64]],
    aperture: Aperture = ROUND,
) -> tuple[Array, Array]:
    """The picture through the lens and the inverse depth of what is in front.

    Layers come in order from far to near, in a frame of `shape` pixels that they fill together.
    `diameter_px` gives the width of the circle of confusion at inverse depths (h, w) that are above 0.
    Returns linear light (3, H, W) and inverse depth (H, W): of the nearest layer that covers at least half
    of the pixel, the mean over the covered part (exact at the middle of a plane's pixel).
    """
    picture = np.zeros((3, *shape), np.float32)
    inverse_depth = np.zeros(shape, np.float32)
    for layer in layers:
        top, left, bottom, right = layer.window
        near = inverse_depth[top:bottom, left:right]
        np.copyto(near, layer.inverse_depth, where=layer.colour[3] >= COVERED)
        covered = layer.inverse_depth > 0
        widths = np.zeros(covered.shape)
        widths[covered] = diameter_px(layer.inverse_depth[covered])
        colour, (top, left, bottom, right) = blur(layer, widths, shape, aperture)
        behind = picture[:, top:bottom, left:right]
        behind *= 1 - colour[3]
        behind += colour[:3]
    return picture, inverse_depth


def blur(
    layer: Layer, diameter_px: npt.NDArray[np.float64], shape: tuple[int, int], aperture: Aperture = ROUND
) -> tuple[Array, Window]:
    """A layer's colour and coverage after every pixel is spread over its disc, and the window it now needs.

    `shape` (H, W) bounds the window. Where many discs overlap coverage is held at 1, and light with it.
    """
    covered = layer.colour[3] > 0
    largest = float(diameter_px[covered].max(initial=0.0))
    if largest <= SHARP_PX:
        return layer.colour, layer.window
    slices = [(kernel(aperture, width_px), weight) for width_px, weight in _slices(diameter_px, covered)]
    reach = max(shares.shape[0] for shares, _ in slices) // 2
    top, left, bottom, right = layer.window
    window = max(0, top - reach), max(0, left - reach), min(shape[0], bottom + reach), min(shape[1], right + reach)
    out = np.zeros((4, window[2] - window[0], window[3] - window[1]), np.float32)
    offset = top - window[0], left - window[1]
    for shares, weight in slices:
        _spread(layer.colour, weight, shares, out, offset)
    return _normalised(out, layer.solid), window


def _slices(diameter_px: npt.NDArray[np.float64], covered: npt.NDArray[np.bool_]) -> list[tuple[float, Array]]:
    """Disc widths of the series and how much of each pixel goes to each; the weights of a pixel sum to 1."""
    low, high = float(diameter_px[covered].min()), float(diameter_px[covered].max())
    if high <= max(low, SHARP_PX) * 1.1:
        return [(round((low + high) / 2, 2), covered.astype(np.float32))]
    place = (np.log(np.maximum(diameter_px, SHARP_PX)) / math.log(STEP)).astype(np.float32)
    place[~covered] = -2
    first, last = math.floor(place[covered].min()), math.ceil(place[covered].max())
    slices = []
    for k in range(first, last + 1):
        weight = np.maximum(0, 1 - np.abs(place - k))
        if weight.any():
            slices.append((SHARP_PX * STEP**k, weight))
    return slices


def _spread(colour: Array, weight: Array, shares: Array, out: Array, offset: tuple[int, int]) -> None:
    """Add colour * weight, convolved with the kernel, to `out`; `offset`: where colour lies in it."""
    rows, columns = np.flatnonzero(weight.any(1)), np.flatnonzero(weight.any(0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    part = colour[:, top:bottom, left:right] * weight[top:bottom, left:right]
    reach = shares.shape[0] // 2
    if reach:
        part = _convolved(part, shares)
    y, x = offset[0] + top - reach, offset[1] + left - reach
    cut_y, cut_x = max(0, -y), max(0, -x)
    target = out[:, y + cut_y : y + part.shape[1], x + cut_x : x + part.shape[2]]
    target += part[:, cut_y : cut_y + target.shape[1], cut_x : cut_x + target.shape[2]]


def _convolved(part: Array, shares: Array) -> Array:
    """Full convolution over the last two axes."""
    height, width = part.shape[1] + shares.shape[0] - 1, part.shape[2] + shares.shape[1] - 1
    size = scipy.fft.next_fast_len(height, real=True), scipy.fft.next_fast_len(width, real=True)
    spectrum = scipy.fft.rfft2(part, s=size, axes=(1, 2))
    spectrum *= scipy.fft.rfft2(shares, s=size)
    result = scipy.fft.irfft2(spectrum, s=size, axes=(1, 2), overwrite_x=True)
    return np.asarray(result[:, :height, :width], dtype=np.float32)


def _normalised(colour: Array, solid: bool) -> Array:
    """Coverage at most 1 (exactly 1 for a solid layer), light in step with it."""
    np.maximum(colour, 0, out=colour)
    coverage = np.maximum(colour[3], 1e-6) if solid else np.maximum(colour[3], 1)
    colour /= coverage
    return colour
