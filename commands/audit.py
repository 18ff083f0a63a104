"""Commands that look at a label store: status, verify."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from commands.console import PATH, json_option, say, show_result


@click.command()
@click.argument("store", type=PATH)
@click.option("--manifest", type=PATH, help="Also count its samples with labels, by split.")
@json_option
def status(store: Path, manifest: Path | None, as_json: bool) -> None:
    """Tell how far a label store is: shards, photographs, bytes, rate, time left.

    \b
    Reads no maps, disturbs no run. Example:
      softfocus status labels --manifest cuhk.jsonl
    """
    from pipeline.audit.status import status
    from pipeline.store import split_table

    found = status(store, manifest=manifest)
    for problem in found.problems:
        say(f"damaged: {problem}")
    lines = [
        f"{found.store}: {found.dtype} maps of {found.teacher}",
        f"  shards       {found.shards_done} of {found.shards} done, {found.shards_in_work} in work, "
        f"{found.shards_missing} missing, {found.shards_damaged} damaged",
        f"  photographs  {found.labelled} of {found.photographs} labelled, {found.failed} left out",
        f"  bytes        {_megabytes(found.bytes)} of about {_megabytes(found.bytes_expected)}",
        f"  rate         {_rate(found)}",
    ]
    lines += [f"  at work      {w.host}, process {w.pid}: shard {w.shard}" for w in found.workers]
    if found.left_over:
        lines.append(f"  left over    {found.left_over} files of killed runs; the next `softfocus label` removes them")
    if found.splits:
        lines += split_table(found.splits)
    if found.unplanned:
        lines.append(f"{found.unplanned} samples are not planned yet; run `softfocus label`")
    show_result(found, as_json, lines)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def _rate(found: Any) -> str:
    if found.shards_done == found.shards:
        return "done"
    if found.seconds_left is None:
        return "not known yet"
    whose = "" if found.workers else " once a worker runs"
    return f"{found.rate:.1f} maps/s, {_duration(found.seconds_left)} left{whose}"


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes > 2 else f"{seconds:.0f} s"
