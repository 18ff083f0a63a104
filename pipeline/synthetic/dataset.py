"""Rendered scenes, one by one and as a dataset on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from pipeline.files import sha256_file
from pipeline.synthetic.blur import compose
from pipeline.synthetic.camera import Array, circle_of_confusion_px
from pipeline.synthetic.develop import develop, draw_jpeg_quality
from pipeline.synthetic.folder import Picture, SynthError, SynthSummary, check_request, fill, usual_threshold_px
from pipeline.synthetic.prints import Photographs
from pipeline.synthetic.render import draw_all
from pipeline.synthetic.scene import build

__all__ = ["render_scene", "synthesize"]

TEST_EVERY = 10  # scenes 9, 19, 29, ... are the test split
PHOTOGRAPH_SUFFIXES = {".jpg", ".jpeg", ".png"}


def render_scene(
    index: int,
    *,
    seed: int = 0,
    size: tuple[int, int] = (320, 480),
    threshold_px: float | None = None,
    textures: tuple[Path, ...] = (),
) -> Picture:
    """Render scene `index` of a seed at (height, width); its depth is `depth_m`, along the optical axis."""
    threshold_px = usual_threshold_px(size) if threshold_px is None else threshold_px
    scene, rng = build(seed, index, size, Photographs(textures), threshold_px)
    view = scene.view

    def diameter_px(inverse_depth: Array) -> np.typing.NDArray[np.float64]:
        return circle_of_confusion_px(1 / inverse_depth, view.camera)

    layers = draw_all(scene.things, view, scene.light)
    light, inverse_depth = compose(layers, view.shape, diameter_px=diameter_px, aperture=scene.aperture)
    inner = slice(view.margin, -view.margin or None)
    image = develop(light[:, inner, inner], rng)
    depth_m = np.ascontiguousarray(np.float32(1) / inverse_depth[inner, inner])
    coc_px = circle_of_confusion_px(depth_m, view.camera).astype(np.float16)
    facts = {
        "split": "test" if index % TEST_EVERY == TEST_EVERY - 1 else "train",
        "kind": scene.kind,
        "focus": scene.focus,
        "camera": msgspec.to_builtins(view.camera),
        "blades": scene.aperture.blades,
    }
    return Picture(image, {"depth_m": depth_m}, coc_px, threshold_px, draw_jpeg_quality(rng), facts)


def synthesize(
    out: Path | str,
    *,
    count: int = 100,
    size: tuple[int, int] = (320, 480),
    seed: int = 0,
    jobs: int = -1,
    threshold_px: float | None = None,
    textures: Path | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SynthSummary:
    """Render scenes 0 to `count` - 1 into a folder; those that are there are kept.

    Writes image/NAME.jpg (quality 70 to 97), mask/NAME.png (white = out of focus: circle of confusion wider
    than `threshold_px`), exact/NAME.npz (`depth_m` and `coc_px`, float16: a relative error of at most 2**-11;
    the mask is cut from the kept `coc_px`) and scenes.jsonl (name, split, camera; every tenth scene is test).

    Args:
        out: the dataset's folder, for `softfocus index synth`.
        size: (height, width) in pixels.
        seed: of the whole set.
        jobs: processes, -1 for one a core.
        threshold_px: in pixels of the picture; by default 3 where the longer side has 480, and in proportion.
        textures: a folder of photographs to print on things; by default those of scikit-image.
        progress: called with (done, total).

    Raises:
        SynthError: a bad option, or `out` holds scenes of another seed, size, threshold or other textures.
        SoftfocusError: a file cannot be written.
    """
    threshold_px = usual_threshold_px(size) if threshold_px is None else threshold_px
    check_request(count, size, threshold_px)
    prints = _prints(textures)
    how = {"seed": seed, "size": list(size), "threshold_px": threshold_px, "textures": _fingerprint(prints)}
    make = partial(render_scene, seed=seed, size=size, threshold_px=threshold_px, textures=prints)
    return fill(out, make, count=count, how=how, jobs=jobs, progress=progress)


def _prints(textures: Path | str | None) -> tuple[Path, ...]:
    if textures is None:
        return ()
    found = tuple(sorted(p for p in Path(textures).rglob("*") if p.suffix.lower() in PHOTOGRAPH_SUFFIXES))
    if not found:
        raise SynthError(f"{textures}: no JPEG or PNG photograph in it to print on things")
    return found


def _fingerprint(prints: tuple[Path, ...]) -> str:
    """Which photographs are printed on things, by content and in order: a scene depends on both."""
    if not prints:
        return "scikit-image"
    return hashlib.sha256("".join(sha256_file(path) for path in prints).encode()).hexdigest()[:16]
