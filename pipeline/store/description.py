"""`store.json`: what every number in the store means. Written once, when the store is made."""

from __future__ import annotations

import datetime
import functools
import hashlib
import importlib.metadata
from pathlib import Path

import msgspec

from pipeline.errors import SoftfocusError
from pipeline.files import FileTaken, clean_temporaries, new_file
from pipeline.provenance import QUANTITY, Provenance
from pipeline.store.codec import Codec, codec_words, filters_words, require_codec
from pipeline.store.confidence import CONFIDENCE_WORDS
from pipeline.store.encoding import DTYPES, DType, words
from pipeline.store.errors import DamagedShard, StoreError
from pipeline.store.recipe import README, README_FILE, RECIPE, readme_text

__all__ = [
    "DESCRIPTION",
    "SCHEMA",
    "StoreDescription",
    "check_empty",
    "check_settings",
    "check_teacher",
    "create_store",
    "has_description",
    "is_whole",
    "read_description",
    "render",
    "tool_version",
]

DESCRIPTION = "store.json"
SCHEMA = 2


class StoreDescription(msgspec.Struct, frozen=True, kw_only=True):
    """A label store in words and settings that a person, and any program, can read.

    Attributes:
        softfocus: always "label store".
        schema: version of the format; another one is refused.
        quantity, direction: what a value is and which way it grows.
        dtype: of the codes, "u16" or "u8".
        encoding: the formulas from what HDF5 gives to code and value, and the invalid code.
        geometry: how a map lies on its photograph.
        codec: how codes became bytes, by name.
        filters: the HDF5 filters of the maps, in words.
        layout: where in the folder things are.
        confidence: what the confidence of a map is and how it is stored, if there is one.
        shard_size: largest number of maps in a shard.
        provenance: the teacher.
        asked: how the teacher was asked for when the store was made (the command line's words), or empty.
        tool: the softfocus that made the store.
        created: when, UTC.
        readme: the folder in words.
        recipe: a decoder that needs h5py and numpy alone.
        sha256: of the file itself, with zeros in place of these 64 digits.
    """

    softfocus: str = "label store"
    schema: int = SCHEMA
    quantity: str = QUANTITY
    direction: str = "large = near; known up to a scale and a shift for each map"
    dtype: DType = "u16"
    encoding: str
    geometry: str = (
        "whole frame, no crop: the upright photograph (EXIF rotation applied) squeezed to (height, width) "
        "of the map; pixel centres at (i + 0.5) / size"
    )
    codec: Codec = "delta-deflate"
    filters: str
    layout: str = (
        "plan/NNNN.h5: which image (sha256) is in which row, and which sample ids point to it; "
        "shards/NNNNNN.h5: labels[row, y, x], offset, scale, invalid_count, id, sha256, failed, and confidence in "
        "a store that has it; "
        "the 512 bytes before the HDF5 part of these files are a line of JSON with their sha256"
    )
    confidence: str
    shard_size: int
    provenance: Provenance
    asked: str = ""
    tool: str
    created: str
    readme: str = README
    recipe: str = RECIPE
    sha256: str = "0" * 64

    @property
    def fingerprint(self) -> str:
        """SHA-256 in hexadecimal of what decides the labels and how they are read: schema, dtype, codec, teacher."""
        facts = [self.schema, self.quantity, self.dtype, self.codec, self.provenance.fingerprint]
        return hashlib.sha256(msgspec.json.encode(facts)).hexdigest()


def create_store(
    store: Path,
    provenance: Provenance,
    *,
    dtype: DType = "u16",
    codec: Codec = "delta-deflate",
    shard_size: int = 256,
    asked: str = "",
) -> StoreDescription:
    """Make an empty label store; where another process made it meanwhile, that one is returned.

    Raises:
        StoreError: unknown dtype or codec, or one whose library is missing; shard size below 1; a folder that
            holds other things, or cannot be written.
    """
    if dtype not in DTYPES:
        raise StoreError(f"{store}: no dtype {dtype!r}; choose one of {', '.join(DTYPES)}")
    require_codec(codec)
    if shard_size < 1:
        raise StoreError(f"{store}: shards of {shard_size} maps; choose 1 or more")
    check_empty(store)
    clean_temporaries(store)  # of a run that was killed before it had a store
    description = StoreDescription(
        dtype=dtype,
        encoding=f"{codec_words(codec, DTYPES[dtype])}; {words(dtype)}",
        codec=codec,
        filters=filters_words(codec),
        confidence=f"{CONFIDENCE_WORDS}; {provenance.confidence}" if provenance.confidence else "none is stored",
        shard_size=shard_size,
        provenance=provenance,
        asked=asked,
        tool=tool_version(),
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )
    try:
        with new_file(store / README_FILE) as temporary:
            temporary.write_text(readme_text(), encoding="utf-8")
        with new_file(store / DESCRIPTION, replace=False) as temporary:
            temporary.write_bytes(render(description))
    except FileTaken:
        pass
    except SoftfocusError as error:
        raise StoreError(str(error)) from error
    return read_description(store)


