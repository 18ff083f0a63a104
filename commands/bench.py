"""`softfocus bench NAME`: measurements as ratios within one run, of which README and docs show the results."""

from __future__ import annotations

import functools
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from commands import bench_training
from commands.console import PATH, device_option, json_option, list_devices, markdown_table, say, show_result
from commands.teacher import load_any_teacher


@click.group()
def bench() -> None:
    """Measure speed and size on this machine.

    \b
    Example:
      softfocus bench plan
    """


@bench.command()
@click.option("--samples", type=click.IntRange(min=1), default=1_000_000, show_default=True)
@click.option("--folder", type=PATH, help="Keep manifest and store here. [default: a temporary one]")
@json_option
def plan(samples: int, folder: Path | None, as_json: bool) -> None:
    """Planning, status and resume of a job of a million photographs: time and memory.

    \b
    The limits are 10 s and 1 GiB for each. Example:
      softfocus bench plan --samples 1000000
    """
    from benchmarks.plan import LIMIT_MIB, LIMIT_S, measure_plan

    rows = measure_plan(samples, folder)
    cells = [["Step", "samples", "shards done", "seconds", "CPU seconds", "peak MiB", "within limits"]]
    for row in rows:
        times = f"{row.seconds:.1f}", f"{row.cpu_seconds:.1f}", f"{row.peak_mib:.0f}"
        cells.append([row.step, f"{row.samples}", f"{row.shards}", *times, "yes" if row.within else "no"])
    show_result({"limit_s": LIMIT_S, "limit_mib": LIMIT_MIB, "rows": rows}, as_json, markdown_table(cells))


@bench.command()
@click.option("--device", default="all", show_default=True, help="As in `label`: cuda:0,cuda:1, or all.")
@click.option("--processes", type=click.IntRange(min=1), default=1, show_default=True, help="Workers a device.")
@click.option("--photographs", type=click.IntRange(min=2), default=40_000, show_default=True, help="Of 640 x 427.")
@click.option("--batch-size", type=click.IntRange(min=1), help="[default: the job's own]")
@click.option("--compile/--no-compile", default=False, show_default=True)
@click.option("--repeats", type=click.IntRange(min=1), default=2, show_default=True, help="Turns.")
@click.option(
    "--teacher",
    default="small",
    show_default=True,
    help="small, base, large: a Depth Anything V2 with random weights; slow:SECONDS: no device; or as in `label`.",
)
@click.option("--folder", type=PATH, help="Where photographs and stores are made and removed. [default: temporary]")
@json_option
def workers(device: str, processes: int, teacher: str, folder: Path | None, as_json: bool, **options: Any) -> None:
    """How much faster all devices label than the first one alone.

    \b
    Choose so many photographs that a job takes half a minute. Examples:
      softfocus bench workers --device cuda:0,cuda:1
      softfocus bench workers --device cpu --processes 2 --photographs 2560 --teacher slow:0.01
    """
    from benchmarks.teachers import ARCHITECTURES, make_teacher
    from benchmarks.workers import compare_workers, slow_teacher

    devices = list_devices(device) * processes
    if len(devices) < 2:
        raise click.UsageError("one worker has nothing to be compared with; give several --device, or --processes")
    with TemporaryDirectory(prefix="softfocus-workers-", dir=folder) as temporary:
        place = Path(temporary)
        if teacher in ARCHITECTURES:
            make_teacher(place / "teacher", teacher, 518)
            teacher = f"hf:{place / 'teacher'}"
        load = functools.partial(load_any_teacher, teacher)
        if teacher.startswith("slow:"):
            load = functools.partial(slow_teacher, float(teacher.removeprefix("slow:")))
        rows = compare_workers(load, devices, place, say=say, **options)
    cells = [["Workers", "photographs", "maps/s", "speed-up", "in the middle", "speed-up", "waiting"]]
    for row in rows:
        rates = f"{row.rate:.1f}", f"{row.speed_up:.2f}", f"{row.middle_rate:.1f}", f"{row.middle_speed_up:.2f}"
        cells.append([f"{row.workers}", f"{row.photographs}", *rates, f"{row.waiting:.0%}"])
    show_result({"devices": devices, "rows": rows}, as_json, markdown_table(cells))


