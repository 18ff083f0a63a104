"""Confidence and fusing: agreement by hand, the mirror image, several stores as one."""

from __future__ import annotations

import functools
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from conftest import BrightnessTeacher

from cli import main
from pipeline.audit.verify import Sampling, verify
from pipeline.distill import label
from pipeline.distill.fuse import StoresTeacher
from pipeline.manifest import read_manifest, write_manifest
from pipeline.store import LabelReader, MissingLabel, StoreError, confidence_size, pack_confidence, shard_path
from pipeline.store.confidence import unpack_confidence
from pipeline.teachers.agreement import align, fuse
from pipeline.teachers.base import Teacher
from pipeline.teachers.flip import FlipTeacher, load_flip

ROOT = Path(__file__).parents[1]
NAN = np.nan


class LopsidedTeacher(BrightnessTeacher):
    """Adds a ramp from 0 at the left to 50 at the right: what a mirror shows to be the network's own doing."""

    def predict(self, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return super().predict(images) + np.linspace(0, 50, images.shape[2], dtype=np.float32)


class OtherTeacher(BrightnessTeacher):
    """The same depth in other units, at another size, under another name."""

    def __init__(self, name: str = "other", scale: float = 0.01, shift: float = -3.0) -> None:
        super().__init__()
        self.provenance = msgspec.structs.replace(self.provenance, name=name, weights_sha256="1" * 64)
        self._scale, self._shift = scale, shift

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        return height, width

    def predict(self, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return (super().predict(images) * self._scale + self._shift).astype(np.float32)


def flipped() -> FlipTeacher:
    return FlipTeacher(LopsidedTeacher())


def cut(manifest: Path, count: int) -> Path:
    """A manifest of the first samples alone."""
    samples = read_manifest(manifest)
    write_manifest(manifest.with_name("cut.jsonl"), samples[:count], root=samples[0].root)
    return manifest.with_name("cut.jsonl")


# Agreement


def test_alignment_undoes_scale_and_shift() -> None:
    """Exactly, whatever the units; a contradicting map is flattened to the reference's mean."""
    reference = np.array([[0.0, 1, 2], [3, 4, 8]], np.float32)
    np.testing.assert_allclose(align(reference * 7 - 100, reference), reference, atol=1e-5)
    np.testing.assert_allclose(align(-reference, reference), np.full((2, 3), 3.0), atol=1e-6)
    np.testing.assert_allclose(align(np.full((2, 3), 5, np.float32), reference), np.full((2, 3), 3.0))


def test_trimmed_alignment_passes_over_what_does_not_fit() -> None:
    """One pixel in ten is far off: least squares follows it, the trimmed fit does not."""
    reference = np.arange(100, dtype=np.float32).reshape(10, 10)
    other = reference / 2 + 4
    other[0] = 1000
    good = np.delete(align(other, reference, trim=0.2), 0, axis=0)
    np.testing.assert_allclose(good, reference[1:], atol=1e-3)
    assert np.abs(align(other, reference)[1:] - reference[1:]).max() > 10


def test_fused_map_and_confidence_by_hand() -> None:
    """Maps 0 4 0 4 and 4 0 0 4 do not correlate (scale 0, mean 2): mean 1 3 1 3, spread 1, difference 1 everywhere."""
    fused, confidence = fuse([np.array([[0.0, 4, 0, 4]], np.float32), np.array([[4.0, 0, 0, 4]], np.float32)])
    np.testing.assert_allclose(fused, [[1, 3, 1, 3]])
    np.testing.assert_allclose(confidence, np.exp(-1 / 0.25) * np.ones((1, 4)), rtol=1e-6)


def test_maps_that_agree_are_trusted_fully() -> None:
    """Equal but for scale and shift: the first one, confidence 1."""
    first = np.random.default_rng(0).random((6, 8)).astype(np.float32)
    fused, confidence = fuse([first, first * 9 + 2, first * 0.1 - 7], trim=0.2)
    np.testing.assert_allclose(fused, first, atol=1e-5)
    assert confidence.min() > 0.999


def test_median_of_three_passes_over_one_that_is_wrong() -> None:
    """Where one of three is off, the other two carry the pixel, with less confidence there."""
    first = np.arange(64, dtype=np.float32).reshape(8, 8)
    wrong = first.copy()
    wrong[0, 0] = 60
    fused, confidence = fuse([first, first.copy(), wrong])
    np.testing.assert_allclose(fused, first, atol=1.0)
    assert confidence[0, 0] == confidence.min() < 0.1


def test_unknown_pixels_take_what_is_known_and_no_confidence() -> None:
    """Known in one: its value. Known nowhere: NaN. No confidence in either."""
    first = np.array([[0.0, 1, 2, NAN, NAN, 5]], np.float32)
    second = np.array([[0.0, 1, NAN, 3, NAN, 5]], np.float32)
    fused, confidence = fuse([first, second])
    np.testing.assert_allclose(fused, [[0, 1, 2, 3, NAN, 5]], atol=1e-6)
    np.testing.assert_allclose(confidence, [[1, 1, 0, 0, 0, 1]], atol=1e-5)
    third = np.array([[0.0, 1, 2, 3, NAN, 5]], np.float32)
    fused, _ = fuse([first, second, third])
    np.testing.assert_allclose(fused, [[0, 1, 2, 3, NAN, 5]], atol=1e-5)


def test_constant_and_empty_maps_do_no_harm() -> None:
    """Two constants agree; a map without any value is no vote."""
    constant = np.full((4, 4), 3, np.float32)
    fused, confidence = fuse([constant, constant * 5])
    assert (fused == 3).all()
    assert (confidence == 1).all()
    fused, confidence = fuse([constant, np.full((4, 4), NAN, np.float32)])
    assert (fused == 3).all()
    assert (confidence == 0).all()


@pytest.mark.parametrize("size", [(4, 4), (13, 22), (1, 3), (480, 640)])
def test_confidence_survives_its_storage(size: tuple[int, int]) -> None:
    """A smooth one to within a few hundredths at the map's full size, in a sixteenth of the pixels."""
    wave = np.sin(np.linspace(0, 2, size[0]))[:, None] * np.cos(np.linspace(0, 1, size[1]))
    confidence = np.abs(wave).astype(np.float32)
    found = unpack_confidence(pack_confidence(confidence), size)
    assert found.shape == size
    assert found.dtype == np.float32
    if min(size) > 12:
        assert np.abs(found - confidence).max() < 0.25
        assert np.abs(found - confidence).mean() < 0.03
    assert confidence_size(13, 22) == (4, 6)


# The mirror image


def test_flip_teacher_takes_out_what_the_mirror_turns_round(small_set: Path) -> None:
    """A ramp of the network's own making becomes flat, and the two agree more than they would with themselves."""
    images = np.random.default_rng(0).integers(0, 255, (2, 12, 16, 3)).astype(np.uint8)
    images[:, :, :8] //= 2
    plain, teacher = BrightnessTeacher().predict(images), flipped()
    assert isinstance(teacher, Teacher)
    depth, confidence = np.moveaxis(teacher.predict(images), 1, 0)
    assert depth.shape == confidence.shape == (2, 12, 16)
    lopsided = LopsidedTeacher().predict(images)
    for one, truth, bent in zip(depth, plain, lopsided, strict=True):
        assert np.corrcoef(one.ravel(), truth.ravel())[0, 1] > np.corrcoef(bent.ravel(), truth.ravel())[0, 1]
    assert 0 <= confidence.min() < confidence.max() <= 1
    assert teacher.predict(images[:0]).shape == (0, 2, 12, 16)
    teacher.close()


def test_symmetric_teacher_is_trusted_fully(small_set: Path, tmp_path: Path) -> None:
    """Brightness is the same in a mirror: the labels are those of the teacher alone, confidence 1 everywhere."""
    label(small_set, tmp_path / "plain", load_teacher=BrightnessTeacher)
    label(small_set, tmp_path / "flip", load_teacher=functools.partial(load_flip, BrightnessTeacher))
    plain, flip = LabelReader(tmp_path / "plain"), LabelReader(tmp_path / "flip")
    for sample_id in flip:
        np.testing.assert_allclose(flip[sample_id], plain[sample_id], atol=0.01)
        confidence = flip.confidence(sample_id)
        assert confidence is not None
        assert confidence.shape == flip[sample_id].shape
        assert confidence.dtype == np.float32
        assert confidence.min() > 0.99
        assert plain.confidence(sample_id) is None
    with pytest.raises(MissingLabel):
        plain.confidence("small/nobody")


def test_confidence_is_part_of_the_store_and_its_fingerprint(small_set: Path, tmp_path: Path) -> None:
    """Described in words with its formula, readable with h5py, and not to be mixed with labels without."""
    store = tmp_path / "flip"
    label(small_set, store, load_teacher=flipped)
    reader = LabelReader(store)
    assert "exp(-d / (0.25 s))" in reader.description.confidence
    assert "mirrored photograph" in reader.description.provenance.confidence
    with h5py.File(shard_path(store, 0)) as file:
        stored = file["confidence"][0] / np.float32(255)
        assert stored.shape == confidence_size(*file["labels"].shape[1:])
        sample_id = file["id"][0].decode()
        assert "exp(-d" in file.attrs["confidence"]
    again = reader.confidence(sample_id)
    assert again is not None
    assert abs(float(again.mean()) - float(stored.mean())) < 0.02
    assert len(pickle.loads(pickle.dumps(reader)).confidence(sample_id)) == len(again)
    with pytest.raises(StoreError, match="other confidence"):
        label(small_set, store, load_teacher=LopsidedTeacher, retry_failed=True, asked="plain")
    label(small_set, tmp_path / "plain", load_teacher=LopsidedTeacher)
    assert LabelReader(tmp_path / "plain").fingerprint != reader.fingerprint
    found = verify(store, manifest=small_set, sampling=Sampling(count=3, load_teacher=flipped))
    assert found.findings == []


def test_rows_that_stay_keep_their_confidence(small_set: Path, tmp_path: Path) -> None:
    """A shard that is written anew for a photograph that failed has the others' confidence as before."""
    photograph = small_set.parent / "photos" / "image" / "03.png"
    content = photograph.read_bytes()
    photograph.write_bytes(b"broken")
    store = tmp_path / "s"
    label(small_set, store, load_teacher=flipped)
    before = {name: LabelReader(store).confidence(name) for name in LabelReader(store)}
    assert len(before) == 17
    photograph.write_bytes(content)
    label(small_set, store, load_teacher=flipped, retry_failed=True)
    reader = LabelReader(store)
    assert reader.confidence("small/03") is not None
    for name, confidence in before.items():
        np.testing.assert_array_equal(reader.confidence(name), confidence)


def test_flip_on_the_command_line_is_remembered_by_the_store(small_set: Path, tmp_path: Path) -> None:
    """Asked for once; later runs, and `verify --sample`, follow the store."""
    run, store = CliRunner(), tmp_path / "s"
    teacher = ["--teacher", "demo", "--size", "64", "--device", "cpu"]
    part = ["label", str(cut(small_set, 4)), str(store), *teacher]
    assert run.invoke(main, [*part, "--confidence", "flip"]).exit_code == 0
    assert run.invoke(main, ["label", str(small_set), str(store), *teacher]).exit_code == 0
    assert len(LabelReader(store)) == 18
    refused = run.invoke(main, [*part, "--confidence", "none"])
    assert (refused.exit_code, "other confidence" in refused.stderr) == (1, True)
    options = ["--manifest", str(small_set), "--max-saturated", "1", "--sample", "2"]
    done = run.invoke(main, ["verify", str(store), *options, *teacher])
    assert done.exit_code == 0, done.output


# Several stores


@pytest.fixture
def two_stores(small_set: Path, small_labels: Path) -> list[Path]:
    """Labels of `BrightnessTeacher` and of `OtherTeacher`, at different sizes."""
    other = small_set.parent / "other"
    label(small_set, other, load_teacher=OtherTeacher)
    return [small_labels, other]


def test_stores_that_agree_fuse_to_the_first(small_set: Path, two_stores: list[Path], tmp_path: Path) -> None:
    """In its size and units; whole, resumable, with each source's provenance, and no photograph is read."""
    for photograph in (small_set.parent / "photos" / "image").iterdir():
        photograph.unlink()
    load = functools.partial(StoresTeacher, two_stores, small_set)
    summary = label(small_set, tmp_path / "both", load_teacher=load, shard_size=7)
    assert (summary.labelled, summary.shards, summary.failed) == (18, 3, [])
    assert label(small_set, tmp_path / "both", load_teacher=load).labelled == 0
    fused, first = LabelReader(tmp_path / "both"), LabelReader(two_stores[0])
    for sample_id in fused:
        assert fused[sample_id].shape == first[sample_id].shape
        assert np.corrcoef(fused[sample_id].ravel(), first[sample_id].ravel())[0, 1] > 0.99
        confidence = fused.confidence(sample_id)
        assert confidence is not None
        assert confidence.mean() > 0.7
    sources = fused.description.provenance.sources
    assert [source.provenance.name for source in sources] == ["brightness", "other"]
    assert [source.fingerprint for source in sources] == [LabelReader(store).fingerprint for store in two_stores]
    assert "median" in fused.description.confidence
    assert verify(tmp_path / "both", manifest=small_set).findings == []


def test_photograph_without_a_label_in_one_store_is_left_out_and_fused_later(
    small_set: Path, small_labels: Path, tmp_path: Path
) -> None:
    """Named with the store; after that store is complete, --retry-failed fuses it."""
    other, both = tmp_path / "other", tmp_path / "both"
    label(cut(small_set, 16), other, load_teacher=OtherTeacher)
    command = ["fuse", str(both), str(small_labels), str(other), "--manifest", str(small_set)]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 3
    assert "left out: small/16" in done.stderr
    assert "other: no label of photograph" in done.stderr
    label(small_set, other, load_teacher=OtherTeacher)
    assert CliRunner().invoke(main, [*command, "--retry-failed"]).exit_code == 0
    assert len(LabelReader(both)) == 18


def test_stores_that_cannot_be_fused_are_refused_by_name(
    small_set: Path, two_stores: list[Path], tmp_path: Path
) -> None:
    """One store, the same teacher twice, photographs the first one does not know, another order than before."""
    with pytest.raises(StoreError, match="name two or more"):
        StoresTeacher(two_stores[:1], small_set)
    with pytest.raises(StoreError, match=r"labels: labels of the same teacher as .*labels"):
        StoresTeacher([*two_stores, two_stores[0]], small_set)
    few = tmp_path / "few"
    label(cut(small_set, 3), few, load_teacher=functools.partial(OtherTeacher, "few"))
    samples = read_manifest(small_set)
    tall = msgspec.structs.replace(samples[0], id="small/tall", height=480, sha256="3" * 64)
    write_manifest(small_set.with_name("more.jsonl"), [*samples, tall], root=samples[0].root)
    with pytest.raises(StoreError, match=r"few: does not know 'small/tall'; label .*more\.jsonl"):
        StoresTeacher([few, *two_stores], small_set.with_name("more.jsonl"))
    label(small_set, tmp_path / "both", load_teacher=lambda: StoresTeacher(two_stores, small_set))
    with pytest.raises(StoreError, match="holds labels of the teacher fuse:brightness"):
        label(
            small_set,
            tmp_path / "both",
            load_teacher=lambda: StoresTeacher(two_stores[::-1], small_set),
            asked="other order",
        )


def test_killed_fuse_goes_on(small_set: Path, two_stores: list[Path], tmp_path: Path) -> None:
    """SIGKILL at some moment, and the same command again: the store of an uninterrupted run, map for map."""
    command = [sys.executable, "cli.py", "fuse", str(tmp_path / "killed"), *map(str, two_stores)]
    command += ["--manifest", str(small_set), "--shard-size", "1"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        while not (tmp_path / "killed" / "shards").exists() and process.poll() is None:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    load = functools.partial(StoresTeacher, two_stores, small_set)
    label(small_set, tmp_path / "killed", load_teacher=load)
    label(small_set, tmp_path / "peace", load_teacher=load)
    killed, peace = LabelReader(tmp_path / "killed"), LabelReader(tmp_path / "peace")
    assert sorted(killed) == sorted(peace)
    for sample_id in peace:
        np.testing.assert_array_equal(killed[sample_id], peace[sample_id])
        np.testing.assert_array_equal(killed.confidence(sample_id), peace.confidence(sample_id))


def test_real_teachers_fuse(shared: Path, tmp_path: Path) -> None:
    """Two ONNX teachers of other sizes and directions on three photographs: related to both, trusted in part."""
    from pipeline.datasets import index
    from pipeline.teachers import load_teacher

    index("cuhk", shared / "data" / "cuhk", out=tmp_path / "all.jsonl", decode=False, jobs=1)
    manifest, stores = cut(tmp_path / "all.jsonl", 3), []
    for file, card in (("tcmonodepth_small.onnx", "tcmonodepth"), ("fastdepth_224.onnx", "fastdepth")):
        stores.append(tmp_path / card)
        load = functools.partial(load_teacher, f"onnx:{shared / 'weights' / file}", card=card, device="cpu")
        label(manifest, stores[-1], load_teacher=load, batch_size=3)
    label(manifest, tmp_path / "both", load_teacher=functools.partial(StoresTeacher, stores, manifest))
    first, fused = LabelReader(stores[0]), LabelReader(tmp_path / "both")
    for sample_id in fused:
        assert np.corrcoef(fused[sample_id].ravel(), first[sample_id].ravel())[0, 1] > 0.8
        confidence = fused.confidence(sample_id)
        assert confidence is not None
        assert 0.05 < confidence.mean() < 0.95
