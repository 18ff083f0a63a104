"""Run folders are found, read and grouped as they are; a damaged or stale file is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainer.runs.figures import Figure, usual_figures
from trainer.runs.groups import group_runs, spread, values_that_differ
from trainer.runs.listing import Run, RunError, find_runs, read_run

MakeRun = Callable[..., Path]


def read(*folders: Path) -> list[Run]:
    """Several runs."""
    return [read_run(folder) for folder in folders]


def test_runs_are_found_by_folder_pattern_and_parent(make_run: MakeRun, tmp_path: Path) -> None:
    """Once each, seed-2 before seed-10; a run holds no runs; a place without any is named."""
    for seed in (10, 2):
        make_run(f"a/seed-{seed}", seed=seed)
    make_run("a/seed-2/copy")
    make_run("b")
    names = [str(p.relative_to(tmp_path)) for p in find_runs([tmp_path / "b", tmp_path / "?", tmp_path / "a"])]
    assert names == ["b", "a/seed-2", "a/seed-10"]
    with pytest.raises(RunError, match=r"nothing-\*: no run folder"):
        find_runs([tmp_path / "nothing-*"])


def test_a_run_without_masks_is_judged_by_soft_blur(make_run: MakeRun) -> None:
    """As training chose its best epoch: by soft blur where there are no masks, whatever depth says."""
    rows = [{"epoch": e, "val_depth": d, "val_soft_blur": b} for e, d, b in ((1, 0.1, 0.3), (2, 0.2, 0.2))]
    run = read_run(make_run("r", rows=rows))
    figure = Figure("soft_blur")
    assert (run.row("best")["epoch"], figure.of(run), figure.lower_is_better) == (2, 0.2, True)
    assert [each.short for each in usual_figures([run])] == ["val depth best", "val soft_blur best"]


def test_a_run_knows_its_best_and_last_epoch(make_run: MakeRun) -> None:
    """The best is the lowest validation MAE; epochs that were not validated do not count."""
    run = read_run(make_run("r", rows=[{"epoch": 1, "val_mae": 0.3}, {"epoch": 2, "val_mae": 0.1}, {"epoch": 3}]))
    assert (run.row("best")["epoch"], run.row("last")["epoch"], run.epochs) == (2, 2, 3)
    assert Figure("mae").of(run) == 0.1
    assert Figure("iou").of(run) is None


def test_a_run_is_finished_when_it_has_its_record_and_all_epochs(make_run: MakeRun) -> None:
    """Killed before its last epoch, or before run.json, it is not."""
    assert read_run(make_run("whole")).finished
    assert not read_run(make_run("short", epochs=9)).finished
    folder = make_run("no-record")
    (folder / "run.json").unlink()
    assert not read_run(folder).finished


def test_a_damaged_file_is_named(make_run: MakeRun, tmp_path: Path) -> None:
    """Cut off or of another kind: the file and the mend, in one line."""
    damaged = (("config.yaml", "[1"), ("config.yaml", "seed: abc"), ("config.yaml", "&a {x: *a}"))
    for number, (name, text) in enumerate((*damaged, ("metrics.csv", "epoch,loss\n1,x\n"), ("run.json", "{"))):
        folder = make_run(f"damaged-{number}")
        (folder / name).write_text(text)
        with pytest.raises(RunError, match=rf"{name}: cannot be read"):
            read_run(folder)
    with pytest.raises(RunError, match="not a run folder"):
        read_run(tmp_path)


def test_a_run_of_before_a_key_was_added_is_grouped_with_later_ones(make_run: MakeRun) -> None:
    """What it does not name has its default; what no version here knows stays as it is."""
    old, new = make_run("old", seed=0), make_run("new", seed=1, blur_loss={"weight": 1.0})
    assert [len(group.runs) for group in group_runs(read(old, new))] == [2]
    assert read_run(make_run("later", unheard_of=3)).values["unheard_of"] == 3


def test_groups_are_runs_that_differ_in_their_seed_alone(make_run: MakeRun) -> None:
    """What follows the seed, and how a run was made, does not split a group; the differing value names it."""
    runs = read(
        *(
            make_run(f"{weight}-{seed}", seed=seed, mae=0.1 * seed + weight, **values(weight, seed))
            for seed in (1, 2)
            for weight in (0.0, 0.5)
        )
    )
    assert values_that_differ(runs) == ["depth_loss.weight"]
    groups = group_runs(runs)
    assert [g.name for g in groups] == ["depth_loss.weight=0", "depth_loss.weight=0.5"]
    assert [[r.seed for r in g.runs] for g in groups] == [[1, 2], [1, 2]]


def values(weight: float, seed: int) -> dict[str, Any]:
    """A configuration's values; the workers differ between machines, the masks go with the seed."""
    return {"depth_loss": {"weight": weight}, "data": {"workers": seed + 7, "mask_seed": seed}}


