"""The training loop: it learns, it can be stopped anywhere, it refuses what does not fit."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from conftest import QUICK

from pipeline.contract import SoftfocusError, read_manifest
from pipeline.manifest import write_manifest
from trainer.checkpoint import SHIPPED, load_state, load_student, save_state
from trainer.config import Config, load_config
from trainer.device import choose_device
from trainer.evaluate import evaluate
from trainer.optimiser import Schedule, create_optimiser, encoder_blocks
from trainer.predict import predict
from trainer.processes import Processes
from trainer.students.encoders import block_of
from trainer.students.initial import initial_student
from trainer.students.model import build_student
from trainer.train import TrainProgress, train


def quick(*overrides: str) -> Config:
    """A configuration that trains in a second."""
    return load_config(overrides=[*QUICK, *overrides])


def stop_at(step: int):  # type: ignore[no-untyped-def]
    """A progress callback that presses Ctrl-C at a step."""

    def progress(progress: TrainProgress) -> None:
        if progress.phase == "train" and progress.done == step:
            signal.raise_signal(signal.SIGINT)

    return progress


def metrics(run: Path) -> list[dict[str, str]]:
    """The rows of a run's metrics."""
    return list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))


def weights(run: Path) -> dict[str, torch.Tensor]:
    """All tensors of a run's final state."""
    state = load_state(run / "state.pt")
    return {f"{part}.{name}": value for part in ("student", "ema") for name, value in state[part].items()}


def test_a_run_leaves_all_that_is_needed(small_set: Path, small_labels: Path, tmp_path: Path) -> None:
    """Config, metrics, curves, students, record; the student loads and says what it is."""
    run = tmp_path / "run"
    lines: list[str] = []
    summary = train(small_set, out=run, labels=small_labels, config=quick(), device="cpu", say=lines.append)
    assert {p.name for p in run.iterdir()} == {
        "config.yaml", "metrics.csv", "curves.png", "run.json", "best.safetensors", "last.safetensors", "state.pt",
        "validation-best.csv", "validation-last.csv", "samples",
    }  # fmt: skip
    rows = metrics(run)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert rows[0]["val_mae"] == "" and float(rows[1]["val_mae"]) > 0 and float(rows[2]["val_depth"]) > 0  # noqa: PT018
    assert (summary.steps, summary.training_samples, summary.validation_samples) == (9, 12, 3)
    record = json.loads((run / "run.json").read_text())
    assert record["teacher"]["name"] == "brightness"
    _, config, figures = load_student(run)
    assert config == quick("blur_distillation.weight=0"), "no store of soft blur: it is off"
    assert figures["epoch"] == summary.best["epoch"]
    assert any("18" in line for line in lines), "the coverage was not printed"


def test_the_student_learns(small_set: Path, small_labels: Path, tmp_path: Path) -> None:
    """Smooth against noisy is easy: after 40 epochs most of the held-out pixels are right."""
    config = quick("epochs=40", "validate_every=40", "augmentation.brightness=0", "augmentation.contrast=0")
    summary = train(small_set, out=tmp_path / "run", labels=small_labels, config=config, device="cpu")
    assert summary.best["val_mae"] < 0.2
    assert summary.best["val_depth"] < 0.6


@pytest.mark.parametrize("step", [1, 4, 8])
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(
    step: int, small_set: Path, small_labels: Path, tmp_path: Path
) -> None:
    """Stopped at any step and started again: bitwise the weights of the uninterrupted run."""
    train(small_set, out=tmp_path / "whole", labels=small_labels, config=quick(), device="cpu")
    with pytest.raises(KeyboardInterrupt):
        train(
            small_set, out=tmp_path / "cut", labels=small_labels, config=quick(), device="cpu", progress=stop_at(step)
        )
    summary = train(small_set, out=tmp_path / "cut", labels=small_labels, config=quick(), device="cpu")
    assert summary.resumed_at == step
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    rows = [metrics(tmp_path / name) for name in ("whole", "cut")]
    np.testing.assert_allclose(*([float(row["loss"]) for row in r] for r in rows), rtol=1e-6)


