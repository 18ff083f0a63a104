"""Benchmarks of stage 2 give the figures they promise, at sizes that take no time; nothing here is timed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from conftest import QUICK
from torch import nn

from benchmarks.busy import covered
from benchmarks.rounds import seconds_of_each
from benchmarks.step import _online
from benchmarks.student import count_size
from cli import main
from trainer.students.fusion import fuse_batch_norm
from trainer.students.model import create_student


def run(*arguments: object) -> dict[str, Any]:
    """A benchmark's JSON."""
    done = CliRunner().invoke(main, ["bench", *map(str, arguments), "--json"])
    assert done.exit_code == 0, done.stderr or done.exception
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_sizes_are_those_of_the_documentation() -> None:
    """Parameters and GFLOPs at 320 x 320, a multiply-add counted as two; base takes the nearest multiple of 14."""
    rows = {name: count_size(name) for name in ("lite", "base", "paper-vgg16", "paper-resnext101")}
    assert rows["lite"].parameters < 5e6
    assert rows["lite"].gflops < 6
    assert rows["base"].parameters < 30e6
    assert rows["base"].input_size == 322
    assert rows["paper-vgg16"].parameters == 19_436_634
    assert rows["paper-vgg16"].gflops == pytest.approx(90, abs=0.5)
    assert rows["paper-resnext101"].parameters == 84_468_186
    assert rows["paper-resnext101"].gflops == pytest.approx(140, abs=0.5)


@pytest.mark.parametrize(
    ("name", "encoder"), [("lite", "tf_efficientnet_lite0"), ("paper-vgg16", ""), ("lite", "resnet18")]
)
def test_folded_batch_norms_compute_the_same(name: str, encoder: str) -> None:
    """All outputs, with statistics far from their start; in `lite` no batch norm is left."""
    torch.manual_seed(0)
    student = create_student(name, encoder=encoder or "tf_efficientnet_lite0", channels=16).eval()
    for module in student.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        before = student(images)
        after = fuse_batch_norm(student, images)(images)
    for ours, theirs in zip([*after.blur, *after.depth], [*before.blur, *before.depth], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))
    left = sum(isinstance(module, nn.BatchNorm2d) for module in student.modules())
    assert (left == 0) == (name == "lite")


def test_a_convolution_whose_output_is_used_twice_is_left_alone() -> None:
    """Folding would change what the other user sees."""

    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.other = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.conv(x)
            return self.norm(x) + self.other(x)  # type: ignore[no-any-return]

    fork = fuse_batch_norm(Fork().eval(), torch.randn(1, 3, 8, 8))
    assert isinstance(fork.norm, nn.BatchNorm2d)


def test_things_take_turns() -> None:
    """After the warm-up each is called in each round, whatever it costs."""
    calls: list[str] = []
    things = {name: lambda name=name: calls.append(name) for name in ("a", "b")}
    times = seconds_of_each(things, device=torch.device("cpu"), rounds=3, seconds=0, warm_up=0)
    assert "".join(calls) == "ab" + 3 * "ab"
    assert set(times) == {"a", "b"}


def test_covered_time_is_the_union_of_intervals() -> None:
    """Overlaps and repetitions count once: 0 to 3, 5 to 6."""
    assert covered([(5, 6), (0, 2), (1, 3), (1, 2)]) == 4
    assert covered([]) == 0


def test_break_even_by_hand() -> None:
    """Batch 10: the teacher needs 3 s, a step 1 s offline and 4 s online: a factor of 4, repaid after one epoch."""
    times = {"bare": 1.0, "offline, samples on the device": 1.0, "online, x": 4.0, "teacher x alone": 3.0}
    row = _online("x", times, 10, None)
    assert (row.ratio, row.bound) == (4.0, 4.0)
    assert row.break_even_epochs == pytest.approx(1)
    assert _online("x", times, 10, 20.0).break_even_epochs == pytest.approx(1 / 20 / 0.3)
    assert _online("x", times | {"online, x": 0.9}, 10, None).break_even_epochs is None


def test_students_are_compared_with_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own ratio is 1; each student at each batch has a row."""
    monkeypatch.setattr("benchmarks.student.REFERENCE", "paper-vgg16")
    quick = ("--device", "cpu", "--size", 32, "--batches", "1,2", "--rounds", 1, "--seconds", 0)
    rows = run("student", *quick, "--students", "lite,paper-vgg16")["rates"]
    names = ("lite", "paper-vgg16")
    assert {(r["student"], r["batch"]) for r in rows} == {(name, batch) for name in names for batch in (1, 2)}
    assert {r["ratio"] for r in rows if r["student"] == "paper-vgg16"} == {1.0}


def test_loading_has_every_way(small_set: Path, small_labels: Path) -> None:
    """Files, store and mapped cache, each with its ratio to the files and its bytes."""
    result = run(
        "loading", small_set, "--labels", small_labels, "--size", 40, "--count", 4, "--rounds", 1, "--seconds", 0
    )
    rows = {row["way"]: row for row in result["rows"]}
    assert len(rows) == 6
    assert rows["depth: PNG-16 file"]["ratio"] == rows["sample: JPEG, PNG and PNG-16"]["ratio"] == 1
    assert rows["sample: mapped cache"]["bytes"] == 40 * 40 * 6
    assert all(row["samples_per_second"] > 0 for row in rows.values())


def test_steps_offline_and_online(small_set: Path, small_labels: Path) -> None:
    """The whole benchmark at a size for a CPU, with a tiny teacher of the same architecture in the loop."""
    pytest.importorskip("transformers")
    quick = [part for override in QUICK for part in ("--set", override)]
    result = run(
        "step", small_set, "--labels", small_labels, "--count", 8, "--rounds", 1, "--device", "cpu",
        "--seconds", 0, "--decoded-steps", 1, "--teachers", "tiny", "--teacher-size", 28,
        "--label-rate", "tiny=1000", *quick,
    )  # fmt: skip
    ways = [row["way"] for row in result["steps"]]
    assert ways[:4] == ["bare", "augmented", "offline, samples on the device", "offline, samples mapped"]
    assert set(ways[4:]) == {"online, tiny", "teacher tiny alone", "offline, samples decoded"}
    (online,) = result["online"]
    assert online["label_images_per_second"] == 1000
    assert online["bound"] > 1


def test_a_benchmark_without_labels_for_its_photographs_says_so(small_set: Path, tmp_path: Path) -> None:
    """One line; and a rate that is none is wrong usage."""
    done = CliRunner().invoke(main, ["bench", "loading", str(small_set), "--labels", str(tmp_path / "none")])
    assert done.exit_code == 1
    assert CliRunner().invoke(main, ["bench", "step", str(small_set), "--label-rate", "small"]).exit_code == 2
