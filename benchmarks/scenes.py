"""Photographs and stored depth for benchmarks that were given none: rendered scenes and the demo's teacher."""

from __future__ import annotations

import functools
from pathlib import Path

from pipeline.datasets import index
from pipeline.distill import label
from pipeline.synthetic import synthesize
from pipeline.teachers import load_teacher, register_kind

__all__ = ["render", "store_depth"]


def render(folder: Path, *, count: int, size: tuple[int, int] = (427, 640)) -> Path:
    """A manifest of `count` rendered scenes of (height, width), with masks."""
    synthesize(folder / "scenes", count=count, size=size)
    index("synth", folder / "scenes", out=folder / "scenes.jsonl", decode=False)
    return folder / "scenes.jsonl"


def store_depth(manifest: Path, folder: Path) -> Path:
    """A label store of a manifest's photographs, by the demo's teacher."""
    register_kind("demo", "trainer.teach:load_demo")
    load = functools.partial(load_teacher, "demo", device="auto")
    label(manifest, folder / "labels", load_teacher=load, asked="demo")
    return folder / "labels"
