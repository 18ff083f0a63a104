"""Commands of stage 2: train, evaluate, predict, average, import-weights."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from commands.console import (
    LEFT_OUT,
    PATH,
    SPLITS,
    builtins_of,
    device_option,
    json_option,
    list_left_out,
    progress_bar,
    say,
    show_result,
    write_csv,
)

model_option = click.option(
    "--model",
    default="lite",
    show_default=True,
    type=PATH,
    help="A run folder, a .safetensors file, or a student that comes with softfocus: lite, lite-cuhk.",
)
input_size_option = click.option(
    "--input-size",
    "input_sizes",
    type=click.IntRange(min=32, max=8192),
    multiple=True,
    help="Side of the network's input; several are averaged over. [default: the student's own]",
)


def labels_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The stores that a student may learn from."""
    for option in (
        click.option(
            "--blur-labels", type=PATH, help="A store of another student's blur, see `label --quantity blur`."
        ),
        click.option("--labels", type=PATH, help="The label store. Without it: no depth."),
    ):
        command = option(command)
    return command


def config_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that make a configuration; `config_from` turns their values into one."""
    for option in (
        click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Any other value of the config."),
        click.option("--partial", is_flag=True, help="Use samples that lack a mask or a label for what they have."),
        click.option(
            "--encoder-weights",
            help="auto (the hub's, else the shipped ones), hub, shipped, none, or a file in timm's names. "
            "[default: the preset's]",
        ),
        click.option("--batch-size", type=int, help="[default: the preset's]"),
        click.option("--epochs", type=int, help="[default: the preset's]"),
        click.option("--config", "file", type=PATH, help="YAML on top of the preset."),
        click.option("--preset", default="lite", show_default=True, help="lite, base, paper-resnext101, paper-vgg16."),
    ):
        command = option(command)
    return command


CONFIG_OPTIONS = {
    "epochs": "epochs",
    "batch_size": "data.batch_size",
    "encoder_weights": "student.encoder_weights",
    "partial": "data.partial",
}


def config_from(options: Mapping[str, Any], *, overrides: Iterable[str] = ()) -> Any:
    """The configuration that `config_options` ask for, with more overrides on top."""
    from trainer.config import load_config

    def given(value: Any) -> bool:  # 0 is given, and wrong
        return value is not None and value is not False

    asked = [*options["overrides"], *(f"{key}={options[o]}" for o, key in CONFIG_OPTIONS.items() if given(options[o]))]
    return load_config(preset=options["preset"], file=options["file"], overrides=[*asked, *overrides])


@click.command()
@click.argument("manifest", type=PATH)
@labels_options
@click.option("-o", "--out", required=True, type=PATH, help="The run folder.")
@config_options
@click.option("--seed", type=int, help="[default: the configuration's, 0]")
@device_option
@json_option
def train(manifest: Path, labels: Path | None, out: Path, as_json: bool, **options: Any) -> None:
    """Train a student from photographs, masks and stored depth.

    \b
    Stopped at any moment, the same command goes on where it stopped. Examples:
      softfocus train cuhk.jsonl --labels labels -o runs/first
      softfocus train cuhk.jsonl --labels labels -o runs/long --epochs 300 --set optimiser.lr=0.002
      softfocus train many.jsonl --blur-labels blur -o runs/small --partial
    """
    from trainer.train import train

    seed = options["seed"]
    with progress_bar("train", "steps") as show:
        summary = train(
            manifest,
            out=out,
            config=config_from(options, overrides=[] if seed is None else [f"seed={seed}"]),
            labels=labels,
            blur_labels=options["blur_labels"],
            device=options["device"],
            say=say,
            progress=lambda p: show(p.done, p.total, p.note, p.phase),
        )
    if os.environ.get("RANK", "0") != "0":  # of torchrun's processes the first one tells
        return
    figures = ", ".join(f"{k} {v:.4f}" for k, v in summary.best.items() if k.startswith("val_"))
    best = f"  best epoch {summary.best['epoch']}: {figures}" if figures else "  no validation split"
    rate = f", {summary.images_per_second:.0f} images/s" if summary.images_per_second else ""
    show_result(summary, as_json, [f"{out}: {summary.epochs} epochs, {summary.seconds:.0f} s{rate}", best])


@click.command()
@click.argument("manifest", type=PATH)
@model_option
@click.option("--split", type=click.Choice(SPLITS), default="test", show_default=True)
@click.option("--labels", type=PATH, help="Also compare the student's depth with this store.")
@input_size_option
@click.option(
    "--per-image",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    help="Write each image's figures to this CSV file.",
)
@device_option
@json_option
def evaluate(manifest: Path, as_json: bool, per_image: Path | None, **options: Any) -> None:
    """Score a student on a split: MAE, F and IoU in the protocols of the field.

    The report of a run folder is kept in it, as evaluation-SPLIT.json with the figures of each image, for
    `softfocus runs`. Another manifest than the one it was trained from, or another input size, is part of the name.

    \b
    Example:
      softfocus evaluate cuhk.jsonl --model runs/first --split test --json
    """
    from trainer.evaluate import evaluate
    from trainer.runs.run_folder import write_evaluation

    with progress_bar("evaluate", "images") as progress:
        report = evaluate(manifest, progress=progress, **options)
    if options["model"].is_dir():
        write_evaluation(options["model"], report.name, report)
    if per_image is not None:
        write_csv(per_image, report.per_image)
    sizes = " and ".join(f"{size} x {size}" for size in report.input_sizes)
    lines = [f"{report.model}: {report.images} images of {report.split} at {sizes}"]
    for protocol, measures in report.measures.items():
        lines.append(f"  {protocol:16s}" + "".join(f"  {name} {value:.4f}" for name, value in measures.items()))
    lines += [f"  depth             {name} {value:.4f}" for name, value in report.depth.items()]
    show_result({**builtins_of(report), "per_image": None}, as_json, lines)


@click.command()
@click.argument("photographs", nargs=-1, required=True, type=PATH)
@click.option("-o", "--out", required=True, type=PATH, help="Folder of the maps.")
@model_option
@click.option("--depth", is_flag=True, help="Also write STEM.depth.png, white = near.")
@input_size_option
@device_option
@json_option
def predict(photographs: tuple[Path, ...], as_json: bool, **options: Any) -> int:
    """Write a blur map of each photograph: STEM.png, at its own size, white = out of focus.

    \b
    Example:
      softfocus predict photos -o maps --model runs/first
    """
    from trainer.predict import predict

    with progress_bar("predict", "photographs") as progress:
        summary = predict(photographs, progress=progress, **options)
    list_left_out(summary.failed)
    show_result(summary, as_json, [f"{options['out']}: {len(summary.written)} maps"])
    return LEFT_OUT if summary.failed else 0


@click.command()
@click.argument("students", nargs=-1, required=True, type=PATH)
@click.option("-o", "--out", required=True, type=PATH, help="The mean, a .safetensors file.")
@click.option("--half", is_flag=True, help="Store float16: half of the bytes.")
@json_option
def average(students: tuple[Path, ...], out: Path, as_json: bool, half: bool) -> None:
    """Make one student of several: the mean of their weights.

    Runs of several seeds that start from the same student (`student.start`) make a mean about as good as the best of
    them, or better.

    \b
    Example:
      softfocus sweep cuhk.jsonl -o runs --seeds 0-2 --set student.start=first
      softfocus average runs/seed-0 runs/seed-1 runs/seed-2 -o student.safetensors --half
    """
    from trainer.average import average

    summary = average(students, out=out, half=half)
    if not summary.one_start:
        say("warning: these students did not start from the same student (student.start); such a mean may be of no use")
    show_result(
        summary, as_json, [f"{out}: the mean of {len(students)} students, {summary.parameters / 1e6:.1f} M parameters"]
    )


@click.command("import-weights")
@click.argument("file", type=PATH)
@click.option("-o", "--out", required=True, type=PATH, help="The student, a .safetensors file.")
@json_option
def import_weights(file: Path, out: Path, as_json: bool) -> None:
    """Take the paper's published weights (res_best.pth or vgg_best.pth) over as a student.

    \b
    Nothing in the file is run. Examples:
      softfocus import-weights res_best.pth -o paper.safetensors
      softfocus evaluate dut.jsonl --model paper.safetensors
      softfocus predict photos -o maps --model paper.safetensors
    """
    from trainer.students.published import import_weights

    summary = import_weights(file, out)
    show_result(
        summary, as_json, [f"{out}: {summary.student}, {summary.parameters / 1e6:.1f} M parameters, from {file}"]
    )
