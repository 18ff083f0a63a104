"""Many workers: the store is that of one, whoever dies."""

from __future__ import annotations

import functools
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner
from conftest import differing_shards
from test_distill import RampTeacher, add_photographs, files, make_set, no_teacher, spoil, temporaries

from cli import main
from commands.console import list_devices
from pipeline.distill import LabelProgress, LabelSummary, label
from pipeline.distill.processes import Processes
from pipeline.distill.worker import Order, thread_share
from pipeline.errors import SoftfocusError
from pipeline.manifest import write_manifest
from pipeline.store import LabelReader
from pipeline.teachers.base import TeacherError

ROOT = Path(__file__).parents[1]
PATH = [str(ROOT), str(ROOT / "tests")]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DyingTeacher(RampTeacher):
    """Kills its process over the photograph of one brightness, and leaves a file for each time."""

    def __init__(self, deaths: Path, brightness: int, times: int) -> None:
        super().__init__()
        self.deaths, self.brightness, self.times = deaths, brightness, times

    def predict(self, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if (images == self.brightness).all(axis=(1, 2, 3)).any() and len(list(self.deaths.iterdir())) < self.times:
            (self.deaths / str(os.getpid())).touch()
            die()
        return super().predict(images)


class FailingTeacher(RampTeacher):
    """Fails over the brightest photographs."""

    def predict(self, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if images.mean() > 8:
            raise TeacherError("test:failing: device lost; take another")
        return super().predict(images)


def load_and_die() -> RampTeacher:
    die()
    return RampTeacher()


def processes(store: Path, load: Callable[[], Any], count: int = 2, batch_size: int = 2) -> Processes:
    order = Order(run=str(time.time()), began=time.time(), store=store, load=load, batch_size=batch_size, threads=1)
    return Processes([order] * count)


def label_together(
    manifest: Path, store: Path, load: Callable[[], Any] = RampTeacher, count: int = 2, **options: Any
) -> LabelSummary:
    """`label` by worker processes; this process is to load no teacher."""
    team = processes(store, load, count)
    options = {"shard_size": 2} | options
    return label(manifest, store, load_teacher=no_teacher, team=team, **options)


# Worker processes


def test_two_processes_make_the_store_of_one(tmp_path: Path) -> None:
    """Byte for byte; the copies of a photograph are labelled once; a second run starts no process."""
    samples = add_photographs(tmp_path / "p", {f"{i:02d}": i // 2 for i in range(24)})  # each one twice
    manifest, store = tmp_path / "m.jsonl", tmp_path / "labels"
    write_manifest(manifest, samples, root=tmp_path / "p")
    label(manifest, tmp_path / "peace", load_teacher=RampTeacher, shard_size=2)
    seen: list[LabelProgress] = []
    summary = label_together(manifest, store, progress=seen.append)
    assert (summary.samples, summary.labelled, summary.kept, summary.failed) == (24, 12, 0, [])
    assert (summary.shards, summary.workers, summary.deaths) == (6, 2, 0)
    assert summary.bytes == sum(path.stat().st_size for path in (store / "shards").iterdir())
    assert differing_shards(store, tmp_path / "peace") == []
    assert (seen[-1].done, seen[-1].total, seen[-1].shards_done, seen[-1].workers) == (12, 12, 6, 2)
    before = files(store)
    again = label_together(manifest, store, load=no_teacher, shard_size=None)
    assert (again.labelled, again.kept, again.stage_seconds) == (0, 12, {})
    assert files(store) == before


def test_failed_photographs_are_told_and_tried_again(tmp_path: Path) -> None:
    """As with one process: the reasons come from the disk, and only what failed is done again."""
    manifest, store = make_set(tmp_path), tmp_path / "labels"
    spoil(tmp_path)
    summary = label_together(manifest, store)
    assert [name for name, _ in summary.failed] == ["set/02", "set/03", "set/05"]
    assert (summary.labelled, summary.kept) == (7, 0)
    add_photographs(tmp_path / "photographs", {"03": 3})
    again = label_together(manifest, store, retry_failed=True)
    assert [name for name, _ in again.failed] == ["set/02", "set/05"]
    assert (again.labelled, again.kept, again.deaths) == (1, 7, 0)


def test_worker_that_dies_costs_its_open_shards_only(tmp_path: Path) -> None:
    """The run goes on and the store is whole; what was finished stays as it is."""
    manifest, store, deaths = make_set(tmp_path, 20), tmp_path / "labels", tmp_path / "deaths"
    deaths.mkdir()
    summary = label_together(manifest, store, functools.partial(DyingTeacher, deaths, 7, times=1))
    assert (summary.labelled, summary.failed, summary.deaths) == (20, [], 1)
    label(manifest, tmp_path / "peace", load_teacher=RampTeacher, shard_size=2)
    assert differing_shards(store, tmp_path / "peace") == []


def test_shard_that_kills_every_worker_is_left_out(tmp_path: Path) -> None:
    """After three deaths; its photographs are listed, the others labelled, and another run tries again."""
    manifest, store, deaths = make_set(tmp_path, 20), tmp_path / "labels", tmp_path / "deaths"
    deaths.mkdir()
    summary = label_together(manifest, store, functools.partial(DyingTeacher, deaths, 7, times=9))
    assert (summary.labelled, summary.kept, summary.deaths) == (18, 0, 3)
    (first, reason), (second, _) = summary.failed
    assert {first, second} > {"set/07"}
    assert "begun 3 times and its worker died: SIGKILL(-9)" in reason
    assert temporaries(store) == []
    assert label(manifest, store, load_teacher=RampTeacher).labelled == 2


def test_error_of_a_worker_is_the_runs_error(tmp_path: Path) -> None:
    """Its own line, with the finished shards kept, and no process left."""
    manifest, store = make_set(tmp_path, 20), tmp_path / "labels"
    with pytest.raises(TeacherError, match="device lost; take another"):
        label_together(manifest, store, FailingTeacher)
    assert len(LabelReader(store)) >= 2
    assert temporaries(store) == []
    assert label(manifest, store, load_teacher=RampTeacher).failed == []


def test_workers_that_die_at_once_end_the_run(tmp_path: Path) -> None:
    """Too many for the memory: one clear error instead of new processes for ever."""
    with pytest.raises(SoftfocusError, match=r"die before they begin: .*SIGKILL.*--processes"):
        label_together(make_set(tmp_path, 4), tmp_path / "labels", load_and_die)


def test_threads_are_shared_among_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for: as asked. Else each gets its share of the cores, one at least."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(10)))
    assert [thread_share(3, 4), thread_share(-1), thread_share(-1, 4), thread_share(-1, 99)] == [3, 10, 2, 1]


# Ends that nobody asked for

JOB = """
import functools, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job begins with it ignored
sys.path[:0] = {path!r}
from pathlib import Path
from test_distill import RampTeacher
from test_workers import processes, no_teacher
from pipeline.distill import label
load = functools.partial(RampTeacher, pause_s={pause_s})
if __name__ == "__main__":
    store = Path({store!r})
    print("ready", flush=True)
    try:
        label({manifest!r}, store, load_teacher=no_teacher, team=processes(store, load), shard_size=2)
    except KeyboardInterrupt:
        sys.exit(130)
"""


def start_job(manifest: Path, store: Path, pause_s: float = 0.02) -> subprocess.Popen[str]:
    """Two workers and their driver, in a process group of their own."""
    code = JOB.format(path=PATH, manifest=str(manifest), store=str(store), pause_s=pause_s)
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def group(pgid: int) -> list[int]:
    """The living processes of a group."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            state, _, pgrp = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
        except (OSError, ValueError):
            continue
        if int(pgrp) == pgid and state != "Z":
            found.append(int(entry.name))
    return found


def workers_of(driver: subprocess.Popen[str]) -> list[int]:
    """The worker processes of a driver (loky has a process beside them that keeps its resources)."""
    found = []
    for pid in group(driver.pid):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_text()
        except OSError:
            continue
        if pid != driver.pid and "tracker" not in command:
            found.append(pid)
    return found


def wait_until(happened: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := happened()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
    return found


def shards(store: Path) -> int:
    return len(list((store / "shards").glob("[0-9]*.h5")))


def test_interrupted_driver_takes_its_workers_along(tmp_path: Path) -> None:
    """Ctrl-C, which a terminal sends to all: no process is left, no temporary file, and 130."""
    manifest, store = make_set(tmp_path, 200), tmp_path / "labels"
    with start_job(manifest, store, pause_s=1.0) as job:  # fifty seconds if nothing stops it
        wait_until(lambda: shards(store) >= 2)
        os.killpg(job.pid, signal.SIGINT)
    assert job.returncode == 130
    wait_until(lambda: not group(job.pid), 10)
    assert temporaries(store) == []
    assert 2 <= shards(store) < 100


def test_workers_of_a_killed_driver_end_by_themselves(tmp_path: Path) -> None:
    """Within a batch; the next run goes on with what they finished."""
    manifest, store = make_set(tmp_path, 200), tmp_path / "labels"
    with start_job(manifest, store, pause_s=1.0) as job:  # fifty seconds if nothing stops it
        wait_until(lambda: shards(store) >= 2)
        job.kill()
    wait_until(lambda: not group(job.pid), 10)
    kept = files(store)
    assert shards(store) < 100
    label(manifest, store, load_teacher=RampTeacher)
    assert files(store).items() >= kept.items()
    assert temporaries(store) == []


@pytest.mark.slow
def test_a_hundred_kills_of_drivers_and_workers_change_nothing(tmp_path: Path) -> None:
    """At random instants, from the start of the process to its end; finished files stay as they are."""
    kills, chance = 0, random.Random(0)
    for attempt in itertools.count():
        if kills >= 100:
            break
        folder = tmp_path / str(attempt)
        manifest, store = make_set(folder, 240), folder / "labels"
        done = False
        while not done:
            before = files(store)
            with start_job(manifest, store) as job:
                for _ in range(2):  # a third death over one shard would have it left out
                    time.sleep(chance.uniform(0, 1.5))
                    for pid in chance.sample(found := workers_of(job), min(1, len(found))):
                        os.kill(pid, signal.SIGKILL)
                        kills += 1
                time.sleep(chance.uniform(0, 1.5))
                if job.poll() is None and chance.random() < 0.8:
                    job.kill()
                    kills += 1
            wait_until(lambda group_id=job.pid: not group(group_id), 20)
            assert job.returncode in (0, -signal.SIGKILL)
            assert files(store).items() >= before.items()
            done = job.returncode == 0
        summary = label(manifest, store, load_teacher=no_teacher)
        assert (summary.labelled, summary.kept, summary.failed) == (0, 240, [])
        assert temporaries(store) == []
        label(manifest, folder / "peace", load_teacher=RampTeacher, shard_size=2)
        assert differing_shards(store, folder / "peace") == []


# Parts


def test_four_parts_at_once_do_everything_once(tmp_path: Path) -> None:
    """Four processes that start together on nothing: one plan, every photograph through one teacher."""
    manifest, store = make_set(tmp_path, 40), tmp_path / "labels"
    command = [sys.executable, str(ROOT / "cli.py"), "label", str(manifest), str(store), "--teacher", "ramp"]
    code = f"""
import sys
sys.path[:0] = {PATH!r}
from pipeline.teachers import register_kind
register_kind("ramp", "test_workers:load_ramp")
from cli import main
sys.argv = sys.argv[1:]
main()
"""
    command = [sys.executable, "-c", code, *command[1:], "--shard-size", "2", "--json", "--part"]
    jobs = [subprocess.Popen([*command, f"{i}/4"], stdout=subprocess.PIPE, text=True) for i in (1, 2, 3, 4)]
    summaries = [json.loads(job.communicate()[0]) for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0, 0, 0]
    assert [summary["labelled"] for summary in summaries] == [10, 10, 10, 10]
    assert [summary["shards"] for summary in summaries] == [5, 5, 5, 5]
    assert sum(summary["bytes"] for summary in summaries) == sum(
        path.stat().st_size for path in (store / "shards").iterdir()
    )
    label(manifest, tmp_path / "peace", load_teacher=RampTeacher, shard_size=2)
    assert differing_shards(store, tmp_path / "peace") == []
    assert temporaries(store) == []


def load_ramp(name: str, **_: Any) -> RampTeacher:
    return RampTeacher()


def test_part_looks_at_its_own_shards(tmp_path: Path) -> None:
    """What it kept, did and left out adds up over the parts; a finished part loads no teacher."""
    manifest, store = make_set(tmp_path, 10), tmp_path / "labels"
    spoil(tmp_path)
    summaries = [label(manifest, store, load_teacher=RampTeacher, shard_size=2, part=(i, 3)) for i in (1, 2, 3)]
    assert sum(summary.labelled for summary in summaries) == 7
    assert [summary.kept for summary in summaries] == [0, 0, 0]
    assert sorted(name for summary in summaries for name, _ in summary.failed) == ["set/02", "set/03", "set/05"]
    again = label(manifest, store, load_teacher=no_teacher, part=(2, 3))
    assert again.kept == summaries[1].labelled
    with pytest.raises(SoftfocusError, match="part 4/3 does not exist"):
        label(manifest, store, load_teacher=no_teacher, part=(4, 3))


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--part 0/4", "I from 1 to N"),
        ("--part 4", "write I/N"),
        ("--device cuda:0,cuda:0", "name each device once"),
        ("--backend dask", "needs --address"),
        ("--backend ray --processes 2", "leave out --processes"),
        ("--address tcp://x:1", "add --backend dask"),
    ],
)
def test_wrong_use_is_told(tmp_path: Path, options: str, message: str) -> None:
    """Exit code 2 and the mend, before anything is read."""
    done = CliRunner().invoke(main, ["label", "m.jsonl", str(tmp_path), "--teacher", "demo", *options.split()])
    assert done.exit_code == 2
    assert message in done.output


def test_devices_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One, several, or all that torch sees."""
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert list_devices("cuda:0, cuda:2") == ["cuda:0", "cuda:2"]
    with pytest.raises(click.UsageError, match="cuda:3 is not there"):
        list_devices("cuda:0,cuda:3")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert list_devices("all") == ["cuda:0", "cuda:1"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert list_devices("all") == ["cpu"]


# Clusters


@pytest.mark.parametrize(("backend", "module"), [("dask", "distributed"), ("ray", "ray")])
def test_missing_backend_names_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, module: str
) -> None:
    """The line says what to install."""
    from pipeline.distill.cluster import Cluster

    monkeypatch.setitem(sys.modules, module, None)
    order = Order(run="x", began=0.0, store=tmp_path, load=RampTeacher)
    with pytest.raises(SoftfocusError, match=rf"pip install 'softfocus\[{backend}\]'"):
        Cluster(order, backend=backend, address="tcp://127.0.0.1:1")


CLUSTER_JOB = """
import functools, sys, time
sys.path[:0] = {path!r}
from pathlib import Path
from test_distill import RampTeacher
from test_workers import DyingTeacher, no_teacher
from pipeline.distill import label
from pipeline.distill.cluster import Cluster
from pipeline.distill.worker import Order
store = Path({store!r})
load = {load}
order = Order(run="x", began=time.time(), store=store, load=load, batch_size=2, threads=1)
team = Cluster(order, backend={backend!r}, address={address!r})
summary = label({manifest!r}, store, load_teacher=no_teacher, team=team, shard_size=2)
print(summary.labelled, len(summary.failed), summary.workers, summary.deaths)
"""


def cluster_job(manifest: Path, store: Path, load: str, *, backend: str, address: str) -> subprocess.Popen[str]:
    code = CLUSTER_JOB.format(
        path=PATH, store=str(store), manifest=str(manifest), load=load, backend=backend, address=address
    )
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=on_path())


def on_path() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(PATH)}


def start(module: str, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", module, *options], stderr=subprocess.PIPE, text=True, env=on_path())


@pytest.fixture
def scheduler() -> Iterator[str]:
    """A dask scheduler on loopback."""
    pytest.importorskip("distributed")
    with start("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard") as process:
        assert process.stderr is not None
        address = next(line.split()[-1] for line in process.stderr if "Scheduler at:" in line)
        yield address
        process.kill()


def start_dask_workers(scheduler: str, count: int) -> list[subprocess.Popen[str]]:
    workers = [
        start("distributed.cli.dask_worker", scheduler, "--nthreads", "1", "--no-nanny", "--no-dashboard")
        for _ in range(count)
    ]
    for worker in workers:
        assert worker.stderr is not None
        assert any("Registered to:" in line for line in worker.stderr)
    return workers


def end(processes: Sequence[subprocess.Popen[str]]) -> None:
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_dask_worker_that_is_killed_costs_its_open_shard(tmp_path: Path, scheduler: str) -> None:
    """A real scheduler, two worker processes, one of them killed in the middle: the store is that of peace."""
    manifest, store = make_set(tmp_path, 60), tmp_path / "labels"
    workers = start_dask_workers(scheduler, 2)
    try:
        load = "functools.partial(RampTeacher, pause_s=0.2)"
        with cluster_job(manifest, store, load, backend="dask", address=scheduler) as job:
            wait_until(lambda: shards(store) >= 6)
            before = files(store)
            workers[0].kill()
            told, _ = job.communicate(timeout=120)
    finally:
        end(workers)
    assert job.returncode == 0
    assert told.split()[:3] == ["60", "0", "2"]
    assert files(store).items() >= before.items()
    label(manifest, tmp_path / "peace", load_teacher=RampTeacher, shard_size=2)
    assert differing_shards(store, tmp_path / "peace") == []
    assert temporaries(store) == []


@pytest.mark.slow
def test_shard_that_kills_dask_workers_is_left_out(tmp_path: Path, scheduler: str) -> None:
    """Five workers, of which it takes three along; the others do the rest."""
    manifest, store, deaths = make_set(tmp_path, 24), tmp_path / "labels", tmp_path / "deaths"
    deaths.mkdir()
    workers = start_dask_workers(scheduler, 5)
    try:
        load = f"functools.partial(DyingTeacher, Path({str(deaths)!r}), 7, times=9)"
        with cluster_job(manifest, store, load, backend="dask", address=scheduler) as job:
            told, _ = job.communicate(timeout=120)
    finally:
        end(workers)
    assert (job.returncode, told.split()) == (0, ["22", "2", "5", "3"])
    assert len(list(deaths.iterdir())) == 3
    assert shards(store) == 11


@pytest.mark.slow
def test_ray_worker_that_dies_costs_its_open_shard(tmp_path: Path) -> None:
    """A ray cluster of this machine; a worker is killed by its first sight of a photograph, and another goes on."""
    pytest.importorskip("ray")
    manifest, store, deaths = make_set(tmp_path, 24), tmp_path / "labels", tmp_path / "deaths"
    deaths.mkdir()
    load = f"functools.partial(DyingTeacher, Path({str(deaths)!r}), 7, times=1)"
    with cluster_job(manifest, store, load, backend="ray", address="local") as job:
        told, _ = job.communicate(timeout=200)
    assert (job.returncode, told.split()[:2]) == (0, ["24", "0"])
    label(manifest, tmp_path / "peace", load_teacher=RampTeacher, shard_size=2)
    assert differing_shards(store, tmp_path / "peace") == []
