"""Commands over many runs: runs list, runs compare, sweep."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from commands.console import (
    LEFT_OUT,
    PATH,
    SPLITS,
    Number,
    builtins_of,
    json_option,
    list_devices,
    list_left_out,
    progress_bar,
    say,
    show_result,
    table,
)
from commands.training import config_from, config_options, labels_options

figure_option = click.option(
    "--figure",
    default="mae",
    show_default=True,
    help="mae, f, iou, depth or soft_blur; of an evaluation also PROTOCOL.MEASURE, such as paper.f_adaptive.",
)
evaluation_option = click.option(
    "--evaluation", help="A saved evaluation, such as test. [default: training's own validation]"
)
epoch_option = click.option(
    "--epoch", type=click.Choice(["best", "last"]), default="best", show_default=True, help="Of the validation."
)


@click.group()
def runs() -> None:
    """List run folders, and compare groups of them.

    \b
    Example:
      softfocus runs list runs
    """


@runs.command("list")
@click.argument("folders", nargs=-1, required=True, type=PATH)
@click.option("--curves", type=PATH, help="Draw the validation curves of the groups into this PNG.")
@json_option
def list_runs(folders: tuple[Path, ...], curves: Path | None, as_json: bool) -> int:
    """Show runs with the values in which they differ, their figures, and each group's mean over its seeds.

    Runs are the folders given, those that a pattern matches, and those anywhere below a folder. Runs that
    differ in nothing but their seed are one group; mean and deviation (n - 1) are over its finished runs.

    \b
    Example:
      softfocus runs list runs/depth 'runs/masks-*'
    """
    from trainer.runs.listing import RunError, find_runs, read_run

    found, damaged = [], []
    for folder in find_runs(folders):
        try:
            found.append(read_run(folder))
        except RunError as error:
            damaged.append(str(error))
    list_left_out(damaged)
    listing = describe_runs(found)
    if curves is not None:
        draw_curves_of(found, curves)
    show_result(listing, as_json, listing_lines(listing))
    return LEFT_OUT if damaged else 0


def draw_curves_of(found: Sequence[Any], path: Path) -> None:
    from trainer.report import draw_groups
    from trainer.runs.groups import group_runs

    draw_groups({group.name: [run.history for run in group.runs] for group in group_runs(found)}, path)


def describe_runs(found: Sequence[Any]) -> dict[str, Any]:
    """Runs and groups as plain values: what `runs list --json` prints."""
    from trainer.runs.figures import usual_figures
    from trainer.runs.groups import group_runs, spread, values_that_differ

    figures = usual_figures(found)
    keys = values_that_differ(found)
    rows = [
        {
            "run": str(run.folder),
            "finished": run.finished,
            "epochs": [run.epochs, run.values.get("epochs")],
            "best_epoch": run.row("best").get("epoch"),
            "seed": run.seed,
            "values": {key: run.values.get(key) for key in keys},
            "figures": {figure.short: figure.of(run) for figure in figures},
            "teacher": (run.record.get("teacher") or {}).get("name"),
            "device": run.record.get("device"),
        }
        for run in found
    ]
    groups = [
        {
            "group": group.name,
            "seeds": [run.seed for run in group.runs if run.finished],
            "unfinished": [str(run.folder) for run in group.runs if not run.finished],
            "figures": {
                figure.short: spread([run for run in group.runs if run.finished], figure) for figure in figures
            },
        }
        for group in group_runs(found)
    ]
    return {"runs": rows, "groups": groups}


def listing_lines(listing: dict[str, Any]) -> list[str]:
    """The same as two tables."""
    figures = list(listing["runs"][0]["figures"]) if listing["runs"] else []
    keys = list(listing["runs"][0]["values"]) if listing["runs"] else []
    rows = [["run", "epochs", "seed", *keys, *figures, "best at"]]
    for run in listing["runs"]:
        done, total = run["epochs"]
        rows.append(
            [
                run["run"],
                f"{done}" if run["finished"] else f"{done} of {total}",
                f"{run['seed']}",
                *(f"{run['values'][key]}" for key in keys),
                *("-" if value is None else f"{value:.4f}" for value in run["figures"].values()),
                f"{run['best_epoch']:.0f}" if run["best_epoch"] else "-",
            ]
        )
    groups = [["group", "runs", *figures]]
    for group in listing["groups"]:
        count = f"{len(group['seeds'])}" + (f" (+{len(group['unfinished'])})" if group["unfinished"] else "")
        groups.append([group["group"], count, *("-" if s is None else str(s) for s in group["figures"].values())])
    lines = [*table(rows), "", *table(groups)]
    if any(group["unfinished"] for group in listing["groups"]):
        lines.append("(+n) runs are not finished and not in the mean")
    return lines


class TwoGroups(click.Command):
    """Lets `--with` take all words up to the next option, as a shell expands a pattern to."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, list(_with_each(args)))


def _with_each(args: Sequence[str]) -> Iterator[str]:
    inside, fresh = False, False
    for word in args:
        if word.startswith("-"):
            inside, fresh = word == "--with", True
        elif inside and not fresh:
            yield "--with"
        else:
            fresh = False
        yield word


