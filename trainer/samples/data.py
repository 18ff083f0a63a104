"""Training samples: photographs, blur masks and stored labels, brought to one size and into batches.

A sample is decoded once, squashed to a square a little larger than the network's input, and kept: on the
device or in memory where it fits, or in a file that is mapped into memory and shared by runs
(`trainer.samples.cache`); else it is decoded anew by worker processes. The random part,
`trainer.samples.augment`, works on whole batches on the device. So the loop never waits for Python, and what
a step sees depends on nothing but the seed and the step's number.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from joblib import Parallel, delayed
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipeline.contract import LabelReader, Sample, SoftfocusError, read_blur_mask, read_image
from trainer.samples.batch import Batch, concatenate
from trainer.samples.cache import open_cache
from trainer.samples.label_maps import confidence_map, depth_map, soft_blur_map
from trainer.samples.sources import DataError

__all__ = ["Batches", "Photographs", "read_mask", "squash"]


def squash(image: np.ndarray, size: int, *, resample: Image.Resampling = Image.Resampling.BICUBIC) -> np.ndarray:
    """The whole frame at (size, size), aspect ratio not kept, antialiased. uint8 (H, W, 3), or (H, W) of any kind."""
    return np.array(Image.fromarray(image).resize((size, size), resample))  # a copy that torch may write to


def read_mask(sample: Sample) -> np.ndarray | None:
    """Bool (H, W), True = out of focus; None for a sample without a mask."""
    if sample.mask_path is None or sample.blur is None:
        return None
    return read_blur_mask(sample.mask_path, blur=sample.blur, size=(sample.height, sample.width))


class Photographs(Dataset[Batch]):
    """Samples by position, decoded and squashed to (size, size); each item is a batch of one.

    Args:
        samples: of the manifest.
        reader: depth labels, or None.
        size: side of the square.
        blur_reader: another student's probabilities of blur, or None.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        reader: LabelReader | None,
        *,
        size: int,
        blur_reader: LabelReader | None = None,
    ) -> None:
        self.samples, self.reader, self.size, self.blur_reader = list(samples), reader, size, blur_reader

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, position: int) -> Batch:
        sample = self.samples[position]
        image = squash(read_image(sample.image_path, at_least=(self.size, self.size)), self.size)
        confidence = confidence_map(self.reader, sample, self.size)
        return Batch(
            images=torch.from_numpy(image).permute(2, 0, 1)[None],
            masks=torch.from_numpy(self._mask(sample))[None, None],
            depth=_plane(depth_map(self.reader, sample, self.size)),
            has_mask=torch.tensor([sample.mask is not None]),
            soft_blur=None if self.blur_reader is None else _plane(soft_blur_map(self.blur_reader, sample, self.size)),
            confidence=None if confidence is None else _plane(confidence),
        )

    @property
    def bytes_each(self) -> int:
        """Of a prepared sample."""
        has_confidence = self.reader is not None and self.reader.has_confidence
        return self.size**2 * (6 + 2 * (self.blur_reader is not None) + 2 * has_confidence)

    @property
    def facts(self) -> list[object]:
        """All that decides what the prepared samples are, for the name of a cache."""
        readers = [None if r is None else r.fingerprint for r in (self.reader, self.blur_reader)]
        labelled = [r is not None and s.id in r for r in (self.reader, self.blur_reader) for s in self.samples]
        files = [(s.sha256, s.blur, _file_facts(s.mask_path)) for s in self.samples]
        return [self.size, readers, labelled, files]

    def _mask(self, sample: Sample) -> np.ndarray:
        mask = read_mask(sample)
        if mask is None:
            return np.zeros((self.size, self.size), np.uint8)
        return squash(mask.astype(np.uint8) * 255, self.size, resample=Image.Resampling.BOX)


def _plane(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values)[None, None]


def _file_facts(path: Path | None) -> tuple[str, int, int] | None:
    if path is None:
        return None
    facts = path.stat()
    return path.name, facts.st_size, facts.st_mtime_ns


