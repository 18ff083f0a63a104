"""`softfocus label` beside the bare network: how much of a GPU's time is the teacher's.

In one run, with one network at one batch size and precision: photographs that lie on the card already go through
the network again and again (the bare rate); then `pipeline.distill.label` labels photographs from disk into a
store (end to end); then the bare rate once more, as a card's clock moves. The network is a Depth Anything V2 of
real size with random weights: its speed is that of the trained one. The physical limit is that of large matrix
products on the same card, measured beside.

The rate end to end is told twice: over everything from the first photograph read to the last shard on disk, and
over the middle of the run, without its beginning and end; a job of hours has only the middle. Beside it stands what
the processor could feed without a teacher (`benchmarks.feeding`), which says whether cores or the card are short.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import torch

from benchmarks.feeding import Feeding, measure_feeding, words
from benchmarks.photographs import make_photographs
from benchmarks.teachers import count_gflops, make_teacher
from pipeline.distill import LabelProgress, LabelSummary, label
from pipeline.distill.meters import WAITS, WORK
from pipeline.distill.stream import default_batch_size, is_on_gpu
from pipeline.distill.worker import thread_share
from pipeline.manifest import read_manifest, write_manifest
from pipeline.teachers import hf

__all__ = ["LabelReport", "LabelRow", "Plan", "measure_label", "middle_rate", "table"]


Say = Callable[[str], None]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured.

    Attributes:
        sizes: (height, width, photographs) of each set of photographs.
        side: the network's input, a square.
        bare_s: seconds that a bare rate is measured for.
        batch_size: None for the job's own.
    """

    architecture: str = "small"
    sizes: tuple[tuple[int, int, int], ...] = ((427, 640, 24_000), (3000, 4000, 1_000))
    side: int = 518
    device: str = "auto"
    precision: str = "auto"
    batch_size: int | None = None
    compile: bool = True
    workers: int = -1
    shard_size: int = 256
    codec: str = "delta-deflate"
    bare_s: float = 4.0


class LabelRow(msgspec.Struct, frozen=True, kw_only=True):
    """One set of photographs.

    Attributes:
        photograph_bytes, map_bytes: mean, on disk.
        rate, middle_rate: photographs a second end to end, over all and over the middle of the run.
        bare_before, bare_after: photographs a second through the network alone.
        ratio, middle_ratio: of the rates to the mean of the bare rates.
        cores_busy: processor time a second, of this process and its helping processes.
        captain_ms: processor time a photograph of this process alone, which hands work to the card and to the others.
        written_mb_s: megabytes of shards a second.
        feeding: the same photographs without a teacher; None where threads, not processes, feed the teacher.
        busy: seconds a second of each stage; above 1 where several threads share it.
        limit: the stage that the others wait for, in words.
    """

    height: int
    width: int
    photographs: int
    photograph_bytes: float
    map_bytes: float
    seconds: float
    rate: float
    middle_rate: float
    bare_before: float
    bare_after: float
    ratio: float
    middle_ratio: float
    cores_busy: float
    captain_ms: float
    written_mb_s: float
    feeding: Feeding | None
    busy: dict[str, float]
    limit: str


class LabelReport(msgspec.Struct, frozen=True, kw_only=True):
    """The whole run.

    Attributes:
        gflops: of one photograph, a multiply-add as two.
        eager: photographs a second of the network that is not compiled, None where it was not measured.
        tflops: reached by the bare network.
        matmul_tflops: reached by a product of two matrices of 8192 x 8192 in bfloat16 (smaller on a CPU).
        note: what was slower than it could be, and why.
    """

    device: str
    torch: str
    architecture: str
    precision: str
    batch_size: int
    compiled: bool
    compile_s: float | None
    gflops: float
    eager: float | None
    tflops: float
    matmul_tflops: float
    cores: int
    rows: list[LabelRow]
    note: str


