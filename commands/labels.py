"""Commands of stage 1: label."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from commands.console import LEFT_OUT, PATH, json_option, list_left_out, progress_bar, show_result
from commands.teacher import take_teacher, teacher_options, with_confidence
from commands.workers import TeamFactory, worker_options


@click.command()
@click.argument("manifest", type=PATH)
@click.argument("store", type=PATH)
@teacher_options(required=True, device=False)
@click.option("--dtype", type=click.Choice(["u16", "u8"]), help="Of the stored maps. [default: u16]")
@click.option(
    "--codec",
    type=click.Choice(["delta-deflate", "deflate", "none", "delta-zstd"]),
    help="How maps become bytes; `softfocus bench codec` compares them. [default: delta-deflate]",
)
@click.option(
    "--confidence",
    type=click.Choice(["none", "flip"]),
    help="flip: ask for the mirror image too, store the mean and how far the two agree. [default: none]",
)
@click.option("--shard-size", type=click.IntRange(min=1), help="Maps a shard. [default: 256]")
@click.option("--batch-size", type=click.IntRange(min=1), help="[default: 64 on a GPU, 16 elsewhere]")
@click.option(
    "--compile/--no-compile",
    default=None,
    help="Spend minutes to make a GPU's teacher faster. [default: for jobs of 200,000 photographs or more]",
)
@click.option(
    "--workers",
    type=int,
    default=-1,
    show_default=True,
    help="Threads that decode and compress, for a GPU processes; -1: one a core.",
)
@click.option("--retry-failed", is_flag=True, help="Label the photographs again that failed before.")
@worker_options
@json_option
def label(
    manifest: Path,
    store: Path,
    make_team: TeamFactory,
    batch_size: int | None,
    compile: bool | None,
    workers: int,
    as_json: bool,
    **options: Any,
) -> int:
    """Run a teacher over every photograph, once, and store its soft labels: depth, or a student's blur.

    \b
    Stopped at any moment, the same command goes on where it stopped. Examples:
      softfocus label cuhk.jsonl labels --teacher demo
      softfocus label cuhk.jsonl labels --teacher hf:depth-anything/Depth-Anything-V2-Small-hf
      softfocus label cuhk.jsonl labels --teacher onnx:midas.onnx --card midas.yaml
      softfocus label cuhk.jsonl labels --teacher demo --confidence flip
      softfocus label cuhk.jsonl blur --teacher student:runs/large --quantity blur

    \b
    Many workers: every GPU of this machine; a dask cluster; the second of four jobs of a job array.
      softfocus label cuhk.jsonl labels --teacher demo --device all
      softfocus label cuhk.jsonl labels --teacher demo --backend dask --address tcp://HOST:8786
      softfocus label cuhk.jsonl labels --teacher demo --part 2/4
    """
    from pipeline.distill import label

    load, asked = take_teacher(options, store)
    assert load is not None
    load, said = with_confidence(load, store, options.pop("confidence"))
    with progress_bar("label", "maps") as show:
        summary = label(
            manifest,
            store,
            load_teacher=load,
            team=make_team(store, load, {"batch_size": batch_size, "compile": compile, "threads": workers}),
            batch_size=batch_size,
            compile=compile,
            workers=workers,
            asked=asked + said,
            progress=lambda p: show(p.done, p.total, p.note),
            **options,
        )
    list_left_out(f"{sample}: {reason}" for sample, reason in summary.failed)
    stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in summary.stage_seconds.items())
    lines = [
        f"{store}: {summary.labelled} maps written, {summary.kept} there before, {len(summary.failed)} left out",
        f"  {summary.shards} shards, {summary.bytes / 1e6:.1f} MB, {summary.seconds:.1f} s, {summary.rate:.1f} maps/s",
    ]
    died = f", {summary.deaths} died and were replaced" if summary.deaths else ""
    shared = f"{summary.workers} workers{died}" if summary.workers > 1 else ""
    lines += [f"  {line}" for line in (shared, stages, summary.note) if line]
    show_result(summary, as_json, lines)
    return LEFT_OUT if summary.failed else 0


@click.command()
@click.argument("out", type=PATH)
@click.argument("stores", type=PATH, nargs=-1, required=True)
@click.option("--manifest", required=True, type=PATH, help="Whose photographs to fuse the labels of.")
@click.option("--dtype", type=click.Choice(["u16", "u8"]), help="Of the stored maps. [default: u16]")
@click.option("--shard-size", type=click.IntRange(min=1), help="Maps a shard. [default: 256]")
@click.option("--workers", type=int, default=-1, show_default=True, help="Threads; -1: one a core.")
@click.option("--retry-failed", is_flag=True, help="Try those again that lacked a label in one of the stores.")
@json_option
def fuse(out: Path, stores: tuple[Path, ...], manifest: Path, as_json: bool, **options: Any) -> int:
    """Fuse the labels of several stores into a new one: aligned to the first, their median, and how far they agree.

    \b
    Stopped at any moment, the same command goes on where it stopped. Example:
      softfocus fuse both small large --manifest cuhk.jsonl
    """
    from pipeline.distill import label
    from pipeline.distill.fuse import StoresTeacher

    asked = " ".join(["fuse", *(str(store) for store in stores)])
    with progress_bar("fuse", "maps") as show:
        summary = label(
            manifest,
            out,
            load_teacher=lambda: StoresTeacher(stores, manifest),
            asked=asked,
            progress=lambda p: show(p.done, p.total, p.note),
            **options,
        )
    list_left_out(f"{sample}: {reason}" for sample, reason in summary.failed)
    lines = [f"{out}: {summary.labelled} maps fused, {summary.kept} there before, {len(summary.failed)} left out"]
    show_result(summary, as_json, lines)
    return LEFT_OUT if summary.failed else 0
