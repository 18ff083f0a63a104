"""Status, verify, repair: how far a store is, what is wrong with it, and how it is whole again."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from conftest import BrightnessTeacher

from cli import main
from pipeline.audit.repair import repair
from pipeline.audit.shard import Limits, map_doubts
from pipeline.audit.status import status
from pipeline.audit.verify import Sampling, Verification, verify
from pipeline.distill import label
from pipeline.distill.presence import in_work, workers_of
from pipeline.manifest import read_manifest, write_manifest
from pipeline.store import LabelReader, StoreError, read_description, read_plan, shard_path
from pipeline.store.seal import SEAL_BYTES, Seal, read_seal

ROOT = Path(__file__).parents[1]


def kinds(found: Verification) -> list[str]:
    """Kind and file of each finding."""
    return [f"{finding.kind} {finding.file}" for finding in found.findings]


def flip(path: Path, place: int, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


def maps(store: Path) -> dict[str, bytes]:
    """All labels, as bytes that compare exactly."""
    reader = LabelReader(store)
    return {sample_id: reader[sample_id].tobytes() for sample_id in reader}


def forge(path: Path, change: Any) -> None:
    """Rewrite a shard's HDF5 part and seal it anew: damage that no checksum shows."""
    seal = read_seal(path, kind="shard")
    with h5py.File(path, "r+") as file:
        change(file)
    content = path.read_bytes()[SEAL_BYTES:]
    seal = msgspec.structs.replace(seal, size=len(content), sha256=hashlib.sha256(content).hexdigest())
    line = msgspec.json.encode(seal)
    import zlib

    path.write_bytes((line + b" %08x\n" % zlib.crc32(line)).ljust(SEAL_BYTES) + content)
    assert isinstance(seal, Seal)


def split_manifest(manifest: Path, count: int) -> Path:
    """A manifest of the first samples alone."""
    samples = read_manifest(manifest)
    out = manifest.with_name("part.jsonl")
    write_manifest(out, samples[:count], root=samples[0].root)
    return out


# Status


def test_status_counts_shards_photographs_and_splits(small_set: Path, small_labels: Path) -> None:
    """A finished store, and then one with a shard less."""
    done = status(small_labels, manifest=small_set)
    assert (done.shards, done.shards_done, done.shards_missing, done.photographs, done.labelled) == (4, 4, 0, 18, 18)
    assert done.bytes == done.bytes_expected == sum(p.stat().st_size for p in (small_labels / "shards").iterdir())
    assert [(s.split, s.samples, s.labels) for s in done.splits] == [
        ("train", 12, 12),
        ("val", 3, 3),
        ("test", 3, 3),
        ("all", 18, 18),
    ]
    assert (done.seconds_left, done.unplanned, done.workers) == (0.0, 0, [])
    shard_path(small_labels, 0).unlink()
    less = status(small_labels, manifest=small_set)
    assert (less.shards_done, less.shards_missing, less.labelled, less.splits[0].labels) == (3, 1, 13, 7)


def test_status_tells_rate_and_time_left_from_the_newest_shards(small_labels: Path) -> None:
    """Shards of 5 maps every 2 s, after a night's pause: 2.5 maps a second, 2 s for the 5 missing ones."""
    for number, when in enumerate((-50_000, 0, 2)):
        os.utime(shard_path(small_labels, number), (1e9 + when, 1e9 + when))
    shard_path(small_labels, 3).unlink()
    found = status(small_labels)
    assert found.rate == pytest.approx(2.5)
    assert found.seconds_left == pytest.approx(3 / 2.5)  # the last shard has 3


