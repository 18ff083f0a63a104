"""A student's probability of blur as a label: through stage 1, out of the store unchanged, into another student."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from conftest import QUICK, BrightnessTeacher
from scipy.special import expit

from cli import main
from pipeline.audit.verify import verify
from pipeline.contract import BLUR_PROBABILITY, INVERSE_DEPTH, LabelReader, SoftfocusError, read_image, read_manifest
from pipeline.distill import label
from pipeline.distill.fuse import StoresTeacher
from pipeline.manifest import Sample, write_manifest
from pipeline.teachers import load_teacher, register_kind
from pipeline.teachers.flip import FlipTeacher
from trainer.checkpoint import load_student, save_student
from trainer.config import Config, load_config
from trainer.evaluate import evaluate
from trainer.samples.coverage import holdings
from trainer.samples.data import Photographs, squash
from trainer.samples.label_maps import confidence_map, depth_map, soft_blur_map
from trainer.samples.sources import DataError, choose_samples
from trainer.students.model import create_student
from trainer.train import train

NAN = np.nan


def quick(*overrides: str) -> Config:
    return load_config(overrides=[*QUICK, *overrides])


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


class BlurTeacher(BrightnessTeacher):
    """Bright is blurred, as in the drawn photographs; probabilities never reach 0 or 1."""

    def __init__(self, *, low: float = 0.02, high: float = 0.7, name: str = "bright is blurred") -> None:
        super().__init__()
        self.provenance = msgspec.structs.replace(
            self.provenance, name=name, quantity=BLUR_PROBABILITY, direction="1 = out of focus"
        )
        self._low, self._high = low, high

    def predict(self, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        is_bright = (super().predict(images) - 150) / 10
        return (self._low + (self._high - self._low) * expit(is_bright)).astype(np.float32)


@pytest.fixture
def blur_labels(small_set: Path) -> Path:
    """The store of `small_set` by `BlurTeacher`."""
    label(small_set, small_set.parent / "blur", load_teacher=BlurTeacher, shard_size=5)
    return small_set.parent / "blur"


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student with random weights, whose blur is not flat."""
    torch.manual_seed(0)
    network = create_student("lite", encoder="test_efficientnet", channels=16)
    with torch.no_grad():
        for head in network.heads:  # type: ignore[union-attr]
            head.weight.mul_(20)
    path = tmp_path_factory.mktemp("student") / "tiny.safetensors"
    save_student(path, network.state_dict(), quick("data.input_size=64", "data.prepared_size=64"))
    return path


# Stage 1


def test_the_store_holds_what_the_student_says(small_set: Path, student: Path, tmp_path: Path) -> None:
    """`label --quantity blur`: sigmoid of the fused logit, read back with its absolute values; the store says so."""
    store = tmp_path / "blur"
    done = run("label", small_set, store, "--teacher", f"student:{student}", "--quantity", "blur", "--device", "cpu")
    assert done.exit_code == 0, done.stderr
    reader = LabelReader(store)
    told = json.loads((store / "store.json").read_text())
    assert reader.quantity == told["quantity"] == told["provenance"]["quantity"] == "blur probability"
    assert told["direction"] == "1 = out of focus; from 0 to 1, the same for all maps"
    assert "blur probability" in (store / "README.txt").read_text()
    network, _, _ = load_student(student)
    from trainer.samples.augment import normalise

    for sample in read_manifest(small_set)[:3]:
        image = torch.from_numpy(squash(read_image(sample.image_path), 64)).permute(2, 0, 1)[None]
        with torch.inference_mode():
            expected = network(normalise(image.float() / 255)).blur[0].sigmoid()[0, 0].numpy()
        assert np.ptp(expected) > 0.01
        np.testing.assert_allclose(reader[sample.id], expected, atol=np.ptp(expected) / 131070 + 1e-6)
    again = run("label", small_set, store, "--teacher", f"student:{student}", "--device", "cpu")
    assert again.exit_code == 0, "an existing store decides the quantity where none is asked for"
    other = run("label", small_set, store, "--teacher", f"student:{student}", "--quantity", "depth", "--device", "cpu")
    assert other.exit_code == 1
    assert "other quantity" in other.stderr


def test_the_quantity_is_part_of_the_fingerprint(small_set: Path, student: Path, tmp_path: Path) -> None:
    """Depth and blur of one student are two stores, and neither fills the other."""
    for quantity in ("depth", "blur"):
        done = run("label", small_set, tmp_path / quantity, "--teacher", f"student:{student}", "--quantity", quantity)
        assert done.exit_code == 0, done.stderr
    depth, blur = LabelReader(tmp_path / "depth"), LabelReader(tmp_path / "blur")
    assert (depth.quantity, blur.quantity) == (INVERSE_DEPTH, BLUR_PROBABILITY)
    assert depth.fingerprint != blur.fingerprint
    first = read_manifest(small_set)[0].id
    assert not np.allclose(depth[first], blur[first])


