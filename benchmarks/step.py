"""What a training step costs, offline against online, and when labelling once has paid for itself.

The same student takes the same step in every row, built as `softfocus train` builds it (`trainer.step`):

- `bare`: forward, losses, backward and update on inputs that are ready on the device;
- `augmented`: with the augmentation, on one batch that lies on the device;
- `offline, ...`: all that training does, from prepared samples on the device, mapped from disk, or decoded anew
  by worker processes; depth comes from the label store;
- `online, ...`: the depth comes from a teacher that runs in the loop instead, on each batch's whole frames.

Rows but `decoded` take turns. The physical limit: offline cannot be below the bare step, nor online below the bare
step plus the teacher's forward pass, which is timed alone.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.busy import busy_share
from benchmarks.rounds import seconds_a_call, seconds_of_each
from benchmarks.teachers import make_teacher
from pipeline.contract import LabelReader, Sample
from pipeline.teachers.hf_folder import quiet
from trainer.config import Config
from trainer.processes import Processes
from trainer.samples.augment import Draws, Inputs, draw
from trainer.samples.batch import Batch
from trainer.samples.data import Batches, Photographs
from trainer.samples.order import Order
from trainer.step import Stepper, create_stepper
from trainer.students.model import build_student

__all__ = ["OnlineRow", "StepReport", "StepRow", "measure_steps"]

BARE, AUGMENTED = "bare", "augmented"
ON_DEVICE, MAPPED, DECODED = "offline, samples on the device", "offline, samples mapped", "offline, samples decoded"


class StepRow(msgspec.Struct, frozen=True):
    """One way to train: milliseconds a step, and how many times the bare step that is."""

    way: str
    milliseconds: float
    images_per_second: float
    of_bare: float


class OnlineRow(msgspec.Struct, frozen=True):
    """A teacher in the loop against its labels from the store.

    Attributes:
        teacher: its size.
        teacher_images_per_second: of its forward pass alone, at the student's batch.
        ratio: online step over offline step (samples on the device).
        bound: (bare step + teacher's forward) / bare step: what the ratio can reach.
        break_even_epochs: epochs after which labelling once, at `label_images_per_second`, has paid for itself;
            None if the online step was no slower in this run.
        label_images_per_second: stage 1's rate; the teacher's own if none was given.
    """

    teacher: str
    teacher_images_per_second: float
    ratio: float
    bound: float
    break_even_epochs: float | None
    label_images_per_second: float


class StepReport(msgspec.Struct, frozen=True):
    """All of it.

    Attributes:
        waiting: share of the time in which the GPU computes nothing, offline, by where samples come from, as the
            profiler sees it; empty on a CPU.
    """

    device: str
    batch: int
    input_size: int
    steps: list[StepRow]
    online: list[OnlineRow]
    waiting: dict[str, float]


def measure_steps(
    samples: Sequence[Sample],
    reader: LabelReader,
    config: Config,
    *,
    device: torch.device,
    teachers: Sequence[str] = ("small", "large"),
    teacher_size: int = 518,
    label_rates: dict[str, float] | None = None,
    rounds: int = 5,
    seconds: float = 0.5,
    decoded_steps: int = 60,
    say: Callable[[str], None] = lambda line: None,
) -> StepReport:
    """Time the steps of one configuration.

    Args:
        samples: with masks and labels; few are enough, they are taken again and again.
        reader: their depth.
        config: of the training run.
        device: where it runs.
        teachers: sizes, see `benchmarks.teachers.ARCHITECTURES`.
        teacher_size: side of the teacher's input.
        label_rates: stage 1's measured images a second by teacher, for the break-even.
        rounds: turns.
        seconds: a turn takes about so long.
        decoded_steps: steps that are timed with samples decoded anew; 0 leaves that row out.
        say: told what is being done.
    """
    batch, size = config.data.batch_size, config.data.input_size
    prepared = Photographs(samples, reader, size=config.data.prepared_size)
    with TemporaryDirectory(prefix="softfocus-bench-") as folder:
        say(f"preparing {len(samples)} samples")
        on_device = Batches(prepared, device=device, cache_gib=8, workers=config.data.workers)
        mapped = Batches(prepared, device=device, cache_gib=0, folder=Path(folder), workers=config.data.workers)
        fixed = next(on_device(_endless(samples, batch)))
        draws = _draws(config, 0, device)
        online = [f"online, {name}" for name in teachers]
        # two students: compiling costs a minute or more each
        student = _stepper(config, device)
        bare = _BareStepper.of(_stepper(config, device), fixed, draws)
        for name, stepper in (("augmented", student), ("bare", bare)):  # before a loader's thread may disturb it
            say(f"recording the {name} step")
            stepper([(fixed, draws)], step=0, progress=0.5)
        ways: dict[str, Callable[[], object]] = {
            BARE: _repeat(bare, fixed, draws),
            AUGMENTED: _repeat(student, fixed, draws),
            ON_DEVICE: _loop(student, on_device, config, samples, device),
            MAPPED: _loop(student, mapped, config, samples, device),
        }
        for name, way in zip(teachers, online, strict=True):
            say(f"teacher {name}: building and warming up")
            teacher = _Teacher(name, device, teacher_size, Path(folder) / name)
            teacher.depth(fixed.images)
            ways[way] = _loop(student, on_device, config, samples, device, teacher.depth)
            ways[f"teacher {name} alone"] = _forward(teacher, fixed.images)
        say("timing, in turns")
        times = seconds_of_each(ways, device=device, rounds=rounds, seconds=seconds, warm_up=3, say=say)
        waiting = {}
        if device.type == "cuda":
            say("looking for gaps with the profiler")
            waiting = {way: 1 - busy_share(ways[way], calls=20) for way in (BARE, ON_DEVICE, MAPPED)}
        if decoded_steps:
            say("samples decoded anew by worker processes")
            decoded = Batches(prepared, device=device, cache_gib=0, workers=config.data.workers)
            anew = _loop(student, decoded, config, samples, device)
            seconds_a_call(anew, 4 * max(decoded.workers, 1), device)  # what was prepared ahead is used up
            times[DECODED] = seconds_a_call(anew, decoded_steps, device)
    rows = [StepRow(way, 1000 * s, batch / s, s / times[BARE]) for way, s in times.items()]
    compared = [_online(name, times, batch, (label_rates or {}).get(name)) for name in teachers]
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return StepReport(card, batch, size, rows, compared, waiting)


def _online(name: str, times: dict[str, float], batch: int, label_rate: float | None) -> OnlineRow:
    teacher, online, offline = times[f"teacher {name} alone"], times[f"online, {name}"], times[ON_DEVICE]
    rate = label_rate or batch / teacher
    saved = (online - offline) / batch
    return OnlineRow(
        teacher=name,
        teacher_images_per_second=batch / teacher,
        ratio=online / offline,
        bound=(times[BARE] + teacher) / times[BARE],
        break_even_epochs=1 / rate / saved if saved > 0 else None,
        label_images_per_second=rate,
    )


def _stepper(config: Config, device: torch.device) -> Stepper:
    """A student in training as `trainer.train` makes it, with random weights."""
    return create_stepper(build_student(config.student), config, Processes(str(device)))


class _BareStepper(Stepper):
    """A step without augmentation, on inputs that are ready."""

    ready: Inputs

    @classmethod
    def of(cls, stepper: Stepper, batch: Batch, draws: Draws) -> _BareStepper:
        """Takes over the student of a stepper that has not stepped yet."""
        bare = cls(stepper.student, stepper.optimiser, stepper.ema, stepper.config, Processes(str(draws.theta.device)))
        bare.ready = stepper.inputs(batch, draws)
        return bare

    def inputs(self, batch: Batch, draws: Draws) -> Inputs:
        return self.ready


class _Teacher:
    """A frozen depth network as stage 1 runs it: bfloat16 weights and compiled on a GPU."""

    def __init__(self, name: str, device: torch.device, size: int, folder: Path) -> None:
        transformers: Any = importlib.import_module("transformers")  # its types lag behind it
        make_teacher(folder, name, size)
        with quiet():
            network: nn.Module = transformers.DepthAnythingForDepthEstimation.from_pretrained(folder)
        network = network.eval().to(device).requires_grad_(False)
        self._dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        network = network.to(dtype=self._dtype).to(memory_format=torch.channels_last)
        self._network: Any = torch.compile(network, dynamic=False) if device.type == "cuda" else network
        self._size = size

    def depth(self, images: Tensor) -> Tensor:
        """Prepared frames (B, 3, S, S) uint8 to relative inverse depth (B, 1, S, S) float16 in [0, 1]."""
        with torch.no_grad():
            frames = images.to(self._dtype) / 127.5 - 1
            frames = F.interpolate(frames, size=(self._size, self._size), mode="bilinear", align_corners=False)
            depth = self._network(pixel_values=frames).predicted_depth[:, None].float()
            depth = F.interpolate(depth, size=images.shape[-2:], mode="bilinear", align_corners=False)
            low, high = depth.amin((1, 2, 3), keepdim=True), depth.amax((1, 2, 3), keepdim=True)
            return ((depth - low) / (high - low).clamp_min(1e-12)).half()


def _forward(teacher: _Teacher, images: Tensor) -> Callable[[], object]:
    return lambda: teacher.depth(images)


def _repeat(stepper: Stepper, batch: Batch, draws: Draws) -> Callable[[], object]:
    return lambda: stepper([(batch, draws)], step=1000, progress=0.5)


def _loop(
    stepper: Stepper,
    batches: Batches,
    config: Config,
    samples: Sequence[Sample],
    device: torch.device,
    depth: Callable[[Tensor], Tensor] | None = None,
) -> Callable[[], object]:
    """A function that takes the next step of a training run, its depth from the store or from `depth`."""
    numbers = itertools.count()
    coming = batches(_endless(samples, config.data.batch_size))

    def step() -> object:
        batch, number = next(coming), next(numbers)
        if depth is not None:
            batch = batch._replace(depth=depth(batch.images))
        return stepper([(batch, _draws(config, number, device))], step=1000 + number, progress=0.5)

    return step


def _endless(samples: Sequence[Sample], batch: int) -> Iterator[Tensor]:
    order = Order(samples, batch_size=batch, seed=0)
    return (order.rows(step) for step in itertools.count())


def _draws(config: Config, seed: int, device: torch.device) -> Draws:
    size, count = config.data.input_size, config.data.batch_size
    return draw(count, size=size, config=config.augmentation, seed=seed, device=device)