def render(description: StoreDescription) -> bytes:
    """The bytes of `store.json`, with their own SHA-256 at the end."""
    blank = msgspec.structs.replace(description, sha256=_BLANK)
    content = msgspec.json.format(msgspec.json.encode(blank), indent=2) + b"\n"
    digest = hashlib.sha256(content).hexdigest()
    return content[: -len(_END)] + _END.replace(_BLANK.encode(), digest.encode())


_BLANK = "0" * 64
_END = b'  "sha256": "' + _BLANK.encode() + b'"\n}\n'


def is_whole(content: bytes) -> bool:
    """Whether these are the bytes of a `store.json` as they were written."""
    body, digest = content[: -len(_END)], content[-len(_END) :].removeprefix(b'  "sha256": "')[:64]
    whole = body + _END.replace(_BLANK.encode(), digest)
    return whole == content and hashlib.sha256(body + _END).hexdigest().encode() == digest


def check_empty(store: Path) -> None:
    """Refuse to make a store among other people's files (left-over temporary files do not count)."""
    if store.is_dir() and not (store / DESCRIPTION).exists():
        others = [entry.name for entry in store.iterdir() if not entry.name.startswith(".")]
        others = [name for name in others if name != README_FILE]  # of a run that was killed just here
        if others:
            raise StoreError(
                f"{store}: holds {others[0]!r} and no {DESCRIPTION}, so it is no label store; name a new folder"
            )


def has_description(store: Path) -> bool:
    """Whether there is a `store.json`, readable or not."""
    return (store / DESCRIPTION).exists()


def read_description(store: Path) -> StoreDescription:
    """Read `store.json`.

    Raises:
        StoreError: no label store there, or one of another schema.
        DamagedShard: the description's bytes are not those that were written.
    """
    path = store / DESCRIPTION
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StoreError(
            f"{store}: no label store ({DESCRIPTION} is missing); make one with `softfocus label`"
        ) from error
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror}); mend its permissions") from error
    damaged = "run `softfocus verify STORE --repair`, which restores it from the plan's copy"
    try:
        kind = msgspec.json.decode(content, type=_Kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DamagedShard(f"{path}: damaged ({error}); {damaged}") from error
    if kind.softfocus != "label store":
        raise StoreError(f"{path}: describes no label store; name the folder that `softfocus label` made")
    if kind.schema != SCHEMA:
        raise StoreError(
            f"{path}: a label store of schema {kind.schema}, and this softfocus reads schema {SCHEMA}; "
            "use the softfocus that made it, or label anew in another folder"
        )
    if not is_whole(content):
        raise DamagedShard(f"{path}: damaged (its bytes are not those that were written); {damaged}")
    try:
        return msgspec.json.decode(content, type=StoreDescription)
    except msgspec.ValidationError as error:
        raise DamagedShard(f"{path}: damaged ({error}); {damaged}") from error


class _Kind(msgspec.Struct):
    softfocus: str
    schema: int


def check_settings(
    store: Path, description: StoreDescription, *, dtype: str | None, codec: str | None, shard_size: int | None
) -> None:
    """Refuse settings that differ from those the store was made with; None agrees with any.

    Raises:
        StoreError: naming both.
    """
    asked_and_made = (
        ("dtype", dtype, description.dtype),
        ("codec", codec, description.codec),
        ("shard size", shard_size, description.shard_size),
    )
    for name, asked, made in asked_and_made:
        if asked is not None and asked != made:
            raise StoreError(
                f"{store}: a store of {name} {made}, asked for {asked}; leave the option away or name a new folder"
            )


def check_teacher(store: Path, description: StoreDescription, provenance: Provenance) -> None:
    """Refuse another teacher than the one whose labels the store holds.

    Raises:
        StoreError: naming both, and the first thing in which they differ.
    """
    made = description.provenance
    if made.fingerprint == provenance.fingerprint:
        return
    fields = [name for name in provenance.__struct_fields__ if name != "versions"]
    encoded = [[msgspec.json.encode(getattr(side, name)) for name in fields] for side in (made, provenance)]
    differing = [name for name, ours, theirs in zip(fields, *encoded, strict=True) if ours != theirs]
    what = ", ".join(differing) or "fingerprint"
    raise StoreError(
        f"{store}: holds labels of the teacher {_name(made)}, not of {_name(provenance)} (other {what}); "
        "name a new folder or the store's own teacher"
    )


def _name(provenance: Provenance) -> str:
    return f"{provenance.kind}:{provenance.name} (weights {provenance.weights_sha256[:12]})"


@functools.cache
def tool_version() -> str:
    """This softfocus and its version, such as "softfocus 0.1.0"."""
    try:
        return f"softfocus {importlib.metadata.version('softfocus')}"
    except importlib.metadata.PackageNotFoundError:
        return "softfocus (a checkout that is not installed)"
