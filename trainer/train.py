"""Stage 2's loop: from a manifest and a label store to a run folder with a trained student.

It reads from top to bottom. A step depends on the configuration, the data and the step's number, and on
nothing else (no worker's or library's random state), so a run that was stopped goes on as if it had not
been. The teacher is never here: its labels are numbers on disk.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import torch

from pipeline.contract import SoftfocusError
from trainer.checkpoint import randomness, restore_randomness, save_state
from trainer.config import Config
from trainer.epochs import Epochs
from trainer.optimiser import Schedule
from trainer.processes import Processes
from trainer.report import draw_curves
from trainer.runs.run import open_run, write_record
from trainer.runs.run_folder import STATE
from trainer.samples.augment import Draws, draw
from trainer.samples.batch import Batch
from trainer.samples.data import Batches, Photographs
from trainer.samples.labels import without_absent
from trainer.samples.order import Order
from trainer.samples.sources import open_sources
from trainer.step import create_stepper
from trainer.students.initial import initial_student
from trainer.students.model import build_student, require_size
from trainer.validation import Validation

__all__ = ["TrainProgress", "TrainSummary", "train"]


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
    if not config.depth_loss.weight and not config.learns_blur:
        raise SoftfocusError(
            "nothing would be learnt: blur_loss.weight is 0, and there is neither --labels nor --blur-labels; "
            "give one, or leave blur_loss.weight at 1"
        )
    sources = open_sources(manifest, config, labels=labels, blur_labels=blur_labels)
    say(str(sources.covered))
    identity = {"config": msgspec.to_builtins(config), **sources.fingerprints, "samples": sources.samples_digest}
    state = open_run(run, config, identity, first=processes.is_first)

    torch.manual_seed(config.seed)
    student, origin = (build_student(config.student), str(state["origin"])) if state else initial_student(config)
    say(f"the student starts from {origin}")
    for size in (config.data.input_size, *config.data.test_sizes):
        require_size(student, size)

    processes.require_shares(config.data.batch_size)
    most = max(len(sources.learnt) // processes.count, 1) * processes.count
    batch_size, accumulate = min(config.data.batch_size, most), config.optimiser.accumulate
    if batch_size == processes.count and config.data.input_size <= 32:  # one pixel at the coarsest scale
        raise SoftfocusError(
            f"one sample of {config.data.input_size} pixels at a time leaves batch norm a single value; choose a "
            "larger data.input_size or data.batch_size, or give more samples"
        )
    epoch_steps = config.data.steps or max(len(sources.learnt) // (batch_size * accumulate), 1)
    total_steps = config.epochs * epoch_steps
    order = Order(
        sources.learnt,
        batch_size=batch_size,
        seed=config.seed,
        masked_share=config.data.masked_share,
        processes=processes.count,
    )
    if order.is_mixed:
        say("fewer than four samples at once: those without masks share batch norm with the others")
    stepper = create_stepper(student, config, processes, order.groups)
    schedule = Schedule(stepper.optimiser, config, total_steps)
    batches = Batches(
        Photographs(sources.learnt, sources.reader, size=config.data.prepared_size, blur_reader=sources.blur_reader),
        device=processes.device,
        cache_gib=config.data.cache_gib,
        folder=config.data.cache,
        workers=config.data.workers,
        progress=lambda done, total: progress(TrainProgress("prepare", done, total)),
    )
    judged = sources.validation if processes.is_first else []
    judge = Validation(judged, sources.reader, config, processes.device, sources.blur_reader)

    step, history, sums = 0, [], {}
    if state:
        stepper.restore(state)
        restore_randomness(state["randomness"])
        step, history, sums = int(state["step"]), list(state["history"]), dict(state["sums"])
        say(f"{run}: goes on at step {step} of {total_steps}")
    resumed_at = step
    epochs = Epochs(
        run,
        config,
        judge,
        step=step,
        history=history,
        figures=sources.fingerprints,
        tensorboard=config.log.tensorboard and processes.is_first,
    )

    def remember() -> None:
        state = {
            "identity": msgspec.json.encode(identity).decode(),
            "origin": origin,
            "step": step,
            "history": epochs.history,
            "sums": {name: float(value) for name, value in sums.items()},
            "randomness": randomness(),
            **stepper.state(),
        }
        save_state(run / STATE, state)

    def parts() -> Iterator[tuple[Batch, Draws]]:
        """This process's share of each batch, and what is random about it; `accumulate` of them are a step's."""
        numbers = range(step * accumulate, total_steps * accumulate)
        size, count = config.data.input_size, batch_size // processes.count
        coming = batches(processes.part(order.rows(number)) for number in numbers)
        for number, batch in zip(numbers, coming, strict=True):
            seed = (config.seed << 32) + number * processes.count + processes.rank
            draws = draw(
                count, size=size, config=config.augmentation, seed=seed, device=processes.device, groups=order.groups
            )
            yield batch, draws

    began = steady = time.monotonic()
    coming = parts()
    with _deferred_interrupt() as interrupted, contextlib.closing(epochs):
        while step < total_steps:
            if processes.any(interrupted()):
                if processes.is_first:
                    remember()
                raise KeyboardInterrupt
            schedule.set(step)
            terms = stepper(list(itertools.islice(coming, accumulate)), step=step, progress=step / total_steps)
            for name, value in terms.items():  # stays on the device: reading it would make the loop wait
                sums[name] = sums.get(name, 0.0) + value
            step += 1
            if step == resumed_at + 1:  # samples are prepared and the step is compiled or recorded
                steady = _now(processes.device)
            progress(TrainProgress("train", step, total_steps, epochs.note))
            if step % epoch_steps:
                continue
            row = {"epoch": step // epoch_steps, "step": step, "lr": schedule.largest}
            row |= {name: processes.mean(value) / epoch_steps for name, value in sums.items()}
            sums = {}
            if not math.isfinite(row["loss"]):
                raise SoftfocusError(
                    f"{run}: the loss is not finite in epoch {row['epoch']}; lower optimiser.lr (now "
                    f"{config.optimiser.lr}) and train into a new folder"
                )
            if processes.is_first and epochs.end(row, stepper.ema.module):
                remember()

    now = time.monotonic()
    held = sources.held.total
    summary = TrainSummary(
        run=str(run),
        steps=total_steps,
        epochs=config.epochs,
        resumed_at=resumed_at,
        seconds=round(now - began, 1),
        images_per_second=round(max(step - resumed_at - 1, 0) * batch_size * accumulate / max(now - steady, 1e-9), 1),
        training_samples=len(sources.learnt),
        masks=held.masks,
        labels=held.depth,
        soft_blur_labels=held.soft_blur,
        validation_samples=len(sources.validation),
        starts_from=origin,
        best=epochs.best,
        last=epochs.history[-1] if epochs.history else {},
    )
    if processes.is_first:
        draw_curves(epochs.history, run / "curves.png")
        write_record(run, sources, processes.device, msgspec.to_builtins(summary))
    processes.leave()
    return summary


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
