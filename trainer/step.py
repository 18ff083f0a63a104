"""One step of training: augment, forward, losses, backward, update.

On a GPU the part from the augmentation to the gradients is recorded once as a CUDA graph and replayed:
Python needs longer to launch a light student's kernels than the GPU to run them. With `compile` augmentation,
network and losses go through torch.compile first, each by itself, which fuses what batch norm and activations
move through memory. Without a graph several processes (torchrun) use DistributedDataParallel; with one they
average what it left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import msgspec
import torch
from timm.utils import ModelEmaV3  # type: ignore[attr-defined]
from torch import Tensor, nn

from trainer.config import Config
from trainer.device import autocast
from trainer.losses import joint_loss, weight_at
from trainer.optimiser import create_optimiser, freeze
from trainer.processes import Processes
from trainer.samples.augment import Draws, Inputs, augment
from trainer.samples.batch import Batch
from trainer.students.outputs import StudentOutput

__all__ = ["Stepper", "create_stepper"]

Terms = dict[str, Tensor]
Gradients = Callable[[Batch, Draws, Tensor], Terms]


class Stepper:
    """A student in training, with what its steps change: weights, optimiser, averaged weights.

    Args:
        student: on its device.
        optimiser: of its parameters.
        ema: its averaged weights.
        config: of the run.
        processes: that share the work.
        groups: sizes of the parts of a batch, one after the other, that batch norm must not mix.
    """

    def __init__(
        self,
        student: nn.Module,
        optimiser: torch.optim.Optimizer,
        ema: ModelEmaV3,
        config: Config,
        processes: Processes,
        groups: Sequence[int] = (),
    ) -> None:
        self.student, self.optimiser, self.ema, self.config = student, optimiser, ema, config
        self._processes = processes
        self._trained = [p for p in student.parameters() if p.requires_grad]
        device = self._trained[0].device
        self._recorded = config.cuda_graph and device.type == "cuda"
        self._network = _Apart(student, groups) if len(groups) > 1 else student
        if not self._recorded:
            learns_all = config.depth_loss.weight > 0 and config.learns_blur
            self._network = processes.wrap(self._network, has_unused=not learns_all)
        self._mixed = autocast(config.precision, device)
        self._weights = torch.zeros(2, device=device)  # of both distillation losses, at this step
        self._layout = torch.channels_last if config.channels_last and device.type == "cuda" else None
        parts: list[Callable[..., Any]] = [augment, self._network, joint_loss]
        if config.compile:
            _make_room(config, groups)
            parts = [torch.compile(part, dynamic=False) for part in parts]
        self._augment, self._forward, self._losses = parts
        self._gradients: Gradients = lambda *inputs: _backward(self._terms(*inputs), config.optimiser.accumulate)
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = config.search_kernels
        if self._recorded:
            self._gradients = _Recorded(self._gradients, student)

    def __call__(self, parts: Sequence[tuple[Batch, Draws]], *, step: int, progress: float) -> Terms:
        """One update.

        Args:
            parts: `optimiser.accumulate` batches whose gradients are averaged, with their random draws.
            step: its number, for the averaged weights.
            progress: share of the run that is done, in [0, 1), for the weights of the distillation losses.

        Returns:
            The losses, averaged over the parts, on the device: reading them would make the loop wait.
        """
        for place, loss in enumerate((self.config.depth_loss, self.config.blur_distillation)):
            self._weights[place] = weight_at(loss, progress)
        totals: Terms = {}
        self.optimiser.zero_grad(set_to_none=not self._recorded)  # a graph adds to the tensors it was recorded with
        for number, (batch, draws) in enumerate(parts, 1):
            with nullcontext() if number == len(parts) else self._processes.without_sync(self._network):
                terms = self._gradients(batch, draws, self._weights)
            for name, value in terms.items():
                totals[name] = totals.get(name, 0.0) + value / len(parts)
        if self._recorded and self._processes.count > 1:
            self._processes.average([p.grad for p in self._trained if p.grad is not None])
        if self.config.optimiser.clip:
            nn.utils.clip_grad_norm_(self._trained, self.config.optimiser.clip)
        self.optimiser.step()
        self.ema.update(self.student, step=step)
        return totals

    def state(self) -> dict[str, Any]:
        """All that steps have changed; `restore` takes it."""
        return {
            "student": self.student.state_dict(),
            "ema": self.ema.module.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.student.load_state_dict(state["student"])
        self.ema.module.load_state_dict(state["ema"])
        self.optimiser.load_state_dict(state["optimiser"])

    def inputs(self, batch: Batch, draws: Draws) -> Inputs:
        """What the network and the losses see of a batch."""
        inputs: Inputs = self._augment(batch, draws, size=self.config.data.input_size)
        return inputs

    def _terms(self, batch: Batch, draws: Draws, weights: Tensor) -> Terms:
        inputs = self.inputs(batch, draws)
        images = inputs.images if self._layout is None else inputs.images.contiguous(memory_format=self._layout)
        with self._mixed():
            output = self._forward(images)
        terms: Terms = self._losses(
            output,
            inputs.mask,
            inputs.depth,
            blur=self.config.blur_loss,
            distillation=self.config.depth_loss,
            confidence=inputs.confidence,
            distillation_weight=weights[0],
            soft_blur=inputs.soft_blur,
            blur_distillation=self.config.blur_distillation,
            blur_distillation_weight=weights[1],
        )
        return terms


class _Apart(nn.Module):
    """A student that sees the groups of a batch one after the other.

    Seen together, samples with and without masks share the means of batch norm. The loss moves those with masks
    alone, and so, against the common mean, the others the opposite way, photographs in use among them.
    """

    def __init__(self, student: nn.Module, groups: Sequence[int]) -> None:
        super().__init__()
        self.student, self.groups = student, list(groups)

    def forward(self, images: Tensor) -> StudentOutput:
        outputs = [self.student(group) for group in torch.split(images, self.groups)]
        return StudentOutput(
            *([torch.cat(maps) for maps in zip(*task, strict=True)] for task in zip(*outputs, strict=True))
        )


def create_stepper(student: nn.Module, config: Config, processes: Processes, groups: Sequence[int] = ()) -> Stepper:
    """A student at the start of a run: on its device, its first blocks frozen, with optimiser and averaged weights.

    Raises:
        SoftfocusError: timm knows no such optimiser, or it does not take these settings.
    """
    student = student.to(processes.device).train()
    if config.channels_last and processes.device.type == "cuda":
        student = student.to(memory_format=torch.channels_last)
    ema = ModelEmaV3(student, decay=config.optimiser.ema, use_warmup=True, warmup_power=0.75)
    freeze(student, config.student.freeze)
    return Stepper(student, create_optimiser(student, config), ema, config, processes, groups)


_compiled: list[tuple[Config, tuple[int, ...]]] = []  # and groups, whose code this process has
COMPILED_AT_ONCE = 8  # torch takes no more versions of one function, and runs the next ones as they are written


def _make_room(config: Config, groups: Sequence[int]) -> None:
    """Keep compiled code for the next run with other seeds; forget all of it before there is too much."""
    key = msgspec.structs.replace(config, seed=0), tuple(groups)
    if key in _compiled:
        return
    if len(_compiled) == COMPILED_AT_ONCE:
        torch.compiler.reset()
        _compiled.clear()
    _compiled.append(key)


def _backward(terms: Terms, accumulate: int) -> Terms:
    (terms["loss"] / accumulate).backward()  # type: ignore[no-untyped-call]
    return {name: value.detach() for name, value in terms.items()}


class _Recorded:
    """A function from a batch to gradients, recorded at its first call and replayed on its inputs afterwards.

    The gradients are added to the parameters' `.grad` as they were when it was recorded: keep those tensors,
    and set them to zero in place.
    """

    WARM_UP = 3  # calls before the recording: libraries choose their algorithms, and compiled code is made

    def __init__(self, function: Gradients, student: nn.Module) -> None:
        self._function, self._student = function, student
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._terms: Terms = {}

    def __call__(self, batch: Batch, draws: Draws, weights: Tensor) -> Terms:
        if self._graph is None:
            self._record(batch, draws, weights)
        for ours, given in zip(self._inputs, _tensors(batch, draws), strict=True):
            ours.copy_(given)
        assert self._graph is not None
        self._graph.replay()
        return self._terms

    def _record(self, batch: Batch, draws: Draws, weights: Tensor) -> None:
        batch, draws = _copy(batch), _copy(draws)
        self._inputs = _tensors(batch, draws)
        before = [buffer.clone() for buffer in self._student.buffers()]  # batch norm counts the warm-up
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(self.WARM_UP):
                self._function(batch, draws, weights)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # thread_local: a thread that pins the next batch does not end the recording
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._terms = self._function(batch, draws, weights)
        for parameter in self._student.parameters():
            if parameter.grad is not None:
                parameter.grad.zero_()
        for buffer, value in zip(self._student.buffers(), before, strict=True):
            buffer.copy_(value)
        self._graph = graph


def _copy(fields: Any) -> Any:
    return type(fields)(*(None if f is None else f.clone() for f in fields))


def _tensors(batch: Batch, draws: Draws) -> list[Tensor]:
    return [tensor for tensor in (*batch, *draws) if tensor is not None]
