"""Pictures with exact blur on disk: image/NAME.jpg, mask/NAME.png, exact/NAME.npz and a list, scenes.jsonl.

Picture i is a function of i and of how the set is made and nothing else, so a larger set begins with the
smaller one, and the work can stop anywhere and go on. The file in exact/ is written last: it marks the
picture as whole, and keeps how it was made, so that sets are never mixed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from joblib import Parallel, delayed
from PIL import Image

from pipeline.errors import SoftfocusError
from pipeline.files import clean_temporaries, new_file

__all__ = [
    "THRESHOLD_PX",
    "WIDTH_PX",
    "Picture",
    "SynthError",
    "SynthSummary",
    "check_request",
    "fill",
    "usual_threshold_px",
]

PARTS = ("image", "mask", "exact")
SMALLEST_SIDE = 64
WIDTH_PX = 480  # of the pictures that widths in pixels are for
THRESHOLD_PX = 3.0  # wider discs count as out of focus: contours at 2 px cut through regions that look sharp


class SynthError(SoftfocusError):
    """Pictures that cannot be made as asked; the message names the folder or option and the mend."""


class SynthSummary(msgspec.Struct, frozen=True):
    """What a run did: pictures made now, pictures that were there, mean share of blurred pixels."""

    out: str
    rendered: int
    kept: int
    blurred_share: float


@dataclass(frozen=True)
class Picture:
    """A photograph with exact defocus.

    image: uint8 sRGB (H, W, 3), to be saved at jpeg_quality.
    depth: one array (H, W) by name, `depth_m` or `inverse_depth`; kept as float16.
    coc_px: diameter of the circle of confusion in pixels (H, W), float16: the very numbers that are kept.
    facts: for scenes.jsonl; `name` and `split` are among them.
    """

    image: npt.NDArray[np.uint8]
    depth: dict[str, npt.NDArray[np.float32]]
    coc_px: npt.NDArray[np.float16]
    threshold_px: float
    jpeg_quality: int
    facts: dict[str, Any]

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """True = out of focus, (H, W): the circle of confusion is wider than the threshold."""
        return np.asarray(self.coc_px.astype(np.float64) > self.threshold_px)


def usual_threshold_px(size: tuple[int, int]) -> float:
    """The threshold for pictures of (height, width), where none is asked for: in proportion to the longer side."""
    return round(THRESHOLD_PX * max(size) / WIDTH_PX, 3)


def check_request(count: int, size: tuple[int, int], threshold_px: float) -> None:
    """Raise a SynthError for options that no set can be made with."""
    if count < 1:
        raise SynthError(f"{count} pictures: ask for at least 1")
    if min(size) < SMALLEST_SIDE:
        raise SynthError(f"pictures of {size[0]} x {size[1]}: each side must have at least {SMALLEST_SIDE} pixels")
    if not threshold_px > 0:
        raise SynthError(f"threshold of {threshold_px} pixels: it must be above 0")


def fill(
    out: Path | str,
    make: Callable[[int], Picture],
    *,
    count: int,
    how: dict[str, Any],
    jobs: int = -1,
    progress: Callable[[int, int], None] | None = None,
) -> SynthSummary:
    """Make pictures 0 to `count` - 1 of a folder; those that are there are kept.

    Args:
        make: number to picture; goes to other processes, so it can be pickled.
        how: what the pictures depend on besides their number, ready for JSON; it is kept with each of them.
        jobs: processes, -1 for one a core.
        progress: called with (done, total).

    Raises:
        SynthError: the folder holds pictures made in another way, or a damaged one.
        SoftfocusError: a file cannot be written.
    """
    folder = Path(out)
    how = json.loads(json.dumps(how))
    _refuse_foreign(folder)
    for part in PARTS:
        clean_temporaries(folder / part)
    records = [facts for i in range(count) if (facts := _kept(folder, i, how)) is not None]
    kept = len(records)
    there = {facts["name"] for facts in records}
    missing = [i for i in range(count) if name_of(i) not in there]
    if missing:
        work = Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1)
        for facts in work(delayed(partial(_write, folder, make, how))(i) for i in missing):
            records.append(facts)
            if progress is not None:
                progress(len(records), count)
    records.sort(key=lambda facts: facts["name"])
    with new_file(folder / "scenes.jsonl") as temporary:
        temporary.write_text("".join(json.dumps(facts) + "\n" for facts in records), encoding="utf-8")
    return SynthSummary(str(out), len(missing), kept, float(np.mean([r["blurred_share"] for r in records])))


def _refuse_foreign(folder: Path) -> None:
    """Refuse a folder that holds other things than pictures, such as a label store."""
    if folder.exists() and not folder.is_dir():
        raise SynthError(f"{folder}: is a file; choose a folder")
    names = {entry.name for entry in folder.iterdir() if not entry.name.startswith(".")} if folder.exists() else set()
    foreign = sorted(names - {*PARTS, "scenes.jsonl"})
    if foreign and not (folder / "exact").is_dir():
        raise SynthError(f"{folder}: holds {foreign[0]!r} and no pictures with exact blur; choose another folder")


def name_of(index: int) -> str:
    """Name of a picture in its folder."""
    return f"{index:06d}"


def _write(folder: Path, make: Callable[[int], Picture], how: dict[str, Any], index: int) -> dict[str, Any]:
    """Make a picture and write its files, the one that marks it whole last."""
    picture = make(index)
    name = name_of(index)
    facts = {"name": name, **picture.facts, **how, "blurred_share": round(float(picture.mask.mean()), 4)}
    with new_file(folder / "image" / f"{name}.jpg") as temporary:
        Image.fromarray(picture.image).save(temporary, format="JPEG", quality=picture.jpeg_quality)
    with new_file(folder / "mask" / f"{name}.png") as temporary:
        Image.fromarray(picture.mask.astype(np.uint8) * 255).save(temporary, format="PNG")
    with new_file(folder / "exact" / f"{name}.npz") as temporary, temporary.open("wb") as file:
        depth = {key: values.astype(np.float16) for key, values in picture.depth.items()}
        np.savez_compressed(file, scene=np.array(json.dumps(facts)), coc_px=picture.coc_px, **depth)  # type: ignore[arg-type]
    return facts


def _kept(folder: Path, index: int, how: dict[str, Any]) -> dict[str, Any] | None:
    """The facts of a picture that is on disk, or None; refuses one that was made in another way."""
    path = folder / "exact" / f"{name_of(index)}.npz"
    if not path.exists():
        return None
    try:
        with np.load(path) as exact:
            facts: dict[str, Any] = json.loads(str(exact["scene"]))
    except (OSError, ValueError, KeyError) as error:
        raise SynthError(f"{path}: not a rendered scene ({error}); remove it to render it again") from error
    other = {key: facts.get(key) for key, value in how.items() if facts.get(key) != value}
    if other:
        wanted = {key: how[key] for key in other}
        raise SynthError(f"{folder}: holds pictures made with {other}, not with {wanted}; choose another folder")
    return facts
