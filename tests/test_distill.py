"""The labelling job: nothing twice, nothing lost, whatever kills it."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import differing_shards
from PIL import Image

from pipeline.distill import LabelProgress, label
from pipeline.distill import job as job_module
from pipeline.distill.meters import Meters
from pipeline.distill.predictor import HostPredictor, is_out_of_memory
from pipeline.errors import SoftfocusError
from pipeline.manifest import Sample, write_manifest
from pipeline.provenance import Provenance
from pipeline.store import (
    ABSENT,
    LabelReader,
    Plan,
    StoreError,
    read_description,
    read_plan,
    read_reasons,
    shard_path,
)
from pipeline.teachers.base import OutOfMemory, TeacherError

ROOT = Path(__file__).parents[1]
RAMP = np.linspace(0, 1, 16, dtype=np.float32)


class RampTeacher:
    """The map of a photograph is its mean brightness plus a ramp from 0 at the left to 1 at the right."""

    def __init__(self, name: str = "ramp", *, memory: int = 10**9, pause_s: float = 0.0) -> None:
        self.provenance = Provenance(
            kind="test",
            name=name,
            weights_sha256="0" * 64,
            direction="inverse depth",
            preprocessing={},
            versions={},
        )
        self.precision = "float32"
        self.memory, self.pause_s = memory, pause_s
        self.calls: list[int] = []
        self.closed = False

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        return height // 2, 16

    def predict(self, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        self.calls.append(len(images))
        if len(images) > self.memory:
            raise OutOfMemory("too many at once")
        time.sleep(self.pause_s)
        mean = images.astype(np.float32).mean(axis=(1, 2, 3))
        return mean[:, None, None] + np.broadcast_to(RAMP, images.shape[:3])

    def close(self) -> None:
        self.closed = True


def no_teacher() -> Any:
    raise AssertionError("the teacher must not be loaded")


def add_photographs(root: Path, values: dict[str, int], size: tuple[int, int] = (12, 20)) -> list[Sample]:
    """Photographs of one brightness each, as PNG, and their samples."""
    root.mkdir(parents=True, exist_ok=True)
    samples = []
    for name, value in values.items():
        file = root / f"{name}.png"
        pixels = np.full((*size, 3), value % 256, np.uint8)
        pixels[0, 0, 0] ^= value // 256  # so that no two are the same
        Image.fromarray(pixels).save(file)
        samples.append(
            Sample(
                id=f"set/{name}",
                image=file.name,
                split="train",
                height=size[0],
                width=size[1],
                sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
            )
        )
    return samples


def make_set(folder: Path, count: int = 10) -> Path:
    """A manifest of photographs "set/00", "set/01", ... of brightness 0, 1, ..., two sizes in turn."""
    samples = []
    for number in range(count):
        size = (12, 20) if number % 2 else (20, 12)
        samples += add_photographs(folder / "photographs", {f"{number:02d}": number}, size)
    write_manifest(folder / "set.jsonl", samples, root=folder / "photographs")
    return folder / "set.jsonl"


def maps(store: Path) -> dict[str, bytes]:
    """All labels of a store, as bytes that compare exactly."""
    reader = LabelReader(store)
    return {sample_id: reader[sample_id].tobytes() for sample_id in reader}


def temporaries(store: Path) -> list[Path]:
    return sorted(store.rglob("*.tmp"))


def files(store: Path) -> dict[Path, int]:
    """The finished files of a store and what tells a file from its replacement."""
    return {path: path.stat().st_ino for path in store.rglob("*.h5")}


# The work


def test_every_photograph_gets_its_label(tmp_path: Path) -> None:
    """The label has the teacher's input size and the teacher's values, whatever the shard and the batch."""
    manifest, teacher = make_set(tmp_path), RampTeacher()
    summary = label(manifest, tmp_path / "labels", load_teacher=lambda: teacher, shard_size=4, batch_size=3)
    reader = LabelReader(tmp_path / "labels")
    for number in range(10):
        values = reader[f"set/{number:02d}"]
        assert values.shape == ((6, 16) if number % 2 else (10, 16))
        assert np.abs(values - (number + RAMP)).max() <= 1 / 131070 + 1e-6
    assert (summary.samples, summary.labelled, summary.kept, summary.failed) == (10, 10, 0, [])
    assert summary.shards == 4
    assert summary.bytes == sum(path.stat().st_size for path in (tmp_path / "labels" / "shards").iterdir())
    assert teacher.calls == [3, 1, 1, 3, 1, 1]
    assert summary.batch_size == 3
    assert summary.teacher == "test:ramp"
    assert teacher.closed


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_labels_do_not_depend_on_batches_and_threads(tmp_path: Path, batch_size: int, workers: int) -> None:
    """Nor on the order of the manifest's lines: the shards hold the same, bit by bit."""
    manifest = make_set(tmp_path)
    first = label(manifest, tmp_path / "a", load_teacher=RampTeacher, shard_size=3)
    header, *lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join([header, *reversed(lines)]))
    how = {"shard_size": 3, "batch_size": batch_size, "workers": workers}
    second = label(manifest, tmp_path / "b", load_teacher=RampTeacher, **how)  # type: ignore[arg-type]
    assert (first.failed, second.failed) == ([], [])
    assert maps(tmp_path / "a") == maps(tmp_path / "b")
    assert differing_shards(tmp_path / "a", tmp_path / "b") == []


