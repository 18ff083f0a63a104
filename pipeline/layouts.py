"""What a dataset's folder looks like: one small adapter for each layout that `softfocus index` knows.

An adapter only looks at names. It says which files belong together, which split they are in and which value
of the masks means out of focus; whether the files are any good is for `pipeline.datasets` to find out. No
other module knows a dataset's folders, split or polarity. `datasets.md` describes every layout for people.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from pipeline.errors import SoftfocusError

__all__ = ["LAYOUTS", "Blur", "DatasetError", "Found", "Layout", "Listing", "Split"]

Blur = Literal["white", "black"]
Split = Literal["train", "val", "test"]

_SPLITS: tuple[Split, ...] = ("train", "val", "test")
_COMMON = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif")
_RARE = (".jpe", ".jfif", ".ppm", ".pgm", ".pbm", ".jp2", ".avif", ".tga")
_SUFFIXES = frozenset(_COMMON + _RARE)
# Photographs that a camera or an editor makes and that this project cannot decode: worth a warning.
_RAW = (".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2")
_UNREADABLE = frozenset((*_RAW, ".heic", ".heif", ".psd", ".svg"))


class DatasetError(SoftfocusError):
    """A folder that is not of the layout asked for, or holds nothing usable."""


class Found(NamedTuple):
    """A photograph and its mask, by their names."""

    stem: str
    """The sample's id behind the dataset's name, such as "out_of_focus0001"."""
    image: Path
    mask: Path | None
    split: Split


@dataclass
class Listing:
    """What an adapter found, and what it could not put together (one line each, with the mend)."""

    found: list[Found] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def extend(self, other: Listing) -> None:
        """Take in everything of another listing."""
        self.found += other.found
        self.problems += other.problems
        self.warnings += other.warnings


class Layout(NamedTuple):
    """How a dataset lies on disk."""

    find: Callable[[Path], Listing]
    blur: Blur | None
    """The mask value that means out of focus as published; None if there are no masks or it varies."""
    has_masks: bool
    summary: str
    """One line for the command's help."""
    inverted: frozenset[str] = frozenset()
    """SHA-256 of mask files that were published the wrong way round."""


_CUHK_INVERTED = frozenset(
    (
        "92895faa819cbbb557b7fb62bb261747ffd4a932a5d6b102b148059516948b1b",  # out_of_focus0508
        "672bae42280b5e436b24efa0fd50852f7e56f842fde0f183c05b9073494937af",  # out_of_focus0509
    )
)


def _cuhk(root: Path) -> Listing:
    _expect(root, "image", "gt", "test.txt")
    listed = _names(root / "test.txt")
    listing = _matched(root / "image", root / "gt", lambda stem: "test" if stem in listed else "train")
    _leave_motion_blur(listing)
    present = _by_stem(root / "image")
    for stem in sorted(listed - present.keys()):
        listing.problems.append(
            f"{root / 'test.txt'}: names {stem!r} and image/ has no such photograph; "
            "restore it or strike it from the list"
        )
    return listing


def _leave_motion_blur(listing: Listing) -> None:
    """The publishers' archive holds 296 photographs of motion blur beside the 704 of defocus."""
    kept = [found for found in listing.found if not found.stem.lower().startswith("motion")]
    if left := len(listing.found) - len(kept):
        listing.warnings.append(f"{left} photographs named motion* are left aside: motion blur is no defocus")
        listing.found = kept


def _dut(root: Path) -> Listing:
    base = _child(root, "DUT-DBD_Dataset") or root
    pairs: list[tuple[Split, str, str]] = [
        ("train", "DUT600S_Training", "DUT600GT_Training"),
        ("test", "DUT500S-Testing", "DUT500GT-Testing"),
        ("test", "image", "gt"),
    ]
    listing = Listing()
    seen: set[str] = set()
    for split, image_name, mask_name in pairs:
        images, masks = _child(base, image_name), _child(base, mask_name)
        if images is None or split in seen:
            continue
        if masks is None:
            raise DatasetError(f"{base}: has {image_name}/ and not {mask_name}/; add the folder of its masks")
        seen.add(split)
        # The halves may number their photographs alike, so the split is part of the id.
        listing.extend(_matched(images, masks, _always(split), prefix=f"{split}/"))
    if not seen:
        raise DatasetError(
            f"{base}: not the layout of dut; expected the folders {pairs[0][1]}/ and {pairs[0][2]}/, "
            f"{pairs[1][1]}/ and {pairs[1][2]}/, or image/ and gt/"
        )
    _doubt_cuhk(base, listing)
    return listing


