"""What a run learns from and is judged by: samples of a manifest, and the stores of their labels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pipeline.contract import BLUR_PROBABILITY, LabelReader, Sample, SoftfocusError, read_manifest, sha256_file
from trainer.config import Config
from trainer.samples.coverage import Holdings, holdings, labelled
from trainer.samples.labels import open_labels

__all__ = ["DataError", "Sources", "choose_samples", "open_sources", "with_masks"]


class DataError(SoftfocusError):
    """Training data that cannot be used as asked; the message names it and the mend."""


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The data of a run.

    Attributes:
        manifest, labels, blur_labels: as they were given.
        reader: depth labels; None without a store or without that loss.
        blur_reader: another student's probabilities of blur, likewise.
        learnt: samples that are trained on.
        validation: samples of the validation split that have a mask or a label.
        held: what the samples that may be learnt have.
        covered: what all samples of the manifest have, by split.
        manifest_sha256: of its bytes.
    """

    manifest: Path | str
    labels: Path | str | None
    blur_labels: Path | str | None
    reader: LabelReader | None
    blur_reader: LabelReader | None
    learnt: list[Sample]
    validation: list[Sample]
    held: Holdings
    covered: Holdings
    manifest_sha256: str

    @property
    def fingerprints(self) -> dict[str, str | None]:
        """Of the manifest and of the stores that are read."""
        return {
            "manifest_sha256": self.manifest_sha256,
            "labels": self.reader.fingerprint if self.reader else None,
            "blur_labels": self.blur_reader.fingerprint if self.blur_reader else None,
        }

    @property
    def samples_digest(self) -> str:
        """SHA-256 (hexadecimal) of which samples a run uses, in order, and what each has: mask, labels.

        A store that grew, or lost a shard, between two halves of a run would change what the second half sees.
        """
        samples = [*self.learnt, *self.validation]
        flags = [labelled(samples, reader)[0].tolist() for reader in (self.reader, self.blur_reader)]
        digest = hashlib.sha256()
        for sample, *has_label in zip(samples, *flags, strict=True):
            has = " ".join(str(int(known)) for known in (sample.mask is not None, *has_label))
            digest.update(f"{sample.sha256} {has} {sample.id}\n".encode())
        return digest.hexdigest()


def open_sources(
    manifest: Path | str, config: Config, *, labels: Path | str | None, blur_labels: Path | str | None
) -> Sources:
    """Open the stores that the configuration's losses need, and choose the samples.

    Raises:
        SoftfocusError: manifest or store cannot be read or are not what is asked for; see `choose_samples`.
    """
    reader = blur_reader = None
    if labels is not None and config.depth_loss.weight:
        reader = open_labels(labels, teacher=config.data.teacher)
    if blur_labels is not None and config.blur_distillation.weight:
        blur_reader = open_labels(blur_labels, quantity=BLUR_PROBABILITY)
    samples = read_manifest(manifest)
    offered = [s for s in samples if s.split in config.data.splits]
    masks = config.blur_loss.in_use
    offered = with_masks(offered, config.data.mask_fraction if masks else 0.0, seed=config.data.mask_seed)
    others = [s for s in samples if s.split not in config.data.splits]
    learnt, held = choose_samples(offered, reader, partial=config.data.partial, blur_reader=blur_reader, masks=masks)
    readers = [r for r in (reader, blur_reader) if r is not None]
    return Sources(
        manifest=manifest,
        labels=labels,
        blur_labels=blur_labels,
        reader=reader,
        blur_reader=blur_reader,
        learnt=learnt,
        validation=[s for s in others if s.split == "val" and ((masks and s.mask) or any(s.id in r for r in readers))],
        held=held,
        covered=holdings([*offered, *others], reader, blur_reader, masks=masks),
        manifest_sha256=sha256_file(manifest),
    )


def choose_samples(
    samples: Sequence[Sample],
    reader: LabelReader | None,
    *,
    partial: bool,
    blur_reader: LabelReader | None = None,
    masks: bool = True,
) -> tuple[list[Sample], Holdings]:
    """The samples that can be trained on, and what all have.

    Args:
        samples: that a run may learn from.
        reader: the store of depth labels, or None.
        partial: also take samples that lack a mask or a label, for what they have. A label that was made
            from another photograph counts as lacking.
        blur_reader: the store of soft blur labels, or None.
        masks: whether they are asked for.

    Raises:
        DataError: something is missing and `partial` is False, or nothing is left to train on.
    """
    held = holdings(samples, reader, blur_reader, masks=masks)
    if held.incomplete and not partial:
        total = held.total
        kinds = [f"{total.masks} masks"] if masks else []
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
    """The samples with the masks of all but `fraction` of those that have one taken away; 0 takes all.

    Which ones depends on `seed` and the photographs alone: a larger fraction holds the smaller one.
    """
    masked = sorted(
        (s for s in samples if s.mask is not None),
        key=lambda s: hashlib.sha256(f"{seed}:{s.sha256}".encode()).digest(),
    )
    kept = {s.id for s in masked[: max(round(fraction * len(masked)), 1) if fraction else 0]}
    return [s if s.id in kept else msgspec.structs.replace(s, mask=None, blur=None) for s in samples]
