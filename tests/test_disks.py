"""Real disks that are full or read-only, where this user may mount one."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import BrightnessTeacher

from cli import main
from pipeline.audit.repair import repair
from pipeline.audit.status import status
from pipeline.audit.verify import verify
from pipeline.distill import label
from pipeline.store import LabelReader, StoreError, shard_path


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """An empty disk of 96 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=96k", "softfocus-test", str(folder)], capture_output=True, check=False
        )
    except OSError as error:
        pytest.skip(f"no mount here: {error}")
    if done.returncode:
        pytest.skip("this user may not mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk_is_one_clear_error_and_the_run_goes_on_later(small_set: Path, small_disk: Path) -> None:
    """Finished shards stay and are whole, nothing half written is left, and with space the rest is made."""
    store, ballast = small_disk / "labels", small_disk / "ballast"
    ballast.write_bytes(bytes(36 << 10))
    with pytest.raises(StoreError, match=r"\.h5: cannot be written .*No space left on device.*; free space"):
        label(small_set, store, load_teacher=BrightnessTeacher, shard_size=2)
    found = status(store)
    assert 0 < found.shards_done < found.shards == 9
    assert (found.left_over, found.workers) == (0, [])
    assert {finding.kind for finding in verify(store).findings} == {"missing"}
    before = {path: path.stat().st_ino for path in (store / "shards").iterdir()}
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    label(small_set, store, load_teacher=BrightnessTeacher)
    assert {path: path.stat().st_ino for path in before} == before
    assert len(LabelReader(store)) == 18
    assert verify(store, manifest=small_set).findings == []


def test_read_only_store_is_read_checked_and_not_written(small_set: Path, small_disk: Path) -> None:
    """Status, verify and a finished job work; repair and new work end with one line that names the place."""
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    store = small_disk / "labels"
    label(small_set, store, load_teacher=BrightnessTeacher, shard_size=6)
    path = shard_path(store, 1)
    content = path.read_bytes()
    path.write_bytes(content[:3000] + bytes([content[3000] ^ 1]) + content[3001:])
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert status(store, manifest=small_set).labelled == 18
    assert label(small_set, store, load_teacher=BrightnessTeacher).kept == 18
    found = verify(store, manifest=small_set)
    assert [finding.file for finding in found.findings] == ["shards/000001.h5"]
    with pytest.raises(StoreError, match=r"000001\.h5: cannot be set aside .*Read-only file system"):
        repair(store, found, manifest=small_set, load_teacher=BrightnessTeacher)
    done = CliRunner().invoke(main, ["verify", str(store), "--repair"])
    assert (done.exit_code, len(done.stderr.splitlines())) == (1, 1)
    with pytest.raises(StoreError, match=r"cannot be written .*Read-only file system"):
        label(small_set, small_disk / "other", load_teacher=BrightnessTeacher)
