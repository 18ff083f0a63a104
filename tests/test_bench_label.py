"""The labelling benchmark, dry: a tiny network, tiny photographs, the steps of the GPU on the CPU."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.label import Plan, measure_label, table
from benchmarks.photographs import BYTES_PER_PIXEL, make_photographs
from benchmarks.teachers import count_gflops
from pipeline.distill import stream as stream_module
from pipeline.distill.meters import WAITS, WORK
from pipeline.manifest import read_manifest
from pipeline.teachers import DeviceTeacher


def test_photographs_are_all_different_and_as_large_as_a_cameras(tmp_path: Path) -> None:
    """Copies differ by a comment alone; their manifest is right."""
    samples = read_manifest(make_photographs(tmp_path, count=7, size=(120, 160), originals=2))
    assert len({sample.sha256 for sample in samples}) == 7
    for sample in samples:
        content = sample.image_path.read_bytes()
        assert hashlib.sha256(content).hexdigest() == sample.sha256
        assert 0.8 * BYTES_PER_PIXEL < len(content) / (120 * 160) < 1.3 * BYTES_PER_PIXEL
    pictures = [Image.open(sample.image_path).tobytes() for sample in samples]
    assert pictures[0] == pictures[2] != pictures[1]


@pytest.mark.parametrize("as_on_a_gpu", [False, True])
def test_report_has_rates_meters_and_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_on_a_gpu: bool
) -> None:
    """Every figure of the table is there, and the parts agree with each other."""
    if as_on_a_gpu:
        monkeypatch.setattr(stream_module, "is_on_gpu", lambda teacher: isinstance(teacher, DeviceTeacher))
    plan = Plan(
        architecture="tiny",
        sizes=((30, 40, 9), (60, 80, 5)),
        side=28,
        device="cpu",
        batch_size=4,
        compile=False,
        workers=1,
        shard_size=4,
        bare_s=0.0,
    )
    heard: list[str] = []
    report = measure_label(plan, tmp_path, say=heard.append)
    assert [(row.height, row.width, row.photographs) for row in report.rows] == [(30, 40, 9), (60, 80, 5)]
    for row in report.rows:
        assert row.ratio == pytest.approx(row.rate / ((row.bare_before + row.bare_after) / 2))
        assert set(row.busy) == {*WORK, *WAITS}
        assert row.busy["teacher"] > 0
        assert " limits (" in row.limit
        assert row.map_bytes > 100
    assert report.batch_size == 4
    assert not report.compiled
    lines = table(report)
    assert sum(line.startswith("| 9 of 40 x 30, ") for line in lines) == 1
    assert any("end to end" in line for line in heard)


def test_networks_have_the_operations_of_the_real_ones() -> None:
    """115 GFLOPs for Depth Anything V2 Small at 518 x 518, as measured on the real code."""
    assert count_gflops("small", 518) == pytest.approx(115.3, abs=0.1)
