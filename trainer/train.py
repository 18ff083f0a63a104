"""Stage 2's loop: from a manifest and a label store to a run folder with a trained student.

It reads from top to bottom. A step depends on the configuration, the data and the step's number, and on
nothing else (no worker's or library's random state), so a run that was stopped goes on as if it had not
been. The teacher is never here: its labels are numbers on disk.
"""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import torch
from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]
from timm.utils import ModelEmaV3  # type: ignore[attr-defined]
from torch import Tensor, nn

from pipeline.contract import LabelReader, SoftfocusError, coverage, read_manifest, sha256_file
from trainer.augment import augment
from trainer.checkpoint import BEST, LAST, STATE, save_state, save_student
from trainer.config import Config
from trainer.data import Batches, Photographs, choose_samples
from trainer.device import autocast, choose_device
from trainer.initial import blank_student, initial_student
from trainer.losses import joint_loss
from trainer.report import draw_curves
from trainer.run import best_row, open_run, write_metrics, write_record
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
    """What a run came to: `best` holds the row of metrics of the epoch that was kept as best."""

    run: str
    steps: int
    epochs: int
    resumed_at: int
    seconds: float
    images_per_second: float
    training_samples: int
    masks: int
    labels: int
    validation_samples: int
    encoder_weights: str
    best: dict[str, float]
    last: dict[str, float]


