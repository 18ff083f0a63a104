"""`softfocus bench NAME`: measurements as ratios within one run, of which README and docs show the results."""

from __future__ import annotations

from pathlib import Path

import click

from commands import bench_training
from commands.console import PATH, json_option, say, show_result


@click.group()
def bench() -> None:
    """Measure speed and size on this machine.

    \b
    Example:
      softfocus bench plan
    """


@bench.command()
@click.argument("manifest", type=PATH)
@click.option("--teacher", default="demo", show_default=True, help="Makes the maps; as in `label`.")
@click.option("--card", help="As in `label`.")
@click.option("--count", type=click.IntRange(min=1), default=60, show_default=True, help="Photographs, evenly spread.")
@click.option("--repeats", type=click.IntRange(min=1), default=5, show_default=True, help="Turns of the timing.")
@json_option
def codec(manifest: Path, teacher: str, card: str | None, count: int, repeats: int, as_json: bool) -> int:
    """What a stored map costs in bytes, error and time, beside 16-bit and 8-bit PNG.

    \b
    Example:
      softfocus bench codec cuhk.jsonl --teacher onnx:tcmonodepth_small.onnx --card tcmonodepth
    """
    from benchmarks.codec import compare_codecs, predict_maps
    from commands.teacher import load_any_teacher
    from pipeline.manifest import read_manifest

    samples = read_manifest(manifest)
    chosen = samples[:: max(1, len(samples) // count)][:count]
    say(f"{len(chosen)} photographs, teacher {teacher}")
    rows = compare_codecs(predict_maps(chosen, load_any_teacher(teacher, card=card)), repeats=repeats)
    lines = [
        "| Format | KiB a map | of PNG-16 | largest error / range | mean error / range | write | read |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        read = f"{row.read_speed:.1f} x" if row.read_speed else ""
        lines.append(
            f"| {row.format} | {row.bytes / 1024:.0f} | {row.size:.2f} | {row.largest_error:.2e} | "
            f"{row.mean_error:.2e} | {row.write_speed:.1f} x | {read} |"
        )
    show_result({"maps": len(chosen), "rows": rows}, as_json, lines)
    return 0


for command in (bench_training.student, bench_training.loading, bench_training.step):
    bench.add_command(command)
