"""A sweep makes every run, keeps finished ones, survives failed ones, and stops and goes on like one run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from conftest import QUICK

from cli import main
from commands.runs import _with_each
from trainer.runs.trials import SweepError, parse_seeds, parse_values, plan_trials

ROOT = Path(__file__).parents[1]


def run(*arguments: object) -> Result:
    """A command as a shell would run it."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def arguments(manifest: Path, labels: Path, out: Path, *more: object, epochs: int = 1) -> list[str]:
    """A sweep of runs of a second."""
    quick = [part for override in QUICK if "epochs" not in override for part in ("--set", override)]
    options = ["--labels", labels, "-o", out, "--devices", "cpu", "--epochs", epochs, *quick, *more]
    return ["sweep", str(manifest), *map(str, options)]


def test_seeds_are_ranges_and_lists() -> None:
    """Both at once too; what is neither is refused."""
    assert parse_seeds("0-2,7") == [0, 1, 2, 7]
    for text in ("", "a", "3-", "-1", "5-3", "0-99999999"):
        with pytest.raises(SweepError):
            parse_seeds(text)


def test_values_are_yaml() -> None:
    """Numbers, words, lists; a key without values, twice, or the seed is refused."""
    assert parse_values(["a.b=0,0.5,none", "c=[1, 2],[3, 4]"]) == {"a.b": [0, 0.5, "none"], "c": [[1, 2], [3, 4]]}
    for asked in (["a"], ["a="], ["=1"], ["a=1", "a=2"], ["seed=1,2"], ["a=[1"]):
        with pytest.raises(SweepError):
            parse_values(asked)


def test_trials_are_all_combinations_with_names_that_can_be_read() -> None:
    """Seeds outermost, so that what is finished first is paired; of a path the last part names the folder."""
    trials = plan_trials({"a": [0, True], "w": ["x/y.pt"]}, [3, 4])
    assert [t.folder for t in trials] == [f"a={a},w=y.pt/seed-{s}" for s in (3, 4) for a in ("0", "true")]
    assert [t.folder for t in plan_trials({}, [1])] == ["seed-1"]
    with pytest.raises(SweepError, match=r"share the folder w=y\.pt/seed-0"):
        plan_trials({"w": ["x/y.pt", "z/y.pt"]}, [0])


def test_with_takes_words_up_to_the_next_option() -> None:
    """As the shell expands a pattern; otherwise the second group's runs would silently join the first."""
    assert list(_with_each(["a", "--with", "b", "c", "--json"])) == ["a", "--with", "b", "--with", "c", "--json"]


def test_a_sweep_is_made_listed_and_compared(small_set: Path, small_labels: Path, tmp_path: Path) -> None:
    """Four runs, one of which fails: exit code 3 and its reason; again: the three are kept; then a comparison."""
    out = tmp_path / "sweep"
    vary = ["--seeds", "0-1", "--vary", "depth_loss.weight=0,0.5", "--evaluate", "test", "--json"]
    command = arguments(small_set, small_labels, out, *vary, "--follow-seed", "data.mask_seed")
    bad = out / "depth_loss.weight=0.5" / "seed-1"
    bad.mkdir(parents=True)
    (bad / "state.pt").write_bytes(b"damaged")
    done = run(*command)
    assert done.exit_code == 3, done.stderr
    assert "depth_loss.weight=0.5/seed-1" in done.stderr
    assert "state.pt: cannot be read" in done.stderr
    result = json.loads(done.stdout)
    assert [o["status"] for o in result["outcomes"]] == ["finished", "finished", "finished", "failed"]
    assert [len(g["seeds"]) for g in result["groups"]] == [2, 1]
    record = json.loads((out / "sweep.json").read_text())
    assert [r["status"] for r in record["runs"]] == ["finished", "finished", "finished", "failed"]
    assert (out / "curves.png").stat().st_size > 1000

    (bad / "state.pt").unlink()
    done = run(*command)
    assert done.exit_code == 0, done.stderr
    assert [o["status"] for o in json.loads(done.stdout)["outcomes"]] == ["kept", "kept", "kept", "finished"]
    assert [r["status"] for r in json.loads((out / "sweep.json").read_text())["runs"]] == ["finished"] * 4

    listed = run("runs", "list", out)
    assert "depth_loss.weight=0.5  2" in listed.stdout
    groups = [out / f"depth_loss.weight={w}" for w in (0.5, 0)]
    compared = json.loads(run("runs", "compare", groups[0], "--with", groups[1], "--json").stdout)
    assert compared["differs"] == {"depth_loss.weight": [0.5, 0.0]}
    assert (len(compared["pairs"]), compared["images"]) == (2, 3)
    tested = run("runs", "compare", *groups[0].iterdir(), "--with", *groups[1].iterdir(), "--evaluation", "test")
    assert "over 3 images" in tested.stdout
    assert "A minus B" in tested.stdout

    changed = run(*command, "--set", "optimiser.lr=0.5")
    assert changed.exit_code == 1
    assert "holds a run with other optimiser.lr" in changed.stderr


