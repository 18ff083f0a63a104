"""How fast a student sees: frames per second beside the paper's networks, in one run.

Each network runs as it would be deployed: bfloat16 weights on a GPU (float32 on a CPU), batch norms folded into
the convolutions as `softfocus predict` folds them, and the memory layout that is faster for it. Images lie on
the device, normalised; time is CUDA events' (the wall clock's on a CPU), in turns, the median of the rounds.
The physical limit of a network is its arithmetic: GFLOPs (a multiply-add counts as two) over what the device
does in a second; a light network is bound by launching kernels instead, which recording it once as a CUDA graph
cures, and compiling too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.rounds import seconds_of_each
from trainer.config import load_config
from trainer.students.fusion import fuse_batch_norm
from trainer.students.model import build_student

__all__ = ["REFERENCE", "RateRow", "SizeRow", "count_size", "measure_rates"]

REFERENCE = "paper-resnext101"
LAYOUTS = {"channels-last": torch.channels_last, "contiguous": torch.contiguous_format}


class SizeRow(msgspec.Struct, frozen=True):
    """A student's size: parameters, and GFLOPs of one image of `input_size` squared (multiply-add = 2)."""

    student: str
    input_size: int
    parameters: int
    gflops: float


class RateRow(msgspec.Struct, frozen=True):
    """Frames per second of a student; `ratio` is to the reference's at the same batch and mode."""

    student: str
    batch: int
    mode: str
    layout: str
    frames_per_second: float
    tflops_per_second: float
    ratio: float | None


def count_size(name: str, size: int = 320) -> SizeRow:
    """Parameters and arithmetic of a preset's student, at the side nearest to `size` that it takes."""
    student, counter = _create(name), FlopCounterMode(display=False)
    stride = int(getattr(student, "stride", 32))
    side = max(round(size / stride), 1) * stride
    with FakeTensorMode(allow_non_fake_inputs=True), counter, torch.no_grad():  # shapes without numbers
        student(torch.empty(1, 3, side, side))
    return SizeRow(name, side, sum(p.numel() for p in student.parameters()), counter.get_total_flops() / 1e9)


def measure_rates(
    names: Sequence[str],
    *,
    device: torch.device,
    batches: Sequence[int] = (1, 32),
    size: int = 320,
    compiled: bool = True,
    rounds: int = 5,
    seconds: float = 0.3,
    search_kernels: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> list[RateRow]:
    """Frames per second of students at each batch: eager, on a GPU also recorded as a CUDA graph, and compiled.

    Args:
        names: presets; ratios are to `REFERENCE`'s if it is among them.
        device: where they run.
        batches: images at once.
        size: side of the input, or the nearest that a student takes.
        compiled: also through torch.compile (with CUDA graphs on a GPU), which takes minutes the first time.
        rounds: turns.
        seconds: a turn takes about so long.
        search_kernels: let cuDNN try its kernels for each layer, which takes a minute a network.
        say: told what is being done.
    """
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    torch.backends.cudnn.benchmark = search_kernels  # for every network alike
    # several networks, sizes of batches and scales go through the same functions: beyond 8 versions torch gives up
    if compiled and hasattr(torch._dynamo.config, "recompile_limit"):  # not in older versions of torch
        torch._dynamo.config.recompile_limit = 64
    sizes = {name: count_size(name, size) for name in names}
    rows: list[RateRow] = []
    for batch in batches:
        runs: dict[tuple[str, str, str], Callable[[], object]] = {}
        for name in names:
            for layout in LAYOUTS:
                runs[name, "eager", layout] = _forward(name, batch, sizes[name].input_size, layout, device, dtype)
        say(f"batch {batch}: eager, in two memory layouts")
        with torch.inference_mode():
            times = seconds_of_each(runs, device=device, rounds=rounds, seconds=seconds, say=say)
        best = {name: min((times[name, "eager", layout], layout) for layout in LAYOUTS)[1] for name in names}
        kept = {(name, "eager", best[name]): times[name, "eager", best[name]] for name in names}
        runs.clear()
        with torch.inference_mode():
            for mode in [*(["recorded"] if device.type == "cuda" else []), *(["compiled"] if compiled else [])]:
                say(f"batch {batch}: {mode}")
                for name in names:
                    runs[name, mode, best[name]] = _forward(
                        name, batch, sizes[name].input_size, best[name], device, dtype, mode=mode
                    )
            if runs:
                kept |= seconds_of_each(runs, device=device, rounds=rounds, seconds=seconds, warm_up=4, say=say)
        rates = {(name, mode): batch / seconds for (name, mode, _), seconds in kept.items()}
        for name, mode, layout in kept:
            rate, reference = rates[name, mode], rates.get((REFERENCE, mode))
            ratio = rate / reference if reference else None
            rows.append(RateRow(name, batch, mode, layout, rate, rate * sizes[name].gflops / 1000, ratio))
    return rows


def _create(name: str) -> nn.Module:
    return build_student(load_config(preset=name).student).eval()


def _forward(
    name: str,
    batch: int,
    side: int,
    layout: str,
    device: torch.device,
    dtype: torch.dtype,
    *,
    mode: str = "eager",
) -> Callable[[], object]:
    # random weights in float32 first: folding in bfloat16 would round twice
    student = fuse_batch_norm(_create(name), torch.zeros(1, 3, side, side))
    student = student.to(device=device, dtype=dtype).to(memory_format=LAYOUTS[layout])
    images = torch.randn(batch, 3, side, side, device=device, dtype=dtype).contiguous(memory_format=LAYOUTS[layout])
    if mode == "recorded":
        return _recorded(student, images)
    network: Callable[[torch.Tensor], object] = student
    if mode == "compiled":
        network = torch.compile(student, dynamic=False, mode="reduce-overhead" if device.type == "cuda" else None)
    return lambda: network(images)


def _recorded(student: nn.Module, images: torch.Tensor) -> Callable[[], object]:
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            student(images)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = student(images)
    kept = student, images, output  # the graph reads and writes where they lie

    def replay() -> object:
        graph.replay()
        return kept

    return replay
