"""The manifest: the list of samples that both stages share, one JSON object a line.

A header line names the folder that the samples below it are relative to; a later header changes it, so
`cat a.jsonl b.jsonl > both.jsonl` makes a manifest (in the same folder). Reading is strict: whatever a
program half wrote or a person mistyped is refused with its line number, because a sample that is silently
dropped or mixed up costs a training run. A million lines are read in seconds, one at a time if wanted.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from pipeline.errors import SoftfocusError
from pipeline.files import new_file

__all__ = [
    "SPLITS",
    "ManifestError",
    "Sample",
    "iter_manifest",
    "read_manifest",
    "sample_problem",
    "select_samples",
    "write_manifest",
]

SPLITS = ("train", "val", "test")
VERSION = 1
_HEADER_MEND = f'a header reads {{"softfocus":"manifest","version":{VERSION},"root":"FOLDER"}}'

_Length = Annotated[int, msgspec.Meta(ge=1)]
_NotEmpty = Annotated[str, msgspec.Meta(min_length=1)]


class ManifestError(SoftfocusError):
    """A manifest that cannot be read or written; the message names file and line."""


class Sample(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """One photograph, with its blur mask where there is one.

    Attributes:
        id: name of the sample, unique over the manifest, such as "cuhk/out_of_focus0001".
        image: the photograph's path, posix, relative to `root`.
        mask: the mask's path likewise, or None.
        blur: the mask's value that means OUT OF FOCUS; set if and only if there is a mask.
        split: "train", "val" or "test".
        height, width: size of the upright photograph (after EXIF rotation) in pixels.
        sha256: SHA-256 of the photograph's file, 64 lower-case hexadecimal digits.
        root: absolute folder of the paths; not written with the sample, set by the reader.
    """

    id: _NotEmpty
    image: _NotEmpty
    mask: _NotEmpty | None = None
    blur: Literal["white", "black"] | None = None
    split: Literal["train", "val", "test"]
    height: _Length
    width: _Length
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    root: str = ""

    @property
    def image_path(self) -> Path:
        """The photograph's file."""
        return Path(self.root, self.image)

    @property
    def mask_path(self) -> Path | None:
        """The mask's file, or None for a photograph without one."""
        return None if self.mask is None else Path(self.root, self.mask)


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    softfocus: Literal["manifest"]
    version: int
    root: str


def read_manifest(path: Path | str, *, split: str | None = None) -> list[Sample]:
    """All samples of a manifest in file order, or those of one split (perhaps none).

    Raises:
        ManifestError: as `iter_manifest`, or `split` is not the name of one.
    """
    if split is not None and split not in SPLITS:
        raise ManifestError(f"{path}: there is no split {split!r}; choose one of {', '.join(SPLITS)}")
    return [sample for sample in iter_manifest(path) if split is None or sample.split == split]


def iter_manifest(path: Path | str) -> Iterator[Sample]:
    """Read a manifest line by line.

    Raises:
        ManifestError: the file cannot be read or holds no sample; or a line is not JSON, lacks a field, has
            one too many or one of another type, names a path that leaves its root, repeats an id, comes
            before any header, or is the header of another version. The message says "file:line".
    """
    path = Path(path)
    folder = os.path.realpath(path.parent)
    decoder = msgspec.json.Decoder(Sample)
    root: str | None = None
    line_of_id: dict[str, int] = {}
    for number, line in _lines(path):
        try:
            sample = decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            root = os.path.realpath(os.path.join(folder, _header(f"{path}:{number}", line, error).root))
            continue
        first = line_of_id.setdefault(sample.id, number)
        if root is None:
            raise ManifestError(f"{path}:{number}: no header before the first sample; {_HEADER_MEND}")
        if first != number:
            raise ManifestError(
                f"{path}:{number}: the id {sample.id!r} is on line {first} already; rename one of the two samples"
            )
        if problem := sample_problem(sample):
            raise ManifestError(f"{path}:{number}: {problem}")
        msgspec.structs.force_setattr(sample, "root", root)
        yield sample
    if not line_of_id:
        raise ManifestError(f"{path}: holds no samples; make it again with `softfocus index`")


