"""Many runs from one command: seeds x values, each in a folder of its own, gone on with after any stop.

OUT/GROUP/seed-S is a run folder as any other, GROUP the values that were varied (`depth_loss.weight=0.5`), so
that a folder is a group for `softfocus runs compare`. The seeds are the outer loop: what is finished is paired.
"""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from pipeline.contract import BLUR_PROBABILITY, INVERSE_DEPTH, SoftfocusError, new_file, read_manifest, sha256_file
from trainer.config import Config
from trainer.runs.trials import SweepError, Trial

__all__ = ["Job", "Outcome", "Report", "run_job", "sweep"]

RECORD = "sweep.json"


class Job(msgspec.Struct, frozen=True):
    """A trial with all that it takes to run it, in any process; `evaluate` names splits to score afterwards."""

    trial: Trial
    run: str
    manifest: str
    labels: str | None
    blur_labels: str | None
    config: Config
    evaluate: tuple[str, ...] = ()


class Outcome(msgspec.Struct, frozen=True):
    """What came of a trial: `finished`, `kept` (it was finished before) or `failed`, with the error in one line
    and, where nobody expected it, the traceback."""

    trial: Trial
    status: str
    seconds: float = 0.0
    error: str | None = None
    traceback: str | None = None


class Report(msgspec.Struct, frozen=True):
    """Where a run of a sweep stands: one of `slot` runs at once; see `trainer.train.TrainProgress`."""

    slot: int
    folder: str
    phase: str
    done: int
    total: int
    note: str = ""


def sweep(
    manifest: Path | str,
    *,
    out: Path | str,
    trials: Sequence[Trial],
    configure: Callable[[Trial], tuple[Config, Path | str | None, Path | str | None]],
    evaluate: Sequence[str] = (),
    devices: Sequence[str] = ("auto",),
    at_once: int = 1,
    say: Callable[[str], None] = lambda line: None,
    progress: Callable[[Report], None] = lambda report: None,
) -> list[Outcome]:
    """Train every trial that is not finished; one that fails is listed, and the others go on.

    Args:
        manifest: from `softfocus index`.
        out: the sweep's folder; `sweep.json` in it says what came of each trial so far.
        trials: from `plan_trials`; more of them can be added later.
        configure: a trial's configuration, and its stores of depth and of soft blur.
        evaluate: splits on which each run is scored when it is done.
        devices: where to train.
        at_once: runs at once on each device; more than one run at once takes a process for each.
        say: takes lines worth reading.
        progress: called as runs go on.

    Raises:
        SweepError: a folder holds a run of another configuration. Nothing was trained then.
        KeyboardInterrupt: after Ctrl-C, once the states of the runs in work are safe.
    """
    out = Path(out)
    _refuse_foreign(out)
    jobs = [_job(trial, configure, manifest, out, tuple(evaluate)) for trial in trials]
    done, to_do = _sorted_out(jobs)
    outcomes = {job.trial.folder: Outcome(job.trial, "kept") for job in done}
    before = _read_record(out)
    if done:
        say(f"{out}: {len(done)} of {len(jobs)} runs are finished already")

    def settle(outcome: Outcome) -> None:
        outcomes[outcome.trial.folder] = outcome
        _write_record(out, manifest, before, jobs, outcomes)
        error = f": {outcome.error}" if outcome.error else ""
        say(f"{len(outcomes)} of {len(jobs)}: {outcome.trial.folder} {outcome.status}{error}")

    _write_record(out, manifest, before, jobs, outcomes)
    said: set[str] = set()

    def say_once(line: str) -> None:  # most runs of a sweep have the same to say
        if line not in said:
            said.add(line)
            say(line)

    slots = [device for device in devices for _ in range(at_once)]
    if len(slots) == 1:
        for job in to_do:
            settle(run_job(job, slots[0], say=say_once, progress=progress))
    else:
        from trainer.runs.workers import run_jobs

        run_jobs(to_do, slots, settle=settle, say=say_once, progress=progress)
    return [outcomes[job.trial.folder] for job in jobs]


def run_job(
    job: Job,
    device: str,
    *,
    slot: int = 0,
    say: Callable[[str], None] = lambda line: None,
    progress: Callable[[Report], None] = lambda report: None,
) -> Outcome:
    """Train one trial in this process and score it; whatever it raises but an interruption is its outcome."""
    from trainer.evaluate import evaluate
    from trainer.runs.run_folder import write_evaluation
    from trainer.train import train

    folder, began = job.trial.folder, time.monotonic()
    try:
        train(
            job.manifest,
            out=job.run,
            config=job.config,
            labels=job.labels,
            blur_labels=job.blur_labels,
            device=device,
            say=say,
            progress=lambda p: progress(Report(slot, folder, p.phase, p.done, p.total, p.note)),
        )
        for split in job.evaluate:
            report = evaluate(
                job.manifest,
                model=job.run,
                split=split,
                labels=job.labels,
                device=device,
                progress=lambda done, total: progress(Report(slot, folder, "evaluate", done, total)),
            )
            write_evaluation(Path(job.run), report.name, report)
    except SoftfocusError as error:
        return Outcome(job.trial, "failed", round(time.monotonic() - began, 1), str(error))
    except Exception as error:  # the other runs of the night must go on
        line = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return Outcome(job.trial, "failed", round(time.monotonic() - began, 1), line, traceback.format_exc())
    finally:
        _free_memory()
    return Outcome(job.trial, "finished", round(time.monotonic() - began, 1))


