"""Commands that look at a label store: status, verify."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from commands.console import LEFT_OUT, PATH, SEED, Number, jobs_option, json_option, progress_bar, say, show_result
from commands.teacher import take_teacher, teacher_options, with_confidence

FINDINGS_SHOWN = 40


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


@click.command()
@click.argument("store", type=PATH)
@click.option("--manifest", type=PATH, help="Compare the store's photographs with these samples too.")
@jobs_option
@click.option(
    "--max-unknown", type=Number(0, 1), default=0.0, show_default=True, help="Share of a map without a value."
)
@click.option("--max-saturated", type=Number(0, 1), default=0.5, show_default=True, help="Share at one end of a map.")
@click.option("--repair", is_flag=True, help="Set aside what is damaged; with --manifest and --teacher make it again.")
@click.option("--sample", type=click.IntRange(min=1), metavar="N", help="Run the teacher again on N photographs.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of the choice of these.")
@click.option(
    "--tolerance",
    type=Number(min=0),
    default=0.005,
    show_default=True,
    help="Mean difference from the teacher, as a part of a map's range; ten times that for a single pixel.",
)
@teacher_options(required=False, device=True)
@json_option
def verify(store: Path, as_json: bool, **options: Any) -> int:
    """Read every byte of a label store and tell what is wrong with it.

    \b
    Ends with 0 if nothing is, 1 if something is damaged, 3 if nothing is damaged but something is missing
    or doubtful; after --repair it is about what is left. Examples:
      softfocus verify labels --manifest cuhk.jsonl
      softfocus verify labels --manifest cuhk.jsonl --teacher demo --sample 20
      softfocus verify labels --manifest cuhk.jsonl --teacher demo --repair
    """
    from pipeline.audit.repair import repair
    from pipeline.audit.shard import Limits
    from pipeline.audit.verify import Sampling, verify

    load, _ = take_teacher(options, store)
    load = load and with_confidence(load, store, None)[0]
    manifest, count, wants_repair = options["manifest"], options["sample"], options["repair"]
    if count and (load is None or manifest is None):
        raise click.UsageError("--sample needs --teacher and --manifest.")
    sampling = None
    if count and load is not None:
        sampling = Sampling(count=count, seed=options["seed"], tolerance=options["tolerance"], load_teacher=load)
    limits = Limits(unknown=options["max_unknown"], saturated=options["max_saturated"])

    def check() -> Any:
        with progress_bar("verify", "shards") as show:
            return verify(
                store,
                manifest=manifest,
                limits=limits,
                jobs=options["jobs"],
                sampling=sampling,
                progress=lambda p: show(p.done, p.total, verb=p.phase),
            )

    found = check()
    lines = []
    result: Any = found
    if wants_repair:
        result = repair(store, found, check=check, manifest=manifest, load_teacher=load)
        found = result.after
        lines += [f"set aside: {file} (now in {result.folder})" for file in result.set_aside]
        lines += [f"made again: {file}" for file in result.restored]
        lines += [f"removed: {file}" for file in result.removed]
        lines.append(f"{result.relabelled} photographs labelled again, {len(result.left_out)} left out")
    lines += [str(finding) for finding in found.findings[:FINDINGS_SHOWN]]
    if len(found.findings) > FINDINGS_SHOWN:
        lines.append(f"... and {len(found.findings) - FINDINGS_SHOWN} more (--json lists all)")
    lines += [
        f"{c.sample}: mean difference {c.mean:.3%} of the range, largest {c.largest:.3%}" for c in found.comparisons
    ]
    lines.append(
        f"{found.store}: {found.damage} damaged, {found.doubts} missing or doubtful; "
        f"{found.shards} shards, {found.maps} maps, {_megabytes(found.bytes)} read in {found.seconds:.1f} s"
    )
    show_result(result, as_json, lines)
    return 1 if found.damage else LEFT_OUT if found.doubts else 0


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