class Batches:
    """Prepared samples by their positions, on the device.

    Args:
        photographs: the samples.
        device: where batches go.
        cache_gib: prepared samples are kept in memory if they need no more than this.
        folder: of prepared samples that runs share; what does not fit into memory is read from there.
        workers: processes (or threads, while the cache is filled) that decode.
        progress: called with (done, total) while the cache is filled.
    """

    def __init__(
        self,
        photographs: Photographs,
        *,
        device: torch.device,
        cache_gib: float,
        folder: Path | str | None = None,
        workers: int = -1,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.photographs, self.device, self.progress = photographs, device, progress
        self.workers = min(_cores(), 16) if workers < 0 else workers
        self._folder = Path(folder) if folder is not None else None
        self._keep = len(photographs) * photographs.bytes_each <= cache_gib * 2**30
        self._cache: Batch | None = None

    def __call__(self, steps: Iterable[Tensor]) -> Iterator[Batch]:
        """A batch for each tensor of positions, prepared while the one before is used."""
        if not len(self.photographs):
            return
        if self._keep or self._folder is not None:
            self._cache = self._cache or self._fill()
            if self._cache.images.device.type == self.device.type == "cuda":
                yield from (self._cache.select(rows) for rows in steps)
            else:
                yield from self._gathered(self._cache, steps)
            return
        loader = DataLoader(
            self.photographs,
            batch_sampler=(rows.tolist() for rows in steps),
            num_workers=self.workers,
            collate_fn=concatenate,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # not the one that a resumed run has set back
        )
        with _lost_workers():
            for batch in loader:
                yield batch.to(self.device)

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """Every sample once, in the order of the photographs; the last batch may be smaller."""
        yield from self(torch.split(torch.arange(len(self.photographs)), batch_size))

    def _gathered(self, cache: Batch, steps: Iterable[Tensor]) -> Iterator[Batch]:
        """Batches put together by a thread, one ahead of the one in use."""
        pin = self.device.type == "cuda"

        def gather(rows: Tensor) -> Batch:
            batch = cache.select(rows)
            return batch.pin_memory() if pin else batch

        with ThreadPoolExecutor(1, thread_name_prefix="softfocus-batch") as pool:
            coming = None
            for rows in steps:
                following = pool.submit(gather, rows)
                if coming is not None:
                    yield coming.result().to(self.device)
                coming = following
            if coming is not None:
                yield coming.result().to(self.device)

    def _fill(self) -> Batch:
        if self._folder is not None:
            cache = open_cache(self._folder, self.photographs.facts, count=len(self.photographs), prepare=self.prepared)
        else:
            cache = concatenate(list(self.prepared()))
        if self._keep and self.device.type == "cuda" and cache.bytes * 4 < torch.cuda.mem_get_info(self.device)[0]:
            return cache.to(self.device)
        return cache

    def prepared(self) -> Iterator[Batch]:
        """The samples in order, decoded by threads."""
        # threads: Pillow releases the lock while it decodes and resizes, and nothing is copied
        parallel = Parallel(n_jobs=max(self.workers, 1), backend="threading", return_as="generator")
        items = parallel(delayed(self.photographs.__getitem__)(i) for i in range(len(self.photographs)))
        for done, item in enumerate(items, 1):
            if self.progress is not None:
                self.progress(done, len(self.photographs))
            yield item


@contextlib.contextmanager
def _lost_workers() -> Iterator[None]:
    """What went wrong in DataLoader's processes, in one line: theirs is a traceback."""
    try:
        yield
    except SoftfocusError as error:
        raise DataError(str(error).strip().splitlines()[-1].partition(": ")[2]) from error
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise DataError(
            "a process that decodes was killed, most likely for want of memory; lower data.workers, data.batch_size "
            "or data.prepared_size, or raise data.cache_gib"
        ) from error


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
