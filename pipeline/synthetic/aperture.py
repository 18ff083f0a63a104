"""The shape of blur: what a point out of focus looks like through a round or a bladed aperture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from pipeline.synthetic.camera import Array

__all__ = ["ROUND", "Aperture", "draw_aperture", "kernel"]

LINES = 16  # lines a pixel row along which areas are measured: shares are right to about 1e-3 of a pixel
BLADED = 0.4  # of the apertures that `draw_aperture` draws


@dataclass(frozen=True)
class Aperture:
    """A disc (blades 0), or a regular polygon of the disc's area with one edge at turn_deg."""

    blades: int = 0
    turn_deg: float = 0.0


ROUND = Aperture()


def draw_aperture(rng: np.random.Generator) -> Aperture:
    """Round as with an open lens, or 5 to 9 blades as with one that is stopped down."""
    bladed, blades, turn_deg = rng.random() < BLADED, int(rng.integers(5, 10)), float(rng.integers(72))
    return Aperture(blades, turn_deg) if bladed else ROUND


@lru_cache(maxsize=512)
def kernel(aperture: Aperture, diameter_px: float) -> Array:
    """The share of a point's light that each pixel gets; odd square, sum 1.

    A pixel's share is the area of the aperture's image inside it: so a disc of up to 1 px is a single 1.
    `diameter_px` is that of the circle of confusion; a polygon has the same area.
    """
    reach = max(0, math.ceil(_farthest(aperture, diameter_px) - 0.5))
    side = 2 * reach + 1
    y = (np.arange(side * LINES) + 0.5) / LINES - side / 2
    left, right = _chords(aperture, diameter_px, y)
    edges = np.arange(side + 1) - side / 2
    inside = np.minimum(right[:, None], edges[1:]) - np.maximum(left[:, None], edges[:-1])
    shares = np.maximum(inside, 0).reshape(side, LINES, side).mean(1)
    return np.asarray(shares / shares.sum(), dtype=np.float32)


def _farthest(aperture: Aperture, diameter_px: float) -> float:
    """Distance of the outermost point from the middle."""
    return (
        diameter_px / 2 if not aperture.blades else _inner(aperture, diameter_px) / math.cos(math.pi / aperture.blades)
    )


def _inner(aperture: Aperture, diameter_px: float) -> float:
    """Distance of a polygon's edges from its middle: n tan(pi / n) r^2 is its area."""
    return diameter_px / 2 * math.sqrt(math.pi / (aperture.blades * math.tan(math.pi / aperture.blades)))


def _chords(
    aperture: Aperture, diameter_px: float, y: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Where lines at heights y enter and leave the shape; left > right where they miss it."""
    if not aperture.blades:
        square = (diameter_px / 2) ** 2 - y * y
        half = np.where(square > 0, np.sqrt(np.maximum(square, 0)), -1.0)
        return -half, half
    left, right = np.full_like(y, -np.inf), np.full_like(y, np.inf)
    edge = _inner(aperture, diameter_px)
    for k in range(aperture.blades):
        angle = math.radians(aperture.turn_deg) + 2 * math.pi * k / aperture.blades
        across, rest = math.cos(angle), edge - y * math.sin(angle)  # inside: x across <= rest
        if abs(across) < 1e-9:
            right = np.where(rest < 0, -np.inf, right)
        elif across > 0:
            right = np.minimum(right, rest / across)
        else:
            left = np.maximum(left, rest / across)
    return left, right