def measure_label(plan: Plan, folder: Path, *, say: Say = lambda line: None) -> LabelReport:
    """Measure; photographs, weights and stores are made in `folder`, which the caller removes.

    Args:
        say: told what is done, as it takes minutes.
    """
    say(f"teacher: Depth Anything V2 {plan.architecture}, random weights")
    make_teacher(folder / "teacher", plan.architecture, plan.side)
    teacher = hf.load(str(folder / "teacher"), device=plan.device, precision=plan.precision)
    teacher.close = lambda: None  # type: ignore[method-assign]  # it outlives the jobs that are given it
    batch_size = plan.batch_size or default_batch_size(teacher)
    images = _images_on(teacher.device, batch_size, plan.side)
    eager = _bare_rate(teacher, images, plan.bare_s if not plan.compile else plan.bare_s / 2)
    say(f"bare network, batch {batch_size}, {teacher.precision}, not compiled: {eager:.1f} photographs/s")
    compile_s = None
    if plan.compile:
        teacher.compile()
        begin = time.perf_counter()
        _bare_rate(teacher, images, 0.0)
        compile_s = time.perf_counter() - begin
        say(f"compiled in {compile_s:.0f} s{' ' + teacher.note if teacher.note else ''}")
    rows, notes, rates = [], [teacher.note], []
    for height, width, count in plan.sizes:
        name = f"{height}x{width}"
        say(f"{name}: making {count} photographs")
        manifest = make_photographs(folder / name, count=count, size=(height, width), originals=4)
        before = _bare_rate(teacher, images, plan.bare_s)
        say(f"{name}: bare {before:.1f} photographs/s; labelling")
        measured = _label(plan, manifest, folder / f"labels-{name}", teacher, batch_size)
        after = _bare_rate(teacher, images, plan.bare_s)
        feeding = _without_teacher(plan, manifest, folder / f"fed-{name}", batch_size) if is_on_gpu(teacher) else None
        row = _row((height, width), manifest.parent, measured, before, after, feeding)
        say(f"{name}: bare {after:.1f}, end to end {row.rate:.1f} (middle {row.middle_rate:.1f}); {row.limit}")
        rows.append(row)
        notes.append(measured.summary.note)
        rates += [before, after]
    gflops = count_gflops(plan.architecture, plan.side)
    return LabelReport(
        device=_device_name(teacher.device),
        torch=torch.__version__,
        architecture=plan.architecture,
        precision=teacher.precision,
        batch_size=batch_size,
        compiled=plan.compile and not teacher.note,
        compile_s=compile_s,
        gflops=gflops,
        eager=eager,
        tflops=gflops * max(rates) / 1e3,
        matmul_tflops=_matmul_tflops(teacher.device),
        cores=_cores(),
        rows=rows,
        note="; ".join(sorted({note for note in notes if note})),
    )


@torch.inference_mode()  # as in the job: a compiled network tells such tensors from others
def _images_on(device: torch.device, count: int, side: int) -> torch.Tensor:
    """uint8 (B, 3, h, w) in the order of bytes that the job gives, (B, h, w, 3)."""
    return torch.randint(256, (count, side, side, 3), dtype=torch.uint8, device=device).permute(0, 3, 1, 2)


def _bare_rate(teacher: hf.HfTeacher, images: torch.Tensor, seconds: float) -> float:
    """Photographs a second through the network, from pixels on the card to maps on the card."""
    step = _step_seconds(lambda: teacher.predict_on_device(images), teacher.device, seconds)
    return len(images) / step


