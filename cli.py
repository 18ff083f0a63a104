"""The command line: each command reads its options, calls one function, and prints what came of it.

Results go to stdout, all else to stderr. Exit codes: 0 done; 1 an error, in one line; 2 wrong usage;
3 finished, but some samples were left out (each is listed); 130 interrupted.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from pipeline.errors import SoftfocusError

LEFT_OUT = 3
WARNINGS_SHOWN = 3
LAYOUTS = ("cuhk", "dut", "ctcug", "ebd", "pairs", "images", "synth")
SPLITS = ("train", "val", "test")

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")


class Group(click.Group):
    """Turns the library's exceptions into one line and an exit code; lists commands in the order of use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def main(self, *args: Any, standalone_mode: bool = True, **kwargs: Any) -> Any:
        run: Callable[..., Any] = super().main
        if not standalone_mode:
            return run(*args, standalone_mode=False, **kwargs)
        try:
            sys.exit(run(*args, standalone_mode=False, **kwargs))
        except SoftfocusError as error:
            _fail(str(error), 1)
        except click.ClickException as error:
            error.show()
            sys.exit(error.exit_code)
        except (KeyboardInterrupt, click.Abort):
            _fail("interrupted; the same command goes on where it stopped", 130)
        except MemoryError:
            _fail("out of memory; use fewer workers or smaller batches", 1)
        except OSError as error:
            _fail(f"{error.filename or 'input/output'}: {error.strerror or error}", 1)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="softfocus")
def main() -> None:
    """See which pixels of a photograph are out of focus.

    A depth teacher labels the photographs once (index, label); a small student learns blur masks and
    depth from what was stored (train, evaluate, predict). `softfocus demo` shows all of it.
    """


@main.command()
@click.argument("layout", type=click.Choice(LAYOUTS))
@click.argument("root", type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="The manifest, JSON Lines.")
@click.option("--name", help="Prefix of the sample ids. [default: the dataset's or the folder's name]")
@click.option(
    "--polarity",
    type=click.Choice(["white-is-blur", "white-is-focus"]),
    help="What white means in the masks; `pairs` needs it.",
)
@click.option("--val-fraction", default=0.1, show_default=True, type=click.FloatRange(0, 1, max_open=True))
@click.option("--seed", default=0, show_default=True, help="Of the validation split.")
@click.option("--jobs", default=-1, show_default=True, help="Processes; -1 for one a core.")
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
    with _progress("hash", "images") as progress:
        summary = index(layout, root, out=out, progress=progress, **options)
    for warning in summary.warnings[:WARNINGS_SHOWN]:
        _say(f"warning: {warning}")
    if len(summary.warnings) > WARNINGS_SHOWN:
        _say(f"warning: {len(summary.warnings) - WARNINGS_SHOWN} more like these (--json lists all)")
    _list_left_out(summary.problems)
    counts = ", ".join(f"{count} {split}" for split, count in summary.by_split.items())
    _print(summary, as_json, [f"{out}: {counts}; {summary.with_mask} with mask, {summary.without_mask} without"])
    return LEFT_OUT if summary.problems else 0


