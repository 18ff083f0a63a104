"""Differences and their intervals are those computed by hand; what is not paired or not alike is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from trainer.runs.comparison import compare
from trainer.runs.figures import Figure
from trainer.runs.intervals import bootstrap_interval, crossed_interval, t_interval
from trainer.runs.listing import Run, RunError, read_run

MakeRun = Callable[..., Path]
T_2 = 4.302653  # Student's t at .975 for 2 degrees of freedom, from a table


def group(make_run: MakeRun, name: str, maes: dict[int, float], **values: object) -> list[Run]:
    """Runs by seed."""
    return [read_run(make_run(f"{name}-{seed}", seed=seed, mae=mae, **values)) for seed, mae in maes.items()]


def test_t_interval_by_hand() -> None:
    """1, 2, 3: mean 2, deviation 1, so 2 plus and minus 4.302653 / sqrt(3); one value has none."""
    assert t_interval([1, 2, 3]) == pytest.approx((2 - T_2 / 3**0.5, 2 + T_2 / 3**0.5), rel=1e-6)
    assert t_interval([1]) is None


def test_crossed_interval_by_hand() -> None:
    """[[1, 2], [3, 6]]: mean squares 9 (seeds), 4 (images), 1 (rest), so variance 12 / 4 with 144 / 98 degrees."""
    from scipy.stats import t

    low, high = crossed_interval(np.array([[1.0, 2.0], [3.0, 6.0]])) or (0.0, 0.0)
    reach = t.ppf(0.975, 144 / 98) * 3**0.5
    assert (low, high) == pytest.approx((3 - reach, 3 + reach))
    assert crossed_interval(np.ones((1, 9))) is None


def test_crossed_interval_is_that_of_the_images_where_seeds_do_not_differ() -> None:
    """Three equal seeds: MS_images / (S I) is the variance of the images' mean."""
    images = np.array([0.1, 0.4, 0.2, 0.7])
    assert crossed_interval(np.tile(images, (3, 1))) == pytest.approx(t_interval(images))


def test_bootstrap_interval_says_the_same_each_time() -> None:
    """It lies around the mean, agrees with t for well-behaved values, and needs two of them."""
    values = np.random.default_rng(1).normal(0.5, 1.0, 400)
    ours, t = bootstrap_interval(values), t_interval(values)
    assert ours == bootstrap_interval(values)
    np.testing.assert_allclose(ours or (), t or (), atol=0.01)
    assert bootstrap_interval([2.0, 2.0, 2.0]) == (2.0, 2.0)
    assert bootstrap_interval([1.0]) is None


def test_a_difference_is_paired_by_seed(make_run: MakeRun) -> None:
    """A minus B is -.01, -.02, -.03 whatever the order of the folders: mean -.02, and A is better."""
    a = group(make_run, "a", {3: 0.17, 1: 0.09, 2: 0.08}, depth_loss={"weight": 0.5})
    b = group(make_run, "b", {1: 0.10, 2: 0.10, 3: 0.20}, depth_loss={"weight": 0.0})
    result = compare(a, b)
    assert [pair.difference for pair in result.pairs] == pytest.approx([-0.01, -0.02, -0.03])
    assert result.difference == pytest.approx(-0.02)
    assert result.deviation == pytest.approx(0.01)
    reach = 0.01 * T_2 / 3**0.5
    assert result.over_seeds == pytest.approx((-0.02 - reach, -0.02 + reach))
    assert result.differs == {"depth_loss.weight": (0.5, 0.0)}
    assert result.lines == ["A minus B: -0.0200, 95 % -0.0448 to +0.0048 over 3 seeds: no difference shown"]
    assert compare(a, b, confidence=0.8).lines[0].endswith("over 3 seeds: A is better")
    assert compare(a, b, confidence=0.8, figure=Figure("f")).lines[0].endswith("over 3 seeds: A is better")
    assert compare(b, a, confidence=0.8, figure=Figure("f")).lines[0].endswith("over 3 seeds: B is better")


def test_one_pair_has_no_interval(make_run: MakeRun) -> None:
    """It is said instead of invented."""
    result = compare(group(make_run, "a", {1: 0.2}, lr=1), group(make_run, "b", {1: 0.1}, lr=2))
    assert result.over_seeds is None
    assert "one pair has no interval" in result.lines[0]


def test_images_give_two_more_intervals(make_run: MakeRun) -> None:
    """Differences of each image are averaged over the seeds first; their ids are paired, not their places."""
    tables = {"a-1": {"x": 0.1, "y": 0.3}, "a-2": {"y": 0.4, "x": 0.2}, "b-1": {"x": 0.2, "y": 0.4}}
    tables["b-2"] = {"x": 0.1, "y": 0.1}
    runs = [
        read_run(make_run(n, seed=int(n[-1]), mae=sum(t.values()) / 2, per_image=t, lr=n[0], tables={"len": 1}))
        for n, t in tables.items()
    ]
    result = compare(runs[:2], runs[2:])
    matrix = np.array([[-0.1, -0.1], [0.1, 0.3]])
    assert result.images == 2
    assert result.over_images == pytest.approx(bootstrap_interval(matrix.mean(0)))
    assert result.over_both == pytest.approx(crossed_interval(matrix))
    assert len(result.lines) == 3
    assert any("2 images are few" in warning for warning in result.warnings)


