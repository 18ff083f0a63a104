"""Blur maps of photographs, as pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch
from PIL import Image

from pipeline.contract import SoftfocusError, new_file, read_image
from trainer.checkpoint import load_student
from trainer.device import choose_device
from trainer.evaluate import predict_maps, sizes_in_use
from trainer.students.fusion import fuse_batch_norm
from trainer.students.model import require_size

__all__ = ["PHOTOGRAPH_SUFFIXES", "PredictSummary", "predict"]

PHOTOGRAPH_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})


class PredictSummary(msgspec.Struct, frozen=True):
    """What was written, and which photographs could not be read (path and reason)."""

    written: list[str]
    failed: list[str]


def predict(
    photographs: Sequence[Path | str],
    *,
    out: Path | str,
    model: Path | str,
    depth: bool = False,
    input_sizes: Sequence[int] = (),
    device: str = "auto",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> PredictSummary:
    """Write `STEM.png` for each photograph, at its own size: 8-bit grey, white = out of focus.

    Args:
        photographs: files, or folders that are searched through; below a folder its structure is kept.
        out: folder of the maps.
        model: a run folder or a student's `.safetensors` file.
        depth: also write `STEM.depth.png`, white = near, each map stretched to the full range.
        input_sizes: sides of the squares the network sees, averaged over; by default the student's own.
        device: see `trainer.device.choose_device`.
        progress: called with (done, total).

    Raises:
        SoftfocusError: no photograph found, two photographs with one output name, or no such model. A
            photograph that cannot be read is listed in the summary instead, and the others go on.
    """
    pairs = list(_outputs(photographs, Path(out)))
    if not pairs:
        raise SoftfocusError(f"{', '.join(map(str, photographs))}: no photograph found; give image files or folders")
    taken: dict[Path, Path] = {}
    originals = {source.resolve() for source, _ in pairs}
    for source, target in pairs:
        if target.resolve() in originals:
            raise SoftfocusError(
                f"{target}: is a photograph, and a map would be written over it; choose another folder"
            )
        if target in taken:
            raise SoftfocusError(f"{source} and {taken[target]} would both become {target}; rename one of them")
        taken[target] = source
    where = choose_device(device)
    student, config, _ = load_student(model, device=where)
    sizes = tuple(input_sizes) or sizes_in_use(config)
    for size in sizes:
        require_size(student, size)
    if not config.learns_blur:
        mend = "`softfocus label --teacher student:RUN` stores it"
        raise SoftfocusError(f"{model}: this student has learnt depth alone; {mend}")
    if depth and not config.depth_loss.weight:
        raise SoftfocusError(f"{model}: this student has learnt masks alone, and gives no depth; leave --depth away")
    fuse_batch_norm(student, torch.zeros(1, 3, sizes[0], sizes[0], device=where))
    written, failed = [], []
    for done, (source, target) in enumerate(pairs, 1):
        try:
            image = read_image(source)
        except SoftfocusError as error:
            failed.append(str(error))
        else:
            blur, near = predict_maps(student, image, sizes=sizes)
            _write(target, blur, image.shape[:2])
            written.append(str(target))
            if depth:
                low, high = float(near.min()), float(near.max())
                _write(target.with_suffix(".depth.png"), (near - low) / max(high - low, 1e-12), image.shape[:2])
        progress(done, len(pairs))
    return PredictSummary(written, failed)


def _outputs(photographs: Sequence[Path | str], out: Path) -> Iterator[tuple[Path, Path]]:
    for path in map(Path, photographs):
        if path.is_dir():
            found = (p for p in sorted(path.rglob("*")) if p.suffix.lower() in PHOTOGRAPH_SUFFIXES)
            if path.resolve() in out.resolve().parents:  # maps of an earlier run are no photographs
                found = (p for p in found if out.resolve() not in p.resolve().parents)
            yield from ((p, out / p.relative_to(path).with_suffix(".png")) for p in found)
        else:
            yield path, out / f"{path.stem}.png"


def _write(path: Path, values: np.ndarray, size: tuple[int, ...]) -> None:
    """Write a map in [0, 1] as 8-bit grey, resized bilinearly to (height, width)."""
    height, width = size
    picture = Image.fromarray(values.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    grey = np.rint(np.clip(np.asarray(picture), 0, 1) * 255).astype(np.uint8)
    with new_file(path) as temporary:
        Image.fromarray(grey).save(temporary, format="PNG")