@main.command()
@click.argument("manifest", type=click.Path(path_type=Path))
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--teacher", required=True, help="hf:NAME_OR_FOLDER, onnx:FILE, demo, student:RUN, or a plug-in's.")
@click.option("--card", help="How an ONNX teacher wants its input: a YAML file, or a known card's name.")
@click.option("--size", type=click.IntRange(min=32), help="The teacher's input size, in its own size rule.")
@click.option(
    "--precision", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), default="auto", show_default=True
)
@click.option("--dtype", type=click.Choice(["u16", "u8", "f16"]), help="Of the stored maps. [default: u16]")
@click.option("--shard-size", type=click.IntRange(min=1), help="Maps a shard. [default: 256]")
@click.option("--batch-size", type=click.IntRange(min=1), default=16, show_default=True)
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

    _register_students()
    spec = options.pop("teacher")
    how = {key: options.pop(key) for key in ("device", "card", "size", "precision")}
    asked = " ".join([spec, *(f"{key}={value}" for key, value in how.items() if value and key != "device")])
    load = functools.partial(load_teacher, spec, **how)
    with _progress("label", "maps") as show:
        summary = label(
            manifest, store, load_teacher=load, asked=asked, progress=lambda p: show(p.done, p.total, p.note), **options
        )
    _list_left_out(f"{sample}: {reason}" for sample, reason in summary.failed)
    stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in summary.stage_seconds.items())
    lines = [
        f"{store}: {summary.labelled} maps written, {summary.kept} there before, {len(summary.failed)} left out",
        f"  {summary.shards} shards, {summary.bytes / 1e6:.1f} MB, {summary.seconds:.1f} s, {summary.rate:.1f} maps/s",
    ]
    _print(summary, as_json, [*lines, f"  {stages}"] if stages else lines)
    return LEFT_OUT if summary.failed else 0


@main.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("-n", "--count", type=click.IntRange(min=1), default=100, show_default=True)
@click.option("--size", nargs=2, type=click.IntRange(min=32), default=(320, 480), show_default=True, metavar="H W")
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--threshold-px", type=float, default=2.0, show_default=True, help="A wider circle of confusion is out of focus."
)
@click.option("--textures", type=click.Path(path_type=Path), help="Photographs to print on things.")
@click.option("--jobs", default=-1, show_default=True, help="Processes; -1 for one a core.")
@json_option
def synth(out: Path, as_json: bool, **options: Any) -> None:
    """Render scenes with exact depth and exact defocus, as a dataset.

    \b
    Example:
      softfocus synth scenes -n 500 && softfocus index synth scenes -o scenes.jsonl
    """
    from pipeline.synthetic import synthesize

    with _progress("render", "scenes") as progress:
        summary = synthesize(out, progress=progress, **options)
    _print(summary, as_json, [f"{out}: {summary.rendered} scenes rendered, {summary.kept} there before"])


@main.command()
@click.argument("manifest", type=click.Path(path_type=Path))
@click.option("--labels", type=click.Path(path_type=Path), help="The label store. Without it: masks alone.")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="The run folder.")
@click.option("--preset", default="lite", show_default=True, help="lite, paper-resnext101 or paper-vgg16.")
@click.option("--config", "file", type=click.Path(path_type=Path), help="YAML on top of the preset.")
@click.option("--epochs", type=int)
@click.option("--batch-size", type=int)
@click.option("--seed", type=int)
@click.option("--encoder-weights", help="auto, hub, shipped, none, or a file in timm's names.")
@click.option("--partial", is_flag=True, help="Use samples that lack a mask or a label for what they have.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Any other value of the config.")
@device_option
@json_option
def train(manifest: Path, labels: Path | None, out: Path, as_json: bool, **options: Any) -> None:
    """Train a student from photographs, masks and stored depth.

    \b
    Stopped at any moment, the same command goes on where it stopped. Examples:
      softfocus train cuhk.jsonl --labels labels -o runs/first
      softfocus train cuhk.jsonl --labels labels -o runs/long --epochs 300 --set optimiser.lr=0.002
    """
    from trainer.config import load_config
    from trainer.train import train

    overrides = list(options["overrides"])
    for option, key in TRAIN_OPTIONS.items():
        if options[option]:
            overrides.append(f"{key}={options[option]}")
    if options["seed"] is not None:
        overrides.append(f"seed={options['seed']}")
    config = load_config(preset=options["preset"], file=options["file"], overrides=overrides)
    with _progress("train", "steps") as show:
        summary = train(
            manifest,
            out=out,
            config=config,
            labels=labels,
            device=options["device"],
            say=_say,
            progress=lambda p: show(p.done, p.total, p.note, p.phase),
        )
    figures = ", ".join(f"{k} {v:.4f}" for k, v in summary.best.items() if k.startswith("val_"))
    best = f"  best epoch {summary.best['epoch']}: {figures}" if figures else "  no validation split"
    speed = f"{summary.seconds:.0f} s, {summary.images_per_second:.0f} images/s"
    _print(summary, as_json, [f"{out}: {summary.epochs} epochs, {speed}", best])