@runs.command(cls=TwoGroups)
@click.argument("a", nargs=-1, required=True, type=PATH)
@click.option("--with", "b", multiple=True, required=True, type=PATH, metavar="B...", help="The runs to compare with.")
@figure_option
@evaluation_option
@epoch_option
@click.option("--by", multiple=True, metavar="KEY", help="The value in which A and B are meant to differ.")
@click.option("--paired-only", is_flag=True, help="Leave out seeds that only one group has.")
@click.option("--confidence", type=Number(0.5, 1, max_open=True), default=0.95, show_default=True)
@json_option
def compare(a: tuple[Path, ...], b: tuple[Path, ...], as_json: bool, **options: Any) -> None:
    """Compare two groups of runs, paired by seed: the mean difference and its confidence intervals.

    Each group is run folders, patterns, or folders of runs. Their seeds must be the same, and within a group
    nothing else may differ but what --by names. The first interval is Student's t over the seeds; where figures
    of each image were saved (by `evaluate`, or by training), two more say whether other photographs would show
    the same.

    \b
    Examples:
      softfocus runs compare 'runs/depth-*' --with 'runs/masks-*'
      softfocus runs compare runs/w/depth_loss.weight=0.5 --with runs/w/depth_loss.weight=0 --evaluation test
    """
    from trainer.runs.comparison import compare
    from trainer.runs.figures import Figure
    from trainer.runs.listing import find_runs, read_run

    figure = Figure(options.pop("figure"), options.pop("evaluation"), options.pop("epoch"))
    groups = [[read_run(folder) for folder in find_runs(side)] for side in (a, b)]
    result = compare(*groups, figure=figure, **options)
    for warning in result.warnings:
        say(f"warning: {warning}")
    rows = [["seed", "A", "B", "A minus B"]]
    rows += [[f"{p.seed}", f"{p.a:.4f}", f"{p.b:.4f}", f"{p.difference:+.4f}"] for p in result.pairs]
    lines = [result.figure + ("" if result.lower_is_better else " (higher is better)")]
    lines += [f"{key}: A {ours}, B {theirs}" for key, (ours, theirs) in result.differs.items()]
    show_result({**builtins_of(result), "words": result.lines}, as_json, [*lines, *table(rows), *result.lines])


@click.command()
@click.argument("manifest", type=PATH)
@labels_options
@click.option("-o", "--out", required=True, type=PATH, help="Folder of the sweep; its runs are folders below.")
@click.option("--seeds", default="0-2", show_default=True, help="Such as 0-4 or 0,3,7.")
@click.option(
    "--vary",
    multiple=True,
    metavar="KEY=A,B,...",
    help="A value of the config, or preset, config, labels or blur_labels, to try with each of these values.",
)
@click.option("--follow-seed", multiple=True, metavar="KEY", help="A value of the config that is set to the seed.")
@click.option("--evaluate", multiple=True, type=click.Choice(SPLITS), help="Also score each finished run on a split.")
@click.option(
    "--device",
    "--devices",
    default="auto",
    show_default=True,
    help="auto, cpu, cuda, cuda:N; several with commas; all: every CUDA device.",
)
@click.option("--at-once", type=click.IntRange(min=1), default=1, show_default=True, help="Runs at once on a device.")
@config_options
@json_option
def sweep(manifest: Path, out: Path, as_json: bool, **options: Any) -> int:
    """Train over seeds and values: every combination is a run, and the table of their means comes last.

    Finished runs are kept, stopped ones go on, a failed one is listed (exit code 3) and the others go on. More
    seeds or values can be added later with the same folder.

    \b
    Examples:
      softfocus sweep cuhk.jsonl --labels labels -o runs/depth --seeds 0-4 --vary depth_loss.weight=0,0.5
      softfocus sweep cuhk.jsonl -o runs/few --vary data.mask_fraction=0.05,0.25 --vary labels=small,large --partial
    """
    from trainer.runs.sweep import sweep
    from trainer.runs.trials import Trial, parse_seeds, parse_values, plan_trials

    def configure(trial: Trial) -> tuple[Any, Path | None, Path | None]:
        values = dict(trial.values)
        chosen = {
            **options,
            "preset": values.pop("preset", options["preset"]),
            "file": Path(values.pop("config")) if "config" in values else options["file"],
        }
        stores = [values.pop(name, options[name]) for name in ("labels", "blur_labels")]
        labels, blur_labels = (Path(store) if store else None for store in stores)
        overrides = [f"{key}={json.dumps(value)}" for key, value in values.items()]
        overrides += [f"{key}={trial.seed}" for key in ("seed", *options["follow_seed"])]
        return config_from(chosen, overrides=overrides), labels, blur_labels

    trials = plan_trials(parse_values(options["vary"]), parse_seeds(options["seeds"]))
    with progress_bar("train", "steps") as show:
        outcomes = sweep(
            manifest,
            out=out,
            trials=trials,
            configure=configure,
            evaluate=options["evaluate"],
            devices=list_devices(options["device"]),
            at_once=options["at_once"],
            say=say,
            progress=lambda r: show(
                r.done, r.total, f"{r.folder}{', ' if r.note else ''}{r.note}", f"{r.phase} {r.slot}"
            ),
        )
    failed = [f"{outcome.trial.folder}: {outcome.error}" for outcome in outcomes if outcome.status == "failed"]
    list_left_out(failed)
    found = [run for run in map(read_if_there, (out / outcome.trial.folder for outcome in outcomes)) if run]
    listing = describe_runs(found)
    if found:
        draw_curves_of(found, out / "curves.png")
    counts = Counter(outcome.status for outcome in outcomes)
    lines = [f"{out}: " + ", ".join(f"{count} {status}" for status, count in counts.items())]
    show_result({"outcomes": outcomes, **listing}, as_json, [*lines, "", *listing_lines(listing)])
    return LEFT_OUT if failed else 0


def read_if_there(folder: Path) -> Any:
    """A run, or None where a failed one has left nothing that can be read."""
    from trainer.runs.listing import RunError, read_run

    try:
        return read_run(folder)
    except RunError:
        return None
