"""From linear light to the picture that a camera would save."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from pipeline.synthetic.camera import Array
from pipeline.synthetic.colour import srgb

__all__ = ["develop", "draw_jpeg_quality", "expose"]

LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)


def develop(light: Array, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Expose, add vignetting and sensor noise, apply the tone curve: (3, H, W) linear to (H, W, 3) sRGB."""
    picture = light.transpose(1, 2, 0) * _vignette(light.shape[1], light.shape[2], rng.uniform(0.0, 0.35))
    picture = picture * _exposure(picture, rng)
    picture = picture * np.exp(rng.normal(0, (0.035, 0.01, 0.05))).astype(np.float32)  # white balance
    picture = _with_noise(picture, rng)
    return _finished(_toned(np.maximum(picture, 0), rng), rng)


def expose(light: Array, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Only the sensor's noise and the sharpening, for light (3, H, W) that has a tone curve: (H, W, 3) sRGB."""
    return _finished(_with_noise(light.transpose(1, 2, 0), rng), rng)


def draw_jpeg_quality(rng: np.random.Generator) -> int:
    """From that of a messenger to that of a careful photographer."""
    return int(rng.integers(70, 98))


def _finished(picture: Array, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Encode and sharpen as cameras do: blurred and sharp regions alike, the noise in both too."""
    encoded = srgb(picture)
    amount = np.float32(rng.uniform(0, 0.9))
    radius = rng.uniform(0.5, 1.0)
    if rng.random() < 0.6:
        encoded = encoded + amount * (encoded - gaussian_filter(encoded, (radius, radius, 0), truncate=3))
    return np.asarray(np.rint(np.clip(encoded, 0, 1) * 255), dtype=np.uint8)


def _vignette(height: int, width: int, strength: float) -> Array:
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None] * (height / width)
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    falloff: Array = 1 - np.float32(strength) * (x * x + y * y) / (1 + (height / width) ** 2)
    return falloff[..., None]


def _exposure(picture: Array, rng: np.random.Generator) -> float:
    """A factor that brings the picture to a middle tone without burning out more than a little of it."""
    luminance = picture[::4, ::4] @ LUMINANCE
    middle = float(np.exp(np.log(luminance + 1e-3).mean()))
    bright = float(np.percentile(luminance, 97))
    wanted = 0.2 * np.exp(rng.normal(0, 0.25))
    return float(min(wanted / middle, 1.6 / bright))


def _with_noise(picture: Array, rng: np.random.Generator) -> Array:
    """Shot noise (its variance grows with the light) and read noise, partly shared by the colours."""
    gain = np.exp(rng.uniform(np.log(2e-5), np.log(6e-4)))
    deviation = np.sqrt(np.maximum(picture, 0) * np.float32(gain) + np.float32(gain * 0.02))
    noise = rng.standard_normal(picture.shape, dtype=np.float32)
    noise = np.float32(0.7) * noise + np.float32(0.7) * noise[..., 1:2]
    noisy: Array = picture + deviation * noise
    return noisy


def _toned(picture: Array, rng: np.random.Generator) -> Array:
    """Highlights roll off, contrast rises a little, colours get stronger or weaker."""
    grey = (picture @ LUMINANCE)[..., None]
    picture = grey + (picture - grey) * np.float32(rng.uniform(0.8, 1.15))
    picture = np.maximum(picture, 0)
    knee = np.float32(0.65)
    over = np.maximum(picture - knee, 0)
    picture = np.minimum(picture, knee) + (1 - knee) * (1 - np.exp(-over / (1 - knee)))
    power = np.float32(rng.uniform(1.0, 1.22))
    pivot = np.float32(0.2)
    low = pivot * (np.minimum(picture, pivot) / pivot) ** power
    high = 1 - (1 - pivot) * ((1 - np.clip(picture, pivot, 1)) / (1 - pivot)) ** power
    toned: Array = np.where(picture < pivot, low, high).astype(np.float32)
    return toned
