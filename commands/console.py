"""What every command shares: how it reports, what it prints, which options recur.

Results go to stdout, all else to stderr. Exit codes: 0 done; 1 an error, in one line; 2 wrong usage;
3 finished, but some samples were left out (each is listed); 130 interrupted.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click

LEFT_OUT = 3
WARNINGS_SHOWN = 3
SPLITS = ("train", "val", "test")

PATH = click.Path(path_type=Path)
SEED = click.IntRange(min=0)


class Number(click.FloatRange):
    """A number in a range; click's own lets NaN through every range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{number} is not a number", param, ctx)
        return number


class Jobs(click.IntRange):
    """Processes: a number from 1, or -1 for one a core."""

    def __init__(self) -> None:
        super().__init__(min=-1)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        number: int = super().convert(value, param, ctx)
        if number == 0:
            self.fail("0: give a number from 1, or -1 for one a core.", param, ctx)
        return number


def list_devices(text: str) -> list[str]:
    """The devices that a comma-separated list names; "all" is every CUDA device, or the CPU where there is none.

    What is not there is refused here, before processes are started for it.
    """
    names = [name.strip() for name in text.split(",")]
    if len(set(names)) < len(names) or not all(names):
        raise click.UsageError(f"--device {text}: name each device once, such as cuda:0,cuda:1")
    if len(names) == 1 and names != ["all"]:
        return names
    import torch

    there = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if names == ["all"]:
        return there[1:] or there
    absent = next((name for name in names if name not in there), None)
    if absent:
        raise click.UsageError(f"--device {text}: {absent} is not there; this machine has {', '.join(there)}")
    return names


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
jobs_option = click.option("--jobs", default=-1, show_default=True, type=Jobs(), help="Processes; -1 for one a core.")
device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")


def say(line: str) -> None:
    click.echo(line, err=True)


def list_left_out(lines: Iterable[str]) -> None:
    for line in lines:
        say(f"left out: {line}")


def builtins_of(result: Any) -> dict[str, Any]:
    import msgspec

    converted: dict[str, Any] = msgspec.to_builtins(result, enc_hook=str)
    return converted


def show_result(result: Any, as_json: bool, lines: list[str]) -> None:
    if not as_json:
        click.echo("\n".join(lines))
        return
    facts = {key: _json_value(value) for key, value in builtins_of(result).items() if value is not None}
    click.echo(json.dumps(facts, ensure_ascii=False, allow_nan=False))


def _json_value(value: Any) -> Any:
    """JSON has no NaN: a figure that is not defined becomes null."""
    if isinstance(value, dict):
        return {key: _json_value(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_json_value(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(rows: Iterable[Iterable[str]]) -> list[str]:
    """Rows of cells as lines with aligned columns."""
    cells = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]


def markdown_table(rows: Iterable[Iterable[str]]) -> list[str]:
    """Rows of cells, the heading first, as lines of Markdown."""
    heading, *others = [f"| {' | '.join(row)} |" for row in rows]
    return [heading, "|" + "---|" * (heading.count("|") - 1), *others]


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    import csv

    from pipeline.files import new_file

    with new_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else ["id"])
        writer.writeheader()
        writer.writerows(rows)


@contextlib.contextmanager
def progress_bar(verb: str, things: str) -> Iterator[Callable[..., None]]:
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
            if done < task.completed:  # another run of a sweep
                bars.reset(tasks[verb], total=total, completed=done)
            speed = f"{task.speed:.1f} {things}/s" if task.speed else ""
            bars.update(tasks[verb], completed=done, total=total, note=note, rate=speed)

        yield show


def _progress_lines(verb: str, things: str) -> Callable[..., None]:
    first: dict[str, tuple[float, int]] = {}
    last: dict[str, float] = {}
    before: dict[str, int] = {}

    def show(done: int, total: int, note: str = "", verb: str = verb) -> None:
        now = time.monotonic()
        if done < before.get(verb, 0):  # another run of a sweep
            first.pop(verb)
            last.pop(verb)
        before[verb] = done
        began, start = first.setdefault(verb, (now, done))
        if now - last.setdefault(verb, now) < 10:
            return
        last[verb] = now
        rate = (done - start) / (now - began)
        left = f", {(total - done) / rate:.0f} s left" if rate else ""
        say(f"{verb}: {done}/{total} {things}, {rate:.1f}/s{left}{', ' + note if note else ''}")

    return show
