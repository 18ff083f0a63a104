"""A run and its label store: what does not fit is refused by name."""

from __future__ import annotations

import signal
from pathlib import Path

import msgspec
import pytest
from conftest import QUICK, BrightnessTeacher

from pipeline.contract import LabelReader, SoftfocusError, read_manifest
from pipeline.distill import label
from pipeline.manifest import write_manifest
from pipeline.store import shard_path
from trainer.config import Config, load_config
from trainer.evaluate import evaluate
from trainer.samples.labels import open_labels
from trainer.train import TrainProgress, train


def quick(*overrides: str) -> Config:
    return load_config(overrides=[*QUICK, *overrides])


class DarknessTeacher(BrightnessTeacher):
    """Another teacher."""

    def __init__(self) -> None:
        super().__init__()
        self.provenance = msgspec.structs.replace(self.provenance, name="darkness", weights_sha256="ab" * 32)


def stop(progress: TrainProgress) -> None:
    """Press Ctrl-C at the second step."""
    if progress.phase == "train" and progress.done == 2:
        signal.raise_signal(signal.SIGINT)


def interrupted(manifest: Path, labels: Path, run: Path, config: Config) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(manifest, out=run, labels=labels, config=config, device="cpu", progress=stop)


def test_run_does_not_go_on_with_another_store(small_set: Path, small_labels: Path, tmp_path: Path) -> None:
    """Labels of another teacher under the same configuration are refused; its own store is welcome."""
    other = tmp_path / "other"
    label(small_set, other, load_teacher=DarknessTeacher)
    interrupted(small_set, small_labels, tmp_path / "run", quick())
    with pytest.raises(SoftfocusError, match="holds a run with other labels; choose another folder"):
        train(small_set, out=tmp_path / "run", labels=other, config=quick(), device="cpu")
    assert train(small_set, out=tmp_path / "run", labels=small_labels, config=quick(), device="cpu").resumed_at == 2


def test_run_does_not_go_on_with_a_store_that_has_changed(small_set: Path, small_labels: Path, tmp_path: Path) -> None:
    """A label more or less is another choice of samples, and the rest of the run would not be what it was."""
    shard = shard_path(small_labels, 0)
    content = shard.read_bytes()
    shard.unlink()
    config = quick("data.partial=true")
    interrupted(small_set, small_labels, tmp_path / "run", config)
    shard.write_bytes(content)
    with pytest.raises(SoftfocusError, match="holds a run with other samples"):
        train(small_set, out=tmp_path / "run", labels=small_labels, config=config, device="cpu")


@pytest.mark.parametrize("word", ["brightness", "test:brightness", "0" * 8, "fingerprint"])
def test_expected_teacher_is_known_by_any_of_its_names(small_labels: Path, word: str) -> None:
    """Kind and name, name, the weights' hash or the store's fingerprint."""
    reader = LabelReader(small_labels)
    assert len(open_labels(small_labels, teacher=word.replace("fingerprint", reader.fingerprint[:12]))) == len(reader)


@pytest.mark.parametrize("word", ["darkness", "0" * 7, "onnx:brightness"])
def test_unexpected_teacher_is_refused_by_name(small_set: Path, small_labels: Path, tmp_path: Path, word: str) -> None:
    """Both are named, and nothing is trained."""
    with pytest.raises(SoftfocusError, match=rf"teacher test:brightness .* data\.teacher asks for {word}"):
        train(
            small_set,
            out=tmp_path / "run",
            labels=small_labels,
            config=quick(f"data.teacher='{word}'"),
            device="cpu",
        )
    assert not (tmp_path / "run").exists()


def test_store_of_another_schema_is_refused_by_number(small_set: Path, small_labels: Path, tmp_path: Path) -> None:
    """By the trainer too, before anything else."""
    file = small_labels / "store.json"
    file.write_text(file.read_text().replace('"schema": ', '"schema": 99'))
    with pytest.raises(SoftfocusError, match=r"a label store of schema 99\d"):
        train(small_set, out=tmp_path / "run", labels=small_labels, config=quick(), device="cpu")


def test_damaged_shard_ends_the_run_with_its_name_and_the_mend(
    small_set: Path, small_labels: Path, tmp_path: Path
) -> None:
    """Not with a silent hole in the labels."""
    path = shard_path(small_labels, 1)
    content = bytearray(path.read_bytes())
    for place in range(1000, len(content), 50):
        content[place] ^= 8
    path.write_bytes(content)
    with pytest.raises(SoftfocusError, match=r"000001\.h5: .*softfocus verify STORE --repair"):
        train(small_set, out=tmp_path / "run", labels=small_labels, config=quick(), device="cpu")


def test_student_is_not_compared_with_labels_of_other_photographs(
    small_set: Path, small_labels: Path, tmp_path: Path
) -> None:
    """`evaluate --labels` refuses a sample whose photograph has changed since it was labelled."""
    train(small_set, out=tmp_path / "run", labels=small_labels, config=quick("epochs=1"), device="cpu")
    assert evaluate(small_set, model=tmp_path / "run", split="test", labels=small_labels, device="cpu").depth
    samples = read_manifest(small_set)
    changed = [msgspec.structs.replace(s, sha256="5" * 64) if s.id == "small/16" else s for s in samples]
    write_manifest(small_set, changed, root=samples[0].root)
    with pytest.raises(SoftfocusError, match=r"labels: 1 labels are of another photograph .* 'small/16'"):
        evaluate(small_set, model=tmp_path / "run", split="test", labels=small_labels, device="cpu")
