"""Resize and quantise as Triton kernels, for batches of photographs of any sizes.

In plain torch each step is a pass over the GPU's memory, and together they would take a tenth of the time of
a small teacher. Here a resize is two passes and quantisation one. No kernel is specialised for its sizes, so those
that were compiled when they were tried serve photographs and labels of all sizes.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl

from pipeline.distill.device.plain import Placed
from pipeline.distill.device.resampling import PRECISION_BITS, bicubic_table
from pipeline.store import Codec, DType
from pipeline.store.codec import BIAS, is_delta
from pipeline.store.encoding import DTYPES

__all__ = ["arrange", "resize"]

_BLOCK = 512
_FACTS = 10  # numbers that the kernels know of each photograph


def resize(pixels: torch.Tensor, placed: list[Placed], size: tuple[int, int], count: int) -> torch.Tensor:
    """As `plain.resize`."""
    height, width = size
    tables = _tables(pixels.device)
    facts, middle = [], 0
    for start, tall, wide in placed:
        rows, columns = tables.find(wide, width), tables.find(tall, height)
        facts.append([start, middle, tall, wide, *rows, *columns])
        middle += tall * width * 3
    facts += [facts[-1]] * (count - len(placed))
    plan = torch.tensor(facts, dtype=torch.int64)
    if pixels.is_cuda:
        plan = plan.pin_memory().to(pixels.device, non_blocking=True)
    between = pixels.new_empty(middle)
    out = pixels.new_empty((count, height, width, 3))
    tallest = max(tall for _, tall, _ in placed)
    lanes = triton.cdiv(width * 3, _BLOCK)
    settings = {"BITS": PRECISION_BITS, "FACTS": _FACTS, "BLOCK": _BLOCK}
    _rows[(tallest, len(placed), lanes)](pixels, between, tables.numbers, plan, width, **settings)
    _columns[(height, count, lanes)](between, out, tables.numbers, plan, height, width, **settings)
    return out


class _Tables:
    """The tables of all passes so far, one after the other on the device."""

    def __init__(self, device: torch.device) -> None:
        self.numbers = torch.empty(0, dtype=torch.int32, device=device)
        self._places: dict[tuple[int, int], tuple[int, int, int]] = {}

    def find(self, length: int, out: int) -> tuple[int, int, int]:
        """Where the first pixels (out,) and the weights (taps, out) of a pass begin, and the taps."""
        if (length, out) not in self._places:
            table = bicubic_table(length, out)
            parts = [torch.from_numpy(table.first), torch.from_numpy(table.weights.T.copy()).flatten()]
            begin, taps = len(self.numbers), table.weights.shape[1]
            self.numbers = torch.cat([self.numbers, torch.cat(parts).to(self.numbers.device)])
            self._places[length, out] = begin, begin + out, taps
        return self._places[length, out]


@functools.cache
def _tables(device: torch.device) -> _Tables:
    return _Tables(device)


@triton.jit(do_not_specialize=["out_width"])  # type: ignore[untyped-decorator]
def _rows(pixels, between, tables, plan, out_width, BITS: tl.constexpr, FACTS: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """One row of one photograph (H, W, 3) along x, to (H, out_width, 3)."""
    row, entry = tl.program_id(0), plan + tl.program_id(1) * FACTS
    tall, wide = tl.load(entry + 2).to(tl.int32), tl.load(entry + 3).to(tl.int32)
    if row < tall:
        lane = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
        inside = lane < out_width * 3
        place, channel = lane // 3, lane % 3
        first = tl.load(tables + tl.load(entry + 4) + place, mask=inside, other=0)
        weights, taps = tables + tl.load(entry + 5), tl.load(entry + 6).to(tl.int32)
        source = pixels + tl.load(entry) + row.to(tl.int64) * wide * 3
        total = tl.full((BLOCK,), 1 << (BITS - 1), tl.int32)
        for tap in range(taps):
            weight = tl.load(weights + tap * out_width + place, mask=inside, other=0)
            there = inside & (first + tap < wide)
            total += tl.load(source + (first + tap) * 3 + channel, mask=there, other=0).to(tl.int32) * weight
        value = tl.minimum(tl.maximum(total >> BITS, 0), 255)
        target = between + tl.load(entry + 1) + row.to(tl.int64) * out_width * 3
        tl.store(target + lane, value.to(tl.uint8), mask=inside)


@triton.jit(do_not_specialize=["out_height", "width"])  # type: ignore[untyped-decorator]
def _columns(  # type: ignore[no-untyped-def]
    between, out, tables, plan, out_height, width, BITS: tl.constexpr, FACTS: tl.constexpr, BLOCK: tl.constexpr
):
    """One row of the result: a weighted sum of whole rows."""
    row, number = tl.program_id(0), tl.program_id(1)
    entry = plan + number * FACTS
    tall = tl.load(entry + 2).to(tl.int32)
    lane = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    inside = lane < width * 3
    first = tl.load(tables + tl.load(entry + 7) + row)
    weights, taps = tables + tl.load(entry + 8) + row, tl.load(entry + 9).to(tl.int32)
    source = between + tl.load(entry + 1)
    total = tl.full((BLOCK,), 1 << (BITS - 1), tl.int32)
    for tap in range(taps):
        weight = tl.load(weights + tap * out_height)
        there = inside & (first + tap < tall)
        value = tl.load(source + (first + tap).to(tl.int64) * width * 3 + lane, mask=there, other=0)
        total += value.to(tl.int32) * weight
    value = tl.minimum(tl.maximum(total >> BITS, 0), 255)
    target = out + (number.to(tl.int64) * out_height + row) * width * 3
    tl.store(target + lane, value.to(tl.uint8), mask=inside)


def arrange(maps: torch.Tensor, facts: torch.Tensor, dtype: DType, codec: Codec) -> torch.Tensor:
    """As `plain.arrange`."""
    maps = maps.contiguous()
    count, height, width = maps.shape
    itemsize = DTYPES[dtype].itemsize
    out = torch.empty((count, itemsize * height * width), dtype=torch.uint8, device=maps.device)
    is_planar = codec != "none"
    _arrange[(height, count, triton.cdiv(width, _BLOCK))](
        maps,
        facts.contiguous(),
        out,
        height,
        width,
        height * width if is_planar else 1,
        1 if is_planar else itemsize,
        ITEMSIZE=itemsize,
        IS_DELTA=is_delta(codec),
        BIAS=BIAS[itemsize],
        FACTS=facts.shape[1],
        BLOCK=_BLOCK,
    )
    return out


@triton.jit(do_not_specialize=["height", "width", "plane_step", "pixel_step"])  # type: ignore[untyped-decorator]
def _arrange(  # type: ignore[no-untyped-def]
    maps,
    facts,
    out,
    height,
    width,
    plane_step,
    pixel_step,
    ITEMSIZE: tl.constexpr,
    IS_DELTA: tl.constexpr,
    BIAS: tl.constexpr,
    FACTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One row of one map: codes, differences, bytes."""
    row, number = tl.program_id(0), tl.program_id(1).to(tl.int64)
    column = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    offset, scale = tl.load(facts + number * FACTS), tl.load(facts + number * FACTS + 1)
    scale = tl.where(scale > 0, scale, 1.0)
    start = maps + number * height * width + row.to(tl.int64) * width
    stored = _code(start + column, inside, offset, scale)
    if IS_DELTA:
        above = row > 0
        left = column > 0
        stored -= _code(start + column - 1, inside & left, offset, scale)
        stored -= _code(start + column - width, inside & above, offset, scale)
        stored += _code(start + column - width - 1, inside & above & left, offset, scale)
        stored += BIAS
    pixel = row.to(tl.int64) * width + column
    target = out + number * ITEMSIZE * height * width + pixel * pixel_step
    tl.store(target, (stored & 255).to(tl.uint8), mask=inside)
    if ITEMSIZE == 2:
        tl.store(target + plane_step, ((stored >> 8) & 255).to(tl.uint8), mask=inside)


@triton.jit
def _code(place, there, offset, scale):  # type: ignore[no-untyped-def]
    """The code of a value, 0 outside the map. Adding 1.5 * 2**52 leaves a float64 rounded, halves to even."""
    value = tl.load(place, mask=there, other=0.0).to(tl.float64)
    steps = (value - offset) / scale + 6755399441055744.0
    return tl.where(there, (steps - 6755399441055744.0).to(tl.int32), 0)