def _ctcug(root: Path) -> Listing:
    _expect(root, "CTCUG_images", "CTCUG_gt")
    return _matched(root / "CTCUG_images", root / "CTCUG_gt", _always("test"))


def _ebd(root: Path) -> Listing:
    _expect(root, "image", "gt")
    listing = _matched(root / "image", root / "gt", _always("test"))
    _doubt_cuhk(root, listing)
    return listing


def _doubt_cuhk(root: Path, listing: Listing) -> None:
    """Only cuhk has a test.txt beside image/ and gt/, and its masks mean the opposite."""
    if (root / "test.txt").exists():
        listing.warnings.append(f"{root}: holds a test.txt, as cuhk does; if it is cuhk, index it with that layout")


def _pairs(root: Path) -> Listing:
    listing = Listing()
    parts = [(part, f"{part.name}/") for split in _SPLITS if (part := root / split).is_dir()]
    if not parts or (root / "image").is_dir():
        parts.append((root, ""))
    for part, prefix in parts:
        masks = next((part / name for name in ("mask", "gt") if (part / name).is_dir()), None)
        if masks is None or not (part / "image").is_dir():
            raise DatasetError(f"{part}: not the layout of pairs; expected the folders image/ and mask/ (or gt/)")
        listing.extend(_matched(part / "image", masks, _split_in_path, prefix=prefix))
    return listing


def _images(root: Path) -> Listing:
    return _matched(root, None, _always("train"))


def _synth(root: Path) -> Listing:
    _expect(root, "image", "mask", "scenes.jsonl")
    splits = _scenes(root / "scenes.jsonl")
    listing = _matched(root / "image", root / "mask", lambda stem: splits.get(stem, "train"))
    for found in listing.found:
        if found.stem not in splits:
            listing.problems.append(f"{found.image}: scenes.jsonl does not list it; render again or remove it")
    listing.found = [found for found in listing.found if found.stem in splits]
    for stem in sorted(splits.keys() - _by_stem(root / "image").keys()):
        listing.problems.append(f"{root / 'scenes.jsonl'}: lists {stem!r} and image/ lacks it; render again")
    return listing


LAYOUTS: dict[str, Layout] = {
    "cuhk": Layout(_cuhk, "white", True, "CUHK / Shi et al. 2014: image/, gt/, test.txt", _CUHK_INVERTED),
    "dut": Layout(_dut, "black", True, "DUT / Zhao et al. 2018: DUT600S_Training/ ..., or image/, gt/"),
    "ctcug": Layout(_ctcug, "white", True, "CTCUG / Tang et al. 2020: CTCUG_images/, CTCUG_gt/"),
    "ebd": Layout(_ebd, "black", True, "EBD / Jin et al. 2023: image/, gt/"),
    "pairs": Layout(_pairs, None, True, "your own: image/, mask/ or gt/, perhaps below train/ val/ test/"),
    "images": Layout(_images, None, False, "photographs without masks, in any folder"),
    "synth": Layout(_synth, "white", True, "what `softfocus synth` renders: image/, mask/, scenes.jsonl"),
}
"""Name -> layout."""


