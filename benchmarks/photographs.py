"""Photographs for speed: JPEG files by the thousand, as large on disk as a camera's, all different."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.manifest import Sample, write_manifest

__all__ = ["BYTES_PER_PIXEL", "make_photographs"]

BYTES_PER_PIXEL = 0.25
"""Of a camera's JPEG: 68 KB at 640 x 427, 3 MB at 12 megapixels."""

_QUALITY = 90


def make_photographs(folder: Path, *, count: int, size: tuple[int, int], originals: int = 8, seed: int = 0) -> Path:
    """Write `count` JPEG files of (height, width) and their manifest, `folder/manifest.jsonl`.

    There are `originals` pictures; what tells their copies apart is a comment in the file, so that each has a
    SHA-256 of its own and is decoded like any other.

    Returns:
        the manifest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor() as pool:
        seeds = [np.random.default_rng([seed, number]) for number in range(min(originals, count))]
        encoded = list(pool.map(lambda random: _original(size, random), seeds))

    def write(number: int) -> Sample:
        content = _with_comment(encoded[number % len(encoded)], f"copy {number}")
        name = f"{number:06d}.jpg"
        (folder / name).write_bytes(content)
        return Sample(
            id=f"bench/{number:06d}",
            image=name,
            split="train",
            height=size[0],
            width=size[1],
            sha256=hashlib.sha256(content).hexdigest(),
        )

    with ThreadPoolExecutor() as pool:
        samples = list(pool.map(write, range(count)))
    write_manifest(folder / "manifest.jsonl", samples, root=folder)
    return folder / "manifest.jsonl"


def _original(size: tuple[int, int], random: np.random.Generator) -> bytes:
    """A JPEG of about BYTES_PER_PIXEL: clouds of all scales, as photographs have, with as much grain as it takes."""
    clouds = sum(_octave(size, cells, random) / cells**0.5 for cells in _scales(size))
    clouds = (clouds - clouds.min()) / np.ptp(clouds) * 255
    grain = random.normal(size=(*size, 3)).astype(np.float32)
    part = np.s_[: min(size[0], 800), : min(size[1], 800)]  # enough to find out how much grain
    low, high = 0.0, 64.0
    for _ in range(7):
        middle = (low + high) / 2
        small = _encoded(clouds[part] + middle * grain[part])
        pixels = clouds[part].size / 3
        low, high = (middle, high) if len(small) < BYTES_PER_PIXEL * pixels else (low, middle)
    return _encoded(clouds + (low + high) / 2 * grain)


def _scales(size: tuple[int, int]) -> Iterator[int]:
    cells = 2
    while cells <= min(size) // 4:
        yield cells
        cells *= 2


def _octave(size: tuple[int, int], cells: int, random: np.random.Generator) -> npt.NDArray[np.float32]:
    """Noise (height, width, 3) that varies over a `cells`-th of the picture."""
    coarse = random.normal(size=(3, cells, cells)).astype(np.float32)
    planes = [Image.fromarray(plane).resize(size[::-1], Image.Resampling.BICUBIC) for plane in coarse]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)


def _encoded(pixels: npt.NDArray[np.float32]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(stream, "JPEG", quality=_QUALITY)
    return stream.getvalue()


def _with_comment(content: bytes, text: str) -> bytes:
    """The same JPEG with a comment segment after its first marker."""
    comment = text.encode()
    return content[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + content[2:]