def test_finished_job_does_not_load_the_teacher(tmp_path: Path) -> None:
    """A second run keeps everything, calls no loader, and touches no file."""
    manifest, store = make_set(tmp_path), tmp_path / "labels"
    label(manifest, store, load_teacher=RampTeacher, shard_size=4)
    before = files(store)
    summary = label(manifest, store, load_teacher=no_teacher)
    assert (summary.labelled, summary.kept, summary.shards, summary.stage_seconds) == (0, 10, 0, {})
    assert files(store) == before


def test_finished_job_compares_the_teacher_if_it_was_asked_for_in_other_words(tmp_path: Path) -> None:
    """The same words: not loaded. Other words: loaded and compared, so that a mix-up shows."""
    manifest, store = make_set(tmp_path), tmp_path / "labels"
    label(manifest, store, load_teacher=RampTeacher, asked="test:ramp")
    label(manifest, store, load_teacher=no_teacher, asked="test:ramp")
    label(manifest, store, load_teacher=RampTeacher, asked="test:./ramp")
    with pytest.raises(StoreError, match=r"test:ramp .* not of test:other"):
        label(manifest, store, load_teacher=lambda: RampTeacher("other"), asked="test:other")


def test_new_photographs_are_added_and_nothing_else_moves(tmp_path: Path) -> None:
    """Only the new ones go through the teacher, and finished files stay."""
    manifest, store = make_set(tmp_path, 4), tmp_path / "labels"
    label(manifest, store, load_teacher=RampTeacher, shard_size=4)
    before = files(store)
    teacher = RampTeacher()
    summary = label(make_set(tmp_path, 7), store, load_teacher=lambda: teacher)
    assert (summary.labelled, summary.kept, sum(teacher.calls)) == (3, 4, 3)
    assert files(store).items() >= before.items()
    assert len(LabelReader(store)) == 7


def test_new_names_of_known_photographs_take_no_work(tmp_path: Path) -> None:
    """A copy of a photograph is an alias: in one manifest, and in a later one without the teacher."""
    store = tmp_path / "labels"
    samples = add_photographs(tmp_path / "p", {"a": 5, "b": 5, "c": 9})
    write_manifest(tmp_path / "m.jsonl", samples, root=tmp_path / "p")
    teacher = RampTeacher()
    assert label(tmp_path / "m.jsonl", store, load_teacher=lambda: teacher).labelled == 2
    assert sum(teacher.calls) == 2
    samples = add_photographs(tmp_path / "p", {"d": 9})
    write_manifest(tmp_path / "m2.jsonl", samples, root=tmp_path / "p")
    summary = label(tmp_path / "m2.jsonl", store, load_teacher=no_teacher)
    assert (summary.labelled, summary.kept) == (0, 1)
    reader = LabelReader(store)
    assert (reader["set/d"] == reader["set/c"]).all()
    assert (reader["set/a"] == reader["set/b"]).all()


