"""What a run asks of a label store before it learns from it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline.contract import LabelReader, Sample, SoftfocusError

__all__ = ["LabelError", "open_labels", "require_fresh", "samples_digest"]


class LabelError(SoftfocusError):
    """A label store that does not fit the run; the message names both."""


def open_labels(store: Path | str, *, teacher: str | None = None) -> LabelReader:
    """A store's labels.

    Args:
        teacher: what they must be of: the teacher as the store calls it ("onnx:tcmonodepth"), its name, or the
            beginning (eight digits at least) of its weights' SHA-256 or of the store's fingerprint.

    Raises:
        StoreError: no label store, a damaged one, or one of another schema.
        LabelError: labels of another teacher.
    """
    reader = LabelReader(store)
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


def samples_digest(samples: Sequence[Sample], reader: LabelReader | None) -> str:
    """SHA-256 (hexadecimal) of which samples a run learns from, in order, and what each has: mask, label.

    A store that grew, or lost a shard, between two halves of a run would change what the second half sees.
    """
    unlabelled = set(reader.missing(s.id for s in samples)) if reader else {s.id for s in samples}
    stale = set(reader.stale({s.id: s.sha256 for s in samples})) if reader else set()
    digest = hashlib.sha256()
    for sample in samples:
        has_label = sample.id not in unlabelled and sample.id not in stale
        digest.update(f"{sample.sha256} {sample.mask is not None:d} {has_label:d} {sample.id}\n".encode())
    return digest.hexdigest()