TRAIN_OPTIONS = {
    "epochs": "epochs",
    "batch_size": "data.batch_size",
    "encoder_weights": "student.encoder_weights",
    "partial": "data.partial",
}


@main.command()
@click.argument("manifest", type=click.Path(path_type=Path))
@click.option("--model", required=True, type=click.Path(path_type=Path), help="A run folder or .safetensors file.")
@click.option("--split", type=click.Choice(SPLITS), default="test", show_default=True)
@click.option("--labels", type=click.Path(path_type=Path), help="Also compare the student's depth with this store.")
@click.option("--input-size", type=click.IntRange(min=32), help="Side of the network's input. [default: as trained]")
@click.option("--per-image", type=click.Path(path_type=Path), help="Write each image's figures to this CSV file.")
@device_option
@json_option
def evaluate(manifest: Path, as_json: bool, per_image: Path | None, **options: Any) -> None:
    """Score a student on a split: MAE, F and IoU in the protocols of the field.

    \b
    Example:
      softfocus evaluate cuhk.jsonl --model runs/first --split test --json
    """
    from trainer.evaluate import evaluate

    with _progress("evaluate", "images") as progress:
        report = evaluate(manifest, progress=progress, **options)
    if per_image is not None:
        _write_csv(per_image, report.per_image)
    lines = [f"{report.model}: {report.images} images of {report.split} at {report.input_size} x {report.input_size}"]
    for protocol, measures in report.measures.items():
        lines.append(f"  {protocol:16s}" + "".join(f"  {name} {value:.4f}" for name, value in measures.items()))
    lines += [f"  depth             {name} {value:.4f}" for name, value in report.depth.items()]
    _print({**_builtins(report), "per_image": None}, as_json, lines)


@main.command()
@click.argument("photographs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Folder of the maps.")
@click.option("--model", required=True, type=click.Path(path_type=Path), help="A run folder or .safetensors file.")
@click.option("--depth", is_flag=True, help="Also write STEM.depth.png, white = near.")
@click.option("--input-size", type=click.IntRange(min=32), help="Side of the network's input. [default: as trained]")
@device_option
@json_option
def predict(photographs: tuple[Path, ...], as_json: bool, **options: Any) -> int:
    """Write a blur map of each photograph: STEM.png, at its own size, white = out of focus.

    \b
    Example:
      softfocus predict photos -o maps --model runs/first
    """
    from trainer.predict import predict

    with _progress("predict", "photographs") as progress:
        summary = predict(photographs, progress=progress, **options)
    _list_left_out(summary.failed)
    _print(summary, as_json, [f"{options['out']}: {len(summary.written)} maps"])
    return LEFT_OUT if summary.failed else 0


