"""What a run asks of a label store before it learns from it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from pipeline.contract import BLUR_PROBABILITY, INVERSE_DEPTH, LabelReader, Sample, SoftfocusError
from trainer.config import Config

__all__ = ["LabelError", "open_labels", "require_fresh", "without_absent"]


class LabelError(SoftfocusError):
    """A label store that does not fit the run; the message names both."""


# the option that takes a store of each quantity
OPTIONS = {INVERSE_DEPTH: "--labels", BLUR_PROBABILITY: "--blur-labels"}


def open_labels(store: Path | str, *, quantity: str = INVERSE_DEPTH, teacher: str | None = None) -> LabelReader:
    """A store's labels.

    Args:
        quantity: what they must be.
        teacher: what they must be of: the teacher as the store calls it ("onnx:tcmonodepth"), its name, or the
            beginning (eight digits at least) of its weights' SHA-256 or of the store's fingerprint.

    Raises:
        StoreError: no label store, a damaged one, or one of another schema.
        LabelError: labels of another quantity or teacher.
    """
    reader = LabelReader(store)
    if reader.quantity != quantity:
        fits = (
            f"`softfocus train` takes it as {OPTIONS[reader.quantity]}"
            if reader.quantity in OPTIONS
            else "give another store"
        )
        raise LabelError(f"{store}: holds {reader.quantity}, and {OPTIONS[quantity]} takes {quantity}; {fits}")
    made = reader.description.provenance
    is_name = teacher in (None, made.name, f"{made.kind}:{made.name}")
    digests = (made.weights_sha256, reader.fingerprint)
    is_digest = teacher is not None and len(teacher) >= 8 and any(digest.startswith(teacher) for digest in digests)
    if not is_name and not is_digest:
        raise LabelError(
            f"{store}: labels of the teacher {made.kind}:{made.name} (weights {made.weights_sha256[:12]}), and "
            f"data.teacher asks for {teacher}; give --labels of that teacher"
        )
    return reader


def without_absent(config: Config, *, labels: Path | str | None, blur_labels: Path | str | None) -> Config:
    """The configuration with the weight of each distillation loss 0 whose store is absent."""
    off = {
        name: msgspec.structs.replace(getattr(config, name), weight=0.0)
        for name, store in (("depth_loss", labels), ("blur_distillation", blur_labels))
        if store is None
    }
    return msgspec.structs.replace(config, **off)


def require_fresh(reader: LabelReader, samples: Iterable[Sample]) -> None:
    """Refuse labels that were made from other photographs than the samples name.

    Raises:
        LabelError: naming the first one.
    """
    stale = reader.stale({sample.id: sample.sha256 for sample in samples})
    if stale:
        raise LabelError(
            f"{reader.store}: {len(stale)} labels are of another photograph than the manifest has, the first is "
            f"{stale[0]!r}; label again with `softfocus label`"
        )
