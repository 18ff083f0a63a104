"""A student's figures on a split, in the protocols of the field."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from scipy.stats import spearmanr
from torch import nn

from pipeline.contract import (
    Sample,
    SoftfocusError,
    read_image,
    read_manifest,
    sha256_file,
)
from trainer.checkpoint import find_student, load_student
from trainer.config import Config
from trainer.device import choose_device
from trainer.metrics import Evaluation
from trainer.resizing import resize_bilinear
from trainer.samples.augment import normalise
from trainer.samples.data import read_mask, squash
from trainer.samples.labels import open_labels, require_fresh
from trainer.students.model import require_size

__all__ = ["EvaluationReport", "evaluate", "predict_maps", "sizes_in_use"]


class EvaluationReport(msgspec.Struct, frozen=True):
    """Figures of one student on one split.

    Attributes:
        name: of the evaluation among others of the same student: the split; before it the manifest's name if the
            student was not trained from this manifest; after it the input size if that is not the trained one.
        epoch: of the weights, if they know.
        measures: protocol -> measure -> value; see `trainer.metrics`.
        depth: agreement with the stored labels, or empty: mean rank correlation (Spearman) over images.
        per_image: rows of id, mae, f and iou in D-DFFNet's protocol, for paired comparisons.
    """

    model: str
    name: str
    manifest: str
    split: str
    epoch: int | None
    images: int
    input_sizes: tuple[int, ...]
    measures: dict[str, dict[str, float]]
    depth: dict[str, float]
    per_image: list[dict[str, Any]]


def evaluate(
    manifest: Path | str,
    *,
    model: Path | str,
    split: str = "test",
    labels: Path | str | None = None,
    input_sizes: Sequence[int] = (),
    device: str = "auto",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> EvaluationReport:
    """Score a student on the samples of a split that have masks, in every protocol of `trainer.metrics`.

    Args:
        manifest: from `softfocus index`.
        model: a run folder or a student's `.safetensors` file.
        split: train, val or test.
        labels: a label store, to also compare the student's depth with the teacher's.
        input_sizes: sides of the squares the network sees, averaged over; by default the student's own.
        device: see `trainer.device.choose_device`.
        progress: called with (done, total) images.

    Raises:
        SoftfocusError: no such model, no sample with a mask (or a label) in the split, or labels of other
            photographs than the manifest has.
    """
    where = choose_device(device)
    student, config, figures = load_student(model, device=where)
    sizes = tuple(input_sizes) or sizes_in_use(config)
    for size in sizes:
        require_size(student, size)
    if not config.learns_blur and labels is None:
        raise SoftfocusError(f"{model}: this student has learnt depth alone; give a store of depth with --labels")
    reader = open_labels(labels) if labels is not None else None
    offered = read_manifest(manifest, split=split)
    judged = {s.id for s in offered if s.mask is not None and config.learns_blur}
    samples = [s for s in offered if s.id in judged or (reader and s.id in reader)]
    if reader is not None:
        require_fresh(reader, samples)
    if not samples:
        raise SoftfocusError(f"{manifest}: no sample of split {split!r} has a mask; choose another --split")
    if reader is not None and not any(s.id in reader for s in samples):
        raise SoftfocusError(f"{labels}: has no label of split {split!r} of {manifest}; give its store")
    evaluation = Evaluation()
    masked = 0
    correlations: list[float] = []
    images = _ahead(
        samples, lambda sample: (read_image(sample.image_path), read_mask(sample) if sample.id in judged else None)
    )
    for done, (sample, (image, mask)) in enumerate(images, 1):
        blur, depth = predict_maps(student, image, sizes=sizes)
        if mask is not None:
            evaluation.update(blur, mask, sample.id)
            masked += 1
        if reader is not None and sample.id in reader:
            correlations.append(_rank_correlation(depth, reader[sample.id]))
        progress(done, len(samples))
    trained_from = figures.get("manifest_sha256")
    parts = [
        Path(manifest).stem if trained_from not in (None, sha256_file(manifest)) else "",
        split,
        "+".join(map(str, sizes)) if sizes != sizes_in_use(config) else "",
    ]
    return EvaluationReport(
        model=str(find_student(model)),
        name="-".join(part for part in parts if part),
        manifest=str(manifest),
        split=split,
        epoch=figures.get("epoch"),
        images=len(samples),
        input_sizes=sizes,
        measures=evaluation.result() if masked else {},
        depth={"rank_correlation": float(np.mean(correlations))} if correlations else {},
        per_image=evaluation.per_image,
    )


def sizes_in_use(config: Config) -> tuple[int, ...]:
    """Sides of the squares that a student sees in use."""
    return config.data.test_sizes or (config.data.input_size,)


def predict_maps(student: nn.Module, image: np.ndarray, *, sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Blur probability and relative inverse depth of a photograph, each float32 (S, S), S the largest of `sizes`.

    Args:
        student: in evaluation mode; runs on the device it lies on.
        image: uint8 (H, W, 3), of any size; it is squashed to each of `sizes` as in training.
        sizes: multiples of the student's stride; the maps are averaged, each depth first scaled to [0, 1].

    Raises:
        SoftfocusError: a size that does not fit, naming one that would.
    """
    device = next(student.parameters()).device
    blur_maps, depth_maps = [], []
    for size in sizes:
        batch = torch.from_numpy(squash(image, size)[None]).to(device)
        with torch.inference_mode():
            try:
                output = student(normalise(batch.permute(0, 3, 1, 2).float() / 255))
            except ValueError as error:
                raise SoftfocusError(f"input size {size}: {error}") from error
        blur_maps.append(output.blur[0][0, 0].float().sigmoid().cpu().numpy())
        depth_maps.append(output.depth[0][0, 0].float().cpu().numpy())
    if len(sizes) == 1:
        return blur_maps[0], depth_maps[0]
    depth_maps = [(d - d.min()) / max(float(np.ptp(d)), 1e-12) for d in depth_maps]
    return _averaged(blur_maps, max(sizes)), _averaged(depth_maps, max(sizes))


def _averaged(maps: Sequence[np.ndarray], size: int) -> np.ndarray:
    return np.asarray(np.mean([resize_bilinear(m, (size, size)) for m in maps], axis=0, dtype=np.float32))


def _ahead(samples: Sequence[Sample], read: Callable[[Sample], Any]) -> Iterable[tuple[Sample, Any]]:
    """What `read` gives of each sample, a few samples ahead of the network, in order."""
    with ThreadPoolExecutor(2) as pool:
        pending = []
        for sample in samples:
            pending.append((sample, pool.submit(read, sample)))
            if len(pending) > 4:
                first, future = pending.pop(0)
                yield first, future.result()
        for sample, future in pending:
            yield sample, future.result()


def _rank_correlation(prediction: np.ndarray, label: np.ndarray) -> float:
    """Spearman's correlation over the known pixels of the label, at the prediction's size."""
    known = np.isfinite(label)
    resized = squash(np.where(known, label, 0).astype(np.float32), prediction.shape[0])
    if not known.all():
        resized = np.where(squash(known.astype(np.float32), prediction.shape[0]) > 0.999, resized, np.nan)
    return float(spearmanr(prediction.ravel(), resized.ravel(), nan_policy="omit").statistic)
