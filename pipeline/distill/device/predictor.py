"""Batches on a GPU: uploaded, resized, through the teacher, quantised and downloaded.

Three streams of the GPU work side by side: one uploads, one computes, one downloads. The host hands over a
batch and looks at its result two batches later, so that the GPU always has work before it. On another device
the same steps run one after the other.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.distill.crew.captain import Captain
from pipeline.distill.crew.feed import Decoded
from pipeline.distill.crew.memory import Bytes, PageLock, Slab
from pipeline.distill.crew.messages import Pack
from pipeline.distill.crew.shards import Landing, Mapped
from pipeline.distill.device import plain
from pipeline.distill.device.plain import Placed
from pipeline.distill.meters import Meters
from pipeline.distill.output import NO_VALUE
from pipeline.distill.predictor import Halving, check_maps
from pipeline.store import Codec, DType, StoreDescription, encode
from pipeline.store.codec import arrange
from pipeline.teachers.base import DeviceTeacher, one_line

__all__ = ["DevicePredictor", "page_lock"]

_POLL_S = 0.001
_STAGED = "the GPU cannot reach memory that processes share (cudaHostRegister), so pixels and maps are copied once more"

_Mark = torch.cuda.Event | float
"""A moment: on a GPU an event in a stream, else a time in seconds."""


@dataclass(frozen=True)
class _Part:
    """Photographs that are computed at once, on their way to the host.

    Attributes:
        count: of the photographs; tensors may hold more.
        pixels: uint8 (B, h, w, 3); maps: float32 (B, h, w). Both on the device.
        staged: once `marks` are past, what is to be copied to `landing`.
        landing: once `marks` are past, the bytes of the maps, one every `Pack.room(size)`.
        size: bytes of a map.
        facts: on the host, likewise: offset, scale and largest value of each map, (B, 3).
        marks: begin and end of the upload, of the resize, the teacher and the quantisation, of the download.
    """

    count: int
    pixels: torch.Tensor
    maps: torch.Tensor
    staged: torch.Tensor | None
    landing: Landing
    size: int
    facts: torch.Tensor
    marks: list[_Mark]


class DevicePredictor:
    """Asks a teacher on its device, for halves of a batch for good once the memory was too small."""

    in_flight = 2

    def __init__(
        self,
        teacher: DeviceTeacher,
        meters: Meters,
        description: StoreDescription,
        captain: Captain,
        *,
        batch_size: int,
        compiled: bool,
    ) -> None:
        """`compiled`: the teacher may spend minutes to be faster afterwards; short batches are then filled up."""
        self._teacher, self._meters, self._captain = teacher, meters, captain
        self._dtype: DType = description.dtype
        self._codec: Codec = description.codec
        self._fill_to = batch_size if compiled else 1
        self._halving = Halving(teacher)
        self._lanes = _Lanes(teacher.device)
        self._resize, self._arrange, slower = _best_steps(teacher.device)
        self._slower = {slower} - {""}
        if compiled:
            teacher.compile()

    @property
    def largest(self) -> int:
        """Number of photographs of the largest call that succeeded."""
        return self._halving.largest

    @property
    def note(self) -> str:
        """What is slower than it could be, and why; empty if nothing is."""
        return "; ".join(filter(None, (*sorted(self._slower), getattr(self._teacher, "note", ""))))

    def submit(self, images: list[Decoded], size: tuple[int, int]) -> list[_Part]:
        """Start on photographs; the device is still at it when this returns.

        Raises:
            TeacherError: out of memory with a single photograph, or maps of another shape.
        """
        return self._halving.run(images, size, lambda part: self._start(part, size))

    def collect(self, submitted: list[_Part]) -> list[Mapped | str]:
        """Waits for the device; the photographs' memory is free then."""
        return [result for part in submitted for result in self._finish(part)]

    @torch.inference_mode()
    def _start(self, images: Sequence[Decoded], size: tuple[int, int]) -> _Part:
        lanes = self._lanes
        with lanes.upload():
            marks = [lanes.mark()]
            pixels, placed = _uploaded(images, self._teacher.device)
            marks.append(lanes.mark())
        with lanes.compute(after=marks[-1], uses=[pixels]):
            marks.append(lanes.mark())
            count = max(len(images), self._halving.limit(size, self._fill_to))
            resized = self._resize(pixels, placed, size, count)
            marks.append(lanes.mark())
            maps = self._teacher.predict_on_device(resized.permute(0, 3, 1, 2))
            check_maps(self._teacher, tuple(maps.shape), (count, *size))
            marks.append(lanes.mark())
            facts = plain.numbers(maps, self._dtype)
            arranged = self._arrange(maps, facts, self._dtype, self._codec)
            size_of_map = arranged.shape[1]
            arranged = torch.nn.functional.pad(arranged[: len(images)], (0, Pack.room(size_of_map) - size_of_map))
            marks.append(lanes.mark())
        slab = self._captain.slabs.take(arranged.numel())
        with lanes.download(after=marks[-1], uses=[arranged, facts]):
            marks.append(lanes.mark())
            if slab.unlock is None:  # what goes down is copied once more, when it is there
                staged = lanes.fetch(arranged)
                self._slower.add(_STAGED)
            else:
                staged = None
                torch.from_numpy(slab.data[: arranged.numel()]).copy_(arranged.view(-1), non_blocking=True)
            facts = lanes.fetch(facts)
            marks.append(lanes.mark())
        return _Part(len(images), resized, maps, staged, Landing(slab, len(images)), size_of_map, facts, marks)

    def _finish(self, part: _Part) -> Iterator[Mapped | str]:
        with self._meters.measure("waiting for the teacher"):
            self._captain.attend()
            while not _is_past(part.marks[-1]):
                self._captain.attend(_POLL_S)
        if part.staged is not None:
            with self._meters.measure("copy"):
                part.landing.slab.data[: part.staged.numel()] = part.staged.numpy().reshape(-1)
        steps = zip(part.marks, part.marks[1:], strict=False)
        names = ("copy", None, "resize", "teacher", "quantise", None, "copy")
        for name, (begin, end) in zip(names, steps, strict=True):
            if name:
                self._meters.add(name, _seconds(begin, end))
        for number, (offset, scale, highest) in enumerate(part.facts[: part.count].tolist()):
            start = number * Pack.room(part.size)
            if math.isfinite(offset) and math.isfinite(highest):
                yield Mapped(part.landing, start, part.size, offset, scale, 0)
            else:
                yield self._quantised(part, start, self._looked_at(part, number))

    def _quantised(self, part: _Part, start: int, values: npt.NDArray[np.float32]) -> Mapped | str:
        """A map that the device could not quantise, put where it would have put it."""
        encoded = encode(values, self._dtype)
        if encoded.invalid_count == values.size:
            part.landing.leave(1, self._captain)
            return NO_VALUE
        codes = np.frombuffer(arrange(encoded.codes, self._codec), np.uint8)
        part.landing.slab.data[start : start + part.size] = codes
        return Mapped(part.landing, start, part.size, encoded.offset, encoded.scale, encoded.invalid_count)

    def _looked_at(self, part: _Part, number: int) -> npt.NDArray[np.float32]:
        """A map that is not finite throughout, for the host's code to quantise."""
        if getattr(self._teacher, "precision", "") == "float16":  # it may have overflowed, which can be mended
            mended: npt.NDArray[np.float32] = self._teacher.predict(part.pixels[number : number + 1].cpu().numpy())[0]
            return mended
        values: npt.NDArray[np.float32] = part.maps[number].cpu().numpy()
        return np.where(np.isfinite(values), values, np.float32(np.nan))


