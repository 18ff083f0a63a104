"""Training samples: photographs, blur masks and stored labels, brought to one size and into batches.

A sample is decoded once, squashed to a square a little larger than the network's input, and kept: on the
device or in memory where it fits, or in a file that is mapped into memory and shared by runs
(`trainer.cache`); else it is decoded anew by worker processes. The random part, `trainer.augment`, works on
whole batches on the device. So the loop never waits for Python, and what a step sees depends on nothing but
the seed and the step's number.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import torch
from joblib import Parallel, delayed
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipeline.contract import LabelReader, Sample, SoftfocusError, read_blur_mask, read_image
from trainer.batch import Batch, concatenate
from trainer.cache import open_cache
from trainer.coverage import Holdings, holdings
from trainer.label_maps import confidence_map, depth_map, soft_blur_map

__all__ = ["Batches", "DataError", "Order", "Photographs", "choose_samples", "squash", "with_masks"]


class DataError(SoftfocusError):
    """Training data that cannot be used as asked; the message names it and the mend."""


def choose_samples(
    samples: Sequence[Sample],
    reader: LabelReader | None,
    *,
    partial: bool,
    blur_reader: LabelReader | None = None,
) -> tuple[list[Sample], Holdings]:
    """The samples that can be trained on, and what all have.

    Args:
        samples: that a run may learn from.
        reader: the store of depth labels, or None.
        partial: also take samples that lack a mask or a label, for what they have. A label that was made
            from another photograph counts as lacking.
        blur_reader: the store of soft blur labels, or None.

    Raises:
        DataError: something is missing and `partial` is False, or nothing is left to train on.
    """
    held = holdings(samples, reader, blur_reader)
    if held.incomplete and not partial:
        total = held.total
        kinds = [f"{total.masks} masks"]
        kinds += [f"{total.depth} depth labels"] if reader is not None else []
        kinds += [f"{total.soft_blur} soft blur labels"] if blur_reader is not None else []
        stale = f" ({total.stale} have labels of another photograph)" if total.stale else ""
        raise DataError(
            f"{len(held.incomplete)} of {len(samples)} samples lack a mask or a label, the first is "
            f"{held.incomplete[0]!r}: {', '.join(kinds)}{stale}; "
            "label with `softfocus label`, or train on what is there with --partial"
        )
    empty = set(held.empty)
    used = [sample for sample in samples if sample.id not in empty]
    if not used:
        raise DataError("nothing to train on: no sample of the training split has a mask or a label")
    return used, held


def with_masks(samples: Sequence[Sample], fraction: float, *, seed: int) -> list[Sample]:
    """The samples with the masks of all but `fraction` of those that have one taken away.

    Which ones depends on `seed` and the photographs alone: a larger fraction holds the smaller one.
    """
    masked = sorted(
        (s for s in samples if s.mask is not None),
        key=lambda s: hashlib.sha256(f"{seed}:{s.sha256}".encode()).digest(),
    )
    kept = {s.id for s in masked[: max(round(fraction * len(masked)), 1)]}
    return [s if s.id in kept else msgspec.structs.replace(s, mask=None, blur=None) for s in samples]


def squash(image: np.ndarray, size: int, *, resample: Image.Resampling = Image.Resampling.BICUBIC) -> np.ndarray:
    """The whole frame at (size, size), aspect ratio not kept, antialiased. uint8 (H, W, 3), or (H, W) of any kind."""
    return np.array(Image.fromarray(image).resize((size, size), resample))  # a copy that torch may write to


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
        if sample.mask_path is None or sample.blur is None:
            return np.zeros((self.size, self.size), np.uint8)
        mask = read_blur_mask(sample.mask_path, blur=sample.blur, size=(sample.height, sample.width))
        return squash(mask.astype(np.uint8) * 255, self.size, resample=Image.Resampling.BOX)


def _plane(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values)[None, None]


def _file_facts(path: Path | None) -> tuple[str, int, int] | None:
    if path is None:
        return None
    facts = path.stat()
    return path.name, facts.st_size, facts.st_mtime_ns


class Order:
    """Which samples a step takes: endless passes, each a shuffle of all, cut into batches.

    A function of seed and step alone. With `masked_share`, that share of each batch comes from the samples
    that have a mask and the rest from the others, each in passes of their own.
    """

    def __init__(
        self, samples: Sequence[Sample], *, batch_size: int, seed: int, masked_share: float | None = None
    ) -> None:
        everything = list(range(len(samples)))
        masked = [i for i in everything if samples[i].mask is not None]
        others = [i for i in everything if samples[i].mask is None]
        if masked_share is None or not masked or not others:
            self._pools = [(_Passes(everything, seed), batch_size)]
        else:
            count = min(max(round(batch_size * masked_share), 1), batch_size)
            self._pools = [(_Passes(masked, seed), count), (_Passes(others, seed + 1), batch_size - count)]

    def rows(self, step: int) -> Tensor:
        """(batch_size,) positions of samples."""
        return torch.cat([pool.take(step * count, count) for pool, count in self._pools])


class _Passes:
    def __init__(self, positions: Iterable[int], seed: int) -> None:
        self._positions, self._seed = torch.tensor(list(positions)), seed
        self._last: tuple[int, Tensor] = (-1, self._positions)

    def take(self, start: int, count: int) -> Tensor:
        taken, size = [], len(self._positions)
        while count > 0:
            number, offset = divmod(start, size)
            part = self._shuffle(number)[offset : offset + count]
            taken.append(part)
            start, count = start + len(part), count - len(part)
        return torch.cat(taken) if taken else self._positions[:0]

    def _shuffle(self, number: int) -> Tensor:
        if self._last[0] != number:
            generator = torch.Generator().manual_seed((self._seed << 20) + number)
            self._last = number, self._positions[torch.randperm(len(self._positions), generator=generator)]
        return self._last[1]


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
            cache = open_cache(self._folder, self.photographs, prepare=self.prepared)
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
