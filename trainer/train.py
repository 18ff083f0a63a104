"""Stage 2's loop: from a manifest and a label store to a run folder with a trained student.

It reads from top to bottom. A step depends on the configuration, the data and the step's number, and on
nothing else (no worker's or library's random state), so a run that was stopped goes on as if it had not
been. The teacher is never here: its labels are numbers on disk.
"""

from __future__ import annotations

import contextlib
import functools
import math
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import torch
from timm.utils import ModelEmaV3  # type: ignore[attr-defined]

from pipeline.contract import BLUR_PROBABILITY, Sample, SoftfocusError, read_manifest, sha256_file
from trainer.augment import Draws, draw
from trainer.checkpoint import BEST, LAST, STATE, randomness, restore_randomness, save_state, save_student
from trainer.config import Config
from trainer.coverage import holdings
from trainer.data import Batches, Order, Photographs, choose_samples, with_masks
from trainer.initial import blank_student, initial_student
from trainer.labels import open_labels, samples_digest, without_absent
from trainer.logs import RunLog, choose_shown
from trainer.model import require_size
from trainer.optimiser import Schedule, create_optimiser, freeze, keep_frozen
from trainer.processes import Processes
from trainer.report import draw_curves
from trainer.run import best_row, open_run, write_metrics, write_record
from trainer.step import Stepper
from trainer.validation import Validation

__all__ = ["TrainProgress", "TrainSummary", "train"]

STATE_SECONDS = 30.0  # a state is written at least this often (at the end of an epoch)


class TrainProgress(msgspec.Struct, frozen=True):
    """Where a run stands; `phase` is `prepare` (decoding, done of total samples) or `train` (steps)."""

    phase: str
    done: int
    total: int
    note: str = ""


class TrainSummary(msgspec.Struct, frozen=True):
    """What a run came to: `best` holds the row of metrics of the epoch that was kept as best.

    `seconds` are of the loop, the preparing of samples included; `images_per_second` is from the second step
    on, over all processes, validation and saving included.
    """

    run: str
    steps: int
    epochs: int
    resumed_at: int
    seconds: float
    images_per_second: float
    training_samples: int
    masks: int
    labels: int
    soft_blur_labels: int
    validation_samples: int
    starts_from: str
    best: dict[str, float]
    last: dict[str, float]