@bench.command()
@click.argument("manifest", type=PATH)
@click.option("--teacher", default="demo", show_default=True, help="Makes the maps; as in `label`.")
@click.option("--card", help="As in `label`.")
@click.option("--count", type=click.IntRange(min=1), default=60, show_default=True, help="Photographs, evenly spread.")
@click.option("--repeats", type=click.IntRange(min=1), default=5, show_default=True, help="Turns of the timing.")
@json_option
def codec(manifest: Path, teacher: str, card: str | None, count: int, repeats: int, as_json: bool) -> None:
    """What a stored map costs in bytes, error and time, beside 16-bit and 8-bit PNG.

    \b
    Example:
      softfocus bench codec cuhk.jsonl --teacher onnx:tcmonodepth_small.onnx --card tcmonodepth
    """
    from benchmarks.codec import compare_codecs, predict_maps
    from pipeline.manifest import read_manifest

    samples = read_manifest(manifest)
    chosen = samples[:: max(1, len(samples) // count)][:count]
    say(f"{len(chosen)} photographs, teacher {teacher}")
    rows = compare_codecs(predict_maps(chosen, load_any_teacher(teacher, card=card)), repeats=repeats)
    cells = [["Format", "KiB a map", "of PNG-16", "largest error / range", "mean error / range", "write", "read"]]
    for row in rows:
        read = f"{row.read_speed:.1f} x" if row.read_speed else ""
        errors = f"{row.largest_error:.2e}", f"{row.mean_error:.2e}"
        cells.append(
            [row.format, f"{row.bytes / 1024:.0f}", f"{row.size:.2f}", *errors, f"{row.write_speed:.1f} x", read]
        )
    show_result({"maps": len(chosen), "rows": rows}, as_json, markdown_table(cells))


@bench.command(name="label")
@click.option(
    "--architecture", type=click.Choice(["small", "base", "large", "tiny"]), default="small", show_default=True
)
@click.option("--photographs", type=click.IntRange(min=1), default=24_000, show_default=True, help="Of 640 x 427.")
@click.option("--large", type=click.IntRange(min=0), default=1_000, show_default=True, help="Of 4000 x 3000.")
@click.option("--shrink", type=click.IntRange(min=1), default=1, help="Divides the sides of all photographs.")
@click.option("--side", type=click.IntRange(min=28), default=518, show_default=True, help="Of the network's input.")
@click.option("--batch-size", type=click.IntRange(min=1), help="[default: the job's own]")
@click.option("--precision", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), default="auto")
@click.option("--compile/--no-compile", default=True, show_default=True)
@click.option("--workers", type=int, default=-1, show_default=True, help="As in `label`.")
@click.option("--shard-size", type=click.IntRange(min=1), default=256, show_default=True)
@click.option("--codec", type=click.Choice(["delta-deflate", "deflate", "none", "delta-zstd"]), default="delta-deflate")
@click.option("--bare-seconds", "bare_s", type=float, default=4.0, show_default=True)
@click.option("--folder", type=PATH, help="Where photographs and stores are made and removed. [default: temporary]")
@device_option
@json_option
def label_(photographs: int, large: int, shrink: int, folder: Path | None, as_json: bool, **options: Any) -> None:
    """The rate of `softfocus label` beside the bare rate of its teacher, and which stage limits it.

    \b
    Makes its own photographs and a Depth Anything V2 with random weights. Examples:
      softfocus bench label
      softfocus bench label --architecture large --photographs 4000 --large 1500
      softfocus bench label --architecture tiny --side 28 --photographs 40 --large 0 --no-compile --device cpu
    """
    from benchmarks.label import Plan, measure_label, table

    sizes = ((427, 640, photographs), (3000, 4000, large))
    chosen = tuple((height // shrink, width // shrink, count) for height, width, count in sizes if count)
    with TemporaryDirectory(prefix="softfocus-label-", dir=folder) as place:
        report = measure_label(Plan(sizes=chosen, **options), Path(place), say=say)
    show_result(report, as_json, table(report))


@bench.command()
@click.option("--photographs", type=click.IntRange(min=1), default=6_000, show_default=True)
@click.option("--size", type=(int, int), default=(640, 427), show_default=True, help="Width and height of them.")
@click.option("--side", type=click.IntRange(min=8), default=518, show_default=True, help="Of the maps, a square.")
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--workers", type=int, default=-1, show_default=True, help="Helping processes; -1: one a core.")
@click.option("--shard-size", type=click.IntRange(min=1), default=256, show_default=True)
@click.option("--codec", type=click.Choice(["delta-deflate", "deflate", "none", "delta-zstd"]), default="delta-deflate")
@click.option("--folder", type=PATH, help="Where photographs and stores are made and removed. [default: temporary]")
@json_option
def feed(
    photographs: int, size: tuple[int, int], workers: int, folder: Path | None, as_json: bool, **options: Any
) -> int:
    """How many photographs a second these cores could feed a GPU's teacher with; needs no GPU.

    \b
    All of `softfocus label` but the teacher, in its own processes. Examples:
      softfocus bench feed
      softfocus bench feed --size 4000 3000 --photographs 100
    """
    from tempfile import TemporaryDirectory

    from benchmarks.feeding import measure_feeding, words
    from benchmarks.photographs import make_photographs
    from pipeline.distill.worker import thread_share

    with TemporaryDirectory(prefix="softfocus-feed-", dir=folder) as place:
        manifest = make_photographs(Path(place) / "photographs", count=photographs, size=size[::-1], originals=4)
        report = measure_feeding(manifest, Path(place) / "labels", hands=thread_share(workers), **options)
    show_result(report, as_json, [words(report)])
    return 0


for command in (bench_training.student, bench_training.loading, bench_training.step):
    bench.add_command(command)
