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
    LabelReader,
    Sample,
    SoftfocusError,
    read_blur_mask,
    read_image,
    read_manifest,
    sha256_file,
)
from trainer.augment import normalise
from trainer.checkpoint import find_student, load_student
from trainer.data import squash
from trainer.device import choose_device
from trainer.metrics import Evaluation

__all__ = ["PROTOCOLS", "EvaluationReport", "evaluate", "predict_maps"]

PROTOCOLS = ("dffnet", "paper", "paper_corrected")


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
    input_size: int
    measures: dict[str, dict[str, float]]
    depth: dict[str, float]
    per_image: list[dict[str, Any]]


def evaluate(
    manifest: Path | str,
    *,
    model: Path | str,
    split: str = "test",
    labels: Path | str | None = None,
    input_size: int | None = None,
    device: str = "auto",
    protocols: Sequence[str] = PROTOCOLS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> EvaluationReport:
    """Score a student on the samples of a split that have masks.

    Args:
        manifest: from `softfocus index`.
        model: a run folder or a student's `.safetensors` file.
        split: train, val or test.
        labels: a label store, to also compare the student's depth with the teacher's.
        input_size: side of the square the network sees; by default that of its training.
        device: see `trainer.device.choose_device`.
        protocols: names known to `trainer.metrics`.
        progress: called with (done, total) images.

    Raises:
        SoftfocusError: no such model, or no sample with a mask (or a label) in the split.
    """
    where = choose_device(device)
    student, config, figures = load_student(model, device=where)
    size = input_size or config.data.input_size
    reader = LabelReader(labels) if labels is not None else None
    samples = [s for s in read_manifest(manifest, split=split) if s.mask is not None or (reader and s.id in reader)]
    if not samples:
        raise SoftfocusError(f"{manifest}: no sample of split {split!r} has a mask; choose another --split")
    evaluation = Evaluation(protocols=protocols)
    masked = 0
    correlations: list[float] = []
    images = _ahead(samples, lambda sample: (read_image(sample.image_path), _mask(sample)))
    for done, (sample, (image, mask)) in enumerate(images, 1):
        blur, depth = predict_maps(student, [image], size=size)[0]
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
        str(size) if size != config.data.input_size else "",
    ]
    return EvaluationReport(
        model=str(find_student(model)),
        name="-".join(part for part in parts if part),
        manifest=str(manifest),
        split=split,
        epoch=figures.get("epoch"),
        images=len(samples),
        input_size=size,
        measures=evaluation.result() if masked else {},
        depth={"rank_correlation": float(np.mean(correlations))} if correlations else {},
        per_image=evaluation.per_image,
    )


def predict_maps(student: nn.Module, images: Sequence[np.ndarray], *, size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Blur probability and relative inverse depth of photographs, each float32 (size, size).

    Args:
        student: in evaluation mode; runs on the device it lies on.
        images: uint8 (H, W, 3), any sizes; each is squashed to (size, size) as in training.
        size: a multiple of the student's stride.
    """
    device = next(student.parameters()).device
    batch = torch.from_numpy(np.stack([squash(image, size) for image in images])).to(device)
    with torch.inference_mode():
        try:
            output = student(normalise(batch.permute(0, 3, 1, 2).float() / 255))
        except ValueError as error:
            raise SoftfocusError(f"input size {size}: {error}") from error
    blur, depth = output.blur[0][:, 0].float().sigmoid(), output.depth[0][:, 0].float()
    return list(zip(blur.cpu().numpy(), depth.cpu().numpy(), strict=True))


def _mask(sample: Sample) -> np.ndarray | None:
    if sample.mask_path is None or sample.blur is None:
        return None
    return read_blur_mask(sample.mask_path, blur=sample.blur, size=(sample.height, sample.width))


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