def test_mean_and_deviation_are_those_computed_by_hand(make_run: MakeRun) -> None:
    """Of 1, 2, 3, 4: mean 2.5, deviation with n - 1 the root of 5/3; of one run no deviation."""
    runs = read(*(make_run(f"s{seed}", seed=seed, mae=float(seed)) for seed in (1, 2, 3, 4)))
    found = spread(runs, Figure("mae"))
    assert found is not None
    assert (found.mean, found.runs) == (2.5, 4)
    assert found.deviation == pytest.approx((5 / 3) ** 0.5)
    assert str(found) == "2.5000 ± 1.2910"
    alone = spread(runs[:1], Figure("mae"))
    assert alone is not None
    assert alone.deviation is None
    assert spread(runs, Figure("iou")) is None


def test_figures_of_an_evaluation_go_by_protocol_and_measure(make_run: MakeRun) -> None:
    """Without a protocol it is D-DFFNet's; depth has a place of its own; what was not measured is None."""
    folder = make_run("r")
    report = {"epoch": 3, "measures": {"dffnet": {"mae": 0.25, "f_at_half": 0.5}, "paper": {"f_adaptive": 0.75}}}
    save(folder, "test", report | {"depth": {"rank_correlation": 0.9}})
    run = read_run(folder)
    asked = {"mae": 0.25, "f": 0.5, "paper.f_adaptive": 0.75, "depth.rank_correlation": 0.9, "paper.iou": None}
    assert {name: Figure(name, "test").of(run) for name in asked} == asked
    assert Figure("mae", "val").of(run) is None
    shown = ["val mae best", "val mae last", "val f best", "test mae", "test f"]
    assert [f.short for f in usual_figures([run])] == shown


def test_an_evaluation_of_other_weights_is_refused(make_run: MakeRun) -> None:
    """Scored before the run went on: its epoch is not the best any more."""
    folder = make_run("r")
    save(folder, "test", {"epoch": 1, "measures": {"dffnet": {"mae": 0.25}}})
    with pytest.raises(RunError, match=r"'test' is of epoch 1, its best is now 3; run `softfocus evaluate` again"):
        Figure("mae", "test").of(read_run(folder))


def test_figures_of_each_image_must_average_to_the_figure(make_run: MakeRun) -> None:
    """They are given where they do, and refused where they are of something else."""
    folder = make_run("r", mae=0.2)
    rows = "id,mae,f_at_half,iou\na,{},0.5,\nb,0.3,0.5,1\n"
    (folder / "validation-best.csv").write_text(rows.format(0.1))
    assert Figure("mae").per_image(read_run(folder)) == {"a": 0.1, "b": 0.3}
    assert Figure("iou").per_image(read_run(folder)) == {}, "pooled over pixels, so it is no mean over images"
    assert Figure("mae", epoch="last").per_image(read_run(folder)) == {}
    (folder / "validation-best.csv").write_text(rows.format(0.9))
    with pytest.raises(RunError, match="do not average"):
        Figure("mae").per_image(read_run(folder))


def save(folder: Path, name: str, report: dict[str, Any]) -> None:
    """An evaluation as `softfocus evaluate` leaves it."""
    (folder / f"evaluation-{name}.json").write_text(json.dumps(report))
