"""Precision against size: what a stored map costs in bytes, error and time, for each dtype and codec.

The yardstick is what people store otherwise: one PNG file a map, of 16 or 8 bits, quantised in the same way.
Sizes and errors are exact; errors are those of the stored numbers, before a reader rounds to float32. Times are
ratios to PNG-16 in one run on one thread: the formats take turns, and the median over the turns is told.
Writing counts from a float map to bytes, without the disk; reading from a file in the page cache to a float
map, here through `LabelReader`.
"""

from __future__ import annotations

import hashlib
import io
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from isal import isal_zlib
from PIL import Image

from pipeline.images import read_image
from pipeline.manifest import Sample
from pipeline.provenance import Provenance
from pipeline.store import (
    CODECS,
    DTYPES,
    Codec,
    DType,
    Images,
    LabelReader,
    Plan,
    create_store,
    decode,
    encode,
    next_generation,
    pack,
    read_plan,
    write_generation,
    write_shard,
)
from pipeline.teachers import Teacher

__all__ = ["CodecRow", "compare_codecs", "predict_maps"]

Map = npt.NDArray[np.float32]


class CodecRow(msgspec.Struct, frozen=True, kw_only=True):
    """One way to store maps.

    Attributes:
        format: its name; those of "PNG" and "float16" are not offered.
        bytes: of a map, mean.
        size: bytes relative to PNG-16.
        largest_error, mean_error: |stored - true| / range of the map; the largest of all maps, and the mean.
        write_speed, read_speed: times as fast as PNG-16; None where it is not measured.
    """

    format: str
    bytes: float
    size: float
    largest_error: float
    mean_error: float
    write_speed: float
    read_speed: float | None


class _Format(msgspec.Struct, frozen=True):
    """How maps are stored: to bytes, there and back, and read by place from where `_Format` was made."""

    name: str
    write: Callable[[Map], bytes]
    there_and_back: Callable[[Map], npt.NDArray[np.float64]]
    read: Callable[[int], Map] | None  # not measured if None


def predict_maps(samples: Iterable[Sample], teacher: Teacher) -> list[Map]:
    """The teacher's map of each photograph, float32 (h, w)."""
    maps = []
    for sample in samples:
        pixels = read_image(sample.image_path)
        height, width = teacher.input_size(*pixels.shape[:2])
        image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
        maps.append(teacher.predict(np.asarray(image)[None])[0])
    return maps


def compare_codecs(maps: list[Map], *, repeats: int = 5, codecs: Iterable[Codec] = CODECS) -> list[CodecRow]:
    """Store the same maps in every way.

    Args:
        maps: float32 (H, W), finite, not constant; of several sizes if need be.
        repeats: turns of the time measurement.

    Raises:
        StoreError: a codec's library is not installed.
    """
    with TemporaryDirectory(prefix="softfocus-codec-") as folder:
        formats = [_png(maps, Path(folder), dtype) for dtype in DTYPES]
        formats += [_store(maps, Path(folder), dtype, codec) for dtype in DTYPES for codec in codecs]
        formats.append(_half())
        places = range(len(maps))
        writing = [[_seconds(each.write, maps) for each in formats] for _ in range(repeats)]
        reading = [[_seconds(each.read, places) for each in formats] for _ in range(repeats)]
    png = statistics.fmean(len(formats[0].write(values)) for values in maps)
    return [_row(each, maps, png, _speed(writing, place), _speed(reading, place)) for place, each in enumerate(formats)]


def _seconds(work: Callable[[Any], Any] | None, items: Iterable[Any]) -> float:
    begin = time.perf_counter()
    for item in items:
        if work is not None:
            work(item)
    return time.perf_counter() - begin


def _speed(turns: list[list[float]], place: int) -> float:
    """Times as fast as the first format, PNG-16."""
    return statistics.median(turn[0] / turn[place] for turn in turns)