def _step_seconds(step: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Mean time of a step that is done over and over for some seconds; the device is never idle in between."""
    for _ in range(2):
        step()
    _wait(device)
    begin, steps = time.perf_counter(), 0
    while steps == 0 or time.perf_counter() - begin < seconds:
        for _ in range(4):
            step()
        steps += 4
        _wait(device)
    return (time.perf_counter() - begin) / steps


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _matmul_tflops(device: torch.device) -> float:
    side = 8192 if device.type == "cuda" else 256
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * side**3 / _step_seconds(lambda: left @ right, device, 1.0 if side == 8192 else 0.0) / 1e12


class _Measured(msgspec.Struct, frozen=True):
    summary: LabelSummary
    moments: list[tuple[float, int]]  # seconds and photographs done
    processor_s: float
    captain_s: float
    seconds: float


def _label(plan: Plan, manifest: Path, store: Path, teacher: hf.HfTeacher, batch_size: int) -> _Measured:
    moments: list[tuple[float, int]] = []

    def note(progress: LabelProgress) -> None:
        moments.append((progress.seconds, progress.done))

    begin, before = time.perf_counter(), os.times()
    captain_s = time.process_time()
    summary = label(
        manifest,
        store,
        load_teacher=lambda: teacher,
        shard_size=plan.shard_size,
        codec=plan.codec,  # type: ignore[arg-type]
        batch_size=batch_size,
        compile=plan.compile,
        workers=plan.workers,
        progress=note,
    )
    processor_s = sum(os.times()[:4]) - sum(before[:4])
    return _Measured(summary, moments, processor_s, time.process_time() - captain_s, time.perf_counter() - begin)


def _without_teacher(plan: Plan, manifest: Path, store: Path, batch_size: int) -> Feeding:
    """The rate of all but the teacher, over the first of the photographs."""
    hands = thread_share(plan.workers)
    samples = read_manifest(manifest)
    count = (200 if samples[0].height < 1000 else 8) * hands
    few = store.with_suffix(".jsonl")
    write_manifest(few, samples[:count], root=manifest.parent)
    options: dict[str, Any] = {"hands": hands, "codec": plan.codec, "shard_size": plan.shard_size}
    return measure_feeding(few, store, side=plan.side, batch_size=batch_size, **options)


def _row(
    size: tuple[int, int],
    photographs: Path,
    measured: _Measured,
    before: float,
    after: float,
    feeding: Feeding | None,
) -> LabelRow:
    summary = measured.summary
    files = sorted(photographs.glob("*.jpg"))[:100]
    middle, bare = middle_rate(measured.moments), (before + after) / 2
    busy = {stage: seconds * summary.rate / summary.labelled for stage, seconds in summary.stage_seconds.items()}
    cores_busy = measured.processor_s / measured.seconds
    return LabelRow(
        height=size[0],
        width=size[1],
        photographs=summary.labelled,
        photograph_bytes=sum(file.stat().st_size for file in files) / len(files),
        map_bytes=summary.bytes / summary.labelled,
        seconds=summary.labelled / summary.rate,
        rate=summary.rate,
        middle_rate=middle,
        bare_before=before,
        bare_after=after,
        ratio=summary.rate / bare,
        middle_ratio=middle / bare,
        cores_busy=cores_busy,
        captain_ms=1e3 * measured.captain_s / summary.labelled,
        written_mb_s=summary.bytes / 1e6 * summary.rate / summary.labelled,
        feeding=feeding,
        busy=busy,
        limit=_limit(busy, cores_busy),
    )


def middle_rate(moments: list[tuple[float, int]]) -> float:
    """Photographs a second between the moments when a fifth and nine tenths were done."""
    total = moments[-1][1]
    first = next(moment for moment in moments if moment[1] >= 0.2 * total)
    last = next(moment for moment in moments if moment[1] >= 0.9 * total)
    if last[1] == first[1]:
        return total / moments[-1][0]
    return (last[1] - first[1]) / (last[0] - first[0])


def _limit(busy: dict[str, float], cores_busy: float) -> str:
    """Who is waited for, by the thread that hands photographs to the teacher."""
    waits = {wait: busy.get(wait, 0.0) for wait in WAITS}
    shares = ", ".join(f"{share:.0%} {wait}" for wait, share in waits.items())
    on_card = sum(busy.get(stage, 0.0) for stage in ("resize", "teacher", "quantise"))
    longest = max(waits, key=lambda wait: waits[wait])
    if longest == "waiting for the teacher" or waits[longest] < 0.05:
        return f"the teacher limits ({shares}; resize, teacher and quantise {on_card:.0%} of the time)"
    behind = ("read", "decode") if longest == "waiting for images" else ("compress", "write")
    stage = max(behind, key=lambda name: busy.get(name, 0.0))
    return f"{stage} limits ({shares}; {cores_busy:.1f} of {_cores()} cores busy)"


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def table(report: LabelReport) -> list[str]:
    """The report as lines of Markdown."""
    lines = [
        f"{report.device}, {report.cores} cores, torch {report.torch}; Depth Anything V2 {report.architecture}, "
        f"{report.precision}, batch {report.batch_size}, {'compiled' if report.compiled else 'not compiled'}",
        "",
        "| Photographs | bare network | end to end | of bare | middle of the run | of bare | cores busy | KB a map |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in report.rows:
        lines.append(
            f"| {row.photographs} of {row.width} x {row.height}, {row.photograph_bytes / 1e3:.0f} KB "
            f"| {row.bare_before:.0f}, {row.bare_after:.0f}/s | {row.rate:.0f}/s | {row.ratio:.1%} "
            f"| {row.middle_rate:.0f}/s | {row.middle_ratio:.1%} | {row.cores_busy:.1f} | {row.map_bytes / 1e3:.0f} |"
        )
    lines += [
        "",
        "| Busy, seconds a second | " + " | ".join((*WORK, *WAITS)) + " |",
        "|---" * (len(WORK + WAITS) + 1) + "|",
    ]
    for row in report.rows:
        cells = " | ".join(f"{row.busy.get(stage, 0.0):.2f}" for stage in (*WORK, *WAITS))
        lines.append(f"| {row.width} x {row.height} | {cells} |")
    lines += ["", *(f"{row.width} x {row.height}: {row.limit}" for row in report.rows)]
    for row in report.rows:
        lines.append(
            f"{row.width} x {row.height}: this process {row.captain_ms:.2f} ms of processor a photograph, "
            f"{row.written_mb_s:.0f} MB/s written"
        )
        lines += [f"{row.width} x {row.height}, {words(row.feeding)}"] if row.feeding else []
    lines.append(
        f"{report.gflops:.0f} GFLOPs a photograph: {report.tflops:.1f} TFLOP/s, "
        f"{report.tflops / report.matmul_tflops:.0%} of the {report.matmul_tflops:.0f} of a large bfloat16 matrix "
        "product here; "
        f"not compiled {report.eager:.0f} photographs/s"
    )
    if report.compile_s is not None:
        lines.append(f"compiling took {report.compile_s:.0f} s")
    return lines + ([report.note] if report.note else [])
