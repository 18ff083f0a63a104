"""Printed and built surfaces: pages, labels, posters, book shelves, house fronts, photographs."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from pipeline.synthetic.camera import Array
from pipeline.synthetic.colour import DECODE, pick, srgb, vary
from pipeline.synthetic.noise import field

__all__ = ["Photographs", "book_shelf", "facade", "label", "page"]

SYLLABLES = ("ba", "cor", "del", "en", "fi", "gra", "hol", "in", "ka", "lu", "mer", "no", "pi", "que", "ro", "sal")
Colour = tuple[int, int, int]


OUT_OF_FOCUS = 0.2  # of the photographs that are printed on things


class Photographs:
    """Photographs to print on things: those of a folder, or the few that come with scikit-image."""

    def __init__(self, paths: tuple[Path, ...] = ()) -> None:
        self.paths = paths

    def crop(self, rng: np.random.Generator, size: int, *, sharp: bool = False) -> Array:
        """A square part (size, size, 3) of one of the photographs, linear light; mirrored now and then.

        Unless `sharp` some are out of focus as printed: a sharp thing may well carry a blurred picture.
        """
        pixels = _photograph(self.paths[int(rng.integers(len(self.paths)))]) if self.paths else _sample(rng)
        height, width = pixels.shape[:2]
        side = int(min(height, width) * rng.uniform(0.5, 1.0))
        top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        part = Image.fromarray(pixels[top : top + side, left : left + side])
        part = part.resize((size, size), Image.Resampling.BICUBIC)
        if rng.random() < OUT_OF_FOCUS and not sharp:
            part = part.filter(ImageFilter.GaussianBlur(size * rng.uniform(0.006, 0.03)))
        values: Array = DECODE[np.asarray(part)]
        paint = vary(rng, np.ones(3, np.float32) * 0.85, 0.1)
        return paint * (values[:, ::-1] if rng.random() < 0.5 else values)


@lru_cache(maxsize=64)
def _photograph(path: Path) -> npt.NDArray[np.uint8]:
    from pipeline.images import read_image

    pixels = read_image(path, at_least=(512, 512))
    side = max(1, min(pixels.shape[:2]) // 640)
    return np.ascontiguousarray(pixels[::side, ::side])


@lru_cache(maxsize=1)
def _samples() -> list[npt.NDArray[np.uint8]]:
    """The photographs inside scikit-image's wheel: nothing is downloaded."""
    import skimage.data

    data = skimage.data
    pictures: tuple[Callable[[], npt.NDArray[np.uint8]], ...] = (
        data.astronaut,
        data.chelsea,
        data.coffee,
        data.rocket,
        data.hubble_deep_field,
        data.camera,
        data.moon,
    )
    return [np.asarray(Image.fromarray(read()).convert("RGB")) for read in pictures]


