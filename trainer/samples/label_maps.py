"""Stored labels of one sample as the maps that a batch holds: squashed to a square, float16, NaN = unknown."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.contract import LabelReader, Sample

__all__ = ["confidence_map", "depth_map", "soft_blur_map"]

HalfMap = npt.NDArray[np.float16]


def depth_map(reader: LabelReader | None, sample: Sample, size: int) -> HalfMap:
    """(size, size), relative inverse depth scaled to [0, 1] over the known pixels of the map.

    All NaN where there is no reader, no label, or only a label of another photograph.
    """
    label = _label(reader, sample)
    if label is None:
        return _unknown(size)
    known = np.isfinite(label)
    low, high = (label[known].min(), label[known].max()) if known.any() else (0.0, 1.0)
    return _squashed((label - low) / max(high - low, 1e-12), size)


def soft_blur_map(reader: LabelReader | None, sample: Sample, size: int) -> HalfMap:
    """(size, size), a student's probability of blur as it was stored, in [0, 1]; all NaN as for depth."""
    label = _label(reader, sample)
    return _unknown(size) if label is None else _squashed(np.clip(label, 0, 1), size)


def confidence_map(reader: LabelReader | None, sample: Sample, size: int) -> HalfMap | None:
    """(size, size), how far the depth label can be trusted, in [0, 1]; NaN without a label.

    None where there is no reader, or a store without confidence.
    """
    if reader is None or not reader.has_confidence:
        return None
    confidence = reader.confidence(sample.id) if _is_fresh(reader, sample) else None
    return _unknown(size) if confidence is None else _squashed(confidence, size)


def _label(reader: LabelReader | None, sample: Sample) -> npt.NDArray[np.float32] | None:
    return reader[sample.id] if reader is not None and _is_fresh(reader, sample) else None


def _is_fresh(reader: LabelReader, sample: Sample) -> bool:
    return sample.id in reader and reader.sha256_of(sample.id) == sample.sha256


def _unknown(size: int) -> HalfMap:
    return np.full((size, size), np.nan, np.float16)


def _squashed(values: npt.NDArray[np.floating[Any]], size: int) -> HalfMap:
    """Bilinear and antialiased; a pixel that an unknown one reaches into is unknown."""
    known = np.isfinite(values)
    resized = _bilinear(np.where(known, values, 0), size)
    if not known.all():
        resized = np.where(_bilinear(known, size) > 0.999, resized, np.nan)
    return resized.astype(np.float16)


def _bilinear(values: npt.NDArray[np.generic], size: int) -> npt.NDArray[np.float32]:
    image = Image.fromarray(values.astype(np.float32))
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
