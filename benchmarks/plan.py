"""A million photographs: planning, surveying and going on, each in a process of its own, by time and memory.

The photographs exist on paper only: a manifest of hashes and sizes. The shards are real files with real
seals and nothing in them, as nothing but seals is read here. Each step is what `softfocus label` or
`softfocus status` does around the work itself; the interpreter's start and the imports are in its time.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from pipeline.distill import label
from pipeline.distill.meters import StreamFigures
from pipeline.distill.tasks import Survey
from pipeline.distill.team import Outcome
from pipeline.errors import SoftfocusError
from pipeline.manifest import Sample, write_manifest
from pipeline.provenance import Provenance

__all__ = ["LIMIT_MIB", "LIMIT_S", "PlanRow", "measure_plan"]

LIMIT_S = 10.0
LIMIT_MIB = 1024.0
SIZES = ((427, 640), (640, 427), (480, 640), (3000, 4000))


class PlanRow(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a job.

    Attributes:
        seconds: wall time of the step's process.
        cpu_seconds: of it, on a core: what remains on a machine with nobody else.
        peak_mib: largest resident memory of the process.
        within: whether wall time and memory keep to LIMIT_S and LIMIT_MIB.
    """

    step: str
    samples: int
    shards: int
    seconds: float
    cpu_seconds: float
    peak_mib: float
    within: bool


def measure_plan(samples: int = 1_000_000, folder: Path | None = None) -> list[PlanRow]:
    """Every step once, in order.

    Args:
        folder: where manifest and store are made and left; a temporary one, removed, if None.
    """
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="softfocus-plan-") as temporary:
            return measure_plan(samples, Path(temporary))
    manifest, store = folder / "million.jsonl", folder / "labels"
    _run(f"write {samples}", manifest, store)  # apart, as a process's peak begins with that of its parent
    steps = [("plan", "plan"), ("fill", ""), ("status", "status, all but one shard done")]
    steps += [("label", "resume with one shard to do"), ("fill", ""), ("label", "resume of a finished job")]
    rows = []
    for step, name in steps:
        seconds, cpu_seconds, peak_mib = _run(step, manifest, store)
        if name:
            rows.append(
                PlanRow(
                    step=name,
                    samples=samples,
                    shards=len(list((store / "shards").glob("*.h5"))),
                    seconds=round(seconds, 2),
                    cpu_seconds=round(cpu_seconds, 2),
                    peak_mib=round(peak_mib),
                    within=seconds <= LIMIT_S and peak_mib <= LIMIT_MIB,
                )
            )
    return rows


def _samples(count: int) -> Iterator[Sample]:
    for number in range(count):
        digest = hashlib.sha256(b"%d" % number).hexdigest()
        height, width = SIZES[number % len(SIZES)]
        name = f"photographs/{digest[:2]}/{digest[2:18]}.jpg"
        yield Sample(id=f"million/{number:08d}", image=name, split="train", height=height, width=width, sha256=digest)


def _run(step: str, manifest: Path, store: Path) -> tuple[float, float, float]:
    """Seconds, CPU seconds and peak MiB of a step in its own process."""
    begin = time.perf_counter()
    root = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen([sys.executable, "-m", __name__, step, str(manifest), str(store)], env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SoftfocusError(f"the step {step!r} ended with {process.returncode}; its error stands above")
    return time.perf_counter() - begin, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


# In the step's process


class _OnPaper:
    """A team that has a teacher's size rule and does no work."""

    workers = 1

    def describe(self, sizes: npt.NDArray[np.int32]) -> tuple[Provenance, list[tuple[int, int]]]:
        provenance = Provenance(
            kind="bench",
            name="paper",
            weights_sha256="0" * 64,
            direction="inverse depth",
            preprocessing={},
            versions={},
        )
        return provenance, [(518, round(518 * width / height / 14) * 14) for height, width in sizes.tolist()]

    def work(self, survey: Survey, report: Callable[[StreamFigures], None]) -> Outcome:
        """Look at the first task, as work would begin with it."""
        next(survey.tasks())
        return Outcome(StreamFigures())

    def close(self) -> None:
        pass


def _label(manifest: Path, store: Path) -> None:
    label(manifest, store, load_teacher=_no_teacher, team=_OnPaper())


def _no_teacher() -> Any:
    raise AssertionError("the team has it")


def _status(manifest: Path, store: Path) -> None:
    from pipeline.audit.status import status

    status(store, manifest=manifest)


def _fill(_: Path, store: Path) -> None:
    """Seals for all shards but the last; called again, for that one too."""
    from pipeline.store import read_description, read_plan, shard_path
    from pipeline.store.description import SCHEMA
    from pipeline.store.seal import Seal, memory_file, write_sealed

    description = read_description(store)
    plan = read_plan(store, description)
    last = len(plan.shards) - 1
    begun = shard_path(store, 0).exists()
    os.fsync = lambda fd: None  # nothing here has to outlive a loss of power
    for number in range(last, last + 1) if begun else range(last):
        seal = Seal(
            softfocus="shard",
            schema=SCHEMA,
            store=description.fingerprint,
            number=number,
            planned=plan.shard_fingerprint(number),
            rows=int(plan.shards["count"][number]),
        )
        with memory_file() as file:
            write_sealed(shard_path(store, number), file, seal)


_STEPS: dict[str, Callable[[Path, Path], None]] = {"plan": _label, "label": _label, "status": _status, "fill": _fill}


def _main(step: str, manifest: Path, store: Path) -> None:
    if step.startswith("write "):
        write_manifest(manifest, _samples(int(step.split()[1])), root=manifest.parent)
    else:
        _STEPS[step](manifest, store)


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