def test_a_value_that_does_not_exist_trains_nothing(small_set: Path, small_labels: Path, tmp_path: Path) -> None:
    """All configurations are made before the first run begins."""
    done = run(*arguments(small_set, small_labels, tmp_path / "s", "--vary", "epoch=1,2"))
    assert done.exit_code == 1
    assert "epoch" in done.stderr
    assert not (tmp_path / "s").exists()


def started(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "cli.py", *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell's background job begins with it ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.slow
def test_runs_at_once_survive_a_worker_that_is_killed(small_set: Path, small_labels: Path, tmp_path: Path) -> None:
    """SIGKILL to one of two processes costs its run; the others are made, and the next call makes it up."""
    out = tmp_path / "sweep"
    command = arguments(small_set, small_labels, out, "--seeds", "0-3", "--at-once", 2, "--json", epochs=20)
    process = started(command)
    wait_for(lambda: any(out.glob("seed-*/config.yaml")), process)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 3, stderr
    assert sorted(o["status"] for o in json.loads(stdout)["outcomes"]) == ["failed", "finished", "finished", "finished"]
    assert "its process died (exit code -9)" in stderr
    again = run(*command)
    assert again.exit_code == 0
    assert sorted(o["status"] for o in json.loads(again.stdout)["outcomes"]) == ["finished", "kept", "kept", "kept"]


@pytest.mark.slow
def test_ctrl_c_stops_all_runs_and_they_go_on(small_set: Path, small_labels: Path, tmp_path: Path) -> None:
    """Each of two runs at once saves its state, the exit code is 130, and no process is left behind."""
    out = tmp_path / "sweep"
    command = arguments(small_set, small_labels, out, "--seeds", "0-1", "--at-once", 2, "--json", epochs=60)
    process = started(command)
    wait_for(lambda: len(list(out.glob("seed-*/metrics.csv"))) == 2, process)
    workers = children(process.pid)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert not any(Path(f"/proc/{worker}/cmdline").exists() for worker in workers)
    assert len(list(out.glob("seed-*/state.pt"))) == 2
    done = run(*command)
    assert done.exit_code == 0
    assert "goes on at step" in done.stderr


def children(pid: int) -> list[int]:
    """Processes that a process started and that train."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def wait_for(condition, process) -> None:  # type: ignore[no-untyped-def]
    """Until it holds, while the process lives."""
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_folder_of_something_else_is_refused(small_set: Path, small_labels: Path, tmp_path: Path) -> None:
    """A label store or a run is no sweep's folder; labels of another quantity are refused before any run."""
    done = run(*arguments(small_set, small_labels, small_labels))
    assert done.exit_code == 1
    assert "no sweep.json" in done.stderr
    done = run(*arguments(small_set, small_labels, tmp_path / "s", "--blur-labels", small_labels))
    assert done.exit_code == 1
    assert "holds relative inverse depth" in done.stderr
    assert not (tmp_path / "s").exists()
