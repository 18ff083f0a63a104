"""Training samples: photographs, blur masks and stored labels, brought to one size and into batches.

A sample is decoded once, squashed to a square a little larger than the network's input, and kept: as
bytes where they fit into memory (on the device if that has room), else decoded anew by worker processes.
The random part, `trainer.augment`, works on whole batches on the device. So the loop never waits for
Python, and what a step sees depends on nothing but the seed and the step's number.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from joblib import Parallel, delayed
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipeline.contract import Coverage, LabelReader, Sample, SoftfocusError, coverage, read_blur_mask, read_image

__all__ = ["Batch", "Batches", "DataError", "Photographs", "choose_samples", "squash"]


class DataError(SoftfocusError):
    """Training data that cannot be used as asked; the message names it and the mend."""


class Batch(NamedTuple):
    """Samples of one size S on one device; what is not known is marked, never invented.

    Attributes:
        images: (B, 3, S, S) uint8, sRGB.
        masks: (B, 1, S, S) uint8, 255 = out of focus.
        depth: (B, 1, S, S) float16, relative inverse depth scaled to [0, 1] per map, NaN = unknown.
        has_mask: (B,) bool; where False the mask is meaningless.
    """

    images: Tensor
    masks: Tensor
    depth: Tensor
    has_mask: Tensor

    def to(self, device: torch.device) -> Batch:
        return Batch(*(field.to(device, non_blocking=True) for field in self))

    def select(self, rows: Tensor) -> Batch:
        return Batch(*(field[rows.to(field.device)] for field in self))


def choose_samples(
    samples: Sequence[Sample], reader: LabelReader | None, *, partial: bool
) -> tuple[list[Sample], Coverage]:
    """The samples that can be trained on, and the coverage of all.

    Args:
        samples: of one split.
        reader: the label store, or None to train on masks alone.
        partial: also take samples that lack a mask or a label, for what they have. A label that was made
            from another photograph counts as lacking.

    Raises:
        DataError: something is missing and `partial` is False, or nothing is left to train on.
    """
    covered = coverage(samples, reader)
    unlabelled = set(covered.missing)
    incomplete = [s.id for s in samples if s.mask is None or (reader is not None and s.id in unlabelled)]
    if incomplete and not partial:
        total = covered.total
        stale = f" ({total.stale} of them of another photograph)" if total.stale else ""
        raise DataError(
            f"{len(incomplete)} of {len(samples)} samples lack a mask or a label, the first is {incomplete[0]!r}: "
            f"{total.masks} masks, {total.labels + total.stale} labels{stale}; "
            "label with `softfocus label`, or train on what is there with --partial"
        )
    used = [s for s in samples if s.mask is not None or s.id not in unlabelled]
    if not used:
        raise DataError("nothing to train on: no sample of the training split has a mask or a label")
    return used, covered


def squash(image: np.ndarray, size: int, *, resample: Image.Resampling = Image.Resampling.BICUBIC) -> np.ndarray:
    """The whole frame at (size, size), aspect ratio not kept, antialiased. uint8 (H, W, 3), or (H, W) of any kind."""
    return np.array(Image.fromarray(image).resize((size, size), resample))  # a copy that torch may write to


class Photographs(Dataset[Batch]):
    """Samples by position, decoded and squashed to (size, size); each item is a batch of one."""

    def __init__(self, samples: Sequence[Sample], reader: LabelReader | None, *, size: int) -> None:
        self.samples, self.reader, self.size = list(samples), reader, size

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, position: int) -> Batch:
        sample = self.samples[position]
        image = squash(read_image(sample.image_path, at_least=(self.size, self.size)), self.size)
        return Batch(
            images=torch.from_numpy(image).permute(2, 0, 1)[None],
            masks=torch.from_numpy(self._mask(sample))[None, None],
            depth=torch.from_numpy(self._depth(sample))[None, None],
            has_mask=torch.tensor([sample.mask is not None]),
        )

    def _mask(self, sample: Sample) -> np.ndarray:
        if sample.mask_path is None or sample.blur is None:
            return np.zeros((self.size, self.size), np.uint8)
        mask = read_blur_mask(sample.mask_path, blur=sample.blur, size=(sample.height, sample.width))
        return squash(mask.astype(np.uint8) * 255, self.size, resample=Image.Resampling.BOX)

    def _depth(self, sample: Sample) -> np.ndarray:
        reader = self.reader
        if reader is None or sample.id not in reader or reader.sha256_of(sample.id) != sample.sha256:
            return np.full((self.size, self.size), np.nan, np.float16)
        label = reader[sample.id]
        known = np.isfinite(label)
        low, high = (label[known].min(), label[known].max()) if known.any() else (0.0, 1.0)
        scaled = np.where(known, (label - low) / max(high - low, 1e-12), 0.0).astype(np.float32)
        resized = squash(scaled, self.size, resample=Image.Resampling.BILINEAR)
        if not known.all():
            share = squash(known.astype(np.float32), self.size, resample=Image.Resampling.BILINEAR)
            resized = np.where(share > 0.999, resized, np.nan)
        return resized.astype(np.float16)


class Batches:
    """Shuffled batches of an epoch, on the device; the order is a function of seed and epoch alone.

    Args:
        photographs: the samples.
        batch_size: samples a step; fewer if there are fewer samples. The remainder of an epoch is dropped.
        seed: of the order.
        device: where batches go.
        cache_gib: prepared samples are kept if they need no more than this.
        workers: processes (or threads, while the cache is filled) that decode.
        progress: called with (done, total) while the cache is filled.
    """

    def __init__(
        self,
        photographs: Photographs,
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
        cache_gib: float,
        workers: int = -1,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.photographs, self.seed, self.device = photographs, seed, device
        self.batch_size = max(min(batch_size, len(photographs)), 1)
        self.workers = min(_cores(), 16) if workers < 0 else workers
        self.progress = progress
        self.keep = len(photographs) * photographs.size**2 * 6 <= cache_gib * 2**30
        self.cache: Batch | None = None

    def __len__(self) -> int:
        return len(self.photographs) // self.batch_size

    def epoch(self, number: int, *, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from step `start` of it."""
        generator = torch.Generator().manual_seed((self.seed << 20) + number)
        order = torch.randperm(len(self.photographs), generator=generator)
        steps = order[: len(self) * self.batch_size].view(len(self), self.batch_size)[start:]
        yield from self._batches(list(steps))

    def in_order(self) -> Iterator[Batch]:
        """Every sample once, in the order of the photographs; the last batch may be smaller."""
        yield from self._batches(list(torch.split(torch.arange(len(self.photographs)), self.batch_size)))

    def _batches(self, steps: list[Tensor]) -> Iterator[Batch]:
        if self.keep:
            self.cache = self.cache or self._fill()
            for rows in steps:
                yield self.cache.select(rows).to(self.device)
            return
        loader = DataLoader(
            self.photographs,
            batch_sampler=[rows.tolist() for rows in steps],
            num_workers=self.workers,
            collate_fn=_concatenate,
            pin_memory=self.device.type == "cuda",
        )
        for batch in loader:
            yield batch.to(self.device)

    def _fill(self) -> Batch:
        # threads: Pillow releases the lock while it decodes and resizes, and nothing is copied
        parallel = Parallel(n_jobs=max(self.workers, 1), backend="threading", return_as="generator")
        decoded = []
        for item in parallel(delayed(self.photographs.__getitem__)(i) for i in range(len(self.photographs))):
            decoded.append(item)
            if self.progress is not None:
                self.progress(len(decoded), len(self.photographs))
        cache = _concatenate(decoded)
        if self.device.type == "cuda":
            size = sum(field.nbytes for field in cache)
            if size * 4 < torch.cuda.mem_get_info(self.device)[0]:
                return cache.to(self.device)
        return cache


def _concatenate(items: list[Batch]) -> Batch:
    return Batch(*(torch.cat(fields) for fields in zip(*items, strict=True)))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