def test_status_knows_who_works_on_which_shard(small_labels: Path) -> None:
    """A shard in work is neither missing nor done; a killed worker's shard is missing, its file left over."""
    shard_path(small_labels, 1).unlink()
    with in_work(small_labels, 1):
        found = status(small_labels)
        assert (found.shards_in_work, found.shards_missing) == (1, 0)
        assert [(worker.pid, worker.shard) for worker in found.workers] == [(os.getpid(), 1)]
    assert status(small_labels).shards_missing == 1
    code = (
        "import os, signal, sys; from pathlib import Path; from pipeline.distill.presence import in_work\n"
        "with in_work(Path(sys.argv[1]), 1): os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(small_labels)], cwd=ROOT, check=False)
    found = status(small_labels)
    assert (found.shards_in_work, found.shards_missing, found.left_over) == (0, 1, 1)
    assert workers_of(small_labels) == []


def test_presence_never_fails_the_work(tmp_path: Path) -> None:
    """Where no file can be written the work goes on unseen."""
    (tmp_path / "shards").write_text("a file where a folder belongs")
    with in_work(tmp_path, 3):
        pass


def test_status_survives_damage_and_counts_what_is_not_planned(small_set: Path, small_labels: Path) -> None:
    """A shard that is cut short is damaged, named, and not done; new samples are not planned."""
    path = shard_path(small_labels, 2)
    path.write_bytes(path.read_bytes()[:-1])
    label_store = small_labels.with_name("other")
    label(split_manifest(small_set, 10), label_store, load_teacher=BrightnessTeacher)
    found = status(small_labels)
    assert (found.shards_done, found.shards_damaged, found.shards_missing) == (3, 1, 0)
    assert "000002.h5" in found.problems[0]
    assert status(label_store, manifest=small_set).unplanned == 8


def test_status_command_prints_a_table_or_json(small_set: Path, small_labels: Path) -> None:
    """Both tell the same, and neither fails on a store without a manifest."""
    shard_path(small_labels, 0).unlink()
    done = CliRunner().invoke(main, ["status", str(small_labels), "--manifest", str(small_set)])
    assert done.exit_code == 0
    assert "3 of 4 done, 0 in work, 1 missing" in done.stdout
    assert "train" in done.stdout
    done = CliRunner().invoke(main, ["status", str(small_labels), "--json"])
    assert json.loads(done.stdout)["shards_missing"] == 1
    assert CliRunner().invoke(main, ["status", str(small_set.parent / "photos")]).exit_code == 1


# Verify


def test_whole_store_is_clean(small_set: Path, small_labels: Path) -> None:
    """No findings, every byte and map read."""
    found = verify(small_labels, manifest=small_set)
    assert (found.findings, found.shards, found.maps) == ([], 4, 18)
    assert found.bytes == sum(path.stat().st_size for path in (small_labels / "shards").iterdir())


def test_every_flipped_bit_is_reported(small_labels: Path) -> None:
    """Four hundred random bits in shards, plan, store.json and README.txt, one at a time: each names its file."""
    for number in (2, 3):  # the others are enough
        shard_path(small_labels, number).unlink()
    files = [path for path in sorted(small_labels.rglob("*")) if path.is_file()]
    assert len(files) == 5
    chance = random.Random(0)
    for turn in range(400):
        path = files[turn % len(files)]
        good = path.read_bytes()
        flip(path, chance.randrange(len(good)), chance.randrange(8))
        found = verify(small_labels)
        name = str(path.relative_to(small_labels))
        assert [f.file for f in found.findings if f.is_damage] == [name], f"turn {turn}"
        path.write_bytes(good)
    assert verify(small_labels).damage == 0


def test_many_flips_at_once_are_all_reported(small_labels: Path) -> None:
    """Damage in one file hides no other: with the description gone the plan's copy serves."""
    for path in [*(small_labels / "shards").iterdir(), small_labels / "store.json"]:
        flip(path, path.stat().st_size // 2, 3)
    assert sum(kind.startswith("damaged") for kind in kinds(verify(small_labels))) == 5
    flip(small_labels / "plan" / "0000.h5", 900, 1)
    assert sum(kind.startswith("damaged") for kind in kinds(verify(small_labels))) == 6


def test_missing_surplus_foreign_and_left_over_files_are_told_apart(small_set: Path, small_labels: Path) -> None:
    """Each by its kind and its file; a missing shard with its samples."""
    shards = small_labels / "shards"
    shutil.copy(shards / "000001.h5", shards / "000009.h5")
    shutil.copy(shards / "000001.h5", shards / "000002.h5")
    (shards / "notes.h5").write_bytes(b"mine")
    (shards / "000003.h5").unlink()
    (shards / f".000003.h5.{'0' * 8}-1-{'0' * 8}.tmp").write_bytes(b"half")
    os.utime(shards / f".000003.h5.{'0' * 8}-1-{'0' * 8}.tmp", (1e9, 1e9))
    found = verify(small_labels, manifest=small_set)
    assert kinds(found) == [
        "left over shards/.000003.h5.00000000-1-00000000.tmp",
        "surplus shards/000002.h5",
        "missing shards/000003.h5",
        "surplus shards/000009.h5",
        "surplus shards/notes.h5",
    ]
    assert found.findings[2].samples == ["small/15", "small/16", "small/17"]
    assert (found.damage, found.doubts) == (3, 2)


def test_wrong_ids_are_found_though_every_checksum_fits(small_labels: Path) -> None:
    """A shard whose ids or photographs were exchanged and sealed anew."""

    def exchange(file: h5py.File) -> None:
        file["id"][...] = file["id"][()][::-1]

    forge(shard_path(small_labels, 0), exchange)
    found = verify(small_labels)
    assert kinds(found) == ["wrong id shards/000000.h5"]
    assert len(found.findings[0].samples) == 4  # the middle one of five is where it was


def test_changed_and_unplanned_photographs_of_the_manifest_are_named(small_set: Path, small_labels: Path) -> None:
    """The manifest has another photograph under a known id, and a new id."""
    first, *rest = read_manifest(small_set)
    changed = msgspec.structs.replace(first, sha256="1" * 64)
    new = msgspec.structs.replace(first, id="small/new", sha256="2" * 64)
    write_manifest(small_set, [changed, new, *rest], root=first.root)
    found = verify(small_labels, manifest=small_set)
    assert [(f.kind, f.samples) for f in found.findings] == [
        ("changed photograph", ["small/00"]),
        ("missing", ["small/new"]),
    ]
    assert found.damage == 0


class OddTeacher(BrightnessTeacher):
    """Constant, half-unknown, clipped, or good, by the photograph's number (its order in the labels)."""

    def __init__(self) -> None:
        super().__init__()
        self.turn: Iterator[int] = iter(range(1000))

    def predict(self, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        values = super().predict(images).copy()
        for one in values:
            turn = next(self.turn)
            if turn == 1:
                one[...] = 0.25
            elif turn == 2:
                one[:, : one.shape[1] // 2] = np.nan
            elif turn == 3:
                one[:, : one.shape[1] * 3 // 4] = -1e4
            elif turn == 4:
                one[0, 0] = np.inf
        return values


def test_constant_saturated_and_non_finite_maps_are_named(small_set: Path, tmp_path: Path) -> None:
    """By the ids of their samples; the limits can be widened."""
    store = tmp_path / "odd"
    label(small_set, store, load_teacher=OddTeacher, shard_size=6, batch_size=1)
    found = verify(store)
    assert {(f.kind, *f.samples) for f in found.findings} == {
        ("constant", "small/01"),
        ("non-finite", "small/02", "small/04"),
        ("saturated", "small/03"),
    }
    assert (found.damage, found.doubts) == (0, 3)
    wide = verify(store, limits=Limits(unknown=0.6, saturated=0.9))
    assert {f.kind for f in wide.findings} == {"constant"}


def test_doubts_about_a_map_by_hand() -> None:
    """Four pixels: all known and different; one value; one unknown; three of four at the smallest value."""
    limits = Limits()
    assert map_doubts(np.array([[1.0, 2], [3, 4]]), limits) == []
    assert [kind for kind, _ in map_doubts(np.full((2, 2), 7.0), limits)] == ["constant"]
    assert [kind for kind, _ in map_doubts(np.array([[1, 2, np.nan, 4]]), limits)] == ["non-finite"]
    assert map_doubts(np.array([[1.0, 1, 1, 4]]), limits) == [
        ("saturated", "more than 50% of the pixels at the smallest value")
    ]
    assert [kind for kind, _ in map_doubts(np.full((2, 2), np.nan), limits)] == ["non-finite"]


def test_values_that_are_no_numbers_are_damage(small_labels: Path) -> None:
    """An offset that is not finite, and a count of unknown pixels that is wrong, though every checksum fits."""

    def spoil(file: h5py.File) -> None:
        file["offset"][0] = np.inf
        file["invalid_count"][1] = 3

    forge(shard_path(small_labels, 0), spoil)
    found = verify(small_labels)
    assert {(f.kind, *f.samples) for f in found.findings if f.is_damage} == {
        ("damaged", "small/00"),
        ("damaged", "small/01"),
    }


def test_photographs_without_a_label_are_listed_with_the_reason(small_set: Path, tmp_path: Path) -> None:
    """A broken photograph is no damage of the store."""
    (small_set.parent / "photos" / "image" / "03.png").write_bytes(b"broken")
    label(small_set, tmp_path / "s", load_teacher=BrightnessTeacher)
    found = verify(tmp_path / "s", manifest=small_set)
    assert [(f.kind, f.samples) for f in found.findings] == [("left out", ["small/03"])]
    assert "changed since it was indexed" in found.findings[0].what


def test_processes_find_the_same(small_labels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes that read give the findings of one."""
    flip(shard_path(small_labels, 2), 5000, 1)
    alone = verify(small_labels)
    monkeypatch.setattr("pipeline.audit.verify._SMALL", 0)
    assert verify(small_labels, jobs=2).findings == alone.findings


# The teacher again


class BrighterTeacher(BrightnessTeacher):
    """Says it is the same, and is not: one pixel in a hundred is off."""

    def predict(self, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        values = super().predict(images).copy()
        values[:, 0, :] += 30
        return values


def test_sampled_labels_are_compared_with_the_teacher(small_set: Path, small_labels: Path) -> None:
    """The same teacher agrees but for the quantisation; one that changed is found out; the choice follows the seed."""
    good = verify(small_labels, manifest=small_set, sampling=Sampling(count=5, load_teacher=BrightnessTeacher))
    assert len(good.comparisons) == 5
    assert all(c.same and c.largest <= 1 / 131070 + 1e-6 for c in good.comparisons)
    bad = verify(small_labels, manifest=small_set, sampling=Sampling(count=5, load_teacher=BrighterTeacher))
    assert [f.kind for f in bad.findings] == ["differs"] * 5
    assert [c.sample for c in bad.comparisons] == [c.sample for c in good.comparisons]
    other = verify(small_labels, manifest=small_set, sampling=Sampling(count=5, load_teacher=BrightnessTeacher, seed=1))
    assert [c.sample for c in other.comparisons] != [c.sample for c in good.comparisons]
    assert (
        len(
            verify(
                small_labels, manifest=small_set, sampling=Sampling(count=99, load_teacher=BrightnessTeacher)
            ).comparisons
        )
        == 18
    )


def test_another_teacher_is_refused_by_name(small_set: Path, small_labels: Path) -> None:
    """Comparing with a teacher that the store is not of would say nothing."""

    def other() -> BrightnessTeacher:
        teacher = BrightnessTeacher()
        teacher.provenance = msgspec.structs.replace(teacher.provenance, name="darkness")
        return teacher

    with pytest.raises(StoreError, match=r"test:brightness .* not of test:darkness"):
        verify(small_labels, manifest=small_set, sampling=Sampling(count=1, load_teacher=other))


# Repair


def mend(store: Path, manifest: Path | None = None) -> Any:
    load = BrightnessTeacher if manifest else None
    return repair(store, verify(store, manifest=manifest), manifest=manifest, load_teacher=load)


def test_damaged_shards_are_set_aside_and_labelled_again(small_set: Path, small_labels: Path) -> None:
    """Just these: the other shards keep their files, and the labels are what they were."""
    good = maps(small_labels)
    untouched = {p: p.stat().st_ino for p in (small_labels / "shards").iterdir() if p.stem not in ("000001", "000003")}
    bad = {}
    for number in (1, 3):
        path = shard_path(small_labels, number)
        flip(path, 2000 * number, 5)
        bad[path.name] = path.read_bytes()
    done = mend(small_labels, small_set)
    assert (done.relabelled, done.left_out, done.after.findings) == (8, [], [])
    assert done.set_aside == ["shards/000001.h5", "shards/000003.h5"]
    for name, content in bad.items():
        assert (small_labels / done.folder / "shards" / name).read_bytes() == content
    assert maps(small_labels) == good
    assert {p: p.stat().st_ino for p in untouched} == untouched


def test_shards_that_were_missing_are_not_made_by_a_repair(small_set: Path, small_labels: Path) -> None:
    """Of an unfinished store only what was damaged is made again."""
    shard_path(small_labels, 0).unlink()
    flip(shard_path(small_labels, 1), 2000, 5)
    done = mend(small_labels, small_set)
    assert (done.relabelled, kinds(done.after)) == (5, ["missing shards/000000.h5"])


def test_without_a_teacher_damage_is_set_aside_for_the_next_run(small_set: Path, small_labels: Path) -> None:
    """What is left is a store with a shard missing, and `label` makes it."""
    good = maps(small_labels)
    flip(shard_path(small_labels, 1), 2000, 5)
    shutil.copy(shard_path(small_labels, 0), shard_path(small_labels, 7))
    done = mend(small_labels)
    assert done.set_aside == ["shards/000001.h5", "shards/000007.h5"]
    assert kinds(done.after) == ["missing shards/000001.h5"]
    assert label(small_set, small_labels, load_teacher=BrightnessTeacher).shards == 1
    assert maps(small_labels) == good


def test_description_and_readme_are_restored(small_labels: Path) -> None:
    """Byte for byte, from the plan's copy and from each other."""
    files = [small_labels / "store.json", small_labels / "README.txt"]
    good = [file.read_bytes() for file in files]
    for file in files:
        flip(file, 100, 2)
    done = mend(small_labels)
    assert done.after.findings == []
    assert [file.read_bytes() for file in files] == good
    files[0].unlink()
    files[1].unlink()
    assert mend(small_labels).after.findings == []
    assert [file.read_bytes() for file in files] == good


@pytest.mark.parametrize("lost", ["0000.h5", "0001.h5"])
@pytest.mark.parametrize("way", ["damaged", "missing"])
def test_damaged_plan_is_drawn_up_again(small_set: Path, tmp_path: Path, lost: str, way: str) -> None:
    """Either of two generations, from the manifest that holds all samples; every label keeps its place."""
    store = tmp_path / "s"
    label(split_manifest(small_set, 10), store, load_teacher=BrightnessTeacher, shard_size=4)
    label(small_set, store, load_teacher=BrightnessTeacher)
    good, plan = maps(store), store / "plan" / lost
    content = plan.read_bytes()
    if way == "damaged":
        flip(plan, 3000, 4)
    else:
        plan.unlink()
    with pytest.raises(StoreError, match=rf"{lost} is damaged; give --manifest"):
        mend(store)
    done = mend(store, small_set)
    assert done.after.findings == []
    assert plan.read_bytes() == content
    assert maps(store) == good


def test_plan_is_not_drawn_up_from_another_manifest(small_set: Path, small_labels: Path) -> None:
    """A manifest that gives other shards is refused, and nothing is moved."""
    flip(small_labels / "plan" / "0000.h5", 3000, 4)
    with pytest.raises(StoreError, match="does not give the plan that the labels were made by"):
        mend(small_labels, split_manifest(small_set, 9))
    assert (small_labels / "plan" / "0000.h5").exists()


def test_verify_command_has_exit_codes_that_mean_something(small_set: Path, tmp_path: Path) -> None:
    """0 clean, 1 damage, 3 incomplete; --repair ends with what is left; --sample needs its sources."""
    store, run = tmp_path / "s", CliRunner()
    teacher = ["--teacher", "demo", "--size", "64", "--device", "cpu"]
    assert run.invoke(main, ["label", str(small_set), str(store), *teacher, "--shard-size", "9"]).exit_code == 0
    verify_it = ["verify", str(store), "--max-saturated", "1", "--manifest", str(small_set)]
    assert run.invoke(main, [*verify_it]).exit_code == 0
    done = run.invoke(main, [*verify_it, "--sample", "3", *teacher, "--json"])
    assert done.exit_code == 0, done.output
    assert len(json.loads(done.stdout)["comparisons"]) == 3
    assert run.invoke(main, [*verify_it, "--sample", "3"]).exit_code == 2
    flip(shard_path(store, 1), 3000, 1)
    done = run.invoke(main, verify_it)
    assert done.exit_code == 1
    assert "damaged: shards/000001.h5" in done.stdout
    done = run.invoke(main, [*verify_it, "--repair"])
    assert (done.exit_code, "set aside: shards/000001.h5" in done.stdout) == (3, True)
    assert run.invoke(main, ["label", str(small_set), str(store), *teacher]).exit_code == 0
    flip(shard_path(store, 0), 3000, 1)
    done = run.invoke(main, [*verify_it, "--repair", *teacher, "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["relabelled"] == 9
    assert run.invoke(main, ["verify", str(tmp_path)]).exit_code == 1


# Reading without softfocus


READ_ALL = """
import sys
namespace = {}
exec(open(sys.argv[1]).read(), namespace)
import numpy as np
store, out = sys.argv[2:4]
np.savez(out, **{name: namespace["read_map"](store, name) for name in sys.argv[4:]})
assert namespace["read_map"](store, "nobody") is None
assert not any(name.startswith(("pipeline", "softfocus", "torch", "PIL")) for name in sys.modules)
"""


@pytest.mark.parametrize("options", [{}, {"dtype": "u8"}, {"codec": "deflate"}, {"codec": "none"}])
def test_the_recipe_reads_every_map_with_h5py_and_numpy_alone(small_set: Path, tmp_path: Path, options: Any) -> None:
    """The text in store.json, run as it stands in a fresh interpreter: the reader's maps, bit for bit."""
    store = tmp_path / "s"
    label(split_manifest(small_set, 7), store, load_teacher=BrightnessTeacher, shard_size=4, **options)
    label(small_set, store, load_teacher=OddTeacher, batch_size=1)
    (tmp_path / "recipe.py").write_text(json.loads((store / "store.json").read_text())["recipe"])
    reader = LabelReader(store)
    arguments = [str(tmp_path / "recipe.py"), str(store), str(tmp_path / "maps.npz"), *reader]
    subprocess.run([sys.executable, "-I", "-c", READ_ALL, *arguments], cwd=tmp_path, check=True)
    with np.load(tmp_path / "maps.npz") as found:
        assert len(found.files) == 18
        for sample_id in reader:
            assert found[sample_id].dtype == np.float32
            np.testing.assert_array_equal(found[sample_id].view(np.uint32), reader[sample_id].view(np.uint32))


def test_every_part_of_a_store_says_how_it_is_read(small_labels: Path) -> None:
    """README.txt has the recipe, each shard has both, and the plan has a copy of the description."""
    readme = (small_labels / "README.txt").read_text()
    description = read_description(small_labels)
    assert all(line.strip() in readme for line in description.recipe.splitlines())
    with h5py.File(shard_path(small_labels, 0)) as file:
        assert file.attrs["readme"] == readme
    with h5py.File(small_labels / "plan" / "0000.h5") as file:
        assert file.attrs["description"] == (small_labels / "store.json").read_text()
    assert read_plan(small_labels, description).generations == 1