class _Lanes:
    """Upload, compute and download streams of a GPU; on other devices, one thing after the other."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._is_gpu = device.type == "cuda"
        if self._is_gpu:
            self._up: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._down: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def on_host(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Memory of the host; page-locked for a GPU, from a cache that knows when the GPU is done with it."""
        return torch.empty(tuple(shape), dtype=dtype, pin_memory=self._is_gpu)

    def fetch(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy on the host, there once the stream is past it."""
        return self.on_host(tensor.shape, tensor.dtype).copy_(tensor, non_blocking=True)

    def mark(self) -> _Mark:
        """The current moment in the current stream."""
        if not self._is_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def upload(self) -> contextlib.AbstractContextManager[None]:
        """What is done inside is done in the stream of uploads."""
        return self._within(self._up) if self._is_gpu else contextlib.nullcontext()

    def compute(self, *, after: _Mark, uses: list[torch.Tensor]) -> contextlib.AbstractContextManager[None]:
        """In the stream of computation, once `after` is past; `uses`: tensors of another stream."""
        if not self._is_gpu:
            return contextlib.nullcontext()
        return self._within(torch.cuda.current_stream(self._device), after, uses)

    def download(self, *, after: _Mark, uses: list[torch.Tensor]) -> contextlib.AbstractContextManager[None]:
        """In the stream of downloads, likewise."""
        return self._within(self._down, after, uses) if self._is_gpu else contextlib.nullcontext()

    @contextlib.contextmanager
    def _within(
        self, stream: torch.cuda.Stream, after: _Mark | None = None, uses: Sequence[torch.Tensor] = ()
    ) -> Iterator[None]:
        with torch.cuda.device(self._device), torch.cuda.stream(stream):
            if isinstance(after, torch.cuda.Event):
                stream.wait_event(after)
            for tensor in uses:
                tensor.record_stream(stream)  # its memory is not given away before
            yield


def _uploaded(images: Sequence[Decoded], device: torch.device) -> tuple[torch.Tensor, list[Placed]]:
    """All pixels in one buffer of bytes on the device, and where each photograph is in it.

    Photographs that follow each other in the host's memory go up together.
    """
    sizes = [image.height * image.width * 3 for image in images]
    pixels = torch.empty(sum(sizes), dtype=torch.uint8, device=device)
    placed, start = [], 0
    for image, size in zip(images, sizes, strict=True):
        placed.append((start, image.height, image.width))
        start += size
    for slab, together in itertools.groupby(range(len(images)), key=lambda number: images[number].slab):
        numbers = list(together)
        first, begin, length = images[numbers[0]].start, placed[numbers[0]][0], sum(sizes[n] for n in numbers)
        source = _reachable(slab, torch.from_numpy(slab.data[first : first + length]))
        pixels[begin : begin + length].copy_(source, non_blocking=True)
    return pixels, placed


def _reachable(slab: Slab, part: torch.Tensor) -> torch.Tensor:
    return part.pin_memory() if slab.unlock is None else part


def page_lock(device: torch.device) -> PageLock:
    """What lets a GPU reach slabs by itself."""

    def nothing() -> None:
        pass

    def lock(data: Bytes) -> Callable[[], None] | None:
        runtime: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        address, portable = data.ctypes.data, 1
        with torch.cuda.device(device):
            status = runtime.cudaHostRegister(address, data.nbytes, portable)
            if getattr(status, "value", status) != 0:
                with contextlib.suppress(RuntimeError):  # the failure is still to be told to who asks next: here
                    torch.zeros(1, device=device).add_(1)
                return None

        def unlock() -> None:
            with contextlib.suppress(RuntimeError):  # of a device that has failed
                torch.cuda.synchronize(device)  # a run that was interrupted may have copies on their way
            runtime.cudaHostUnregister(address)

        return unlock

    return lock if device.type == "cuda" else lambda data: nothing


def _is_past(mark: _Mark) -> bool:
    return bool(mark.query()) if isinstance(mark, torch.cuda.Event) else True  # type: ignore[no-untyped-call]


def _seconds(begin: _Mark, end: _Mark) -> float:
    if isinstance(begin, torch.cuda.Event):
        return float(begin.elapsed_time(end)) / 1e3  # type: ignore[arg-type]
    return end - begin  # type: ignore[operator]


_Resize = Callable[[torch.Tensor, list[Placed], tuple[int, int], int], torch.Tensor]
_Arrange = Callable[[torch.Tensor, torch.Tensor, DType, Codec], torch.Tensor]


def _best_steps(device: torch.device) -> tuple[_Resize, _Arrange, str]:
    """The kernels where they work, which is tried: exact results matter more than how they are made."""
    if device.type != "cuda":
        return plain.resize, plain.arrange, ""
    try:
        from pipeline.distill.device import kernels

        with torch.cuda.device(device):
            _check_kernels(device, kernels.resize, kernels.arrange)
    except Exception as error:  # no Triton, no compiler for it, a GPU that it does not know
        return plain.resize, plain.arrange, f"without Triton kernels, slower ({one_line(error)})"
    return kernels.resize, kernels.arrange, ""


def _check_kernels(device: torch.device, resize_: _Resize, arrange_: _Arrange) -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (40 * 30 * 3,), dtype=torch.uint8, generator=generator)
    maps = torch.rand(2, 20, 30, generator=generator)
    placed, size = [(0, 40, 30)], (20, 30)
    if not torch.equal(resize_(pixels.to(device), placed, size, 2).cpu(), plain.resize(pixels, placed, size, 2)):
        raise ValueError("resized pixels differ from the host's")
    facts = plain.numbers(maps, "u16")
    found = arrange_(maps.to(device), facts.to(device), "u16", "delta-deflate").cpu()
    if not torch.equal(found, plain.arrange(maps, facts, "u16", "delta-deflate")):
        raise ValueError("quantised maps differ from the host's")
