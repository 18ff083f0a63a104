"""Files that are whole or not there."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline import files
from pipeline.errors import SoftfocusError
from pipeline.files import FileTaken, clean_temporaries, new_file, sha256_file


def left_over(folder: Path, *, machine: str, pid: int, age_s: float = 0.0) -> Path:
    """A temporary file as another process would have left it."""
    path = folder / f".000001.h5.{machine}-{pid}-0123abcd.tmp"
    path.write_text("half")
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def dead_process() -> int:
    """The number of a process that is over."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


def test_new_file_appears_whole(tmp_path: Path) -> None:
    """Until the block ends there is no file of that name; folders are made."""
    path = tmp_path / "deep" / "folder" / "file"
    with new_file(path) as temporary:
        temporary.write_text("content")
        assert not path.exists()
        assert temporary.parent == path.parent
    assert path.read_text() == "content"
    assert list(path.parent.iterdir()) == [path]


def test_failure_leaves_the_old_file(tmp_path: Path) -> None:
    """Neither half a file nor a temporary one."""
    path = tmp_path / "file"
    path.write_text("old")

    def fail_half_way() -> None:
        with new_file(path) as temporary:
            temporary.write_text("new")
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail_half_way()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_full_disk_is_named(tmp_path: Path) -> None:
    """An error of the system becomes one line with the file and the mend."""
    with pytest.raises(SoftfocusError, match=r"file: cannot be written .*free space"), new_file(tmp_path / "file"):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_name_as_long_as_the_system_allows(tmp_path: Path) -> None:
    """The temporary name is no longer than the file's."""
    for name in ("x" * 255, "写" * 85):
        with new_file(tmp_path / name) as temporary:
            temporary.write_text("content")
        assert (tmp_path / name).read_text() == "content"


def test_taken_name_is_left_to_its_owner(tmp_path: Path) -> None:
    """With replace=False the first one wins, and the second hears of it."""
    path = tmp_path / "file"
    with new_file(path, replace=False) as temporary:
        temporary.write_text("first")
    with pytest.raises(FileTaken, match="file: exists already"), new_file(path, replace=False) as temporary:
        temporary.write_text("second")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_of_many_at_once_one_wins(tmp_path: Path) -> None:
    """Exactly one thread of eight makes the file."""
    won: list[int] = []
    barrier = threading.Barrier(8)

    def make(number: int) -> None:
        barrier.wait()
        try:
            with new_file(tmp_path / "file", replace=False) as temporary:
                temporary.write_text(str(number))
        except FileTaken:
            return
        won.append(number)

    threads = [threading.Thread(target=make, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(tmp_path / "file").read_text()] == [str(number) for number in won]


def test_file_system_without_hard_links_still_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There the name is looked at just before the renaming."""

    def link(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    with new_file(tmp_path / "file", replace=False) as temporary:
        temporary.write_text("first")
    with pytest.raises(FileTaken), new_file(tmp_path / "file", replace=False) as temporary:
        temporary.write_text("second")
    assert (tmp_path / "file").read_text() == "first"


def test_temporary_files_of_dead_processes_are_removed(tmp_path: Path) -> None:
    """Those of living ones, and files of other names, stay."""
    mine = files._machine()
    dead = left_over(tmp_path, machine=mine, pid=dead_process())
    alive = left_over(tmp_path, machine=mine, pid=os.getpid())
    other = tmp_path / ".000001.h5.tmp"
    other.write_text("somebody else's")
    assert clean_temporaries(tmp_path) == [dead]
    assert sorted(tmp_path.iterdir()) == sorted([alive, other])


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="Linux tells it in /proc")
def test_process_that_nobody_waited_for_counts_as_dead(tmp_path: Path) -> None:
    """In a container whose first process waits for nobody such a number stays taken."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        left = left_over(tmp_path, machine=files._machine(), pid=process.pid)
        assert clean_temporaries(tmp_path) == [left]


def test_temporary_files_of_other_machines_go_when_they_are_a_day_old(tmp_path: Path) -> None:
    """A process number means nothing on another machine that shares the folder."""
    young = left_over(tmp_path, machine="00000000", pid=1)
    old = left_over(tmp_path, machine="11111111", pid=1, age_s=25 * 3600)
    assert clean_temporaries(tmp_path) == [old]
    assert young.exists()


def test_cleaning_a_folder_that_is_not_there_is_no_error(tmp_path: Path) -> None:
    """A store without shards has nothing left over."""
    assert clean_temporaries(tmp_path / "nowhere") == []


def test_sha256_of_a_file(tmp_path: Path) -> None:
    """The published digest of "abc", and that of more than one block."""
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_file(tmp_path / "abc").startswith("ba7816bf8f01cfea414140de5dae2223")
    (tmp_path / "large").write_bytes(b"x" * (1 << 21))
    assert sha256_file(tmp_path / "large") == hashlib.sha256(b"x" * (1 << 21)).hexdigest()