@main.command()
@click.option("-o", "--out", default="demo", show_default=True, type=click.Path(path_type=Path))
@click.option("--scenes", type=click.IntRange(min=20), default=160, show_default=True)
@click.option("--epochs", type=click.IntRange(min=1), default=12, show_default=True)
@click.option("--seed", default=0, show_default=True)
def demo(out: Path, scenes: int, epochs: int, seed: int) -> None:
    """Everything once, offline, in a few minutes: scenes, labels, a student, its figures, one page."""
    from trainer.demo import show_run

    manifest, labels, run = out / "scenes.jsonl", out / "labels", out / "run"
    commands = [
        f"synth {out / 'scenes'} --count {scenes} --size 256 384 --seed {seed}",
        f"index synth {out / 'scenes'} -o {manifest}",
        f"label {manifest} {labels} --teacher demo",
        f"train {manifest} --labels {labels} -o {run} --epochs {epochs} --encoder-weights shipped --seed {seed}"
        " --batch-size 16 --set data.input_size=192 --set data.prepared_size=224 --set validate_every=3",
        f"evaluate {manifest} --model {run} --split test --labels {labels}",
        f"predict {out / 'scenes' / 'image'} -o {out / 'maps'} --model {run}",
    ]
    for command in commands:
        click.echo(f"$ softfocus {command}")
        code = main.main(args=command.split(), prog_name="softfocus", standalone_mode=False)
        if code:
            raise SoftfocusError(f"demo: `softfocus {command}` ended with {code}")
    page = show_run(manifest, labels=labels, run=run, commands=commands, out=out / "index.html")
    click.echo(f"{page}: open it in a browser")


def _register_students() -> None:
    from pipeline.teachers import register_kind

    register_kind("demo", "trainer.teach:load_demo")
    register_kind("student", "trainer.teach:load_student_teacher")


def _say(line: str) -> None:
    click.echo(line, err=True)


def _fail(line: str, code: int) -> None:
    click.echo(f"softfocus: {line}", err=True)
    sys.exit(code)


def _list_left_out(lines: Iterable[str]) -> None:
    for line in lines:
        _say(f"left out: {line}")


def _builtins(result: Any) -> dict[str, Any]:
    import msgspec

    converted: dict[str, Any] = msgspec.to_builtins(result, enc_hook=str)
    return converted


def _print(result: Any, as_json: bool, lines: list[str]) -> None:
    if not as_json:
        click.echo("\n".join(lines))
        return
    facts = {key: _json_value(value) for key, value in _builtins(result).items() if value is not None}
    click.echo(json.dumps(facts, ensure_ascii=False, allow_nan=False))


def _json_value(value: Any) -> Any:
    """JSON has no NaN: a figure that is not defined becomes null."""
    if isinstance(value, dict):
        return {key: _json_value(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_json_value(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    import csv

    from pipeline.files import new_file

    with new_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else ["id"])
        writer.writeheader()
        writer.writerows(rows)


@contextlib.contextmanager
def _progress(verb: str, things: str) -> Iterator[Callable[..., None]]:
    """Progress on stderr with rate and time left: a bar on a terminal, a line every ten seconds in a log.

    What it yields is called as `show(done, total, note="", verb=...)`.
    """
    if not sys.stderr.isatty():
        yield _progress_lines(verb, things)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    text = TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn()
    rate = TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), TextColumn("{task.fields[note]}")
    with Progress(*text, *rate, console=Console(stderr=True)) as bars:
        tasks: dict[str, TaskID] = {}

        def show(done: int, total: int, note: str = "", verb: str = verb) -> None:
            if verb not in tasks:
                tasks[verb] = bars.add_task(verb, total=total, completed=done, rate="", note="")
            task = bars.tasks[tasks[verb]]
            speed = f"{task.speed:.1f} {things}/s" if task.speed else ""
            bars.update(tasks[verb], completed=done, total=total, note=note, rate=speed)

        yield show


def _progress_lines(verb: str, things: str) -> Callable[..., None]:
    first: dict[str, tuple[float, int]] = {}
    last: dict[str, float] = {}

    def show(done: int, total: int, note: str = "", verb: str = verb) -> None:
        now = time.monotonic()
        began, start = first.setdefault(verb, (now, done))
        if now - last.setdefault(verb, now) < 10:
            return
        last[verb] = now
        rate = (done - start) / (now - began)
        left = f", {(total - done) / rate:.0f} s left" if rate else ""
        _say(f"{verb}: {done}/{total} {things}, {rate:.1f}/s{left}{', ' + note if note else ''}")

    return show


if __name__ == "__main__":
    main()