def test_only_students_give_blur(student: Path, tmp_path: Path) -> None:
    """Other teachers, other words, and a student that has not learnt the quantity: refused by name."""
    register_kind("demo", "trainer.teach:load_demo")
    register_kind("student", "trainer.teach:load_student_teacher")
    with pytest.raises(SoftfocusError, match="teacher demo: gives depth alone; for blur name a student"):
        load_teacher("demo", quantity="blur", device="cpu")
    with pytest.raises(SoftfocusError, match="quantity 'colour' is not known; choose one of depth, blur"):
        load_teacher("demo", quantity="colour", device="cpu")
    network, _, _ = load_student(student)
    depth_only = quick("blur_loss.weight=0", "blur_distillation.weight=0")
    save_student(tmp_path / "depth.safetensors", network.state_dict(), depth_only)
    save_student(tmp_path / "blur.safetensors", network.state_dict(), quick("depth_loss.weight=0"))
    with pytest.raises(SoftfocusError, match=r"has not learnt blur; ask for --quantity depth"):
        load_teacher(f"student:{tmp_path / 'depth.safetensors'}", quantity="blur", device="cpu")
    with pytest.raises(SoftfocusError, match=r"has not learnt depth; ask for --quantity blur"):
        load_teacher(f"student:{tmp_path / 'blur.safetensors'}", device="cpu")
    assert load_teacher(f"student:{tmp_path / 'blur.safetensors'}", quantity="blur", device="cpu").input_size(9, 9)


def test_a_size_that_a_student_does_not_take_is_refused(student: Path) -> None:
    """With the sizes that would work."""
    with pytest.raises(SoftfocusError, match="input size 50: this student takes multiples of 32; choose 32 or 64"):
        load_teacher(f"student:{student}", size=50, device="cpu")


def test_blur_is_compared_as_it_is(small_set: Path, blur_labels: Path, tmp_path: Path) -> None:
    """Mirror images and several stores of blur are not brought to one scale; stores of two quantities do not fuse."""
    images = np.stack([squash(read_image(s.image_path), 48) for s in read_manifest(small_set)[:2]])
    flipped = FlipTeacher(BlurTeacher())
    maps = flipped.predict(images)
    np.testing.assert_allclose(maps[:, 0], BlurTeacher().predict(images), atol=1e-5)
    assert maps[:, 1].min() > 0.999
    assert "least squares" not in flipped.provenance.confidence
    label(small_set, tmp_path / "doubtful", load_teacher=lambda: BlurTeacher(low=0.22, high=0.5, name="doubtful"))
    fused = StoresTeacher([blur_labels, tmp_path / "doubtful"], small_set)
    assert fused.provenance.quantity == BLUR_PROBABILITY
    sample = read_manifest(small_set)[0]
    size = fused.input_size(sample.height, sample.width)
    prepared = fused.prepare(sample.image_path, bytes.fromhex(sample.sha256), size, root=sample.root)
    assert not isinstance(prepared, str)
    both = (LabelReader(blur_labels)[sample.id] + LabelReader(tmp_path / "doubtful")[sample.id]) / 2
    np.testing.assert_allclose(prepared[..., 0], both, atol=1e-5)
    label(small_set, tmp_path / "depth", load_teacher=BrightnessTeacher)
    with pytest.raises(SoftfocusError, match="fuse stores of one quantity"):
        StoresTeacher([blur_labels, tmp_path / "depth"], small_set)


def test_sure_probabilities_are_not_doubtful(small_set: Path, tmp_path: Path) -> None:
    """Most of a map at one end is what a good blur map looks like: `verify` has nothing to say."""
    label(small_set, tmp_path / "sure", load_teacher=lambda: SureTeacher())
    found = verify(tmp_path / "sure", manifest=small_set, jobs=1)
    assert not found.findings


