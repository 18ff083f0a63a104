"""Photographs and stored depth for benchmarks that were given none: rendered scenes and the demo's teacher."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.datasets import index
from pipeline.distill import label
from pipeline.manifest import Sample, write_manifest
from pipeline.synthetic import synthesize
from trainer.teach import load_demo

__all__ = ["render", "store_depth"]


def render(folder: Path, *, count: int, size: tuple[int, int] = (427, 640)) -> Path:
    """A manifest of `count` rendered scenes of (height, width), with masks."""
    synthesize(folder / "scenes", count=count, size=size)
    index("synth", folder / "scenes", out=folder / "scenes.jsonl", decode=False)
    return folder / "scenes.jsonl"


def store_depth(samples: Sequence[Sample], folder: Path) -> Path:
    """A label store of some samples of one manifest, by the demo's teacher."""
    write_manifest(folder / "chosen.jsonl", samples, root=samples[0].root)
    label(folder / "chosen.jsonl", folder / "labels", load_teacher=lambda: load_demo("demo"))
    return folder / "labels"