def test_other_images_are_not_compared(make_run: MakeRun) -> None:
    """Runs validated on different photographs have no interval over images, and it is said."""
    a, b = (read_run(make_run(n, mae=0.1, per_image={image: 0.1}, lr=n)) for n, image in (("a", "x"), ("b", "y")))
    result = compare([a], [b])
    assert (result.images, result.over_images) == (0, None)
    assert any("different images" in warning for warning in result.warnings)


def test_a_seed_without_partner_is_named(make_run: MakeRun) -> None:
    """Refused; left out with a warning where that is asked for; without any pair refused in any case."""
    a, b = group(make_run, "a", {1: 0.1, 2: 0.1}, lr=1), group(make_run, "b", {2: 0.2, 3: 0.3}, lr=2)
    with pytest.raises(RunError, match=r"a-1 \(seed 1\), .*b-3 \(seed 3\); train it, or add --paired-only"):
        compare(a, b)
    result = compare(a, b, paired_only=True)
    assert [pair.seed for pair in result.pairs] == [2]
    assert "a-1 (seed 1)" in result.warnings[0]
    with pytest.raises(RunError, match="no seed in common"):
        compare(a[:1], b, paired_only=True)


def test_each_run_may_start_from_a_student_of_its_own(make_run: MakeRun) -> None:
    """What `by` names may differ within a group, another value still not."""
    starts = {seed: {"start": f"depth-{seed}", "channels": 64} for seed in (1, 2)}
    a = [*group(make_run, "a", {1: 0.1}, student=starts[1]), *group(make_run, "a", {2: 0.2}, student=starts[2])]
    b = group(make_run, "b", {1: 0.2, 2: 0.3}, student={"start": None, "channels": 64})
    with pytest.raises(RunError, match=r"group A is no group: .* differ in student\.start .* give --by"):
        compare(a, b)
    assert compare(a, b, by=["student.start"]).difference == pytest.approx(-0.1)
    c = group(make_run, "c", {1: 0.2, 2: 0.3}, student={"start": None, "channels": 32})
    with pytest.raises(RunError, match=r"differ also in student\.channels"):
        compare(a, c, by=["student.start"])


def test_a_group_must_be_one(make_run: MakeRun) -> None:
    """Runs of two configurations, a seed twice, an unfinished run: named."""
    good = group(make_run, "good", {1: 0.1, 2: 0.1}, lr=1)
    other = group(make_run, "other", {3: 0.1}, lr=2)
    with pytest.raises(RunError, match=r"group A is no group: .* differ in lr"):
        compare([*good, *other], good)
    with pytest.raises(RunError, match=r"group B has seed 1 more than once: .*good-1 and .*twice-1"):
        compare(good, [*good, *group(make_run, "twice", {1: 0.1}, lr=1)])
    with pytest.raises(RunError, match="stopped-1 is not finished"):
        compare(good, [*group(make_run, "stopped", {1: 0.1}, lr=1, epochs=9), good[1]])


def test_differences_that_were_not_meant_are_shown(make_run: MakeRun) -> None:
    """Two values differ: a warning with both; an error where `by` names but one; none differs: a warning."""
    a, b = group(make_run, "a", {1: 0.1}, lr=1, decay=5), group(make_run, "b", {1: 0.1}, lr=2, decay=6)
    (warning,) = compare(a, b).warnings
    assert "differ in 2 values" in warning
    assert "lr: 1 and 2" in warning
    with pytest.raises(RunError, match=r"differ also in decay \(.*decay: 5 and 6.*\); .* differ in lr alone"):
        compare(a, b, by=["lr"])
    assert compare(a, b, by=["lr", "decay"]).warnings == []
    with pytest.raises(RunError, match="no run has that value"):
        compare(a, b, by=["lrr"])
    assert "same configuration" in compare(a, group(make_run, "c", {1: 0.2}, lr=1, decay=5)).warnings[0]


def test_a_missing_figure_is_named(make_run: MakeRun) -> None:
    """With the command that makes it."""
    a, b = group(make_run, "a", {1: 0.1}, lr=1), group(make_run, "b", {1: 0.1}, lr=2)
    with pytest.raises(RunError, match=r"a-1: has no MAE \(dffnet\) of evaluation 'test'; run `softfocus evaluate`"):
        compare(a, b, figure=Figure("mae", "test"))