def write_manifest(path: Path | str, samples: Iterable[Sample], *, root: Path | str) -> None:
    """Write samples, sorted by id, as a manifest; an old file stays until the new one is whole.

    Args:
        root: the folder that the samples' paths are relative to. Written relative to the manifest's own
            folder where that is possible, so that both can move together; else absolute.

    Raises:
        ManifestError: no samples, an id twice, a path that leaves `root`, or a name that is not valid
            Unicode; nothing is written.
        SoftfocusError: the file cannot be written.
    """
    path = Path(path)
    ordered = sorted(samples, key=lambda sample: sample.id)
    if not ordered:
        raise ManifestError(f"{path}: no samples to write; a manifest holds at least one")
    header = _Header(softfocus="manifest", version=VERSION, root=_portable_root(path, root))
    lines = [msgspec.json.encode(header)]
    previous = ""
    for sample in ordered:
        if sample.id == previous:
            raise ManifestError(f"{path}: two samples have the id {sample.id!r}; rename one of the files")
        previous = sample.id
        lines.append(_encode(path, sample))
    with new_file(path) as temporary:
        temporary.write_bytes(b"\n".join(lines) + b"\n")


def select_samples(manifest: Path | str, ids: Container[str], *, out: Path | str) -> int:
    """Write the samples of a manifest whose id is in `ids` as a manifest of its own; returns their number.

    Raises:
        ManifestError: as `iter_manifest`.
        SoftfocusError: `out` cannot be written.
    """
    count, root = 0, ""
    with new_file(out) as temporary, temporary.open("wb") as file:
        for sample in iter_manifest(manifest):
            if sample.id not in ids:
                continue
            if sample.root != root:
                root = sample.root
                header = _Header(softfocus="manifest", version=VERSION, root=root)
                file.write(msgspec.json.encode(header) + b"\n")
            file.write(_encode(Path(out), sample) + b"\n")
            count += 1
    return count


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers from 1."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")  # some editors put a byte-order mark first
                if not line.isspace() and line:
                    yield number, line
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ManifestError(f"{path}: cannot be read ({reason}); give a file made with `softfocus index`") from error


def _header(where: str, line: bytes, sample_error: Exception) -> _Header:
    """The header on a line that is no sample; a ManifestError that says what ails the line if it is none."""
    try:
        value = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ManifestError(
            f"{where}: not JSON ({error}); mend the line or make the manifest again with `softfocus index`"
        ) from error
    if not isinstance(value, dict) or "softfocus" not in value:
        raise ManifestError(f"{where}: not a sample ({sample_error}); mend the line or index again") from sample_error
    if value.get("softfocus") == "manifest" and value.get("version") != VERSION:
        raise ManifestError(
            f"{where}: a manifest of version {value.get('version')!r}, and this softfocus reads version "
            f"{VERSION}; make it again with `softfocus index`"
        )
    try:
        return msgspec.convert(value, _Header)
    except msgspec.ValidationError as error:
        raise ManifestError(f"{where}: not the header of a manifest ({error}); {_HEADER_MEND}") from error


def sample_problem(sample: Sample) -> str:
    """What is wrong with a sample beyond its fields' types, with the mend; empty if nothing."""
    for field, value in (("id", sample.id), ("image", sample.image), ("mask", sample.mask)):
        if value is not None and _leaves_root(value):
            return f"the {field} {value!r} does not stay below its root; paths are relative, without '..'"
    if (sample.mask is None) != (sample.blur is None):
        return "'mask' and 'blur' belong together; give both or neither"
    if sample.root:
        return "not a sample (Object contains unknown field `root`); the root belongs on the header line"
    return ""


def _leaves_root(path: str) -> bool:
    """Whether a path is absolute or climbs out, by the rules of any system (a manifest may travel)."""
    if path[0] in "/\\" or path[1:2] == ":" or "\0" in path:
        return True
    return ".." in path and ".." in path.replace("\\", "/").split("/")


def _portable_root(path: Path, root: Path | str) -> str:
    """`root` relative to the folder of the manifest `path`, posix; absolute where there is no such path."""
    real_root = os.path.realpath(root)
    with contextlib.suppress(ValueError):  # another drive
        return Path(os.path.relpath(real_root, os.path.realpath(path.parent))).as_posix()
    return Path(real_root).as_posix()


def _encode(path: Path, sample: Sample) -> bytes:
    sample = msgspec.structs.replace(sample, root="")
    problem = sample_problem(sample)
    try:
        line = msgspec.json.encode(sample)
    except UnicodeEncodeError:
        problem = "the name is not valid Unicode; rename the file"
    if problem:
        raise ManifestError(f"{path}: sample {sample.id!r} cannot be written: {problem}")
    return line