def test_two_manifests_may_fill_one_store_in_turn(tmp_path: Path) -> None:
    """A run works on the shards of its own manifest, and rows that a shorter one lacks are labelled later."""
    whole, store = make_set(tmp_path, 8), tmp_path / "labels"
    header, *lines = whole.read_text().splitlines()
    part = tmp_path / "part.jsonl"
    part.write_text("\n".join([header, *lines[:3]]))
    description = plan_only(whole, store)
    first = label(part, store, load_teacher=RampTeacher)
    assert (first.samples, first.labelled, first.failed) == (3, 3, [])
    assert sum(reason == ABSENT for reason in read_reasons(shard_path(store, 0))) == 3
    before = maps(store)
    rest = label(whole, store, load_teacher=RampTeacher)
    assert (rest.labelled, rest.kept, rest.failed) == (5, 3, [])
    assert maps(store).items() >= before.items()
    assert len(read_plan(store, description).shards) == 2


def plan_only(manifest: Path, store: Path) -> Any:
    """A store whose plan is written and whose first shard is not: as a run that was killed at once."""
    label(manifest, store, load_teacher=RampTeacher)
    for path in (store / "shards").iterdir():
        path.unlink()
    return read_description(store)


def test_existing_stores_settings_need_not_be_repeated(tmp_path: Path) -> None:
    """Left away they are the store's; other ones are refused by name."""
    manifest, store = make_set(tmp_path, 3), tmp_path / "labels"
    label(manifest, store, load_teacher=RampTeacher, dtype="u8", shard_size=2)
    label(manifest, store, load_teacher=no_teacher)
    with pytest.raises(StoreError, match="dtype u8, asked for u16"):
        label(manifest, store, load_teacher=no_teacher, dtype="u16")
    with pytest.raises(StoreError, match="shard size 2, asked for 256"):
        label(manifest, store, load_teacher=no_teacher, shard_size=256)


def test_store_of_another_teacher_is_refused_before_any_work(tmp_path: Path) -> None:
    """Labels of two teachers never mix; the refused teacher is closed."""
    store = tmp_path / "labels"
    label(make_set(tmp_path, 3), store, load_teacher=RampTeacher)
    other = RampTeacher("other")
    with pytest.raises(StoreError, match=r"test:ramp .* not of test:other"):
        label(make_set(tmp_path, 4), store, load_teacher=lambda: other)
    assert other.calls == []
    assert other.closed
    assert read_plan(store, read_description(store)).generations == 1


def test_folder_with_other_files_is_refused_before_the_teacher_is_loaded(tmp_path: Path) -> None:
    """A slip of the name costs nothing."""
    manifest = make_set(tmp_path, 2)
    with pytest.raises(StoreError, match="no label store"):
        label(manifest, tmp_path / "photographs", load_teacher=no_teacher)


def test_progress_and_summary_say_where_the_time_went(tmp_path: Path) -> None:
    """Progress grows to the total; the stages are named and add up to something."""
    seen: list[LabelProgress] = []
    summary = label(
        make_set(tmp_path),
        tmp_path / "labels",
        load_teacher=lambda: RampTeacher(pause_s=0.01),
        shard_size=4,
        batch_size=2,
        progress=seen.append,
    )
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    assert (seen[-1].done, seen[-1].total, seen[-1].failed) == (10, 10, 0)
    assert (seen[-1].shards_done, seen[-1].shards) == (4, 4)
    assert summary.stage_seconds["teacher"] >= 0.06
    assert all(
        summary.stage_seconds[stage] > 0 for stage in ("read", "decode", "resize", "quantise", "compress", "write")
    )
    assert summary.seconds > 0
    assert summary.rate > 0


