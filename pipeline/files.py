"""Files that are whole or not there: everything durable in softfocus is written through here."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import re
import secrets
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import SoftfocusError

__all__ = [
    "FileTaken",
    "Temporary",
    "clean_temporaries",
    "find_temporaries",
    "make_folder",
    "new_file",
    "sha256_file",
    "sync_folder",
    "temporary_for",
]

_TEMPORARY = re.compile(r"\.(?P<target>.*)\.(?P<machine>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{8}\.tmp")
_STALE_AFTER_S = 24 * 3600


class Temporary(NamedTuple):
    """A file that a process writes, or wrote when it was killed.

    Attributes:
        target: the name that it is to get, cut to 40 characters.
        left_over: its process is dead, as far as that can be known from here.
        written: when it was last written to, seconds since the epoch.
    """

    path: Path
    target: str
    left_over: bool
    written: float


class FileTaken(SoftfocusError):
    """`new_file(path, replace=False)` found that somebody else had made `path` first."""


@contextlib.contextmanager
def new_file(path: Path | str, *, replace: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it becomes `path`, on failure it is removed.

    The file is fsynced, renamed with `os.replace` and its folder fsynced, so that a reader, and a
    machine that lost power, sees the old file, the whole new one, or none. Missing folders are made.

    Args:
        replace: False leaves an existing `path` as it is and raises; of several processes that make the
            same file at once exactly one succeeds (as far as the file system knows hard links).

    Raises:
        SoftfocusError: the file cannot be written (no space, no permission, not a folder).
        FileTaken: `path` exists and `replace` is False.
    """
    path = Path(path)
    temporary = temporary_for(path)
    try:
        make_folder(path.parent)
        yield temporary
        _sync(temporary)
        if replace:
            os.replace(temporary, path)
        else:
            _link(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise SoftfocusError(f"{path}: cannot be written ({error}); free space or choose another place") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def clean_temporaries(folder: Path | str) -> list[Path]:
    """Remove what `new_file` left in a folder when its process was killed; returns what was removed.

    A process of this machine is asked for by its number. Temporary files of other machines that share the
    folder (and of this one before it was started anew) go when nobody wrote to them for a day: a guess
    that costs a live process one clear error at worst, as nothing is renamed before it is whole.
    """
    removed = []
    with contextlib.suppress(OSError):  # a folder that may only be read
        for temporary in find_temporaries(folder):
            if temporary.left_over:
                temporary.path.unlink(missing_ok=True)
                removed.append(temporary.path)
    return removed


def find_temporaries(folder: Path | str) -> list[Temporary]:
    """The files in a folder that `new_file` has open, or had when its process was killed, by name."""
    found = []
    with contextlib.suppress(OSError):  # no such folder
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            match = _TEMPORARY.fullmatch(entry.name)
            with contextlib.suppress(FileNotFoundError):  # finished meanwhile
                if match:
                    written = entry.stat().st_mtime
                    left_over = _is_left_over(written, match["machine"], int(match["pid"]))
                    found.append(Temporary(Path(entry.path), match["target"], left_over, written))
    return found


def sha256_file(path: Path | str) -> str:
    """SHA-256 of a file's bytes, 64 lower-case hexadecimal digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def temporary_for(path: Path) -> Path:
    """A hidden name beside `path` that says who writes it (the name cut, as names have a limit)."""
    who = f"{_machine()}-{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(f".{path.name[:40]}.{who}.tmp")


@functools.cache
def _machine() -> str:
    """Eight digits for the machine, its boot and its process numbers: where a number means one process."""
    facts = [socket.gethostname()]
    with contextlib.suppress(OSError):  # containers of one machine count their processes apart
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        facts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:8]


def _is_left_over(written: float, machine: str, pid: int) -> bool:
    if machine == _machine() and os.name == "posix" and not _is_alive(pid):
        return True
    return time.time() - written > _STALE_AFTER_S


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's process
        return True
    with contextlib.suppress(OSError):  # dead, and its parent has not looked: in containers that may last
        return not Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].startswith(b" Z")
    return True


def make_folder(folder: Path) -> None:
    """Make a folder with its parents so that it is still there after a loss of power."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def _link(temporary: Path, path: Path) -> None:
    """Give `temporary` the name `path` unless that is taken."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if path.exists():
            raise FileTaken(f"{path}: exists already; remove it or choose another name") from error
        os.replace(temporary, path)  # a file system without hard links: leaves a moment for a race


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the file system can."""
    try:
        _sync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # not every file system can
            raise


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
