"""A photograph and its depth as layers, each continued behind what is nearer."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt

from pipeline.synthetic.blur import Layer
from pipeline.synthetic.camera import Array

__all__ = ["cut"]


def cut(light: Array, inverse_depth: Array, edges: npt.NDArray[np.float64], *, reach: int) -> list[Layer]:
    """Layers from far to near, for `pipeline.synthetic.blur.compose`.

    Every layer holds the pixels of one range of inverse depth and goes on for `reach` pixels behind all that
    is nearer (the farthest without end): with the colours and depths of its own pixels mirrored at its
    outline. So a blurred outline lets through what is plausibly behind it, and a surface that is cut
    between two layers has no seam.

    Args:
        light: linear light (3, H, W).
        inverse_depth: (H, W), above 0.
        edges: increasing inverse depths between the layers; ranges without pixels give no layer.
        reach: in pixels, at least the largest radius of blur.
    """
    number = np.digitize(inverse_depth, edges)
    layers: list[Layer] = []
    for k in range(len(edges) + 1):
        own, nearer = number == k, number > k
        if not own.any():
            continue
        measured: Any = distance_transform_edt(~own, return_indices=True)
        distance, nearest = measured
        covered = own | (nearer & (distance <= reach)) if layers else np.ones_like(own)
        rows, columns = _mirrored(own, covered, nearest)
        top, bottom = _span(covered.any(1))
        left, right = _span(covered.any(0))
        window = (slice(top, bottom), slice(left, right))
        alpha = covered[window].astype(np.float32)
        colour = light[:, rows[window], columns[window]] * alpha
        depth = inverse_depth[rows[window], columns[window]] * alpha
        layers.append(Layer(np.concatenate([colour, alpha[None]]), depth, (top, left, bottom, right), not layers))
    return layers


def _mirrored(
    own: npt.NDArray[np.bool_], covered: npt.NDArray[np.bool_], nearest: npt.NDArray[np.intp]
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """For every covered pixel the pixel whose look it takes: itself if it is own, else its mirror image in the
    outline, or the outline's nearest pixel where the mirror image is not own either."""
    height, width = own.shape
    y, x = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    fill = covered & ~own
    rows, columns = y.copy(), x.copy()
    near_y, near_x = nearest[:, fill]
    mirror_y, mirror_x = 2 * near_y - y[fill], 2 * near_x - x[fill]
    inside = (mirror_y >= 0) & (mirror_y < height) & (mirror_x >= 0) & (mirror_x < width)
    usable = inside.copy()
    usable[inside] = own[mirror_y[inside], mirror_x[inside]]
    rows[fill] = np.where(usable, mirror_y, near_y)
    columns[fill] = np.where(usable, mirror_x, near_x)
    return rows, columns


def _span(line: npt.NDArray[np.bool_]) -> tuple[int, int]:
    marked = np.flatnonzero(line)
    return int(marked[0]), int(marked[-1]) + 1