def test_a_killed_run_goes_on_from_its_last_state(small_set: Path, small_labels: Path, tmp_path: Path) -> None:
    """SIGKILL leaves a state that is whole; going on gives bitwise the uninterrupted weights."""
    file = tmp_path / "config.yaml"
    file.write_text("validate_every: 1\n")
    overrides = [part for override in QUICK if "validate" not in override for part in ("--set", override)]
    command = [sys.executable, "cli.py", "train", str(small_set), "--labels", str(small_labels), "--device", "cpu"]
    command += ["--config", str(file), "-o", str(tmp_path / "cut"), *overrides, "--epochs", "6"]
    process = subprocess.Popen(
        command, cwd=Path(__file__).parents[1], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    while not (tmp_path / "cut" / "state.pt").exists():
        assert process.poll() is None, process.stderr and process.stderr.read().decode()
        time.sleep(0.01)
    process.kill()
    process.communicate()
    config = quick("epochs=6", "validate_every=1")
    summary = train(small_set, out=tmp_path / "cut", labels=small_labels, config=config, device="cpu")
    assert summary.resumed_at > 0
    train(small_set, out=tmp_path / "whole", labels=small_labels, config=config, device="cpu")
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_a_finished_run_is_left_alone(small_set: Path, small_labels: Path, tmp_path: Path) -> None:
    """The same command again does no step and keeps the weights."""
    train(small_set, out=tmp_path / "run", labels=small_labels, config=quick(), device="cpu")
    before = (tmp_path / "run" / "best.safetensors").read_bytes()
    again = train(small_set, out=tmp_path / "run", labels=small_labels, config=quick(), device="cpu")
    assert again.resumed_at == again.steps
    assert (tmp_path / "run" / "best.safetensors").read_bytes() == before


def test_a_folder_of_another_run_is_refused_by_name(small_set: Path, small_labels: Path, tmp_path: Path) -> None:
    """Another configuration, a folder that is no run, a damaged state: one line each, nothing touched."""
    run = tmp_path / "run"
    train(small_set, out=run, labels=small_labels, config=quick(), device="cpu")
    with pytest.raises(SoftfocusError, match=r"other optimiser\.lr, seed"):
        train(small_set, out=run, labels=small_labels, config=quick("seed=5", "optimiser.lr=0.5"), device="cpu")
    with pytest.raises(SoftfocusError, match="not a run folder"):
        train(small_set, out=small_set.parent / "photos", labels=small_labels, config=quick(), device="cpu")
    (run / "state.pt").write_bytes(b"gone")
    with pytest.raises(SoftfocusError, match=r"state\.pt"):
        train(small_set, out=run, labels=small_labels, config=quick(), device="cpu")


def test_masks_alone_are_enough(small_set: Path, tmp_path: Path) -> None:
    """Without a store the distillation is off, and that is said and saved."""
    lines: list[str] = []
    train(small_set, out=tmp_path / "run", config=quick("epochs=1"), device="cpu", say=lines.append)
    assert any("training without depth" in line for line in lines)
    assert load_student(tmp_path / "run")[1].depth_loss.weight == 0


def test_missing_masks_need_an_explicit_word(small_set: Path, small_labels: Path, tmp_path: Path) -> None:
    """Two photographs without masks: refused with numbers; with `partial` they give their depth."""
    samples = read_manifest(small_set)
    bare = [msgspec.structs.replace(s, mask=None, blur=None) if s.id < "small/02" else s for s in samples]
    manifest = small_set.parent / "bare.jsonl"
    write_manifest(manifest, bare, root=small_set.parent / "photos")
    with pytest.raises(SoftfocusError, match=r"2 of 12 samples lack .*small/00.*--partial"):
        train(manifest, out=tmp_path / "no", labels=small_labels, config=quick(), device="cpu")
    summary = train(
        manifest, out=tmp_path / "yes", labels=small_labels, config=quick("data.partial=true"), device="cpu"
    )
    assert (summary.training_samples, summary.masks, summary.labels) == (12, 10, 12)


def test_labels_of_other_photographs_do_not_count(small_set: Path, small_labels: Path, tmp_path: Path) -> None:
    """The store's image hashes are compared with the manifest's."""
    samples = read_manifest(small_set)
    changed = [msgspec.structs.replace(samples[0], sha256="f" * 64), *samples[1:]]
    manifest = small_set.parent / "changed.jsonl"
    write_manifest(manifest, changed, root=small_set.parent / "photos")
    with pytest.raises(SoftfocusError, match="of another photograph"):
        train(manifest, out=tmp_path / "run", labels=small_labels, config=quick(), device="cpu")


def test_depth_alone_can_be_learnt(small_set: Path, small_labels: Path, tmp_path: Path) -> None:
    """With the blur loss off no masks are asked for, and the best epoch is chosen by depth."""
    config = quick("blur_loss.weight=0")
    without = [msgspec.structs.replace(s, mask=None, blur=None) for s in read_manifest(small_set)]
    write_manifest(small_set.parent / "without.jsonl", without, root=small_set.parent / "photos")
    some = train(
        small_set.parent / "without.jsonl", out=tmp_path / "o", labels=small_labels, config=config, device="cpu"
    )
    assert some.masks == 0
    summary = train(small_set, out=tmp_path / "run", labels=small_labels, config=config, device="cpu")
    assert "val_mae" not in summary.best
    assert summary.best["val_depth"] > 0
    photograph = read_manifest(small_set)[0].image_path
    for model in (tmp_path / "run", SHIPPED / "demo_teacher.safetensors"):  # stored before there were soft labels
        with pytest.raises(SoftfocusError, match="has learnt depth alone"):
            predict([photograph], model=model, out=tmp_path / "maps", device="cpu")
    with pytest.raises(SoftfocusError, match="has learnt depth alone; give a store of depth"):
        evaluate(small_set, model=tmp_path / "run", device="cpu")
    report = evaluate(small_set, model=tmp_path / "run", labels=small_labels, device="cpu")
    assert report.measures == {}
    assert report.depth
    with pytest.raises(SoftfocusError, match="nothing would be learnt"):
        train(small_set, out=tmp_path / "n", config=config, device="cpu")


def test_a_run_of_before_a_key_was_added_goes_on(small_set: Path, tmp_path: Path) -> None:
    """What its configuration does not name has the default."""
    train(small_set, out=tmp_path / "run", config=quick(), device="cpu")
    state = load_state(tmp_path / "run" / "state.pt")
    identity = json.loads(str(state["identity"]))
    del identity["config"]["blur_loss"]["weight"]
    save_state(tmp_path / "run" / "state.pt", state | {"identity": json.dumps(identity)})
    assert train(small_set, out=tmp_path / "run", config=quick(), device="cpu").epochs == 3


def test_the_papers_network_trains_too(small_set: Path, small_labels: Path, tmp_path: Path) -> None:
    """The same loop and losses serve the paper's network; its student loads by its name."""
    overrides = [o for o in QUICK if not o.startswith(("student.encoder=", "student.channels"))]
    config = load_config(preset="paper-vgg16", overrides=[*overrides, "epochs=1", "data.batch_size=6"])
    summary = train(small_set, out=tmp_path / "run", labels=small_labels, config=config, device="cpu")
    assert summary.steps == 2
    assert type(load_student(tmp_path / "run")[0]).__name__ == "PaperStudent"


def test_samples_that_do_not_fit_into_memory_are_streamed(small_set: Path, small_labels: Path, tmp_path: Path) -> None:
    """Decoded by worker processes instead of kept, the run is bitwise the same."""
    for name, gib in (("kept", 8), ("streamed", 0)):
        config = quick(f"data.cache_gib={gib}", "data.workers=2", "epochs=2")
        train(small_set, out=tmp_path / name, labels=small_labels, config=config, device="cpu")
    kept, streamed = weights(tmp_path / "kept"), weights(tmp_path / "streamed")
    assert all(torch.equal(kept[name], streamed[name]) for name in kept)


def test_a_loss_that_explodes_ends_the_run_with_advice(small_set: Path, tmp_path: Path) -> None:
    """Not a number is never trained on silently."""
    for epochs in (1, 4):  # at once in the weights alone, later in the loss too
        config = quick("optimiser.lr=1e9", "optimiser.warmup=0", "optimiser.clip=0", "data.steps=1", f"epochs={epochs}")
        with pytest.raises(SoftfocusError, match=r"lower optimiser\.lr"):
            train(small_set, out=tmp_path / f"run-{epochs}", config=config, device="cpu")


def test_an_absent_device_is_named() -> None:
    """A device that is not there, or is none."""
    for name in ("cuda:99", "toaster"):
        with pytest.raises(SoftfocusError, match=name):
            choose_device(name)


def test_frozen_blocks_stay_as_they_are(small_set: Path, tmp_path: Path) -> None:
    """The encoder's first blocks keep weights and statistics, the rest learns."""
    config = quick("student.freeze=2", "optimiser.weight_decay=0")
    train(small_set, out=tmp_path / "run", config=config, device="cpu")
    torch.manual_seed(config.seed)
    before, after = initial_student(config)[0].state_dict(), load_state(tmp_path / "run" / "state.pt")["student"]
    moved = {block_of(name) for name in before if not torch.equal(before[name], after[name])}
    blocks = encoder_blocks(build_student(config.student))
    assert moved == {None, *blocks[2:]}
    with pytest.raises(SoftfocusError, match=f"student.freeze is 99; this encoder has {len(blocks)} blocks"):
        train(small_set, out=tmp_path / "more", config=quick("student.freeze=99"), device="cpu")


def test_deeper_blocks_learn_more_slowly() -> None:
    """Layer-wise decay: each block's rate is a fixed share of the one above; the decoder has all of it."""
    config = quick("optimiser.layer_decay=0.5", "optimiser.encoder_lr=0.8", "optimiser.lr=1.0")
    student = build_student(config.student)
    optimiser = create_optimiser(student, config)
    rates = {id(p): group["lr_scale"] for group in optimiser.param_groups for p in group["params"]}
    seen = {block_of(name): rates[id(parameter)] for name, parameter in student.named_parameters()}
    blocks = encoder_blocks(student)
    assert seen[None] == 1.0
    assert [seen[block] for block in blocks] == pytest.approx([0.8 * 0.5**i for i in range(len(blocks))][::-1])
    schedule = Schedule(optimiser, config, 100)
    schedule.set(5)
    assert schedule.largest == pytest.approx(1.0, rel=0.02)
    schedule.set(99)
    assert schedule.largest < 0.01


def test_accumulated_batches_are_one_step(small_set: Path, tmp_path: Path) -> None:
    """Two batches of two make one step of the optimiser, and the epoch has half as many."""
    summary = train(
        small_set, out=tmp_path / "run", config=quick("optimiser.accumulate=2", "data.batch_size=2"), device="cpu"
    )
    assert summary.steps == 3 * 12 // 4


def test_every_so_many_epochs_are_kept(small_set: Path, tmp_path: Path) -> None:
    """`keep_every` leaves students of its epochs beside best and last."""
    train(small_set, out=tmp_path / "run", config=quick("keep_every=2"), device="cpu")
    assert [p.name for p in (tmp_path / "run").glob("epoch-*")] == ["epoch-0002.safetensors"]
    assert load_student(tmp_path / "run" / "epoch-0002.safetensors")[2]["epoch"] == 2


def test_a_run_starts_from_another(small_set: Path, tmp_path: Path) -> None:
    """Pre-training and fine-tuning: the first weights are the other run's, and another kind of student is refused."""
    train(small_set, out=tmp_path / "first", config=quick(), device="cpu")
    start = f"student.start={tmp_path / 'first'}"
    again = quick(start, "optimiser.lr=1e-12", "optimiser.ema=0", "epochs=1")
    summary = train(small_set, out=tmp_path / "second", config=again, device="cpu")
    assert summary.starts_from == str(tmp_path / "first")
    first, second = (load_student(tmp_path / name)[0].state_dict() for name in ("first", "second"))
    parameters = [name for name in first if "running" not in name and "num_batches" not in name]
    assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in parameters)
    with pytest.raises(SoftfocusError, match="another kind"):
        train(small_set, out=tmp_path / "third", config=quick(start, "student.channels=24"), device="cpu")


