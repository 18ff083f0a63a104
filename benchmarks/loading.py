"""How fast a training sample is there: stored and prepared, against the files that people keep otherwise.

The yardstick is a folder of files: photograph as JPEG, mask as PNG, depth as PNG of 16 bits. It goes through the
trainer's own code, all but the depth's format, and so does the rest: what is compared is the way a sample is
kept, not who wrote the loader. Rates are samples a second on one core with warm file caches; the ways take turns,
the median over the turns is told. The physical limit of the mapped cache is memory bandwidth (a sample is
copied once, 6 bytes a pixel); that of the files is decoding.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from benchmarks.rounds import seconds_of_each
from pipeline.contract import LabelReader, Sample
from trainer.samples.cache import open_cache
from trainer.samples.data import Batches, Photographs

__all__ = ["LoadingRow", "compare_loading"]

DEPTH_FILE, DEPTH_STORE, DEPTH_CACHE = "depth: PNG-16 file", "depth: label store", "depth: mapped cache"
FILES, STORE, CACHE = "sample: JPEG, PNG and PNG-16", "sample: JPEG, PNG and label store", "sample: mapped cache"
REFERENCES = {DEPTH_STORE: DEPTH_FILE, DEPTH_CACHE: DEPTH_FILE, STORE: FILES, CACHE: FILES}
BATCH = 32


class LoadingRow(msgspec.Struct, frozen=True):
    """One way to read. `ratio` is its rate over that of the files; `bytes` are of a sample on disk."""

    way: str
    samples_per_second: float
    ratio: float
    bytes: int


class PngLabels:
    """Depth kept as one 16-bit PNG a photograph; read like a label store."""

    has_confidence = False

    def __init__(self, folder: Path, reader: LabelReader, samples: Sequence[Sample]) -> None:
        self._files = {sample.id: folder / f"{number}.png" for number, sample in enumerate(samples)}
        self._reader = reader
        self.fingerprint = "png"
        for sample_id, file in self._files.items():
            depth = reader[sample_id]
            low, high = float(np.nanmin(depth)), float(np.nanmax(depth))
            codes = np.rint((np.nan_to_num(depth, nan=low) - low) / max(high - low, 1e-12) * 65535)
            Image.fromarray(codes.astype(np.uint16)).save(file)

    def __contains__(self, sample_id: object) -> bool:
        return sample_id in self._files

    def sha256_of(self, sample_id: str) -> str:
        return self._reader.sha256_of(sample_id)

    def __getitem__(self, sample_id: str) -> npt.NDArray[np.float32]:
        with Image.open(self._files[sample_id]) as image:
            return np.asarray(image).astype(np.float32)

    @property
    def bytes(self) -> int:
        """Of a file, mean."""
        return _mean_bytes(list(self._files.values()))


def compare_loading(
    samples: Sequence[Sample],
    reader: LabelReader,
    *,
    size: int = 400,
    rounds: int = 5,
    seconds: float = 1.0,
) -> list[LoadingRow]:
    """Samples a second on one core, by the way they are kept.

    Args:
        samples: with masks and labels.
        reader: their depth.
        size: side to which samples are prepared (`data.prepared_size`).
        rounds: turns.
        seconds: a turn takes about so long.
    """
    with TemporaryDirectory(prefix="softfocus-bench-") as folder, _one_core():
        files = PngLabels(Path(folder), reader, samples)
        readers: dict[str, Any] = {FILES: files, STORE: reader}
        prepared = {way: Photographs(samples, labels, size=size) for way, labels in readers.items()}
        place = Path(folder) / "cache"
        cache = Batches(prepared[STORE], device=torch.device("cpu"), cache_gib=0, folder=place, workers=1)
        mapped = open_cache(place, prepared[STORE].facts, count=len(samples), prepare=cache.prepared)
        rows = _shuffled(len(samples))
        ways: dict[str, Callable[[], object]] = {
            DEPTH_FILE: _each(samples, lambda sample: files[sample.id]),
            DEPTH_STORE: _each(samples, lambda sample: reader[sample.id]),
            DEPTH_CACHE: lambda: mapped.depth[next(rows)],
            FILES: _each(range(len(samples)), prepared[FILES].__getitem__),
            STORE: _each(range(len(samples)), prepared[STORE].__getitem__),
            CACHE: functools.partial(next, cache(_shuffled(len(samples)))),
        }
        times = seconds_of_each(ways, device=torch.device("cpu"), rounds=rounds, seconds=seconds, warm_up=len(samples))
        for way in (DEPTH_CACHE, CACHE):
            times[way] /= BATCH
        pictures = _mean_bytes([path for s in samples for path in (s.image_path, s.mask_path) if path]) * 2
        shards = list((reader.store / "shards").rglob("*.h5"))
        stored = _mean_bytes(shards) * len(shards) // len(reader)
        sizes = {DEPTH_FILE: files.bytes, DEPTH_STORE: stored, DEPTH_CACHE: size**2 * 2, CACHE: size**2 * 6}
        sizes |= {FILES: pictures + files.bytes, STORE: pictures + stored}
    return [LoadingRow(way, 1 / times[way], times[REFERENCES.get(way, way)] / times[way], sizes[way]) for way in ways]


def _each(items: Sequence[Any], read: Callable[[Any], object]) -> Callable[[], object]:
    """A function that reads the next item at each call, round and round."""
    endless = itertools.cycle(items)
    return lambda: read(next(endless))


def _shuffled(count: int) -> Iterator[torch.Tensor]:
    """Positions of samples, a batch at a time, without end."""
    generator = torch.Generator().manual_seed(0)
    return (torch.randint(count, (BATCH,), generator=generator) for _ in itertools.count())


def _mean_bytes(files: Sequence[Path]) -> int:
    return sum(file.stat().st_size for file in files) // max(len(files), 1)


@contextlib.contextmanager
def _one_core() -> Iterator[None]:
    """This process and its threads on one core."""
    threads = torch.get_num_threads()
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    torch.set_num_threads(1)
    if cores:
        os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if cores:
            os.sched_setaffinity(0, cores)