def train(
    manifest: Path | str,
    *,
    out: Path | str,
    config: Config,
    labels: Path | str | None = None,
    device: str = "auto",
    say: Callable[[str], None] = lambda line: None,
    progress: Callable[[TrainProgress], None] = lambda progress: None,
) -> TrainSummary:
    """Train a student, or go on with a run that was stopped.

    Args:
        manifest: from `softfocus index`; its `train` split is learnt, its `val` split validates.
        out: run folder: config.yaml, run.json, metrics.csv, curves.png, best and last students, state.
        config: see `trainer.config`.
        labels: a label store; without one the student learns from masks alone.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        say: takes lines worth reading (coverage, where the encoder's weights come from).
        progress: called after each decoded sample and each step.

    Raises:
        SoftfocusError: unusable data or configuration; `out` holds a run of another configuration.
        KeyboardInterrupt: after Ctrl-C, once the state is safe.
    """
    run, where = Path(out), choose_device(device)
    if labels is None and config.depth_loss.weight:
        say("no label store given (--labels): training on masks alone")
        config = msgspec.structs.replace(config, depth_loss=msgspec.structs.replace(config.depth_loss, weight=0.0))
    reader = LabelReader(labels) if labels is not None and config.depth_loss.weight else None
    samples = read_manifest(manifest)
    used, covered = choose_samples([s for s in samples if s.split == "train"], reader, partial=config.data.partial)
    say(str(coverage(samples, reader)))
    validation = [s for s in samples if s.split == "val" and (s.mask or (reader and s.id in reader))]

    identity = {
        "config": msgspec.to_builtins(config),
        "manifest_sha256": sha256_file(manifest),
        "labels": reader.fingerprint if reader else None,
    }
    sources = {"manifest_sha256": identity["manifest_sha256"], "labels": identity["labels"]}
    state = open_run(run, config, identity)
    torch.manual_seed(config.seed)
    if state:
        origin = str(state["encoder_weights"])
        student = blank_student(config)
    else:
        student, origin = initial_student(config)
        say(f"encoder starts from {origin}")
    layout = torch.channels_last if config.channels_last and where.type == "cuda" else torch.contiguous_format
    student = student.to(where).to(memory_format=layout)
    ema = ModelEmaV3(student, decay=config.optimiser.ema, use_warmup=True, warmup_power=0.75)
    optimiser = _optimiser(student, config)
    batches = Batches(
        Photographs(used, reader, size=config.data.prepared_size),
        batch_size=config.data.batch_size,
        seed=config.seed,
        device=where,
        cache_gib=config.data.cache_gib,
        workers=config.data.workers,
        progress=lambda done, total: progress(TrainProgress("prepare", done, total)),
    )
    judge = Validation(validation, reader, config, where)
    epoch_steps = len(batches)
    total_steps = config.epochs * epoch_steps
    step, history = 0, []
    if state:
        student.load_state_dict(state["student"])
        ema.module.load_state_dict(state["ema"])
        optimiser.load_state_dict(state["optimiser"])
        step, history = int(state["step"]), list(state["history"])
        say(f"{run}: goes on at step {step} of {total_steps}")
    resumed_at = step
    sums = {name: float(value) for name, value in state["sums"].items()} if state else {}

    def remember() -> None:
        save_state(
            run / STATE,
            {
                "identity": msgspec.json.encode(identity).decode(),
                "encoder_weights": origin,
                "step": step,
                "history": history,
                "sums": {name: float(value) for name, value in sums.items()},
                "student": student.state_dict(),
                "ema": ema.module.state_dict(),
                "optimiser": optimiser.state_dict(),
            },
        )

    mixed = autocast(config.precision, where)
    began = saved = time.monotonic()
    seconds_before = float(history[-1]["seconds"]) if history else 0.0
    note = _note(history[-1]) if history else ""
    student.train()
    with _deferred_interrupt() as interrupted:
        for epoch in range(step // epoch_steps, config.epochs):
            for batch in batches.epoch(epoch, start=step % epoch_steps):
                if interrupted():
                    remember()
                    raise KeyboardInterrupt
                rate = _schedule(step / total_steps, config.optimiser.warmup)
                for group in optimiser.param_groups:
                    group["lr"] = rate * group["base_lr"]
                generator = torch.Generator().manual_seed((config.seed << 32) + step)
                images, mask, depth = augment(
                    batch, size=config.data.input_size, config=config.augmentation, generator=generator
                )
                with mixed():
                    output = student(images.contiguous(memory_format=layout))
                terms = joint_loss(output, mask, depth, blur=config.blur_loss, distillation=config.depth_loss)
                optimiser.zero_grad(set_to_none=True)
                terms["loss"].backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(student.parameters(), config.optimiser.clip)
                optimiser.step()
                ema.update(student, step=step)
                for name, value in terms.items():  # stays on the device: reading it would make the loop wait
                    sums[name] = sums.get(name, 0.0) + value.detach()  # type: ignore[assignment]
                step += 1
                progress(TrainProgress("train", step, total_steps, note))
            row = {"epoch": epoch + 1, "step": step, "lr": optimiser.param_groups[0]["lr"]}
            row |= {name: float(value) / epoch_steps for name, value in sums.items()}
            sums = {}
            if not math.isfinite(row["loss"]):
                raise SoftfocusError(
                    f"{run}: the loss is not finite in epoch {epoch + 1}; lower optimiser.lr (now "
                    f"{config.optimiser.lr}) and train into a new folder"
                )
            last_epoch = epoch + 1 == config.epochs
            if (epoch + 1) % config.validate_every == 0 or last_epoch:
                row |= judge(ema.module)
            row["seconds"] = round(seconds_before + time.monotonic() - began, 2)
            history.append(row)
            note = _note(row)
            if judge.measure in row and row is best_row(history, judge.measure):
                save_student(run / BEST, ema.module.state_dict(), config, figures={**row, **sources})
            if last_epoch or judge.measure in row or time.monotonic() - saved > STATE_SECONDS:
                save_student(run / LAST, ema.module.state_dict(), config, figures={**row, **sources})
                write_metrics(run / "metrics.csv", history)
                remember()
                saved = time.monotonic()
    seconds = time.monotonic() - began
    draw_curves(history, run / "curves.png")
    summary = TrainSummary(
        run=str(run),
        steps=total_steps,
        epochs=config.epochs,
        resumed_at=resumed_at,
        seconds=round(seconds, 1),
        images_per_second=round((step - resumed_at) * batches.batch_size / max(seconds, 1e-9), 1),
        training_samples=len(used),
        masks=covered.total.masks,
        labels=covered.total.labels,
        validation_samples=len(validation),
        encoder_weights=origin,
        best=best_row(history, judge.measure),
        last=history[-1],
    )
    write_record(run, manifest, labels, reader, identity, where, msgspec.to_builtins(summary))
    return summary


def _optimiser(student: nn.Module, config: Config) -> torch.optim.Optimizer:
    """Parameters in four groups: encoder or not, with weight decay or not (norms and biases)."""
    settings = config.optimiser
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, parameter in student.named_parameters():
        groups.setdefault((name.startswith("encoder."), parameter.ndim > 1), []).append(parameter)
    options = [
        {
            "params": parameters,
            "base_lr": settings.lr * (settings.encoder_lr if in_encoder else 1.0),
            "weight_decay": settings.weight_decay if decays else 0.0,
        }
        for (in_encoder, decays), parameters in groups.items()
    ]
    try:
        return create_optimizer_v2(
            options,
            opt=settings.name,
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            betas=settings.betas,
        )
    except (AssertionError, TypeError, ValueError) as error:
        raise SoftfocusError(f"optimiser.name={settings.name}: {error}; choose one of timm's, such as adamw") from error


def _schedule(done: float, warmup: float) -> float:
    """Share of the full learning rate: linear rise, then half a cosine. `done` in [0, 1)."""
    if done < warmup:
        return (done + 1e-3) / (warmup + 1e-3)
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))


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
