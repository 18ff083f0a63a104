"""Rendered scenes on disk: image/NAME.jpg, mask/NAME.png, exact/NAME.npz and a list, scenes.jsonl.

Scene i is a function of (seed, i, size, threshold) and nothing else, so a larger set begins with the
smaller one, and rendering can stop anywhere and go on.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from joblib import Parallel, delayed
from PIL import Image

from pipeline.errors import SoftfocusError
from pipeline.files import new_file
from pipeline.synthetic.blur import compose
from pipeline.synthetic.camera import circle_of_confusion_px
from pipeline.synthetic.develop import develop
from pipeline.synthetic.prints import Photographs
from pipeline.synthetic.render import draw_all
from pipeline.synthetic.scene import build

__all__ = ["THRESHOLD_PX", "Rendered", "SynthError", "SynthSummary", "render_scene", "synthesize"]

THRESHOLD_PX = 2.0  # wider discs count as out of focus: about where a viewer at full size begins to see them
SMALLEST_SIDE = 64
TEST_EVERY = 10  # scenes 9, 19, 29, ... are the test split
PHOTOGRAPH_SUFFIXES = {".jpg", ".jpeg", ".png"}


class SynthError(SoftfocusError):
    """Scenes that cannot be rendered as asked; the message names the folder or option and the mend."""


class SynthSummary(msgspec.Struct, frozen=True):
    """What `synthesize` did: scenes rendered now, scenes that were there, mean share of blurred pixels."""

    out: str
    rendered: int
    kept: int
    blurred_share: float


class Rendered(NamedTuple):
    """A scene: uint8 sRGB (H, W, 3); depth in metres along the optical axis and diameter of the circle of
    confusion in pixels, float32 (H, W); mask bool (H, W), True = out of focus; facts for scenes.jsonl."""

    image: npt.NDArray[np.uint8]
    depth_m: npt.NDArray[np.float32]
    coc_px: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_]
    facts: dict[str, Any]


def render_scene(
    index: int,
    *,
    seed: int = 0,
    size: tuple[int, int] = (320, 480),
    threshold_px: float = THRESHOLD_PX,
    textures: tuple[Path, ...] = (),
) -> Rendered:
    """Render scene `index` of a seed at (height, width)."""
    scene, rng = build(seed, index, size, Photographs(textures), threshold_px)
    view = scene.view
    light, depth = compose(draw_all(scene.things, view, scene.light), view.camera, view.shape)
    inner = slice(view.margin, -view.margin or None)
    image = develop(light[:, inner, inner], rng)
    depth_m = np.ascontiguousarray(depth[inner, inner], dtype=np.float32)
    coc_px = circle_of_confusion_px(depth_m, view.camera).astype(np.float32)
    facts = {
        "name": f"{index:06d}",
        "split": "test" if index % TEST_EVERY == TEST_EVERY - 1 else "train",
        "seed": seed,
        "size": list(size),
        "threshold_px": threshold_px,
        "kind": scene.kind,
        "focus": scene.focus,
        "camera": msgspec.to_builtins(view.camera),
    }
    return Rendered(image, depth_m, coc_px, coc_px > threshold_px, facts)


def synthesize(
    out: Path | str,
    *,
    count: int = 100,
    size: tuple[int, int] = (320, 480),
    seed: int = 0,
    jobs: int = -1,
    threshold_px: float = THRESHOLD_PX,
    textures: Path | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SynthSummary:
    """Render scenes 0 to `count` - 1 into a folder; those that are there are kept.

    Writes image/NAME.jpg (quality 95), mask/NAME.png (white = out of focus: circle of confusion wider than
    `threshold_px`), exact/NAME.npz (`depth_m` and `coc_px`, float16: a relative error of at most 2**-11)
    and scenes.jsonl (name, split, camera; every tenth scene is test).

    Args:
        out: the dataset's folder, for `softfocus index synth`.
        size: (height, width) in pixels.
        seed: of the whole set.
        jobs: processes, -1 for one a core.
        textures: a folder of photographs to print on things; by default those of scikit-image.
        progress: called with (done, total).

    Raises:
        SynthError: a bad option, or `out` holds scenes of another seed, size or threshold.
        SoftfocusError: a file cannot be written.
    """
    if count < 1:
        raise SynthError(f"{count} scenes: render at least 1")
    if min(size) < SMALLEST_SIDE:
        raise SynthError(f"scenes of {size[0]} x {size[1]}: each side must have at least {SMALLEST_SIDE} pixels")
    if not threshold_px > 0:
        raise SynthError(f"threshold of {threshold_px} pixels: it must be above 0")
    prints = _prints(textures)
    folder = Path(out)
    how = {"seed": seed, "size": size, "threshold_px": threshold_px}
    kept = [facts for i in range(count) if (facts := _kept(folder, i, how)) is not None]
    there = {facts["name"] for facts in kept}
    missing = [i for i in range(count) if f"{i:06d}" not in there]
    work = Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1)
    records = list(kept)
    if missing:
        for facts in work(delayed(_write)(folder, i, how, prints) for i in missing):
            records.append(facts)
            if progress is not None:
                progress(len(records), count)
    records.sort(key=lambda facts: facts["name"])
    with new_file(folder / "scenes.jsonl") as temporary:
        temporary.write_text("".join(json.dumps(facts) + "\n" for facts in records), encoding="utf-8")
    return SynthSummary(str(out), len(missing), len(kept), float(np.mean([r["blurred_share"] for r in records])))


def _write(folder: Path, index: int, how: dict[str, Any], prints: tuple[Path, ...]) -> dict[str, Any]:
    """Render a scene and write its files, the one that marks it whole last."""
    scene = render_scene(index, textures=prints, **how)
    facts = {**scene.facts, "blurred_share": round(float(scene.mask.mean()), 4)}
    name = facts["name"]
    with new_file(folder / "image" / f"{name}.jpg") as temporary:
        Image.fromarray(scene.image).save(temporary, format="JPEG", quality=95)
    with new_file(folder / "mask" / f"{name}.png") as temporary:
        Image.fromarray(scene.mask.astype(np.uint8) * 255).save(temporary, format="PNG")
    with new_file(folder / "exact" / f"{name}.npz") as temporary, temporary.open("wb") as file:
        depth_m, coc_px = scene.depth_m.astype(np.float16), scene.coc_px.astype(np.float16)
        np.savez_compressed(file, scene=np.array(json.dumps(facts)), depth_m=depth_m, coc_px=coc_px)
    return facts


def _kept(folder: Path, index: int, how: dict[str, Any]) -> dict[str, Any] | None:
    """The facts of a scene that is on disk, or None; refuses one that was rendered in another way."""
    path = folder / "exact" / f"{index:06d}.npz"
    if not path.exists():
        return None
    try:
        with np.load(path) as exact:
            facts: dict[str, Any] = json.loads(str(exact["scene"]))
    except (OSError, ValueError, KeyError) as error:
        raise SynthError(f"{path}: not a rendered scene ({error}); remove it to render it again") from error
    before = {"seed": facts["seed"], "size": tuple(facts["size"]), "threshold_px": facts["threshold_px"]}
    if before != how:
        raise SynthError(f"{folder}: holds scenes of {before}, not of {how}; choose another folder")
    return facts


def _prints(textures: Path | str | None) -> tuple[Path, ...]:
    if textures is None:
        return ()
    found = tuple(sorted(p for p in Path(textures).rglob("*") if p.suffix.lower() in PHOTOGRAPH_SUFFIXES))
    if not found:
        raise SynthError(f"{textures}: no JPEG or PNG photograph in it to print on things")
    return found