def test_progress_note_names_failures_and_who_the_teacher_waits_for() -> None:
    """A line for people: silent when all is well."""
    stages = dict.fromkeys(Meters().seconds, 0.0)
    quiet = LabelProgress(
        done=1, total=2, failed=0, shards_done=0, shards=1, seconds=10.0, rate=0.1, stage_seconds=stages
    )
    assert quiet.note == ""
    stages["waiting for images"] = 5.0
    loud = LabelProgress(
        done=1, total=2, failed=1, shards_done=0, shards=1, seconds=10.0, rate=0.1, stage_seconds=stages
    )
    assert loud.note == "1 left out, 50% waiting for images"


# Photographs that cannot be used


def spoil(folder: Path) -> None:
    """Of the set's photographs 02 is cut short, 03 gone, 05 another than when it was indexed."""
    photographs = folder / "photographs"
    (photographs / "03.png").unlink()
    Image.fromarray(np.full((12, 20, 3), 99, np.uint8)).save(photographs / "05.png")
    content = (photographs / "02.png").read_bytes()[:-30]
    (photographs / "02.png").write_bytes(content)
    manifest = folder / "set.jsonl"
    old = hashlib.sha256((folder / "photographs" / "02.png").read_bytes()).hexdigest()
    lines = manifest.read_text().splitlines()
    assert '"set/02"' in lines[3]
    before = lines[3].split('"sha256":"')[1][:64]
    manifest.write_text("\n".join(lines).replace(before, old))


def test_bad_photographs_are_listed_and_the_run_goes_on(tmp_path: Path) -> None:
    """Each with its reason, now and at every later run; the others are labelled."""
    manifest, store = make_set(tmp_path), tmp_path / "labels"
    spoil(tmp_path)
    summary = label(manifest, store, load_teacher=RampTeacher, shard_size=4, batch_size=3)
    reasons = dict(summary.failed)
    assert list(reasons) == ["set/02", "set/03", "set/05"]
    assert "02.png: cut off or damaged" in reasons["set/02"]
    assert "03.png: cannot be read" in reasons["set/03"]
    assert "05.png: changed since it was indexed" in reasons["set/05"]
    assert (summary.labelled, summary.kept) == (7, 0)
    assert LabelReader(store).missing(reasons) == list(reasons)
    again = label(manifest, store, load_teacher=no_teacher)
    assert dict(again.failed) == reasons
    assert (again.labelled, again.kept) == (0, 7)


def test_failed_photographs_are_tried_again_when_asked(tmp_path: Path) -> None:
    """Only they go through the teacher; the labels beside them are copied; what fails again is listed."""
    manifest, store = make_set(tmp_path), tmp_path / "labels"
    spoil(tmp_path)
    label(manifest, store, load_teacher=RampTeacher, shard_size=4)
    before = maps(store)
    add_photographs(tmp_path / "photographs", {"03": 3})
    teacher = RampTeacher()
    summary = label(manifest, store, load_teacher=lambda: teacher, retry_failed=True)
    assert [name for name, _ in summary.failed] == ["set/02", "set/05"]
    assert (summary.labelled, summary.kept, teacher.calls) == (1, 7, [1])
    after = maps(store)
    assert after.items() > before.items()
    assert np.abs(LabelReader(store)["set/03"] - (3 + RAMP)).max() < 1e-4


def test_photograph_that_was_mended_and_indexed_again_is_labelled(tmp_path: Path) -> None:
    """A new hash is a new photograph, and the old failure is no longer anybody's."""
    manifest, store = make_set(tmp_path), tmp_path / "labels"
    spoil(tmp_path)
    label(manifest, store, load_teacher=RampTeacher)
    summary = label(make_set(tmp_path), store, load_teacher=RampTeacher)
    assert [name for name, _ in summary.failed] == ["set/03", "set/05"]
    assert (summary.labelled, summary.kept) == (1, 7)