def _matched(images: Path, masks: Path | None, split: Callable[[str], Split], *, prefix: str = "") -> Listing:
    """Photographs with the masks of their stems, in the order of their names.

    Both folders are searched with their sub-folders; a stem is the path below the folder without suffix.
    """
    listing = Listing()
    unmatched = {} if masks is None else _by_stem(masks)
    for stem, paths in _by_stem(images, listing).items():
        candidates = unmatched.pop(stem, [])
        if len(candidates) > 1:
            names = " and ".join(str(path) for path in candidates)
            listing.problems.append(f"{paths[0]}: has two masks, {names}; keep one")
            continue
        mask = candidates[0] if candidates else None
        listing.found += [Found(prefix + stem, path, mask, split(prefix + stem)) for path in paths]
    if unmatched:
        first = next(iter(unmatched.values()))[0]
        listing.warnings.append(f"{masks}: {len(unmatched)} masks have no photograph, such as {first.name}")
    return listing


def _by_stem(folder: Path, listing: Listing | None = None) -> dict[str, list[Path]]:
    """The image files below a folder by stem; a warning is noted for those nobody here can decode."""
    stems: dict[str, list[Path]] = {}
    unreadable: list[Path] = []
    for path in sorted(_walk(folder)):
        suffix = path.suffix.lower()
        if suffix in _SUFFIXES:
            # macOS may spell one name composed in image/ and decomposed in gt/: stems are composed.
            stem = unicodedata.normalize("NFC", path.relative_to(folder).with_suffix("").as_posix())
            stems.setdefault(stem, []).append(path)
        elif suffix in _UNREADABLE:
            unreadable.append(path)
    if unreadable and listing is not None:
        listing.warnings.append(
            f"{folder}: {len(unreadable)} files in formats that cannot be read, such as "
            f"{unreadable[0].name}; convert them to JPEG or PNG"
        )
    return stems


def _walk(folder: Path) -> Iterator[Path]:
    """All files below a folder but hidden ones and what macOS adds to archives; links are followed once."""
    visited: set[str] = set()
    for parent, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        real = os.path.realpath(parent)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        yield from (Path(parent, name) for name in files if not name.startswith("."))


def _refuse(error: OSError) -> None:
    raise DatasetError(f"{error.filename}: cannot be searched ({error.strerror}); mend its permissions")


def _always(split: Split) -> Callable[[str], Split]:
    return lambda stem: split


def _split_in_path(stem: str) -> Split:
    """The split that a path's first folder names, train where it names none."""
    first, _, rest = stem.partition("/")
    return next((split for split in _SPLITS if rest and first == split), "train")


def _expect(root: Path, *names: str) -> None:
    missing = [name for name in names if not (root / name).exists()]
    if missing:
        raise DatasetError(
            f"{root}: not this layout, it lacks {_listed(missing)}; expected {_listed(list(names))} in it"
        )


def _listed(names: list[str]) -> str:
    words = [name if Path(name).suffix else f"{name}/" for name in names]
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _child(root: Path, name: str) -> Path | None:
    """The folder of that name, whatever its case and whether it has dashes or underscores."""

    def plain(text: str) -> str:
        return text.lower().replace("_", "-")

    if (root / name).is_dir():
        return root / name
    return next((path for path in sorted(root.iterdir()) if path.is_dir() and plain(path.name) == plain(name)), None)


def _names(path: Path) -> set[str]:
    """The stems listed in a text file, one file name a line, with or without suffix."""
    lines = unicodedata.normalize("NFC", _text(path)).splitlines()
    names = [line.strip().replace("\\", "/") for line in lines]
    return {_stem(name) for name in names if name}


def _stem(name: str) -> str:
    path = Path(name)
    return path.with_suffix("").as_posix() if path.suffix.lower() in _SUFFIXES else name


class _Scene(msgspec.Struct):
    name: str
    split: Split


def _scenes(path: Path) -> dict[str, Split]:
    splits: dict[str, Split] = {}
    for number, line in enumerate(_text(path).splitlines(), start=1):
        try:
            scene = msgspec.json.decode(line, type=_Scene)
        except msgspec.DecodeError as error:
            raise DatasetError(f"{path}:{number}: not a scene ({error}); render the scenes again") from error
        splits[unicodedata.normalize("NFC", scene.name)] = scene.split
    return splits


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read as UTF-8 text ({error}); restore it") from error
