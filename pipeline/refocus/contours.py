"""Depth that is even within surfaces and steps where the photograph's contours are.

A depth network draws an object's outline as a slope, several pixels wide and a little beside the contour.
Blurred by such depth, an object would wear a rim of all the widths in between, and a mask a sliver of focus
around it. So where depth changes much within a few pixels each pixel is given to the near or the far side.
It also sees bumps on surfaces that are even, which would be sharp and blurred by turns; they are smoothed.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter, maximum_filter, minimum_filter, uniform_filter

from pipeline.synthetic.camera import Array

__all__ = ["evened", "stepped"]

STEP = 0.07  # of the whole range within the reach: a wall or a floor seen in perspective stays below
CERTAIN = 0.2  # of the local range from its ends: what is surely near or surely far, to learn the colours from
UNEVEN = 0.04  # of the whole range: smaller bumps are taken for errors
DEPTH_SHARE = 0.6  # what depth alone has to say, against colour


def stepped(depth: Array, picture: Array, *, reach: int) -> Array:
    """Inverse depth (H, W) with steps in place of the slopes of its outlines.

    In a window of `reach` pixels around a pixel with more than `STEP` of change, the mean colours of the
    surely near and surely far pixels are taken, weighted towards the middle, and the pixel goes to the side
    that it is like: in colour (distance between the two means as the unit) and in depth together.

    Args:
        depth: relative inverse depth in 0 to 1.
        picture: (H, W, 3) in any space where distances mean something, such as sRGB in 0 to 1.
        reach: of a slope, in pixels.
    """
    side = 2 * reach + 1
    low, high = minimum_filter(depth, side), maximum_filter(depth, side)
    low, high = gaussian_filter(low, reach / 3), gaussian_filter(high, reach / 3)
    span = np.maximum(high - low, 1e-6)
    place = np.clip((depth - low) / span, 0, 1)
    near_mean, near_share = _mean_where(picture, place > 1 - CERTAIN, side)
    far_mean, far_share = _mean_where(picture, place < CERTAIN, side)
    axis = near_mean - far_mean
    contrast = (axis * axis).sum(-1)
    along = ((picture - far_mean) * axis).sum(-1) / np.maximum(contrast, 1e-6)
    told = np.clip(contrast / 0.01, 0, 1) * (near_share > 0.01) * (far_share > 0.01)  # 0.1 apart: colour can tell
    weight = (1 - DEPTH_SHARE) * told
    vote = (1 - weight) * place + weight * np.clip(along, 0, 1)
    vote = gaussian_filter(vote, 0.7)
    step = np.where(vote > 0.5, high, low)
    strength = np.clip((span - STEP) / STEP, 0, 1)  # sets in softly, so that no new contour appears
    return np.asarray(depth + strength * (step - depth), dtype=np.float32)


def _mean_where(picture: Array, where: Array, side: int) -> tuple[Array, Array]:
    """Mean colour (H, W, 3) of the marked pixels in a window, and their share of it (H, W)."""
    weight = where.astype(np.float32)
    share = uniform_filter(uniform_filter(weight, side), side)
    total = np.stack(
        [uniform_filter(uniform_filter(picture[..., c] * weight, side), side) for c in range(picture.shape[-1])], -1
    )
    return total / np.maximum(share, 1e-6)[..., None], share


def evened(depth: Array, *, reach: int) -> Array:
    """Inverse depth (H, W) in 0 to 1 without bumps smaller than about `UNEVEN`; larger steps stay as they are.

    A bilateral filter over `reach` pixels, computed for a series of depths and interpolated between them
    (F. Durand, J. Dorsey, "Fast Bilateral Filtering for the Display of High-Dynamic-Range Images", SIGGRAPH
    2002, section 5.1).
    """
    levels = np.arange(0, 1 + UNEVEN, UNEVEN, dtype=np.float32)
    place = np.clip(depth, 0, 1) / np.float32(UNEVEN)
    result = np.zeros_like(depth)
    for k, level in enumerate(levels):
        share = np.maximum(1 - np.abs(place - k), 0)
        if share.any():
            weight = np.exp(-0.5 * ((depth - level) / np.float32(UNEVEN)) ** 2)
            total, mass = (_spread(values, reach) for values in (weight * depth, weight))
            result += share * total / np.maximum(mass, 1e-6)
    return result


def _spread(values: Array, reach: int) -> Array:
    """A smooth mean over about `reach` pixels to each side."""
    once: Array = uniform_filter(values, reach + 1)
    twice: Array = uniform_filter(once, reach + 1)
    return twice