def _job(
    trial: Trial,
    configure: Callable[[Trial], tuple[Config, Path | str | None, Path | str | None]],
    manifest: Path | str,
    out: Path,
    evaluate: tuple[str, ...],
) -> Job:
    config, *stores = configure(trial)
    labels, blur_labels = (str(store) if store else None for store in stores)
    return Job(trial, str(out / trial.folder), str(manifest), labels, blur_labels, config, evaluate)


def _refuse_foreign(out: Path) -> None:
    """Refuse a folder of something else, such as a run or a label store."""
    if out.exists() and not out.is_dir():
        raise SweepError(f"{out}: is a file; choose a folder with -o")
    entries = out.iterdir() if out.is_dir() else []
    files = sorted(entry.name for entry in entries if entry.is_file() and not entry.name.startswith("."))
    if files and RECORD not in files:
        raise SweepError(
            f"{out}: holds {files[0]!r} and no {RECORD}, so it is no sweep's; choose another folder with -o"
        )


def _sorted_out(jobs: Sequence[Job]) -> tuple[list[Job], list[Job]]:
    """Jobs that are finished, and those to do; refuses folders of other runs before anything is trained."""
    from trainer.runs.groups import SOURCES
    from trainer.runs.listing import read_run
    from trainer.runs.run_folder import CONFIG, differing_keys, flatten
    from trainer.samples.labels import open_labels, without_absent

    read_manifest(jobs[0].manifest)
    manifest = sha256_file(jobs[0].manifest)[:8]
    stores = {(job.labels, INVERSE_DEPTH, job.config.data.teacher) for job in jobs}
    stores |= {(job.blur_labels, BLUR_PROBABILITY, None) for job in jobs}
    fingerprints = {
        store: open_labels(store, quantity=quantity, teacher=teacher).fingerprint[:8] if store else None
        for store, quantity, teacher in stores
    }
    done: list[Job] = []
    to_do: list[Job] = []
    for job in jobs:
        if not (Path(job.run) / CONFIG).exists():
            to_do.append(job)
            continue
        run = read_run(job.run)
        there = {key: value for key, value in run.values.items() if key not in SOURCES}
        asked = without_absent(job.config, labels=job.labels, blur_labels=job.blur_labels)
        others = differing_keys(there, flatten(msgspec.json.decode(msgspec.json.encode(asked))))
        if others:
            raise SweepError(f"{job.run}: holds a run with other {', '.join(others)}; choose another folder with -o")
        same_data = run.values.get("manifest") == manifest and all(
            run.values.get(name) in (None, fingerprints[store])
            for name, store in (("labels", job.labels), ("blur_labels", job.blur_labels))
        )
        scored = set(job.evaluate) <= run.evaluations.keys()
        (done if run.finished and same_data and scored else to_do).append(job)
    return done, to_do


def _free_memory() -> None:
    """Give back what a run held on the GPU, for the next one and for other processes."""
    import torch

    gc.collect()  # recorded graphs and their students refer to each other
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _read_record(out: Path) -> list[dict[str, Any]]:
    file = out / RECORD
    try:
        return list(msgspec.json.decode(file.read_bytes())["runs"]) if file.exists() else []
    except (msgspec.DecodeError, KeyError, TypeError) as error:
        raise SweepError(f"{file}: not a sweep's record ({error}); delete it, the runs beside it stay") from error


def _write_record(
    out: Path,
    manifest: Path | str,
    before: Sequence[Mapping[str, Any]],
    jobs: Sequence[Job],
    outcomes: Mapping[str, Outcome],
) -> None:
    """What came of each trial, this command's and those of earlier ones in the same folder."""
    rows = {row["folder"]: dict(row) for row in before}
    for job in jobs:
        trial = job.trial
        outcome = outcomes.get(trial.folder)
        facts = {"folder": trial.folder, "values": trial.values, "seed": trial.seed, "labels": job.labels}
        facts["blur_labels"] = job.blur_labels
        if outcome is None:
            rows[trial.folder] = facts | {"status": "to do"}
        elif outcome.status != "kept" or rows.get(trial.folder, {}).get("status") != "finished":
            result = {key: getattr(outcome, key) for key in ("status", "seconds", "error", "traceback")}
            rows[trial.folder] = facts | {key: value for key, value in result.items() if value is not None}
    record = {"manifest": str(manifest), "runs": list(rows.values())}
    with new_file(out / RECORD) as temporary:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2))
