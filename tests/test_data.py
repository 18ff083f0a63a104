"""Which samples a step takes, and how prepared samples are kept."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch

from pipeline.contract import LabelReader, Sample, SoftfocusError, read_manifest
from trainer.samples.data import Batches, Photographs
from trainer.samples.order import Order
from trainer.samples.sources import with_masks

CPU = torch.device("cpu")


def some(count: int, masked: int) -> list[Sample]:
    """Samples, the first `masked` of them with a mask."""
    return [
        Sample(
            id=f"s/{i:03d}",
            image="a.jpg",
            mask="m.png" if i < masked else None,
            blur="white" if i < masked else None,
            split="train",
            height=4,
            width=4,
            sha256=f"{i:064x}",
        )
        for i in range(count)
    ]


def test_passes_take_every_sample_once() -> None:
    """Batches go over the border of a pass, and each pass is a shuffle of all."""
    order = Order(some(10, 10), batch_size=4, seed=0)
    taken = torch.cat([order.rows(step) for step in range(10)]).view(4, 10)
    assert all(sorted(row.tolist()) == list(range(10)) for row in taken)
    assert len({tuple(row.tolist()) for row in taken}) == 4


def test_a_step_depends_on_its_number_alone() -> None:
    """Asked in any order, a step takes the same samples."""
    forward, backward = (Order(some(7, 7), batch_size=3, seed=5) for _ in "ab")
    rows = [forward.rows(step) for step in range(12)]
    assert all(torch.equal(backward.rows(step), rows[step]) for step in reversed(range(12)))


def test_two_small_steps_are_one_large_step() -> None:
    """Gradient accumulation and several processes see the samples that one large batch holds."""
    small, large = (Order(some(9, 9), batch_size=size, seed=1) for size in (2, 4))
    assert torch.equal(torch.cat([small.rows(6), small.rows(7)]), large.rows(3))


def test_masked_samples_keep_their_share_of_each_batch() -> None:
    """With few masks every batch still holds as many as asked for."""
    order = Order(some(40, 4), batch_size=8, seed=0, masked_share=0.5)
    for step in range(10):
        assert int((order.rows(step) < 4).sum()) == 4


def test_every_process_gets_its_masks_first() -> None:
    """Each process's share of a batch holds as many masks as every other's, before the samples without."""
    order = Order(some(40, 10), batch_size=16, seed=0, processes=2)
    assert order.groups == [2, 6]
    seen = torch.cat([order.rows(step) for step in range(5)])
    assert ((seen < 10).view(5, 2, 8) == torch.tensor([True] * 2 + [False] * 6)).all()
    assert sorted(seen[seen < 10].tolist()) == sorted([*range(10)] * 2)


def test_samples_of_either_kind_are_never_left_out() -> None:
    """One mask among many, and one sample without: both come up in every batch."""
    assert Order(some(40, 1), batch_size=8, seed=0).groups == [2, 6]
    assert Order(some(40, 39), batch_size=8, seed=0).groups == [6, 2]
    few = Order(some(40, 20), batch_size=3, seed=0)
    assert (few.groups, few.is_mixed) == ([3], True)
    alone = Order(some(40, 20), batch_size=3, seed=0, masked_share=1.0)
    assert not alone.is_mixed
    assert max(int(alone.rows(step).max()) for step in range(20)) < 20
    assert Order(some(40, 39), batch_size=8, seed=0, masked_share=1.0).groups == [8]


def test_fewer_masks_are_a_part_of_more() -> None:
    """A fraction of the masks is nested in a larger one, and the samples stay."""
    samples = some(40, 40)
    kept = [{s.id for s in with_masks(samples, f, seed=3) if s.mask} for f in (0.05, 0.25, 0.5, 1.0)]
    assert [len(k) for k in kept] == [2, 10, 20, 40]
    assert kept[0] < kept[1] < kept[2] < kept[3]
    assert len(with_masks(samples, 0.05, seed=3)) == 40
    assert {s.id for s in with_masks(samples, 0.25, seed=4) if s.mask} != kept[1]


def batches(manifest: Path, labels: Path, folder: Path | None, **options: object) -> Batches:
    """The training samples of the small set."""
    photographs = Photographs(read_manifest(manifest, split="train"), LabelReader(labels), size=32)
    return Batches(photographs, device=CPU, cache_gib=0.0, folder=folder, workers=1, **options)  # type: ignore[arg-type]


def test_a_cache_holds_what_decoding_gives(small_set: Path, small_labels: Path, tmp_path: Path) -> None:
    """From the mapped file or decoded anew: the same bytes; the second user of a cache decodes nothing."""
    rows = [torch.tensor([3, 0]), torch.tensor([7, 7])]
    decoded = list(batches(small_set, small_labels, None)(rows))
    calls: list[int] = []
    for expected in (12, 12):
        made = batches(small_set, small_labels, tmp_path / "cache", progress=lambda done, total: calls.append(done))
        for ours, theirs in zip(made(rows), decoded, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None)
        assert len(calls) == expected
    assert [p.name.startswith("prepared-") for p in (tmp_path / "cache").iterdir()] == [True]


def test_decoding_leaves_the_random_state(small_set: Path, small_labels: Path) -> None:
    """A resumed run sets it back before its samples are decoded anew; what a student drops must not depend on that."""
    before = torch.get_rng_state()
    list(batches(small_set, small_labels, None)([torch.tensor([0])]))
    assert torch.equal(torch.get_rng_state(), before)


def test_another_size_or_mask_is_another_cache(small_set: Path, small_labels: Path) -> None:
    """All that decides the content is in the name."""
    samples, reader = read_manifest(small_set, split="train"), LabelReader(small_labels)
    bare = [msgspec.structs.replace(samples[0], mask=None, blur=None), *samples[1:]]
    facts = [
        Photographs(samples, reader, size=32).facts,
        Photographs(samples, reader, size=40).facts,
        Photographs(samples, None, size=32).facts,
        Photographs(samples[1:], reader, size=32).facts,
        Photographs(bare, reader, size=32).facts,
    ]
    assert len({msgspec.json.encode(f) for f in facts}) == len(facts)


def test_a_damaged_cache_is_named(small_set: Path, small_labels: Path, tmp_path: Path) -> None:
    """A file cut short: one line with the folder and the mend."""
    list(batches(small_set, small_labels, tmp_path)([torch.tensor([0])]))
    file = next(tmp_path.glob("prepared-*/images.npy"))
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(SoftfocusError, match=r"prepared-.*delete it"):
        list(batches(small_set, small_labels, tmp_path)([torch.tensor([0])]))