def train(
    manifest: Path | str,
    *,
    out: Path | str,
    config: Config,
    labels: Path | str | None = None,
    blur_labels: Path | str | None = None,
    device: str = "auto",
    say: Callable[[str], None] = lambda line: None,
    progress: Callable[[TrainProgress], None] = lambda progress: None,
) -> TrainSummary:
    """Train a student, or go on with a run that was stopped.

    Args:
        manifest: from `softfocus index`; its `train` split is learnt, its `val` split validates.
        out: run folder: config.yaml, run.json, metrics.csv, curves.png, best and last students, state.
        config: see `trainer.config`.
        labels: a label store; without one the student learns no depth.
        blur_labels: a store of another student's probabilities of blur, to learn from beside masks or in their place.
        device: `auto`, `cpu`, `cuda` or `cuda:N`; under torchrun each process takes the GPU of its number.
        say: takes lines worth reading (coverage, where the encoder's weights come from).
        progress: called after each decoded sample and each step.

    Raises:
        SoftfocusError: unusable data or configuration; `out` holds a run of another configuration.
        KeyboardInterrupt: after Ctrl-C, once the state is safe.
    """
    run, processes = Path(out), Processes(device)
    if not processes.is_first:
        say, progress = (lambda line: None), (lambda progress: None)
    if labels is None and config.depth_loss.weight:
        say("no label store given (--labels): training without depth")
    config = without_absent(config, labels=labels, blur_labels=blur_labels)
    reader = blur_reader = None
    if labels is not None and config.depth_loss.weight:
        reader = open_labels(labels, teacher=config.data.teacher)
    if blur_labels is not None and config.blur_distillation.weight:
        blur_reader = open_labels(blur_labels, quantity=BLUR_PROBABILITY)
    samples = read_manifest(manifest)
    learnt, others = _learnt(samples, config), [s for s in samples if s.split not in config.data.splits]
    used, held = choose_samples(learnt, reader, partial=config.data.partial, blur_reader=blur_reader)
    readers = [r for r in (reader, blur_reader) if r is not None]
    validation = [s for s in others if s.split == "val" and (s.mask or any(s.id in r for r in readers))]
    covered = holdings([*learnt, *others], reader, blur_reader)
    say(str(covered))
    identity = {
        "config": msgspec.to_builtins(config),
        "manifest_sha256": sha256_file(manifest),
        "labels": reader.fingerprint if reader else None,
        "blur_labels": blur_reader.fingerprint if blur_reader else None,
        "samples": samples_digest([*used, *validation], reader, blur_reader),
    }
    sources = {name: identity[name] for name in ("manifest_sha256", "labels", "blur_labels")}
    state = open_run(run, config, identity, first=processes.is_first)
    torch.manual_seed(config.seed)
    student, origin = (blank_student(config), str(state["origin"])) if state else initial_student(config)
    say(f"the student starts from {origin}")
    for size in (config.data.input_size, *config.data.test_sizes):
        require_size(student, size)
    student = student.to(processes.device)
    if config.channels_last and processes.device.type == "cuda":
        student = student.to(memory_format=torch.channels_last)
    ema = ModelEmaV3(student, decay=config.optimiser.ema, use_warmup=True, warmup_power=0.75)
    freeze(student, config.student.freeze)
    optimiser = create_optimiser(student, config)

    batch_size, accumulate = min(config.data.batch_size, len(used)), config.optimiser.accumulate
    processes.require_shares(batch_size)
    order = Order(used, batch_size=batch_size, seed=config.seed, masked_share=config.data.masked_share)
    batches = Batches(
        Photographs(used, reader, size=config.data.prepared_size, blur_reader=blur_reader),
        device=processes.device,
        cache_gib=config.data.cache_gib,
        folder=config.data.cache,
        workers=config.data.workers,
        progress=lambda done, total: progress(TrainProgress("prepare", done, total)),
    )
    epoch_steps = config.data.steps or max(len(used) // (batch_size * accumulate), 1)
    total_steps = config.epochs * epoch_steps
    schedule = Schedule(optimiser, config, total_steps)
    stepper = Stepper(student, optimiser, ema, config, processes)
    judge = Validation(validation if processes.is_first else [], reader, config, processes.device, blur_reader)

    step, history, sums = 0, [], {}
    if state:
        student.load_state_dict(state["student"])
        ema.module.load_state_dict(state["ema"])
        optimiser.load_state_dict(state["optimiser"])
        restore_randomness(state["randomness"])
        step, history, sums = int(state["step"]), list(state["history"]), dict(state["sums"])
        say(f"{run}: goes on at step {step} of {total_steps}")
    resumed_at = step

    def remember() -> None:
        state = {
            "identity": msgspec.json.encode(identity).decode(),
            "origin": origin,
            "step": step,
            "history": history,
            "sums": {name: float(value) for name, value in sums.items()},
            "randomness": randomness(),
            "student": student.state_dict(),
            "ema": ema.module.state_dict(),
            "optimiser": optimiser.state_dict(),
        }
        save_state(run / STATE, state)

    def draws(part: int) -> Draws:
        seed = (config.seed << 32) + part * processes.count + processes.rank
        size, count = config.data.input_size, batch_size // processes.count
        return draw(count, size=size, config=config.augmentation, seed=seed, device=processes.device)

    log = RunLog(
        run,
        shown=choose_shown(judge.batches.photographs, count=config.log.pictures),
        tensorboard=config.log.tensorboard and processes.is_first,
        step=step,
    )
    began = saved = steady = time.monotonic()
    seconds_before = float(history[-1]["seconds"]) if history else 0.0
    note = _note(history[-1]) if history else ""
    student.train()
    keep_frozen(student, config.student.freeze)
    parts = iter(range(step * accumulate, total_steps * accumulate))
    coming = batches(processes.part(order.rows(part)) for part in range(step * accumulate, total_steps * accumulate))
    with _deferred_interrupt() as interrupted, contextlib.closing(log):
        while step < total_steps:
            if processes.any(interrupted()):
                if processes.is_first:
                    remember()
                raise KeyboardInterrupt
            schedule.set(step)
            terms = stepper(
                [(next(coming), draws(next(parts))) for _ in range(accumulate)], step=step, progress=step / total_steps
            )
            for name, value in terms.items():  # stays on the device: reading it would make the loop wait
                sums[name] = sums.get(name, 0.0) + value
            step += 1
            if step == resumed_at + 1:  # samples are prepared and the step is compiled or recorded
                steady = _now(processes.device)
            progress(TrainProgress("train", step, total_steps, note))
            if step % epoch_steps:
                continue
            epoch, is_last = step // epoch_steps, step == total_steps
            row = {"epoch": epoch, "step": step, "lr": schedule.largest}
            row |= {name: processes.mean(value) / epoch_steps for name, value in sums.items()}
            sums = {}
            if not math.isfinite(row["loss"]):
                raise SoftfocusError(
                    f"{run}: the loss is not finite in epoch {epoch}; lower optimiser.lr (now "
                    f"{config.optimiser.lr}) and train into a new folder"
                )
            if not processes.is_first:
                continue
            if epoch % config.validate_every == 0 or is_last:
                row |= judge(ema.module)
            row["seconds"] = round(seconds_before + time.monotonic() - began, 2)
            history.append(row)
            note = _note(row)
            keep = functools.partial(save_student, weights=ema.module.state_dict(), config=config)
            is_validated = judge.measure in row
            is_best = is_validated and row is best_row(history, judge.measure)
            log.epoch(row, per_image=judge.per_image if is_validated else (), best=is_best)
            if is_validated:
                log.pictures(ema.module, row, autocast=judge.autocast)
            if is_best:
                keep(run / BEST, figures={**row, **sources})
            if config.keep_every and epoch % config.keep_every == 0:
                keep(run / f"epoch-{epoch:04d}.safetensors", figures={**row, **sources})
            if is_last or is_validated or time.monotonic() - saved > STATE_SECONDS:
                keep(run / LAST, figures={**row, **sources})
                write_metrics(run / "metrics.csv", history)
                remember()
                saved = time.monotonic()
    seconds, seconds_steady = time.monotonic() - began, time.monotonic() - steady
    summary = TrainSummary(
        run=str(run),
        steps=total_steps,
        epochs=config.epochs,
        resumed_at=resumed_at,
        seconds=round(seconds, 1),
        images_per_second=round(max(step - resumed_at - 1, 0) * batch_size * accumulate / max(seconds_steady, 1e-9), 1),
        training_samples=len(used),
        masks=held.total.masks,
        labels=held.total.depth,
        soft_blur_labels=held.total.soft_blur,
        validation_samples=len(validation),
        starts_from=origin,
        best=best_row(history, judge.measure) if history else {},
        last=history[-1] if history else {},
    )
    if processes.is_first:
        draw_curves(history, run / "curves.png")
        write_record(
            run,
            manifest,
            {"labels": (labels, reader), "blur_labels": (blur_labels, blur_reader)},
            covered,
            processes.device,
            msgspec.to_builtins(summary),
        )
    processes.leave()
    return summary


def _learnt(samples: list[Sample], config: Config) -> list[Sample]:
    """The samples of the splits that are learnt, with as many masks as are asked for."""
    chosen = [s for s in samples if s.split in config.data.splits]
    return with_masks(chosen, config.data.mask_fraction, seed=config.data.mask_seed)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic()


@contextlib.contextmanager
def _deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Ctrl-C asks the loop to stop at the next step instead of in the middle of one."""
    asked: list[bool] = []
    try:
        before = signal.signal(signal.SIGINT, lambda *_: asked.append(True))
    except ValueError:  # not the main thread
        yield lambda: False
        return
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)


def _note(row: dict[str, Any]) -> str:
    names = {"loss": "loss", "val_mae": "val MAE", "val_depth": "val depth"}
    return ", ".join(f"{label} {row[key]:.4f}" for key, label in names.items() if key in row)
