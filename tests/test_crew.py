"""The processes that decode, compress and write for a GPU: what they make, and what happens when they or others end."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_device import RedTeacher

from benchmarks.feeding import measure_feeding, words
from benchmarks.photographs import make_photographs
from pipeline.distill import LabelProgress, label
from pipeline.distill import stream as stream_module
from pipeline.distill.crew import captain as captain_module
from pipeline.distill.crew.captain import CrewDied, Peer
from pipeline.distill.crew.memory import Slabs, attached
from pipeline.distill.crew.messages import Decode, Pack
from pipeline.distill.device import predictor as predictor_module
from pipeline.distill.meters import Meters
from pipeline.distill.processes import Processes
from pipeline.distill.worker import Order
from pipeline.errors import SoftfocusError
from pipeline.manifest import read_manifest, write_manifest
from pipeline.store import CODECS, LabelReader, StoreError
from pipeline.store.codec import compress
from pipeline.teachers import DeviceTeacher

ROOT = Path(__file__).parents[1]


def treat_as_gpu() -> None:
    """Let teachers on the CPU be treated as those on a GPU, in this process."""
    stream_module.is_on_gpu = lambda teacher: isinstance(teacher, DeviceTeacher)


class Slow(RedTeacher):
    """Leaves time to kill somebody."""

    pause = 0.02

    def predict_on_device(self, images: Any) -> Any:
        time.sleep(self.pause * len(images))
        return super().predict_on_device(images)


def slow_on_device(pause: float = Slow.pause) -> Slow:
    treat_as_gpu()
    teacher = Slow()
    teacher.pause = pause
    return teacher


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "is_on_gpu", lambda teacher: isinstance(teacher, DeviceTeacher))


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[subprocess.Popen[bytes]]]:
    """The helping processes that were started, by role."""
    found: dict[str, list[subprocess.Popen[bytes]]] = {"hand": [], "writer": []}
    start = captain_module._start

    def noted(role: str, line: Any) -> subprocess.Popen[bytes]:
        process = start(role, line)
        found[role].append(process)
        return process

    monkeypatch.setattr(captain_module, "_start", noted)
    return found


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photographs(tmp_path_factory.mktemp("crew"), count=40, size=(24, 32), originals=3)


@pytest.fixture(scope="module")
def expected(manifest: Path) -> dict[str, bytes]:
    """The maps that threads make."""
    store = manifest.parent / "host"
    label(manifest, store, load_teacher=RedTeacher, shard_size=6)
    return maps(store)


def maps(store: Path) -> dict[str, bytes]:
    reader = LabelReader(store)
    return {sample_id: reader[sample_id].tobytes() for sample_id in reader}


def after(count: int, action: Callable[[], None]) -> Callable[[LabelProgress], None]:
    """A progress report that does something once, when so many photographs are done."""
    done: list[int] = []

    def report(progress: LabelProgress) -> None:
        if progress.done >= count and not done:
            done.append(progress.done)
            action()

    return report


@pytest.mark.usefixtures("on_device")
@pytest.mark.parametrize("role", ["hand", "writer"])
def test_death_of_a_helping_process_is_one_line_and_costs_open_shards_alone(
    tmp_path: Path,
    manifest: Path,
    expected: dict[str, bytes],
    started: dict[str, list[subprocess.Popen[bytes]]],
    role: str,
) -> None:
    """Nobody is left behind, what is on the disk is whole, and the same command goes on."""
    run = functools.partial(label, manifest, tmp_path / "a", load_teacher=Slow, shard_size=6, batch_size=3, workers=2)
    with pytest.raises(CrewDied, match=r"died .*SIGKILL.*the same command goes on"):
        run(progress=after(12, lambda: started[role][0].kill()))
    assert all(process.poll() is not None for processes in started.values() for process in processes)
    summary = run()
    assert summary.labelled > 0
    assert maps(tmp_path / "a") == expected
    assert not list((tmp_path / "a" / "shards").glob(".*"))


@pytest.mark.usefixtures("on_device")
def test_interrupted_run_keeps_its_finished_shards(
    tmp_path: Path, manifest: Path, expected: dict[str, bytes], started: dict[str, list[subprocess.Popen[bytes]]]
) -> None:
    """Also those that were only to be written; the open one goes, and every process with it."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    run = functools.partial(label, manifest, tmp_path / "a", load_teacher=RedTeacher, shard_size=6, batch_size=3)
    with pytest.raises(KeyboardInterrupt):
        run(workers=2, progress=after(15, interrupt))
    assert all(process.poll() == 0 for processes in started.values() for process in processes)
    assert sorted(path.name for path in (tmp_path / "a" / "shards").iterdir()) == ["000000.h5", "000001.h5"]
    assert run().labelled == 40 - 12
    assert maps(tmp_path / "a") == expected


