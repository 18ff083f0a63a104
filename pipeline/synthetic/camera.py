"""A thin-lens camera: where a point lands, how near it is, and how wide its blur disc is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

__all__ = ["Array", "Camera", "View", "circle_of_confusion_px"]

Array = npt.NDArray[np.float32]


class Camera(msgspec.Struct, frozen=True, kw_only=True):
    """A thin lens over a flat sensor, at (0, camera_height_m, 0), looking along +z and down by pitch_deg."""

    focal_length_mm: float
    f_number: float
    focus_distance_m: float
    sensor_width_mm: float
    height_px: int
    width_px: int
    camera_height_m: float = 0.0
    pitch_deg: float = 0.0

    @property
    def pixel_pitch_mm(self) -> float:
        """Side of a pixel on the sensor."""
        return self.sensor_width_mm / self.width_px

    @property
    def f_px(self) -> float:
        """Distance from lens to sensor in pixels: a thin lens focused at s stands at f s / (s - f)."""
        focus_mm = 1000.0 * self.focus_distance_m
        image_distance_mm = self.focal_length_mm * focus_mm / (focus_mm - self.focal_length_mm)
        return image_distance_mm / self.pixel_pitch_mm


def circle_of_confusion_px(depth_m: npt.ArrayLike, camera: Camera) -> npt.NDArray[np.float64]:
    """Diameter in pixels of the disc that a point at `depth_m` is spread over; any shape, at least 0.

    With focal length f, f-number N, focus distance s and depth z (along the optical axis, from the
    lens), the diameter on the sensor is

        c = (f / N) * f / (s - f) * |z - s| / z

    (M. Potmesil and I. Chakravarty, "A lens and aperture camera model for synthetic image generation",
    SIGGRAPH 1981); divided by the pixel pitch it is in pixels.
    """
    z_mm = 1000.0 * np.asarray(depth_m, dtype=np.float64)
    f_mm, s_mm = camera.focal_length_mm, 1000.0 * camera.focus_distance_m
    aperture_mm = f_mm / camera.f_number
    on_sensor_mm = aperture_mm * f_mm / (s_mm - f_mm) * np.abs(z_mm - s_mm) / z_mm
    return np.asarray(on_sensor_mm / camera.pixel_pitch_mm, dtype=np.float64)


@dataclass(frozen=True)
class View:
    """The sample grid of a camera: `samples` x `samples` rays a pixel, and `margin` pixels on each side.

    The margin holds what lies outside the frame and is blurred into it. Window coordinates are pixels
    of the padded frame: the picture's pixel (0, 0) is the window's (margin, margin).
    """

    camera: Camera
    margin: int
    samples: int = 2

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the padded frame in pixels."""
        return self.camera.height_px + 2 * self.margin, self.camera.width_px + 2 * self.margin

    @property
    def origin(self) -> tuple[float, float, float]:
        """Where the lens is, in metres."""
        return 0.0, self.camera.camera_height_m, 0.0

    def rays(self, window: Window, samples: int | None = None) -> tuple[Array, Array, Array]:
        """World directions (x, y, z) with unit length along the optical axis, so ray length is depth.

        x has shape (1, w), y and z have shape (h, 1), with `samples` rays a pixel side.
        """
        n = samples or self.samples
        top, left, bottom, right = window
        columns = (np.arange(left * n, right * n, dtype=np.float64) + 0.5) / n - self.margin
        rows = (np.arange(top * n, bottom * n, dtype=np.float64) + 0.5) / n - self.margin
        x = (columns - self.camera.width_px / 2) / self.camera.f_px
        up = (self.camera.height_px / 2 - rows) / self.camera.f_px
        pitch = math.radians(self.camera.pitch_deg)
        y = up * math.cos(pitch) - math.sin(pitch)
        z = up * math.sin(pitch) + math.cos(pitch)
        return _f32(x)[None, :], _f32(y)[:, None], _f32(z)[:, None]

    def window_of(self, corners: npt.NDArray[np.float64]) -> Window:
        """The smallest window that holds the world points `corners` (N, 3); the frame if one is behind."""
        height, width = self.shape
        depth, x, up = self._in_camera(corners)
        if float(depth.min()) < 0.02:
            return 0, 0, height, width
        column = x / depth * self.camera.f_px + self.camera.width_px / 2 + self.margin
        row = self.camera.height_px / 2 - up / depth * self.camera.f_px + self.margin
        top, bottom = _clip(row.min() - 1, height), _clip(row.max() + 2, height)
        left, right = _clip(column.min() - 1, width), _clip(column.max() + 2, width)
        return top, left, bottom, right

    def depth_of(self, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Depth in metres (N,) of world points (N, 3)."""
        return np.asarray(self._in_camera(points)[0])

    def _in_camera(self, points: npt.NDArray[np.float64]) -> tuple[Any, Any, Any]:
        """Depth, right and up of world points (N, 3), in metres."""
        pitch = math.radians(self.camera.pitch_deg)
        y = points[:, 1] - self.camera.camera_height_m
        z = points[:, 2]
        depth = z * math.cos(pitch) - y * math.sin(pitch)
        return depth, points[:, 0], y * math.cos(pitch) + z * math.sin(pitch)


Window = tuple[int, int, int, int]  # top, left, bottom, right


def _clip(value: float, limit: int) -> int:
    return int(min(max(math.floor(value), 0), limit))


def _f32(values: npt.NDArray[np.float64]) -> Array:
    return values.astype(np.float32)