def _row(each: _Format, maps: list[Map], png: float, write_speed: float, read_speed: float) -> CodecRow:
    errors = []
    for values in maps:
        difference = np.abs(each.there_and_back(values) - values)
        errors.append(difference / (float(values.max()) - float(values.min())))
    size = statistics.fmean(len(each.write(values)) for values in maps)
    return CodecRow(
        format=each.name,
        bytes=size,
        size=size / png,
        largest_error=max(float(error.max()) for error in errors),
        mean_error=statistics.fmean(float(error.mean()) for error in errors),
        write_speed=write_speed,
        read_speed=read_speed if each.read else None,
    )


def _png(maps: list[Map], folder: Path, dtype: DType) -> _Format:
    """One PNG file a map, as Pillow writes it; offset and scale are kept beside it."""

    def write(values: Map) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(encode(values, dtype).codes).save(stream, "PNG")
        return stream.getvalue()

    def there_and_back(values: Map) -> npt.NDArray[np.float64]:
        codes = np.asarray(Image.open(io.BytesIO(write(values)))).astype(DTYPES[dtype])
        return decode(codes, *encode(values, dtype)[1:], precision=np.float64)

    numbers = [encode(values, dtype)[1:] for values in maps]
    paths = [folder / f"{dtype}-{place}.png" for place in range(len(maps))]
    for path, values in zip(paths, maps, strict=True):
        path.write_bytes(write(values))

    def read(place: int) -> Map:
        with Image.open(paths[place]) as image:
            return decode(np.asarray(image), *numbers[place])

    return _Format(f"PNG-{8 * DTYPES[dtype].itemsize}", write, there_and_back, read)


def _store(maps: list[Map], folder: Path, dtype: DType, codec: Codec) -> _Format:
    """A label store of ours."""
    store = folder / f"{dtype} {codec}"
    teacher = Provenance(
        kind="maps", name="", weights_sha256="0" * 64, direction="inverse depth", preprocessing={}, versions={}
    )
    description = create_store(store, teacher, dtype=dtype, codec=codec, shard_size=len(maps))
    names = [f"{place:06d}" for place in range(len(maps))]
    images = Images(
        ids=np.array([name.encode() for name in names]),
        sha256=np.array([list(hashlib.sha256(name.encode()).digest()) for name in names], np.uint8),
        sizes=np.array([values.shape for values in maps], np.int32),
    )
    draft = next_generation(Plan(), images, len(maps))
    assert draft is not None, "a new plan has work"
    write_generation(store, description, Plan(), draft.finish(lambda height, width: (height, width)))
    plan = read_plan(store, description)
    for shard in map(plan.shard, range(len(plan.shards))):
        results = [(row, pack(encode(maps[int(name)], dtype), codec)) for row, name in enumerate(shard.ids)]
        write_shard(store, description, shard, results, provenance=teacher)
    reader = LabelReader(store)
    return _Format(
        f"{dtype} {codec}",
        write=lambda values: pack(encode(values, dtype), codec).chunk,
        there_and_back=lambda values: decode(*encode(values, dtype), precision=np.float64),
        read=lambda place: reader[names[place]],
    )


def _half() -> _Format:
    """Half-precision numbers of a map scaled to 0..1, as others store them; not offered."""

    def halves(values: Map) -> npt.NDArray[np.float16]:
        low, high = values.min(), values.max()
        scaled: npt.NDArray[np.float16] = ((values - low) / (high - low)).astype(np.float16)
        return scaled

    def write(values: Map) -> bytes:
        planes: npt.NDArray[np.uint8] = halves(values).reshape(-1, 1).view(np.uint8).T
        return bytes(isal_zlib.compress(planes.tobytes(), 1))

    def there_and_back(values: Map) -> npt.NDArray[np.float64]:
        low, high = float(values.min()), float(values.max())
        return halves(values).astype(np.float64) * (high - low) + low

    return _Format("float16 deflate", write, there_and_back, None)