KILLED = """
import sys
from pathlib import Path
from test_crew import slow_on_device
from pipeline.distill import label
from pipeline.distill.crew import captain
start = captain._start
def noted(role, line):
    process = start(role, line)
    print(process.pid, flush=True)
    return process
captain._start = noted
label(sys.argv[1], sys.argv[2], load_teacher=slow_on_device, shard_size=6, batch_size=3, workers=2,
      progress=lambda p: p.done >= 12 and print("now", flush=True))
"""


def test_helping_processes_end_with_a_captain_that_is_killed(
    tmp_path: Path, manifest: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a second or so, and what they leave is swept by the next run."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    command = [sys.executable, "-c", KILLED, str(manifest), str(tmp_path / "a")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "now\n")
        pids = [int(line) for line in lines if line]
        process.kill()
    assert len(pids) == 3
    deadline = time.monotonic() + 10
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    monkeypatch.setattr(stream_module, "is_on_gpu", lambda teacher: isinstance(teacher, DeviceTeacher))
    label(manifest, tmp_path / "a", load_teacher=RedTeacher, shard_size=6)
    assert maps(tmp_path / "a") == expected
    assert not list((tmp_path / "a" / "shards").glob(".*"))


def is_running(pid: int) -> bool:
    try:
        return " Z" not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


@pytest.mark.parametrize("killed", [0, 1])
def test_several_processes_with_crews_of_their_own(
    tmp_path: Path, manifest: Path, expected: dict[str, bytes], killed: int
) -> None:
    """One a device: the store is the same. A hand that dies takes its worker along, and that is replaced."""
    load = functools.partial(slow_on_device, 0.1 if killed else 0.0)
    orders = [Order("run", time.time(), tmp_path / "a", load, 3, threads=1) for _ in range(2)]
    summary = label(
        manifest,
        tmp_path / "a",
        load_teacher=RedTeacher,
        team=Processes(orders),
        shard_size=6,
        progress=after(5 if killed else 99, lambda: os.kill(hands_of_workers()[0], signal.SIGKILL)),
    )
    assert summary.deaths == killed
    assert summary.stage_seconds["copy"] > 0
    assert maps(tmp_path / "a") == expected
    assert not hands_of_workers()


def hands_of_workers() -> list[int]:
    """Helping processes whose captain is a child of this process."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if b"pipeline.distill.crew.hand" in (folder / "cmdline").read_bytes():
                captain = parent_of(int(folder.name))
                found += [int(folder.name)] if parent_of(captain) == os.getpid() else []
    return found


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.usefixtures("on_device")
def test_errors_of_helping_processes_are_those_of_the_run(tmp_path: Path) -> None:
    """A folder that is gone, and a place that cannot be written to: one line each, as if there were no processes."""
    folder = tmp_path / "photographs"
    inside = make_photographs(folder, count=8, size=(24, 32), originals=1)
    outside = tmp_path / "manifest.jsonl"
    write_manifest(outside, read_manifest(inside), root=folder)
    shards = tmp_path / "a" / "shards"
    run = functools.partial(label, outside, load_teacher=Slow, shard_size=2, batch_size=1, workers=1)

    def spoil() -> None:
        shutil.rmtree(shards)
        shards.touch()

    with pytest.raises(StoreError, match=r"shards.*cannot be written"):
        run(shards.parent, progress=after(3, spoil))
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(SoftfocusError, match="the photographs' folder is not there"):
        run(tmp_path / "b")


def test_an_error_is_heard_even_where_the_process_has_ended_since() -> None:
    """What it said last counts, not that the next message finds nobody."""
    peer = Peer("hand")
    peer.hear(Meters())
    job = Decode(slab=99, size=(8, 8), largest=1.0, photographs=[])  # there is no such slab
    peer.send(job, print)
    peer.process.wait()
    with pytest.raises(RuntimeError, match="No such file"):
        peer.send(job, print)
    peer.end()


@pytest.mark.usefixtures("on_device")
def test_memory_that_a_gpu_cannot_reach_costs_a_copy(
    tmp_path: Path, manifest: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The maps are the same, and the run says so."""
    monkeypatch.setattr(predictor_module, "page_lock", lambda device: lambda data: None)
    monkeypatch.setattr(predictor_module, "_reachable", lambda slab, part: part.clone())
    summary = label(manifest, tmp_path / "a", load_teacher=RedTeacher, shard_size=6, batch_size=4, workers=1)
    assert "copied once more" in summary.note
    assert maps(tmp_path / "a") == expected


def test_slabs_are_taken_again_and_seen_by_others() -> None:
    """The smallest that fits is; whoever has its key sees the same bytes."""
    locked: list[int] = []

    def lock(data: Any) -> Callable[[], None]:
        locked.append(len(data))
        return lambda: locked.remove(len(data))

    slabs = Slabs(lock)
    small, large = slabs.take(5000), slabs.take(100_000)
    assert locked == [8192, 114_688]
    small.data[:3] = 7, 8, 9
    assert attached(os.getpid(), small.key)[:3].tolist() == [7, 8, 9]
    slabs.give_back(large)
    slabs.give_back(small)
    assert slabs.take(8000) is small
    assert slabs.take(8000) is not large
    assert slabs.take(30_000) is large
    slabs.close()
    assert locked == []


@pytest.mark.parametrize("codec", CODECS)
def test_chunk_fits_where_its_map_was(codec: Any) -> None:
    """Noise cannot be compressed, and grows by less than there is room for."""
    for size in (2, 1000, 1_000_000):
        noise = np.random.default_rng(0).integers(256, size=size, dtype=np.uint8)
        assert len(compress(noise, codec)) <= Pack.room(size)


def test_rate_without_a_teacher_is_measured(tmp_path: Path, manifest: Path) -> None:
    """All but the teacher, with what each photograph costs the processor."""
    found = measure_feeding(
        manifest, tmp_path / "a", side=28, hands=1, batch_size=8, codec="delta-deflate", shard_size=16
    )
    assert found.photographs == len(LabelReader(tmp_path / "a")) == 40
    assert found.could_feed == pytest.approx(found.cores * 1e3 / (found.hands_ms + found.captain_ms))
    assert all(found.busy[stage] > 0 for stage in ("read", "decode", "compress", "write"))
    assert "without a teacher" in words(found)


def test_signals_of_the_terminal_do_not_reach_the_hands(
    tmp_path: Path, manifest: Path, started: dict[str, list[subprocess.Popen[bytes]]], on_device: None
) -> None:
    """Ctrl-C goes to every process in the foreground; the captain deals with it."""

    def interrupt_hands() -> None:
        for process in (*started["hand"], *started["writer"]):
            process.send_signal(signal.SIGINT)

    summary = label(
        manifest, tmp_path / "a", load_teacher=RedTeacher, batch_size=4, workers=1, progress=after(8, interrupt_hands)
    )
    assert summary.labelled == 40