def test_photographs_folder_that_is_gone_ends_the_run(tmp_path: Path) -> None:
    """An unmounted disk must not turn a million photographs into failures."""
    manifest, store = make_set(tmp_path), tmp_path / "labels"
    (tmp_path / "photographs").rename(tmp_path / "elsewhere")
    with pytest.raises(SoftfocusError, match="the photographs' folder is not there"):
        label(manifest, store, load_teacher=RampTeacher)
    (tmp_path / "elsewhere").rename(tmp_path / "photographs")
    assert label(manifest, store, load_teacher=RampTeacher).failed == []


def test_map_without_any_value_is_a_failure(tmp_path: Path) -> None:
    """A teacher that overflows is found out here, not by the student's loss."""

    class Overflowing(RampTeacher):
        def predict(self, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            maps = super().predict(images)
            maps[maps.mean(axis=(1, 2)) > 2] = np.nan
            maps[:, 0, 0] = np.nan
            return maps

    summary = label(make_set(tmp_path, 3), tmp_path / "labels", load_teacher=Overflowing)
    assert [name for name, _ in summary.failed] == ["set/02"]
    assert "no finite value" in summary.failed[0][1]
    assert np.isnan(LabelReader(tmp_path / "labels")["set/00"]).sum() == 1


def prepared(path: Path, sha256: bytes, size: tuple[int, int]) -> np.ndarray[Any, Any] | str:
    return HostPredictor(RampTeacher(), Meters()).prepare(path, sha256, size, root=path.parent)


def test_prepared_photograph_is_the_whole_frame_at_the_asked_size(tmp_path: Path) -> None:
    """Left half black, right half white, squeezed to 2 x 2: left column dark, right column bright."""
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, 8:] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    digest = hashlib.sha256((tmp_path / "a.png").read_bytes()).digest()
    small = prepared(tmp_path / "a.png", digest, (2, 2))
    assert not isinstance(small, str)
    assert (small[:, 0] < 30).all()
    assert (small[:, 1] > 225).all()