class SureTeacher(BlurTeacher):
    """Zero or one."""

    def predict(self, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return super().predict(images).round()


# Maps of a sample


def test_maps_keep_absolute_values(small_set: Path, blur_labels: Path, small_labels: Path) -> None:
    """Probabilities are resized and nothing else; depth is scaled to [0, 1]; other photographs have no label."""
    sample = read_manifest(small_set)[0]
    blur, depth = LabelReader(blur_labels), LabelReader(small_labels)
    found = soft_blur_map(blur, sample, 32)
    assert found.dtype == np.float16
    assert found.shape == (32, 32)
    assert (found.min(), found.max()) == pytest.approx((0.02, 0.7), abs=0.02)
    assert found.mean() == pytest.approx(blur[sample.id].mean(), abs=2e-3)
    near = depth_map(depth, sample, 32)
    assert near.min() >= 0
    assert near.max() <= 1
    stale = msgspec.structs.replace(sample, sha256="f" * 64)
    for absent in (soft_blur_map(None, sample, 8), soft_blur_map(blur, stale, 8), depth_map(depth, stale, 8)):
        assert np.isnan(absent).all()
    assert confidence_map(depth, sample, 8) is None
    assert confidence_map(None, sample, 8) is None


def test_confidence_comes_with_the_batch(small_set: Path, blur_labels: Path, tmp_path: Path) -> None:
    """A store that has it gives it to the loss, 0 to 1; without one the field is absent."""
    label(small_set, tmp_path / "flip", load_teacher=lambda: FlipTeacher(BrightnessTeacher()))
    samples = read_manifest(small_set)
    item = Photographs(samples, LabelReader(tmp_path / "flip"), size=32, blur_reader=LabelReader(blur_labels))[0]
    assert item.confidence is not None
    assert item.soft_blur is not None
    assert item.confidence.shape == item.soft_blur.shape == (1, 1, 32, 32)
    assert item.confidence.min() > 0.99, "this teacher agrees with its mirror image"
    bare = Photographs(samples, None, size=32)[0]
    assert bare.confidence is None
    assert bare.soft_blur is None


# Training


def test_blur_is_learnt_from_a_store_alone(small_set: Path, blur_labels: Path, tmp_path: Path) -> None:
    """No masks, no depth: the student comes near the stored probabilities, and the run says what it learnt from."""
    samples = [msgspec.structs.replace(s, mask=None, blur=None) for s in read_manifest(small_set)]
    manifest = small_set.parent / "bare.jsonl"
    write_manifest(manifest, samples, root=small_set.parent / "photos")
    with pytest.raises(SoftfocusError, match=r"12 of 12 samples lack .*12 soft blur labels; .*--partial"):
        train(manifest, out=tmp_path / "no", blur_labels=blur_labels, config=quick(), device="cpu")
    lines: list[str] = []
    config = quick("data.partial=true", "epochs=12", "validate_every=3")
    summary = train(
        manifest, out=tmp_path / "run", blur_labels=blur_labels, config=config, device="cpu", say=lines.append
    )
    assert (summary.masks, summary.labels, summary.soft_blur_labels) == (0, 0, 12)
    assert summary.last["val_soft_blur"] < 0.2, "a student that says 0.5 everywhere is off by more"
    assert "val_mae" not in summary.last
    assert summary.last["blur"] == 0
    assert summary.last["soft_blur"] > 0
    table = next(line for line in lines if "soft blur" in line)
    assert table.splitlines()[1].split() == ["train", "12", "0", "0", "12", "0", "0", "0"]
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["blur_teacher"]["name"] == "bright is blurred"
    assert record["teacher"] is None
    rows = {row["split"]: row for row in record["coverage"]}
    assert (rows["all"]["samples"], rows["all"]["masks"], rows["all"]["soft_blur"]) == (18, 0, 18)
    assert load_student(tmp_path / "run")[2]["blur_labels"] == LabelReader(blur_labels).fingerprint


def test_all_three_are_learnt_together(small_set: Path, small_labels: Path, blur_labels: Path, tmp_path: Path) -> None:
    """Masks, depth and soft blur in one loss, from the command line, with a schedule."""
    settings = [*QUICK, "blur_distillation.schedule=linear", "blur_distillation.temperature=2"]
    done = run(
        *("train", small_set, "--labels", small_labels, "--blur-labels", blur_labels, "-o", tmp_path / "run", "--json"),
        *(part for override in settings for part in ("--set", override)),
        *("--device", "cpu"),
    )
    assert done.exit_code == 0, done.stderr
    last = json.loads(done.stdout)["last"]
    assert min(last[name] for name in ("blur", "depth", "soft_blur", "val_mae", "val_depth", "val_soft_blur")) > 0


def test_a_store_of_the_wrong_quantity_is_refused(
    small_set: Path, small_labels: Path, blur_labels: Path, tmp_path: Path, student: Path
) -> None:
    """Depth as soft blur, blur as depth, in training and in evaluation: with the option that takes it."""
    for stores, words in (
        ({"blur_labels": small_labels}, "holds relative inverse depth, and --blur-labels takes .*; `softfocus train`"),
        (
            {"labels": blur_labels},
            "holds blur probability, and --labels .*; `softfocus train` takes it as --blur-labels",
        ),
    ):
        with pytest.raises(SoftfocusError, match=words):
            train(small_set, out=tmp_path / "run", config=quick(), device="cpu", **stores)  # type: ignore[arg-type]
    with pytest.raises(SoftfocusError, match="holds blur probability, and --labels takes"):
        evaluate(small_set, model=student, labels=blur_labels, device="cpu")


def test_a_run_goes_on_with_its_own_soft_labels_alone(small_set: Path, blur_labels: Path, tmp_path: Path) -> None:
    """Another store of blur is another run."""
    label(small_set, tmp_path / "other", load_teacher=lambda: BlurTeacher(name="other"))
    train(small_set, out=tmp_path / "run", blur_labels=blur_labels, config=quick("epochs=1"), device="cpu")
    with pytest.raises(SoftfocusError, match="a run with other blur_labels"):
        train(small_set, out=tmp_path / "run", blur_labels=tmp_path / "other", config=quick("epochs=1"), device="cpu")


def test_a_sweep_keeps_its_finished_runs(small_set: Path, blur_labels: Path, tmp_path: Path) -> None:
    """With a store of soft blur and none of depth: the same command again trains nothing."""
    command = ["sweep", small_set, "--blur-labels", blur_labels, "-o", tmp_path / "sweep", "--seeds", "0", "--json"]
    command += [part for override in [*QUICK, "epochs=1"] for part in ("--set", override)]
    for status in ("finished", "kept"):
        done = run(*command)
        assert done.exit_code == 0, done.stderr
        assert [outcome["status"] for outcome in json.loads(done.stdout)["outcomes"]] == [status]


# Coverage


def some(count: int, *, masks: int, split: str = "train", first: int = 0) -> list[Sample]:
    return [
        Sample(
            id=f"s/{number}",
            image=f"{number}.jpg",
            mask=f"{number}.png" if number - first < masks else None,
            blur="white" if number - first < masks else None,
            split=split,
            height=4,
            width=4,
            sha256=f"{number:064x}",
        )
        for number in range(first, first + count)
    ]


class Labels:
    """As much of a reader as counting needs: ids that have a label, and ids whose label is of another photograph."""

    def __init__(self, fresh: range, stale: range = range(0)) -> None:
        self._fresh, self._stale = {f"s/{n}" for n in fresh}, {f"s/{n}" for n in stale}

    def missing(self, ids: Any) -> list[str]:
        return [i for i in ids if i not in self._fresh | self._stale]

    def stale(self, hashes: dict[str, str]) -> list[str]:
        return [i for i in hashes if i in self._stale]


def test_holdings_by_hand() -> None:
    """Ten samples: masks 0-5, depth 4-7 (3 is stale), soft blur 5-8; 9 has nothing, 5 has everything."""
    samples = [*some(8, masks=6), *some(2, masks=0, split="val", first=8)]
    depth, blur = Labels(range(4, 8), range(3, 4)), Labels(range(5, 9))
    held = holdings(samples, depth, blur)  # type: ignore[arg-type]
    total = held.total
    assert (total.samples, total.masks, total.depth, total.soft_blur) == (10, 6, 4, 4)
    assert (total.everything, total.nothing, total.stale) == (1, 1, 1)
    assert held.empty == ("s/9",)
    assert set(held.incomplete) == {f"s/{n}" for n in range(10)} - {"s/5"}
    assert [row.split for row in held.splits] == ["train", "val"]
    assert str(held).splitlines()[-1].split() == ["all", "10", "6", "4", "4", "1", "1", "1"]
    masks_alone = holdings(samples, None, None)
    assert (masks_alone.total.everything, masks_alone.total.nothing) == (6, 4)
    assert holdings([], None, None).total.samples == 0


def test_samples_are_chosen_for_what_they_have() -> None:
    """All but the empty one with the explicit word; without it a refusal that counts all kinds."""
    samples = some(10, masks=6)
    depth, blur = Labels(range(4, 8), range(3, 4)), Labels(range(5, 9))
    used, _ = choose_samples(samples, depth, partial=True, blur_reader=blur)  # type: ignore[arg-type]
    assert [s.id for s in used] == [f"s/{n}" for n in range(9)]
    words = r"9 of 10 .*'s/0': 6 masks, 4 depth labels, 4 soft blur labels \(1 have labels of another photograph\)"
    with pytest.raises(DataError, match=words):
        choose_samples(samples, depth, partial=False, blur_reader=blur)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="nothing to train on"):
        choose_samples(some(3, masks=0), None, partial=True)
