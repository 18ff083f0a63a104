"""The benchmarks of stage 2: bench student, loading, step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from commands.console import PATH, Number, device_option, json_option, say, show_result, table


def seconds_option(default: float) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(
        "--seconds",
        type=Number(min=0),
        default=default,
        show_default=True,
        help="A turn takes about so long.",
    )


@click.command()
@click.option(
    "--students",
    default="lite,base,paper-vgg16,paper-resnext101",
    show_default=True,
    help="Presets; ratios are to paper-resnext101.",
)
@click.option("--batches", help="Images at once. [default: 1,32 on a GPU, 1,4 on a CPU]")
@click.option("--size", type=click.IntRange(min=32), default=320, show_default=True, help="Side of the input.")
@click.option("--compile/--no-compile", "compiled", default=None, help="Also compiled. [default: on a GPU]")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads. [default: one a core]")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Turns of the timing.")
@seconds_option(0.3)
@click.option("--search-kernels", is_flag=True, help="Let cuDNN try its kernels: a minute a network.")
@device_option
@json_option
def student(students: str, batches: str | None, device: str, threads: int | None, as_json: bool, **how: Any) -> None:
    """Frames per second of students beside the paper's networks, with parameters and arithmetic.

    \b
    Examples:
      softfocus bench student
      softfocus bench student --device cpu --threads 2 --students lite,paper-resnext101
    """
    import torch

    from benchmarks.student import count_size, measure_rates
    from trainer.device import choose_device

    where, names = choose_device(device), students.split(",")
    on_gpu = where.type == "cuda"
    how["compiled"] = on_gpu if how["compiled"] is None else how["compiled"]
    if threads:
        torch.set_num_threads(threads)
    counts = [int(count) for count in (batches or ("1,32" if on_gpu else "1,4")).split(",")]
    sizes = [count_size(name, how["size"]) for name in names]
    rates = measure_rates(names, device=where, batches=counts, say=say, **how)
    card = torch.cuda.get_device_name(where) if on_gpu else f"cpu, {torch.get_num_threads()} threads"
    lines = table(
        [["student", "input", "parameters", "GFLOPs"]]
        + [[s.student, f"{s.input_size}", f"{s.parameters / 1e6:.2f} M", f"{s.gflops:.1f}"] for s in sizes]
    )
    rows = [["student", "batch", "mode", "layout", "frames/s", "TFLOP/s", "of paper-resnext101"]]
    for r in sorted(rates, key=lambda r: (r.batch, r.mode, -r.frames_per_second)):
        ratio = "" if r.ratio is None else f"{r.ratio:.1f} x"
        rows.append(
            [
                r.student,
                f"{r.batch}",
                r.mode,
                r.layout,
                f"{r.frames_per_second:.1f}",
                f"{r.tflops_per_second:.2f}",
                ratio,
            ]
        )
    show_result({"device": card, "sizes": sizes, "rates": rates}, as_json, [card, *lines, "", *table(rows)])


@click.command()
@click.argument("manifest", type=PATH, required=False)
@click.option("--labels", type=PATH, help="The label store. [default: made by the demo's teacher]")
@click.option("--count", type=click.IntRange(min=1), default=64, show_default=True, help="Photographs, evenly spread.")
@click.option("--size", type=click.IntRange(min=32), default=400, show_default=True, help="Side of prepared samples.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Turns of the timing.")
@seconds_option(1.0)
@json_option
def loading(manifest: Path | None, labels: Path | None, count: int, as_json: bool, **how: Any) -> None:
    """Samples a second on one core: label store and mapped cache against JPEG, PNG and 16-bit PNG files.

    Without a manifest scenes are rendered.

    \b
    Example:
      softfocus bench loading cuhk.jsonl --labels labels
    """
    from benchmarks.loading import compare_loading

    with _material(manifest, labels, count, split=None) as (samples, reader):
        rows = compare_loading(samples, reader, **how)
    cells = [["way", "samples/s a core", "of the files", "KB a sample"]]
    for row in rows:
        cells.append([row.way, f"{row.samples_per_second:.0f}", f"{row.ratio:.1f} x", f"{row.bytes / 1000:.0f}"])
    show_result({"samples": len(samples), "size": how["size"], "rows": rows}, as_json, table(cells))


@click.command()
@click.argument("manifest", type=PATH, required=False)
@click.option("--labels", type=PATH, help="The label store. [default: made by the demo's teacher]")
@click.option("--count", type=click.IntRange(min=1), default=128, show_default=True, help="Photographs.")
@click.option("--preset", default="lite", show_default=True)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="A value of the config.")
@click.option("--teachers", default="small,large", show_default=True, help="Depth Anything V2 sizes to run online.")
@click.option("--teacher-size", type=click.IntRange(min=14), default=518, show_default=True)
@click.option(
    "--label-rate", "rates", multiple=True, metavar="NAME=RATE", help="Stage 1's measured maps/s, for the break-even."
)
@click.option(
    "--decoded-steps",
    type=click.IntRange(min=0),
    default=60,
    show_default=True,
    help="Steps with samples decoded anew.",
)
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Turns of the timing.")
@seconds_option(0.5)
@device_option
@json_option
def step(manifest: Path | None, labels: Path | None, count: int, as_json: bool, **options: Any) -> None:
    """A training step with stored depth against the bare step, and against a teacher in the loop.

    Without a manifest scenes are rendered. Three minutes on a GPU, most of it compiling the teachers.

    \b
    Example:
      softfocus bench step cuhk.jsonl --labels labels --label-rate small=1900
    """
    from benchmarks.step import measure_steps
    from trainer.config import load_config
    from trainer.device import choose_device

    config = load_config(preset=options["preset"], overrides=options["overrides"])
    try:
        rates = {name: float(rate) for name, _, rate in (text.partition("=") for text in options["rates"])}
    except ValueError as error:
        raise click.UsageError("--label-rate wants NAME=RATE, such as small=1900") from error
    with _material(manifest, labels, count, split="train") as (samples, reader):
        report = measure_steps(
            samples,
            reader,
            config,
            device=choose_device(options["device"]),
            teachers=[name for name in options["teachers"].split(",") if name],
            teacher_size=options["teacher_size"],
            label_rates=rates,
            rounds=options["rounds"],
            seconds=options["seconds"],
            decoded_steps=options["decoded_steps"],
            say=say,
        )
    rows = [["way", "ms a step", "images/s", "of the bare step"]]
    rows += [[r.way, f"{r.milliseconds:.2f}", f"{r.images_per_second:.0f}", f"{r.of_bare:.2f} x"] for r in report.steps]
    lines = [f"{report.device}: batch {report.batch} at {report.input_size} x {report.input_size}", *table(rows)]
    lines += [f"GPU waits, {way}: {100 * share:.1f} % of the time" for way, share in report.waiting.items()]
    for r in report.online:
        after = (
            "has saved nothing in this run"
            if r.break_even_epochs is None
            else f"has paid for itself after {r.break_even_epochs:.2f} epochs"
        )
        lines.append(
            f"{r.teacher} online: {r.ratio:.2f} times an offline step (bound {r.bound:.2f}); labelling once at "
            f"{r.label_images_per_second:.0f} images/s {after}"
        )
    show_result(report, as_json, lines)


@contextlib.contextmanager
def _material(manifest: Path | None, labels: Path | None, count: int, *, split: str | None) -> Iterator[Any]:
    """Samples with masks and labels, and the reader; rendered and labelled in a temporary folder where not given."""
    from benchmarks.scenes import render, store_depth
    from pipeline.contract import LabelReader, SoftfocusError, read_manifest

    with TemporaryDirectory(prefix="softfocus-bench-") as folder:
        if manifest is None:
            say(f"rendering {count} scenes")
            manifest, split = render(Path(folder), count=count), None
        reader = LabelReader(labels) if labels is not None else None
        samples = [s for s in read_manifest(manifest, split=split) if s.mask and (reader is None or s.id in reader)]
        if not samples:
            raise SoftfocusError(f"{manifest}: no sample has a mask and a label in {labels}; give others")
        chosen = samples[:: max(len(samples) // count, 1)][:count]
        if reader is None:
            say("storing depth with the demo's teacher")
            reader = LabelReader(store_depth(chosen, Path(folder)))
        yield chosen, reader