def test_all_photographs_can_be_learnt(small_set: Path, tmp_path: Path) -> None:
    """For a last run the validation split is learnt too: then nothing is validated, and the last student counts."""
    summary = train(small_set, out=tmp_path / "run", config=quick("data.splits=[train, val]"), device="cpu")
    assert (summary.training_samples, summary.validation_samples) == (15, 0)
    assert not (tmp_path / "run" / "best.safetensors").exists()


def in_two_processes(*arguments: str | Path) -> str:
    """`softfocus train` on the CPU under torchrun; what it prints."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "cli.py"]
    command = [*torchrun, "train", *map(str, arguments), "--device", "cpu"]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


@pytest.mark.slow
def test_two_processes_are_one_with_a_larger_batch(small_set: Path, small_labels: Path, tmp_path: Path) -> None:
    """torchrun with two processes: the loss curve of one process that averages the same two halves."""
    # no feature of one pixel: batch norm of two values is a sign, which rounding can turn
    overrides = [o for o in QUICK if "batch" not in o and "_size" not in o]
    overrides += ["data.input_size=64", "data.prepared_size=64"]
    options = [part for override in overrides for part in ("--set", override)]
    common = [small_set, "--labels", small_labels, *options]
    printed = in_two_processes(*common, "-o", tmp_path / "two", "--set", "data.batch_size=4", "--json")
    assert json.loads(printed)["epochs"] == 3, "one summary, of the first process"
    more = ["-o", tmp_path / "one", "--set", "data.batch_size=2", "--set", "optimiser.accumulate=2", "--device", "cpu"]
    command = [sys.executable, "cli.py", "train", *map(str, [*common, *more])]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}  # as torchrun sets it: sums in the same order
    subprocess.run(command, cwd=Path(__file__).parents[1], env=alone, check=True)
    curves = [[float(row["loss"]) for row in metrics(tmp_path / run)] for run in ("two", "one")]
    np.testing.assert_allclose(*curves, rtol=1e-4)


@pytest.mark.slow
def test_two_processes_learn_depth_alone_and_from_few_masks(
    small_set: Path, small_labels: Path, tmp_path: Path
) -> None:
    """Where parts of the student get no gradient, and where each process has samples with masks and without."""
    options = [part for override in QUICK for part in ("--set", override)]
    common = [small_set, "--labels", small_labels, *options, "--set", "data.batch_size=8"]
    in_two_processes(*common, "-o", tmp_path / "depth", "--set", "blur_loss.weight=0")
    in_two_processes(*common, "-o", tmp_path / "few", "--partial", "--set", "data.mask_fraction=0.4")
    for run in ("depth", "few"):
        assert len(metrics(tmp_path / run)) == 3


def test_a_size_that_the_student_does_not_take_is_refused(small_set: Path, tmp_path: Path) -> None:
    """Before anything is prepared, with sizes that would work."""
    config = quick("data.input_size=40", "data.prepared_size=64")
    with pytest.raises(SoftfocusError, match="input size 40: this student takes multiples of 32; choose 32 or 64"):
        train(small_set, out=tmp_path / "run", config=config, device="cpu")


def test_a_single_value_for_batch_norm_is_refused(small_set: Path, tmp_path: Path) -> None:
    """One sample of 32 pixels is one pixel at the coarsest scale, of which batch norm makes nothing."""
    config = quick("data.batch_size=1", "data.input_size=32", "data.prepared_size=32")
    with pytest.raises(SoftfocusError, match="leaves batch norm a single value"):
        train(small_set, out=tmp_path / "run", config=config, device="cpu")


def test_a_batch_that_processes_cannot_share_is_refused() -> None:
    """Before anything is prepared, with sizes that can be shared."""
    processes = Processes("cpu")
    processes.count = 4
    processes.require_shares(8)
    with pytest.raises(SoftfocusError, match="6 samples cannot be shared by 4 processes; choose 4 or 8"):
        processes.require_shares(6)


@pytest.mark.parametrize("gib", [8, 0])
def test_a_photograph_that_went_missing_is_named_in_one_line(small_set: Path, tmp_path: Path, gib: int) -> None:
    """Whoever decodes it: a thread of this process, or another process."""
    (small_set.parent / "photos" / "image" / "03.png").unlink()
    with pytest.raises(SoftfocusError, match=r"03\.png: no such file") as caught:
        train(small_set, out=tmp_path / "run", config=quick(f"data.cache_gib={gib}", "data.workers=1"), device="cpu")
    assert "\n" not in str(caught.value)
