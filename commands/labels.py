"""Commands of stage 1: label."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import click

from commands.console import LEFT_OUT, PATH, device_option, json_option, list_left_out, progress_bar, show_result


@click.command()
@click.argument("manifest", type=PATH)
@click.argument("store", type=PATH)
@click.option("--teacher", required=True, help="hf:NAME_OR_FOLDER, onnx:FILE, demo, student:RUN, or a plug-in's.")
@click.option("--card", help="How an ONNX teacher wants its input: a YAML file, or a known card's name.")
@click.option("--size", type=click.IntRange(min=32), help="The teacher's input size, in its own size rule.")
@click.option(
    "--precision", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), default="auto", show_default=True
)
@click.option("--dtype", type=click.Choice(["u16", "u8"]), help="Of the stored maps. [default: u16]")
@click.option(
    "--codec",
    type=click.Choice(["delta-deflate", "deflate", "none", "delta-zstd"]),
    help="How maps become bytes; `softfocus bench codec` compares them. [default: delta-deflate]",
)
@click.option("--shard-size", type=click.IntRange(min=1), help="Maps a shard. [default: 256]")
@click.option("--batch-size", type=click.IntRange(min=1), help="[default: 64 on a GPU, 16 elsewhere]")
@click.option(
    "--compile/--no-compile",
    default=None,
    help="Spend minutes to make a GPU's teacher faster. [default: for jobs of 100,000 photographs or more]",
)
@click.option("--workers", type=int, default=-1, show_default=True, help="Threads that decode; -1: one a core.")
@click.option("--retry-failed", is_flag=True, help="Label the photographs again that failed before.")
@device_option
@json_option
def label(manifest: Path, store: Path, as_json: bool, **options: Any) -> int:
    """Run a depth teacher over every photograph, once, and store its soft labels.

    \b
    Stopped at any moment, the same command goes on where it stopped. Examples:
      softfocus label cuhk.jsonl labels --teacher demo
      softfocus label cuhk.jsonl labels --teacher hf:depth-anything/Depth-Anything-V2-Small-hf
      softfocus label cuhk.jsonl labels --teacher onnx:midas.onnx --card midas.yaml
    """
    from pipeline.distill import label
    from pipeline.teachers import load_teacher

    register_students()
    spec = options.pop("teacher")
    how = {key: options.pop(key) for key in ("device", "card", "size", "precision")}
    asked = " ".join([spec, *(f"{key}={value}" for key, value in how.items() if value and key != "device")])
    load = functools.partial(load_teacher, spec, **how)
    with progress_bar("label", "maps") as show:
        summary = label(
            manifest, store, load_teacher=load, asked=asked, progress=lambda p: show(p.done, p.total, p.note), **options
        )
    list_left_out(f"{sample}: {reason}" for sample, reason in summary.failed)
    stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in summary.stage_seconds.items())
    lines = [
        f"{store}: {summary.labelled} maps written, {summary.kept} there before, {len(summary.failed)} left out",
        f"  {summary.shards} shards, {summary.bytes / 1e6:.1f} MB, {summary.seconds:.1f} s, {summary.rate:.1f} maps/s",
    ]
    lines += [f"  {line}" for line in (stages, summary.note) if line]
    show_result(summary, as_json, lines)
    return LEFT_OUT if summary.failed else 0


def register_students() -> None:
    from pipeline.teachers import register_kind

    register_kind("demo", "trainer.teach:load_demo")
    register_kind("student", "trainer.teach:load_student_teacher")
