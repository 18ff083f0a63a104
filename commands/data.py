"""Commands that bring photographs in: index, synth, refocus."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from commands.console import (
    LEFT_OUT,
    PATH,
    SEED,
    WARNINGS_SHOWN,
    Number,
    jobs_option,
    json_option,
    list_left_out,
    progress_bar,
    say,
    show_result,
)

LAYOUTS = ("cuhk", "dut", "ctcug", "ebd", "pairs", "images", "synth")


@click.command()
@click.argument("layout", type=click.Choice(LAYOUTS))
@click.argument("root", type=PATH)
@click.option("-o", "--out", required=True, type=PATH, help="The manifest, JSON Lines.")
@click.option("--name", help="Prefix of the sample ids. [default: the dataset's or the folder's name]")
@click.option(
    "--polarity",
    type=click.Choice(["white-is-blur", "white-is-focus"]),
    help="What white means in the masks; `pairs` needs it.",
)
@click.option("--val-fraction", default=0.1, show_default=True, type=Number(0, 1, max_open=True))
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of the validation split.")
@jobs_option
@click.option("--decode/--no-decode", default=True, help="Decode every photograph, to find damaged ones now.")
@json_option
def index(out: Path, as_json: bool, **options: Any) -> int:
    """List a dataset's photographs, masks and splits in a manifest.

    \b
    Layouts are described in datasets.md. Example:
      softfocus index cuhk CUHK -o cuhk.jsonl
    """
    from pipeline.datasets import index

    layout, root = options.pop("layout"), options.pop("root")
    with progress_bar("hash", "images") as progress:
        summary = index(layout, root, out=out, progress=progress, **options)
    for warning in summary.warnings[:WARNINGS_SHOWN]:
        say(f"warning: {warning}")
    if len(summary.warnings) > WARNINGS_SHOWN:
        say(f"warning: {len(summary.warnings) - WARNINGS_SHOWN} more like these (--json lists all)")
    list_left_out(summary.problems)
    counts = ", ".join(f"{count} {split}" for split, count in summary.by_split.items())
    show_result(summary, as_json, [f"{out}: {counts}; {summary.with_mask} with mask, {summary.without_mask} without"])
    return LEFT_OUT if summary.problems else 0


def _picture_options(command: Any) -> Any:
    """The options that `synth` and `refocus` share."""
    for option in (
        click.option("-n", "--count", type=click.IntRange(min=1), default=100, show_default=True),
        click.option(
            "--size",
            nargs=2,
            type=click.IntRange(min=64, max=8192),
            default=(320, 480),
            show_default=True,
            metavar="H W",
        ),
        click.option("--seed", type=SEED, default=0, show_default=True),
        click.option(
            "--threshold-px",
            type=Number(min=0, min_open=True),
            help="A wider circle of confusion is out of focus. [default: 3 where the longer side has 480 pixels]",
        ),
        jobs_option,
        json_option,
    )[::-1]:
        command = option(command)
    return command


@click.command()
@click.argument("out", type=PATH)
@click.option("--textures", type=PATH, help="Photographs to print on things.")
@_picture_options
def synth(out: Path, as_json: bool, **options: Any) -> None:
    """Render scenes with exact depth and exact defocus, as a dataset.

    \b
    Example:
      softfocus synth scenes -n 500 && softfocus index synth scenes -o scenes.jsonl
    """
    from pipeline.synthetic import synthesize

    with progress_bar("render", "scenes") as progress:
        summary = synthesize(out, progress=progress, **options)
    show_result(summary, as_json, [f"{out}: {summary.rendered} scenes rendered, {summary.kept} there before"])


@click.command()
@click.argument("manifest", type=PATH)
@click.option("--labels", required=True, type=PATH, help="Store of the photographs' depth labels.")
@click.option("-o", "--out", required=True, type=PATH, help="The dataset's folder.")
@_picture_options
def refocus(manifest: Path, labels: Path, out: Path, as_json: bool, **options: Any) -> None:
    """Blur sharp photographs by their depth labels, as a dataset with exact masks.

    Each picture is another part of a photograph with another focus. An upright photograph gives upright
    pictures. Example:

    \b
      softfocus index images photos -o photos.jsonl
      softfocus label photos.jsonl depth --teacher onnx:tcmonodepth_small.onnx --card tcmonodepth
      softfocus refocus photos.jsonl --labels depth -o refocused -n 800
      softfocus index synth refocused -o refocused.jsonl --val-fraction 0
    """
    from pipeline.refocus import refocus

    with progress_bar("refocus", "pictures") as progress:
        summary = refocus(manifest, labels, out, progress=progress, **options)
    show_result(summary, as_json, [f"{out}: {summary.rendered} pictures made, {summary.kept} there before"])