def test_large_jpeg_is_decoded_at_a_reduced_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve megapixels are not decoded in full for a small label."""
    asked = []

    def read_image(source: bytes, *, name: str, at_least: tuple[int, int]) -> np.ndarray[Any, Any]:
        asked.append(at_least)
        return np.zeros((64, 64, 3), np.uint8)

    monkeypatch.setattr("pipeline.distill.photographs.read_image", read_image)
    (tmp_path / "a.jpg").write_bytes(b"jpeg")
    prepared(tmp_path / "a.jpg", hashlib.sha256(b"jpeg").digest(), (30, 40))
    assert asked == [(30, 40)]


def test_photograph_too_large_for_memory_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the end of the run."""

    def read_image(*_: Any, **__: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr("pipeline.distill.photographs.read_image", read_image)
    (tmp_path / "a.jpg").write_bytes(b"jpeg")
    reason = prepared(tmp_path / "a.jpg", hashlib.sha256(b"jpeg").digest(), (30, 40))
    assert isinstance(reason, str)
    assert "not enough memory" in reason


# The teacher's trouble


def test_batch_is_halved_when_memory_is_short(tmp_path: Path) -> None:
    """The run goes on with what fits, and does not try the large batch again."""
    teacher = RampTeacher(memory=3)
    samples = add_photographs(tmp_path / "p", {f"{i:02d}": i for i in range(20)})
    write_manifest(tmp_path / "m.jsonl", samples, root=tmp_path / "p")
    summary = label(tmp_path / "m.jsonl", tmp_path / "labels", load_teacher=lambda: teacher, batch_size=10)
    assert summary.labelled == 20
    assert summary.batch_size == 2
    assert teacher.calls == [10, 5, *[2] * 10]
    assert np.abs(LabelReader(tmp_path / "labels")["set/19"] - (19 + RAMP)).max() < 1e-4


def submitted(teacher: RampTeacher, images: np.ndarray[Any, Any]) -> Any:
    return HostPredictor(teacher, Meters()).submit(list(images), images.shape[1:3])


def test_single_photograph_without_memory_is_one_clear_error() -> None:
    """There is nothing left to halve."""
    with pytest.raises(TeacherError, match=r"test:ramp: out of memory with a single photograph of 4 x 2; .*--size"):
        submitted(RampTeacher(memory=0), np.zeros((5, 2, 4, 3), np.uint8))


def test_out_of_memory_errors_of_libraries_are_known_by_name() -> None:
    """torch and cupy call theirs OutOfMemoryError; another RuntimeError is a fault to be seen."""
    other_library = type("OutOfMemoryError", (RuntimeError,), {})
    assert is_out_of_memory(other_library("CUDA out of memory"))
    assert is_out_of_memory(OutOfMemory("x"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shape mismatch"))


def test_maps_of_another_shape_are_refused() -> None:
    """A network that gives half the size is not what its card says."""

    class Halving(RampTeacher):
        def predict(self, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            return super().predict(images)[:, ::2]

    with pytest.raises(TeacherError, match=r"shape \(1, 4, 16\) for photographs of shape \(1, 8, 16\)"):
        submitted(Halving(), np.zeros((1, 8, 16, 3), np.uint8))


def test_failing_teacher_keeps_the_finished_shards(tmp_path: Path) -> None:
    """Its own error comes out; the next run goes on after the last finished shard."""

    class Failing(RampTeacher):
        def predict(self, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            if len(self.calls) == 3:
                raise RuntimeError("device lost")
            return super().predict(images)

    manifest, store = make_set(tmp_path), tmp_path / "labels"
    with pytest.raises(RuntimeError, match="device lost"):
        label(manifest, store, load_teacher=Failing, shard_size=2, batch_size=2)
    assert len(LabelReader(store)) == 5
    assert temporaries(store) == []
    assert label(manifest, store, load_teacher=RampTeacher).labelled == 5


# Ends that nobody asked for


def test_interrupted_run_keeps_the_finished_shards(tmp_path: Path) -> None:
    """Ctrl-C drops the open shard, leaves no temporary file and no thread, and comes out."""
    manifest, store = make_set(tmp_path), tmp_path / "labels"

    def interrupt(progress: LabelProgress) -> None:
        if progress.done >= 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        label(manifest, store, load_teacher=RampTeacher, shard_size=3, batch_size=1, progress=interrupt)
    assert sorted(LabelReader(store)) == ["set/01", "set/03", "set/05", "set/07", "set/09"][: len(LabelReader(store))]
    assert len(LabelReader(store)) in (3, 5)
    assert temporaries(store) == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("softfocus")]
    label(manifest, store, load_teacher=RampTeacher)
    assert len(LabelReader(store)) == 10


JOB = """
import sys
sys.path[:0] = {path!r}
from test_distill import RampTeacher
from pipeline.distill import label
print("ready", flush=True)
label({manifest!r}, {store!r}, load_teacher=lambda: RampTeacher(pause_s=0.002), shard_size=2, batch_size=2)
"""


def start_job(manifest: Path, store: Path) -> subprocess.Popen[str]:
    """The job in a process of its own, at the point where it begins."""
    code = JOB.format(path=[str(ROOT), str(ROOT / "tests")], manifest=str(manifest), store=str(store))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("kills", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_killed_runs_lose_open_shards_only(tmp_path: Path, kills: int) -> None:
    """SIGKILL at random instants: finished files stay as they are, and the end is that of a run in peace."""
    manifest = make_set(tmp_path, 12 * kills)
    store = tmp_path / "labels"
    label(manifest, tmp_path / "peace", load_teacher=RampTeacher, shard_size=2, batch_size=2)
    chance = random.Random(kills)
    killed = 0
    before: dict[Path, int] = {}
    while killed < kills:
        with start_job(manifest, store) as job:
            time.sleep(chance.uniform(0, 0.03))
            job.kill()
        if job.returncode == 0:
            break
        killed += 1
        assert files(store).items() >= before.items()
        before = files(store)
    assert killed >= kills * 0.9  # a fast machine may be done before
    with start_job(manifest, store) as job:
        pass
    assert job.returncode == 0
    assert files(store).items() >= before.items()
    assert temporaries(store) == []
    assert maps(store) == maps(tmp_path / "peace")
    assert differing_shards(store, tmp_path / "peace") == []


def test_two_processes_at_once_do_no_harm(tmp_path: Path) -> None:
    """They may do work twice; the store is that of one."""
    manifest = make_set(tmp_path, 40)
    label(manifest, tmp_path / "peace", load_teacher=RampTeacher, shard_size=2, batch_size=2)
    store = tmp_path / "labels"
    with start_job(manifest, store) as one, start_job(manifest, store) as two:
        pass
    assert (one.returncode, two.returncode) == (0, 0)
    assert maps(store) == maps(tmp_path / "peace")
    assert temporaries(store) == []


def test_run_that_plans_at_the_same_time_plans_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process adds a generation between our reading the plan and our writing one."""
    store = tmp_path / "labels"
    whole = make_set(tmp_path, 6)
    header, *lines = whole.read_text().splitlines()
    part = tmp_path / "part.jsonl"
    part.write_text("\n".join([header, *lines[:4]]))
    real, raced = job_module.next_generation, []

    def raced_generation(plan: Plan, *args: Any) -> Any:
        if not raced:
            raced.append(True)
            label(part, store, load_teacher=RampTeacher)
        return real(plan, *args)

    monkeypatch.setattr(job_module, "next_generation", raced_generation)
    summary = label(whole, store, load_teacher=RampTeacher)
    assert (summary.labelled, summary.kept) == (2, 4)
    assert read_plan(store, read_description(store)).generations == 2
    assert len(LabelReader(store)) == 6


def test_shards_that_another_process_finished_meanwhile_are_not_made_again(tmp_path: Path) -> None:
    """A run looks again before it starts a shard."""
    manifest, store = make_set(tmp_path, 40), tmp_path / "labels"
    others: list[Any] = []

    def let_another_finish(_: LabelProgress) -> None:
        if not others:
            others.append(True)
            others.append(label(manifest, store, load_teacher=RampTeacher, batch_size=1))

    totals: list[int] = []
    summary = label(
        manifest,
        store,
        load_teacher=RampTeacher,
        shard_size=2,
        batch_size=1,
        workers=1,
        progress=lambda p: (totals.append(p.total), let_another_finish(p)),
    )
    assert summary.labelled < 10
    assert (totals[0], totals[-1]) == (40, summary.labelled)
    assert len(LabelReader(store)) == 40


def test_left_over_files_of_dead_processes_are_cleaned(tmp_path: Path) -> None:
    """Also where the killed run was in another part of the store; those of live ones stay."""
    manifest, store = make_set(tmp_path, 2), tmp_path / "labels"
    label(manifest, store, load_teacher=RampTeacher)
    with subprocess.Popen([sys.executable, "-c", DYING.format(root=str(ROOT), store=str(store))]) as dying:
        pass
    assert dying.returncode == -signal.SIGKILL
    left = temporaries(store)
    assert len(left) == 3
    mine = left[0].with_name(left[0].name.replace(f"-{dying.pid}-", f"-{os.getpid()}-"))
    mine.write_text("open")
    label(manifest, store, load_teacher=no_teacher)
    assert temporaries(store) == [mine]


DYING = """
import os, signal, sys
sys.path.insert(0, {root!r})
from pipeline.files import new_file
with new_file({store!r} + "/store.json") as a, new_file({store!r} + "/plan/0009.h5") as b:
    with new_file({store!r} + "/shards/000009.h5") as c:
        for path in (a, b, c):
            path.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
"""


# Disks


FULL_DISK = """
import resource, signal, sys
sys.path[:0] = {path!r}
from test_distill import RampTeacher
from pipeline.distill import label
from pipeline.errors import SoftfocusError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    label({manifest!r}, {store!r}, load_teacher=RampTeacher, batch_size=2)
except SoftfocusError as error:
    print(type(error).__name__, error)
    sys.exit(1)
"""


@pytest.mark.parametrize("limit", [100, 4000, 9000])
def test_full_disk_is_one_clear_error(tmp_path: Path, limit: int) -> None:
    """Wherever the disk fills up: exit without a crash, nothing half written, and the next run goes on."""
    manifest, store = make_set(tmp_path, 30), tmp_path / "labels"
    code = FULL_DISK.format(
        path=[str(ROOT), str(ROOT / "tests")], limit=limit, manifest=str(manifest), store=str(store)
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert len(done.stdout.splitlines()) == 1
    assert done.stdout.startswith(f"StoreError {store}")
    assert "free space" in done.stdout
    assert temporaries(store) == []
    label(manifest, store, load_teacher=RampTeacher)
    assert len(LabelReader(store)) == 30


def test_disk_that_is_full_for_one_shard_loses_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of the writing thread comes out, and what is finished stays."""
    manifest, store = make_set(tmp_path, 20), tmp_path / "labels"
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        if Path(target).name == "000002.h5":
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(StoreError, match=r"000002\.h5: cannot be written .*No space left.*free space"):
        label(manifest, store, load_teacher=RampTeacher, shard_size=2, batch_size=1)
    monkeypatch.undo()
    assert set(LabelReader(store)) >= {"set/01", "set/03", "set/05", "set/07"}
    assert temporaries(store) == []
    before = files(store)
    label(manifest, store, load_teacher=RampTeacher)
    assert files(store).items() >= before.items()
    assert len(LabelReader(store)) == 20


def test_place_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    """A path through a file stands for every folder that cannot be made."""
    manifest = make_set(tmp_path, 2)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file/labels/README\.txt: cannot be written"):
        label(manifest, tmp_path / "file" / "labels", load_teacher=RampTeacher)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_store_can_be_used_but_not_extended(tmp_path: Path) -> None:
    """A finished job in a read-only folder is finished; new work is refused with the folder's name."""
    store = tmp_path / "labels"
    label(make_set(tmp_path, 2), store, load_teacher=RampTeacher)
    folders = [store, store / "plan", store / "shards"]
    for folder in folders:
        folder.chmod(0o555)
    try:
        assert label(make_set(tmp_path, 2), store, load_teacher=no_teacher).kept == 2
        with pytest.raises(StoreError, match="cannot be written"):
            label(make_set(tmp_path, 3), store, load_teacher=RampTeacher)
    finally:
        for folder in folders:
            folder.chmod(0o755)


def test_damaged_shard_is_named_and_made_again_once_it_is_removed(tmp_path: Path) -> None:
    """The error tells the mend, and the mend works."""
    manifest, store = make_set(tmp_path), tmp_path / "labels"
    label(manifest, store, load_teacher=RampTeacher, shard_size=4)
    good = maps(store)
    path = shard_path(store, 1)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StoreError, match=r"000001\.h5: .*remove it and run `softfocus label` again"):
        label(manifest, store, load_teacher=no_teacher)
    path.unlink()
    assert label(manifest, store, load_teacher=RampTeacher).shards == 1
    assert maps(store) == good


# Real data


def test_real_photographs_get_labels_of_the_teachers_size(shared: Path, tmp_path: Path) -> None:
    """Two JPEG photographs of CUHK, one name with blanks and umlauts, in any mode a camera writes."""
    sources = sorted((shared / "data" / "cuhk" / "image").glob("*.jpg"))[:2]
    samples = []
    for source, name in zip(sources, ("plain.jpg", "schöne Grüße.jpg"), strict=True):
        target = tmp_path / "p" / name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(source.read_bytes())
        with Image.open(source) as image:
            width, height = image.size
        digest = hashlib.sha256(target.read_bytes()).hexdigest()
        samples.append(
            Sample(id=f"cuhk/{target.stem}", image=name, split="train", height=height, width=width, sha256=digest)
        )
    write_manifest(tmp_path / "m.jsonl", samples, root=tmp_path / "p")
    assert label(tmp_path / "m.jsonl", tmp_path / "labels", load_teacher=RampTeacher).failed == []
    reader = LabelReader(tmp_path / "labels")
    assert reader["cuhk/schöne Grüße"].shape == (samples[1].height // 2, 16)