def _sample(rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    samples = _samples()
    return samples[int(rng.integers(len(samples)))]


def page(rng: np.random.Generator, size: int) -> Array:
    """A printed page: a headline, columns of words, perhaps a grey picture."""
    image, draw = _sheet(pick(rng, "efe8d8", "f4f1ea", "e4d9c0"), size)
    ink = _8bit(pick(rng, "1c1b1a", "2a2623"))
    margin = size // 14
    draw.text((margin, margin * 0.7), _words(rng, 2).title(), fill=ink, font=_font(size // 12))
    columns = int(rng.integers(1, 3))
    line = size // int(rng.integers(26, 38))
    width = (size - margin * (columns + 1)) // columns
    for column in range(columns):
        left = margin + column * (width + margin)
        for top in range(3 * margin, size - margin, int(line * 1.5)):
            if rng.random() > 0.06:
                text = _words(rng, 9)
                draw.text((left, top), text[: int(width / line * 1.9)], fill=ink, font=_font(line))
    return _finish(rng, image)


def label(rng: np.random.Generator, size: int, colours: list[Array], photographs: Photographs | None = None) -> Array:
    """A label, a book cover or a poster: bands, a disc or a photograph, a name and small print."""
    ground, accent, ink = (_8bit(c) for c in colours[:3])
    image, draw = _sheet(colours[0], size)
    if photographs is not None and rng.random() < 0.3:
        side = int(size * rng.uniform(0.55, 1.0))
        values = Image.fromarray((srgb(photographs.crop(rng, 256)) * 255).astype(np.uint8)).resize((side, side))
        image.paste(values, ((size - side) // 2, int((size - side) * rng.random())))
    elif rng.random() < 0.5:
        x, y, r = rng.uniform(0.3, 0.7) * size, rng.uniform(0.3, 0.7) * size, rng.uniform(0.15, 0.35) * size
        draw.ellipse((x - r, y - r, x + r, y + r), fill=accent)
    for _ in range(int(rng.integers(1, 4))):
        top = int(rng.uniform(0, 0.95) * size)
        draw.rectangle((0, top, size, top + int(rng.uniform(0.01, 0.14) * size)), fill=accent)
    name = _words(rng, 1).upper()
    font = _font(int(size * rng.uniform(0.11, 0.2)))
    left, head = size * rng.uniform(0.05, 0.15), size * rng.uniform(0.1, 0.6)
    draw.text((left + 2, head + 2), name, fill=ground, font=font)
    draw.text((left, head), name, fill=ink, font=font)
    for i in range(int(rng.integers(1, 5))):
        place = (left, size * 0.78 + i * size * 0.045)
        draw.text(place, _words(rng, 4), fill=ink, font=_font(size // 26))
    return _finish(rng, image)


def book_shelf(rng: np.random.Generator, size: int, colours: list[Array]) -> Array:
    """Shelves full of books, backs out."""
    board = pick(rng, "5b3d26", "8a6541", "d9d2c5", "2d241e")
    image, draw = _sheet(board * 0.25, size)
    shelves = int(rng.integers(3, 6))
    step = size / shelves
    for shelf in range(shelves):
        bottom, left = (shelf + 1) * step - 0.09 * step, 0.0
        while left < size:
            width = step * rng.uniform(0.06, 0.2)
            if rng.random() > 0.06:
                _book(rng, draw, (left, bottom - step * rng.uniform(0.55, 0.86), left + width, bottom), colours)
            left += width + 1
        draw.rectangle((0, bottom, size, (shelf + 1) * step), fill=_8bit(board))
    return _finish(rng, image)


def _book(
    rng: np.random.Generator,
    draw: ImageDraw.ImageDraw,
    box: tuple[float, float, float, float],
    colours: list[Array],
) -> None:
    left, top, right, bottom = box
    body = vary(rng, colours[int(rng.integers(len(colours)))], 0.15)
    draw.rectangle(box, fill=_8bit(body))
    draw.line((right, top, right, bottom), fill=_8bit(body * 0.4))
    stripe = _8bit(np.clip(body * rng.choice([0.4, 1.8, 2.5]), 0, 0.9))
    for place in rng.uniform(0.08, 0.9, int(rng.integers(1, 4))):
        y = top + place * (bottom - top)
        draw.rectangle((left + 1, y, right - 2, y + rng.uniform(1, 8)), fill=stripe)


def facade(rng: np.random.Generator, size: int) -> Array:
    """The front of a building: rows of windows, some lit or reflecting the sky."""
    wall = pick(rng, "b9a48c", "8f7a68", "c9c3b8", "7d8288", "a5654b", "d8c7a0")
    image, draw = _sheet(wall, size)
    rows, columns = int(rng.integers(3, 7)), int(rng.integers(3, 8))
    width, height = size / columns, size / rows
    inset, tall = rng.uniform(0.15, 0.3), rng.uniform(0.5, 0.72)
    frame, glass = _8bit(pick(rng, "e8e4da", "4a4038", "2f3a36")), pick(rng, "2a323a", "39444c", "55636e")
    for row in range(rows):
        for column in range(columns):
            left, top = (column + inset) * width, (row + 0.5 - tall / 2) * height
            right, bottom = (column + 1 - inset) * width, (row + 0.5 + tall / 2) * height
            draw.rectangle((left - 3, top - 3, right + 3, bottom + 5), fill=frame)
            draw.rectangle((left, top, right, bottom), fill=_8bit(vary(rng, glass, 0.35)))
            draw.line(((left + right) / 2, top, (left + right) / 2, bottom), fill=frame, width=2)
        draw.line((0, row * height, size, row * height), fill=_8bit(wall * 0.6), width=2)
    return _finish(rng, image)


def _sheet(colour: Array, size: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (size, size), _8bit(colour))
    return image, ImageDraw.Draw(image)


def _finish(rng: np.random.Generator, image: Image.Image) -> Array:
    """To linear light, with a little wear."""
    values = DECODE[np.asarray(image)]
    worn = 1 + 0.03 * field(rng, values.shape[0], slope=1.2) + 0.02 * field(rng, values.shape[0], slope=0.5)
    return np.asarray(values * worn[..., None], dtype=np.float32)


def _8bit(colour: Array) -> Colour:
    red, green, blue = (int(255 * value) for value in srgb(colour))
    return red, green, blue


def _words(rng: np.random.Generator, count: int) -> str:
    return " ".join(
        "".join(SYLLABLES[i] for i in rng.integers(len(SYLLABLES), size=int(rng.integers(1, 4)))) for _ in range(count)
    )


@lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font; it is part of the package."""
    return ImageFont.load_default(max(size, 6))
