"""Files that are whole or not there: everything durable in softfocus is written through here."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import SoftfocusError

__all__ = ["TEMPORARY_SUFFIX", "new_file", "sha256_file"]

TEMPORARY_SUFFIX = ".tmp"


@contextlib.contextmanager
def new_file(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it becomes `path`, on failure it is removed.

    The file is fsynced, renamed with `os.replace` and its folder fsynced, so that a reader, and a
    machine that lost power, sees the old file, the whole new one, or none. Missing folders are made.

    Raises:
        SoftfocusError: the file cannot be written (no space, no permission, not a folder).
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as error:
        raise SoftfocusError(f"{path}: cannot be written ({error}); free space or choose another place") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def sha256_file(path: Path | str) -> str:
    """SHA-256 of a file's bytes, 64 lower-case hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
