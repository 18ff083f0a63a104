"""The benchmarks of planning and of many workers, on sizes of a second."""

from __future__ import annotations

import functools
import json
from pathlib import Path

from click.testing import CliRunner

from benchmarks.plan import measure_plan
from benchmarks.workers import compare_workers, slow_teacher
from cli import main


def test_plan_is_measured_step_by_step(tmp_path: Path) -> None:
    """Each step finds what the one before left: a plan, all shards but one, all shards."""
    rows = measure_plan(600, tmp_path)
    assert [row.shards for row in rows] == [0, 3, 3, 4]  # 150 photographs of 770 and of 350 columns, 300 of 686
    assert all(row.samples == 600 and row.seconds > 0 and row.peak_mib > 10 for row in rows)


def test_workers_are_compared_on_the_same_photographs(tmp_path: Path) -> None:
    """One row a number of workers, with ratios to the first; no store is left over."""
    load = functools.partial(slow_teacher, 0.001)
    rows = compare_workers(load, ["cpu", "cpu"], tmp_path, photographs=40, repeats=1)
    assert [(row.workers, row.photographs) for row in rows] == [(1, 40), (2, 40)]
    assert rows[0].speed_up == 1
    assert rows[1].speed_up > 0
    assert 0 <= rows[0].waiting <= 1
    assert not (tmp_path / "labels").exists()


def test_one_worker_has_nothing_to_be_compared_with() -> None:
    """Wrong use, told at once."""
    done = CliRunner().invoke(main, ["bench", "workers", "--device", "cpu"])
    assert done.exit_code == 2
    assert "nothing to be compared with" in done.output


def test_plan_prints_json(tmp_path: Path) -> None:
    """For whoever compares machines."""
    done = CliRunner().invoke(main, ["bench", "plan", "--samples", "50", "--folder", str(tmp_path), "--json"])
    assert json.loads(done.output)["rows"][0]["step"] == "plan"
