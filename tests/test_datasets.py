"""Indexing: every layout on a small folder of its shape, every kind of bad file, and the real data."""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

import pipeline.datasets
from pipeline.datasets import LAYOUTS, DatasetError, IndexSummary, falls_in_val, index
from pipeline.errors import SoftfocusError
from pipeline.images import MAX_PIXELS_VARIABLE, read_blur_mask
from pipeline.manifest import Sample, read_manifest

SIZE = (12, 16)
HALF = np.zeros(SIZE, np.uint8)
HALF[:, 8:] = 255  # the right half is white


def photograph(path: Path, number: int = 0, **options: Any) -> Path:
    """A small photograph; another number, other bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 255, (*SIZE, 3), np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def mask(path: Path, values: np.ndarray = HALF) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def pair(root: Path, name: str, number: int, *, images: str = "image", masks: str = "gt", suffix: str = ".jpg") -> None:
    photograph(root / images / f"{name}{suffix}", number)
    mask(root / masks / f"{name}.png")


def indexed(layout: str, root: Path, **options: Any) -> tuple[IndexSummary, list[Sample]]:
    out = root.parent / "out.jsonl"
    summary = index(layout, root, out=out, jobs=1, **options)
    samples = read_manifest(out)
    assert summary.samples == sum(summary.by_split.values()) == len(samples) == summary.with_mask + summary.without_mask
    return summary, samples


def splits(samples: list[Sample]) -> dict[str, str]:
    return {sample.id: sample.split for sample in samples}


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Three good pairs a, b, c, to which a test adds what is bad."""
    root = tmp_path / "mine"
    for number, name in enumerate("abc"):
        pair(root, name, number)
    return root


def indexed_pairs(root: Path, **options: Any) -> tuple[IndexSummary, list[Sample]]:
    return indexed("pairs", root, polarity="white-is-blur", val_fraction=0, **options)


def left_out(root: Path, name: str, **options: Any) -> str:
    """The one problem of a folder where the sample `name` is bad and a, b, c are good."""
    summary, samples = indexed_pairs(root, **options)
    assert [sample.id for sample in samples] == ["mine/a", "mine/b", "mine/c"]
    assert len(summary.problems) == 1
    assert name in summary.problems[0]
    assert "\n" not in summary.problems[0]
    return summary.problems[0]


def kept(root: Path, name: str) -> Sample:
    """The sample `name` of a folder without problems."""
    summary, samples = indexed_pairs(root)
    assert summary.problems == []
    return next(sample for sample in samples if sample.id == f"mine/{name}")


# Layouts


def test_cuhk_takes_its_test_split_from_the_list(tmp_path: Path) -> None:
    """White is blur; names in test.txt count by stem, whatever their suffix, spaces and line ends."""
    root = tmp_path / "cuhk"
    for number in range(4):
        pair(root, f"out_of_focus{number:04d}", number, suffix=".JPG" if number % 2 else ".jpg")
    (root / "test.txt").write_bytes(b"out_of_focus0001.jpg\r\n\r\n out_of_focus0002.JPG \r\n")
    summary, samples = indexed("cuhk", root, val_fraction=0)
    assert splits(samples) == {
        "cuhk/out_of_focus0000": "train",
        "cuhk/out_of_focus0001": "test",
        "cuhk/out_of_focus0002": "test",
        "cuhk/out_of_focus0003": "train",
    }
    assert {sample.blur for sample in samples} == {"white"}
    assert summary.by_split == {"train": 2, "val": 0, "test": 2}
    assert summary.problems == summary.warnings == []


def test_a_mask_published_the_wrong_way_round_is_turned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Known by its bytes: the same photograph with another mask is taken as it is; a line says so."""
    root = tmp_path / "cuhk"
    for number in range(2):
        pair(root, f"out_of_focus{number:04d}", number)
    (root / "test.txt").write_text("out_of_focus0001.jpg\n")
    (mask,) = (root / "gt").glob("*0001.*")
    Image.open(mask).transpose(Image.Transpose.ROTATE_180).save(mask)
    known = frozenset([hashlib.sha256(mask.read_bytes()).hexdigest()])
    monkeypatch.setitem(LAYOUTS, "cuhk", LAYOUTS["cuhk"]._replace(inverted=known))
    summary, samples = indexed("cuhk", root, val_fraction=0)
    assert [sample.blur for sample in samples] == ["white", "black"]
    assert len(summary.warnings) == 1
    assert "wrong way round" in summary.warnings[0]


def test_cuhk_names_what_the_list_has_and_the_folder_lacks(tmp_path: Path) -> None:
    """A test split that has shrunk must not go unnoticed."""
    pair(tmp_path / "cuhk", "out_of_focus0001", 1)
    (tmp_path / "cuhk" / "test.txt").write_text("out_of_focus0002.jpg\n")
    summary, _ = indexed("cuhk", tmp_path / "cuhk")
    assert len(summary.problems) == 1
    assert "test.txt: names 'out_of_focus0002'" in summary.problems[0]


def test_cuhk_leaves_motion_blur_aside(tmp_path: Path) -> None:
    """The publishers' archive holds both kinds; this project is about one."""
    root = tmp_path / "cuhk"
    pair(root, "out_of_focus0001", 1)
    pair(root, "motion0001", 2)
    (root / "test.txt").write_text("out_of_focus0001.jpg")
    summary, samples = indexed("cuhk", root)
    assert [sample.id for sample in samples] == ["cuhk/out_of_focus0001"]
    assert "motion" in summary.warnings[0]


@pytest.mark.parametrize("inside", ["", "DUT-DBD_Dataset"])
@pytest.mark.parametrize("test_folders", [("DUT500S-Testing", "DUT500GT-Testing"), ("image", "gt")])
def test_dut_has_two_halves_and_white_in_focus(tmp_path: Path, inside: str, test_folders: tuple[str, str]) -> None:
    """In either form of the test folders, from the root or the folder inside; names may repeat."""
    root = tmp_path / "dut"
    pair(root / inside, "0001", 1, images="DUT600S_Training", masks="DUT600GT_Training")
    pair(root / inside, "0001", 2, images=test_folders[0], masks=test_folders[1])
    summary, samples = indexed("dut", root, val_fraction=0)
    assert splits(samples) == {"dut/test/0001": "test", "dut/train/0001": "train"}
    assert {sample.blur for sample in samples} == {"black"}
    assert summary.problems == []


def test_dut_may_have_one_half_only(tmp_path: Path) -> None:
    """Many only fetch the test photographs."""
    pair(tmp_path / "dut", "1", 1)
    assert splits(indexed("dut", tmp_path / "dut")[1]) == {"dut/test/1": "test"}


def test_dut_needs_the_masks_beside_the_photographs(tmp_path: Path) -> None:
    """Half an archive is named as that."""
    photograph(tmp_path / "dut" / "DUT600S_Training" / "1.jpg")
    with pytest.raises(DatasetError, match="DUT600GT_Training"):
        indexed("dut", tmp_path / "dut")


def test_ctcug_is_all_test_and_white_is_blur(tmp_path: Path) -> None:
    """D-DFFNet inverts its masks as it does those of CUHK."""
    pair(tmp_path / "ctcug", "x", 1, images="CTCUG_images", masks="CTCUG_gt")
    _, samples = indexed("ctcug", tmp_path / "ctcug")
    assert [(sample.id, sample.split, sample.blur) for sample in samples] == [("ctcug/x", "test", "white")]


def test_ebd_is_all_test_and_white_is_focus(tmp_path: Path) -> None:
    """D-DFFNet takes its masks as they are."""
    pair(tmp_path / "ebd", "x", 1)
    _, samples = indexed("ebd", tmp_path / "ebd")
    assert [(sample.id, sample.split, sample.blur) for sample in samples] == [("ebd/x", "test", "black")]


@pytest.mark.parametrize("layout", ["dut", "ebd"])
def test_cuhk_under_another_name_is_doubted(tmp_path: Path, layout: str) -> None:
    """Its folders look alike, and its masks mean the opposite."""
    pair(tmp_path / "data", "out_of_focus0001", 1)
    (tmp_path / "data" / "test.txt").write_text("out_of_focus0001.jpg")
    summary, _ = indexed(layout, tmp_path / "data")
    assert "if it is cuhk" in summary.warnings[0]


@pytest.mark.parametrize("masks", ["mask", "gt"])
def test_pairs_are_named_after_their_folder(tmp_path: Path, masks: str) -> None:
    """Sub-folders are part of the id, and masks may have any suffix."""
    root = tmp_path / "mine"
    photograph(root / "image" / "day 1" / "a.JPEG", 1)
    mask(root / masks / "day 1" / "a.BMP")
    _, samples = indexed("pairs", root, polarity="white-is-focus", val_fraction=0)
    assert samples[0].id == "mine/day 1/a"
    assert samples[0].blur == "black"
    assert samples[0].image == "image/day 1/a.JPEG"
    assert samples[0].split == "train"


def test_pairs_bring_their_splits_as_folders(tmp_path: Path) -> None:
    """Outside of image/ and mask/, or inside; and a split of their own is left alone."""
    for number, split in enumerate(["train", "val", "test"]):
        pair(tmp_path / "outside" / split, "a", number, masks="mask")
        pair(tmp_path / "inside", f"{split}/a", number)
    for name in ("outside", "inside"):
        _, samples = indexed("pairs", tmp_path / name, polarity="white-is-blur", val_fraction=0.99)
        assert splits(samples) == {f"{name}/{split}/a": split for split in ("train", "val", "test")}


def test_photographs_alone_have_no_masks(tmp_path: Path) -> None:
    """Found in any depth; hidden files, other files and what cannot be decoded are not taken."""
    root = tmp_path / "photos"
    photograph(root / "a.jpg", 1)
    photograph(root / "deep" / "er" / "b.PNG", 2)
    photograph(root / ".thumbs" / "c.jpg", 3)
    photograph(root / "__MACOSX" / "d.jpg", 4)
    (root / "notes.txt").write_text("-")
    (root / "e.HEIC").write_bytes(b"-")
    summary, samples = indexed("images", root, val_fraction=0)
    assert splits(samples) == {"photos/a": "train", "photos/deep/er/b": "train"}
    assert all(sample.mask is None and sample.blur is None for sample in samples)
    assert (summary.with_mask, summary.without_mask) == (0, 2)
    assert len(summary.warnings) == 1
    assert "e.HEIC" in summary.warnings[0]


def test_folders_that_contain_themselves_are_searched_once(tmp_path: Path) -> None:
    """A link to a parent is no endless tree."""
    root = tmp_path / "photos"
    photograph(root / "a.jpg")
    (root / "again").symlink_to(root, target_is_directory=True)
    assert len(indexed("images", root)[1]) == 1


def scenes(root: Path, **splits: str) -> None:
    lines = [json.dumps({"name": name, "split": split, "seed": 1}) for name, split in splits.items()]
    (root / "scenes.jsonl").write_text("\n".join(lines) + "\n")


def test_rendered_scenes_bring_their_splits(tmp_path: Path) -> None:
    """As scenes.jsonl says; exact/ is none of the manifest's business."""
    root = tmp_path / "scenes"
    for number, name in enumerate("abc"):
        pair(root, name, number, masks="mask", suffix=".png")
    scenes(root, a="train", b="val", c="test")
    (root / "exact").mkdir()
    (root / "exact" / "a.npz").touch()
    summary, samples = indexed("synth", root)
    assert splits(samples) == {"scenes/a": "train", "scenes/b": "val", "scenes/c": "test"}
    assert {sample.blur for sample in samples} == {"white"}
    assert summary.problems == []


def test_scenes_without_validation_get_one(tmp_path: Path) -> None:
    """The cut is made wherever a dataset has no validation split of its own."""
    root = tmp_path / "scenes"
    for number, name in enumerate("abc"):
        pair(root, name, number, masks="mask")
    scenes(root, a="train", b="train", c="test")
    _, samples = indexed("synth", root, val_fraction=0.999999)
    assert list(splits(samples).values()) == ["val", "val", "test"]


def test_scenes_and_their_list_must_agree(tmp_path: Path) -> None:
    """A picture without a scene and a scene without a picture are both named."""
    root = tmp_path / "scenes"
    pair(root, "a", 1, masks="mask")
    pair(root, "b", 2, masks="mask")
    scenes(root, a="train", c="train")
    summary, samples = indexed("synth", root, val_fraction=0)
    assert [sample.id for sample in samples] == ["scenes/a"]
    assert [("b.jpg" in text, "'c'" in text) for text in summary.problems] == [(True, False), (False, True)]


@pytest.mark.parametrize("line", ["{", '{"name": "a"}', '{"name": "a", "split": "training"}'])
def test_a_bad_list_of_scenes_is_refused(tmp_path: Path, line: str) -> None:
    """By file and line."""
    pair(tmp_path / "scenes", "a", 1, masks="mask")
    (tmp_path / "scenes" / "scenes.jsonl").write_text(line)
    with pytest.raises(DatasetError, match=r"scenes\.jsonl:1: not a scene"):
        indexed("synth", tmp_path / "scenes")


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ("cuhk", "image/, gt/ and test.txt"),
        ("dut", "DUT600S_Training/"),
        ("ctcug", "CTCUG_images/ and CTCUG_gt/"),
        ("ebd", "image/ and gt/"),
        ("pairs", "image/ and mask/"),
        ("synth", "image/, mask/ and scenes.jsonl"),
        ("images", "not one good photograph"),
    ],
)
def test_a_folder_of_another_layout_is_refused(tmp_path: Path, layout: str, expected: str) -> None:
    """The message names the folders expected, and no manifest is written."""
    root = tmp_path / "empty"
    root.mkdir()
    polarity = "white-is-blur" if layout == "pairs" else None
    with pytest.raises(DatasetError, match=expected) as caught:
        index(layout, root, out=tmp_path / "out.jsonl", polarity=polarity)
    assert str(root) in str(caught.value)
    assert not (tmp_path / "out.jsonl").exists()


def test_the_documentation_describes_every_layout() -> None:
    """With the command that indexes it."""
    text = (Path(__file__).parents[1] / "datasets.md").read_text(encoding="utf-8")
    for layout in LAYOUTS:
        assert f"softfocus index {layout} " in text


# Options


@pytest.mark.parametrize(
    ("layout", "options", "why"),
    [
        ("coco", {}, "choose one of cuhk, dut"),
        ("pairs", {}, "needs a polarity"),
        ("pairs", {"polarity": "white"}, "white-is-blur"),
        ("images", {"polarity": "white-is-blur"}, "has no masks"),
        ("images", {"val_fraction": 1.0}, "from 0 to below 1"),
        ("images", {"val_fraction": -0.1}, "from 0 to below 1"),
        ("images", {"jobs": 0}, "0 parallel jobs"),
        ("images", {"name": "../up"}, "does not stay below its root"),
    ],
)
def test_bad_options_are_refused(tmp_path: Path, layout: str, options: dict[str, Any], why: str) -> None:
    """Each with what would do."""
    pair(tmp_path / "data", "a", 1)
    with pytest.raises(DatasetError, match=why):
        index(layout, tmp_path / "data", out=tmp_path / "out.jsonl", **options)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    """By name."""
    with pytest.raises(DatasetError, match="gone: no such folder"):
        index("ebd", tmp_path / "gone", out=tmp_path / "out.jsonl")


def test_name_and_polarity_can_be_set(tmp_path: Path) -> None:
    """For releases with the other polarity, and for two copies of one dataset."""
    pair(tmp_path / "ebd", "a", 1)
    _, samples = indexed("ebd", tmp_path / "ebd", name="ebd2", polarity="white-is-blur")
    assert (samples[0].id, samples[0].blur) == ("ebd2/a", "white")


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("many", [1, 10**6])
def test_progress_is_reported_and_workers_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int, many: int
) -> None:
    """In threads and in processes, the samples come in the same order, bad ones among them."""
    monkeypatch.setattr(pipeline.datasets, "_MANY", many)
    monkeypatch.setattr(pipeline.datasets, "_CHUNK", 2)
    for number in range(5):
        photograph(tmp_path / "photos" / f"{number}.png", number)
    (tmp_path / "photos" / "2.png").write_bytes(b"")
    calls: list[tuple[int, int]] = []
    summary = index(
        "images",
        tmp_path / "photos",
        out=tmp_path / "out.jsonl",
        jobs=jobs,
        val_fraction=0,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(2, 5), (4, 5), (5, 5)]
    assert [sample.id[-1] for sample in read_manifest(tmp_path / "out.jsonl")] == list("0134")
    assert len(summary.problems) == 1


# The validation split


def test_the_coin_is_fair_and_known() -> None:
    """A fixed value, so that no release moves anybody's split, and the share that was asked for."""
    hashes = [f"{number:064x}" for number in range(4000)]
    share = np.mean([falls_in_val(one, val_fraction=0.1, seed=0) for one in hashes])
    assert 0.08 < share < 0.12
    assert [number for number in range(40) if falls_in_val(hashes[number], val_fraction=0.1, seed=0)] == [10, 19, 29]
    assert not any(falls_in_val(one, val_fraction=0, seed=0) for one in hashes)


def test_adding_photographs_moves_no_old_one(tmp_path: Path) -> None:
    """Whatever is added, renamed or indexed in another order."""
    root = tmp_path / "photos"
    for number in range(40):
        photograph(root / f"{number}.png", number)
    _, before = indexed("images", root, val_fraction=0.3)
    for number in range(40, 60):
        photograph(root / f"0{number}.png", number)
    _, after = indexed("images", root, val_fraction=0.3)
    assert splits(before).items() <= splits(after).items()
    assert {"train", "val"} == set(splits(before).values())

    _, other_seed = indexed("images", root, val_fraction=0.3, seed=1)
    assert splits(other_seed) != splits(after)
    _, wider = indexed("images", root, val_fraction=0.5)
    assert all(splits(wider)[one] == "val" for one, split in splits(after).items() if split == "val")


def test_identical_photographs_stay_together(tmp_path: Path) -> None:
    """The coin is tossed for the bytes, so copies never straddle; one warning says that there are any."""
    root = tmp_path / "photos"
    for number in range(20):
        for copy in "xy":
            photograph(root / f"{number}{copy}.png", number)
    summary, samples = indexed("images", root, val_fraction=0.5)
    by_hash: dict[str, set[str]] = {}
    for sample in samples:
        by_hash.setdefault(sample.sha256, set()).add(sample.split)
    assert len(by_hash) == 20
    assert all(len(found) == 1 for found in by_hash.values())
    assert summary.warnings == [
        "20 photographs are identical copies of another in their split, such as photos/0x and photos/0y"
    ]


def test_the_same_photograph_in_train_and_test_is_a_leak(tmp_path: Path) -> None:
    """A warning that names both, because the figures would be too good."""
    root = tmp_path / "mine"
    pair(root / "train", "a", 1)
    pair(root / "test", "b", 1)
    summary, samples = indexed_pairs(root)
    assert len(samples) == 2
    assert summary.warnings == [
        "the same photograph is in train (mine/train/a) and test (mine/test/b): a leak; remove it from one of them"
    ]


# Bad input: photographs


@pytest.mark.parametrize("decode", [True, False])
def test_an_empty_photograph_is_left_out(pairs: Path, decode: bool) -> None:
    """And named."""
    pair(pairs, "x", 9)
    (pairs / "image" / "x.jpg").write_bytes(b"")
    assert "empty file" in left_out(pairs, "x.jpg", decode=decode)


def test_a_corrupt_photograph_is_left_out(pairs: Path) -> None:
    """An error page, for instance."""
    pair(pairs, "x", 9)
    (pairs / "image" / "x.jpg").write_bytes(b"<html>")
    assert "not an image" in left_out(pairs, "x.jpg")


def test_a_truncated_photograph_is_left_out(pairs: Path) -> None:
    """Unless nobody looks at the pixels."""
    pair(pairs, "x", 9)
    data = (pairs / "image" / "x.jpg").read_bytes()
    (pairs / "image" / "x.jpg").write_bytes(data[:-40])
    assert "cut off" in left_out(pairs, "x.jpg")
    assert len(indexed_pairs(pairs, decode=False)[1]) == 4


def test_a_bomb_is_left_out(pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More pixels than the limit."""
    photograph(pairs / "image" / "x.png")
    Image.new("L", (100, 100)).save(pairs / "image" / "x.png")
    Image.new("L", (100, 100)).save(pairs / "gt" / "x.png")
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "9999")
    assert MAX_PIXELS_VARIABLE in left_out(pairs, "x.png")


def test_a_dangling_link_is_left_out(pairs: Path) -> None:
    """As a file that is not there."""
    (pairs / "image" / "x.jpg").symlink_to(pairs / "gone.jpg")
    mask(pairs / "gt" / "x.png")
    assert "cannot be read" in left_out(pairs, "x.jpg")


@pytest.mark.parametrize("mode", ["I;16", "CMYK", "P", "RGBA"])
def test_photographs_of_unusual_modes_are_kept(pairs: Path, mode: str) -> None:
    """They are photographs all the same."""
    grey = np.arange(np.prod(SIZE), dtype=np.uint16).reshape(SIZE) * 300
    image = Image.fromarray(grey) if mode == "I;16" else Image.fromarray(HALF).convert("RGB").convert(mode)
    image.save(pairs / "image" / "x.tif")
    mask(pairs / "gt" / "x.png")
    assert (kept(pairs, "x").height, kept(pairs, "x").width) == SIZE


def test_a_rotated_photograph_counts_upright(pairs: Path) -> None:
    """Its mask has the upright size; a mask of the stored size is another size."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    photograph(pairs / "image" / "x.jpg", exif=exif)
    mask(pairs / "gt" / "x.png", HALF.T)
    assert (kept(pairs, "x").height, kept(pairs, "x").width) == (16, 12)
    mask(pairs / "gt" / "x.png")
    assert "EXIF rotation" in left_out(pairs, "x.png")


def test_names_in_any_language_are_kept(pairs: Path) -> None:
    """Also where image/ spells them composed and gt/ decomposed, as macOS does."""
    photograph(pairs / "image" / (unicodedata.normalize("NFC", "été 写真") + ".jpg"), 5)
    mask(pairs / "gt" / (unicodedata.normalize("NFD", "été 写真") + ".png"))
    sample = kept(pairs, "été 写真")
    assert sample.image_path.is_file()
    assert sample.mask_path is not None
    assert sample.mask_path.is_file()


def test_a_name_that_is_no_unicode_is_left_out(pairs: Path) -> None:
    """The message can be printed on any terminal."""
    name = os.fsdecode(b"x\xff")
    try:
        pair(pairs, name, 9)
    except OSError:
        pytest.skip("this file system only takes Unicode")
    assert left_out(pairs, "x").encode("utf-8")


def test_one_stem_with_two_suffixes_is_left_out(pairs: Path) -> None:
    """Nobody can say which is meant, so both are named."""
    pair(pairs, "x", 8)
    photograph(pairs / "image" / "x.png", 9)
    assert "x.png" in left_out(pairs, "x.jpg")


# Bad input: masks


def test_a_missing_mask_is_a_problem(pairs: Path) -> None:
    """In a dataset that has masks, a photograph without one is an accident."""
    photograph(pairs / "image" / "x.jpg", 9)
    assert "has no mask" in left_out(pairs, "x.jpg")


def test_a_mask_without_a_photograph_is_a_warning(pairs: Path) -> None:
    """It does no harm, but somebody should know."""
    mask(pairs / "gt" / "x.png")
    summary, samples = indexed_pairs(pairs)
    assert len(samples) == 3
    assert "1 masks have no photograph, such as x.png" in summary.warnings[0]


@pytest.mark.parametrize("decode", [True, False])
def test_a_mask_of_another_size_is_left_out(pairs: Path, decode: bool) -> None:
    """Found from the headers alone, too."""
    pair(pairs, "x", 9)
    mask(pairs / "gt" / "x.png", HALF[:-1])
    assert "mask of 16 x 11 for a photograph of 16 x 12" in left_out(pairs, "x.png", decode=decode)


def test_a_mask_that_cannot_be_decoded_is_left_out(pairs: Path) -> None:
    """Like a photograph."""
    pair(pairs, "x", 9)
    (pairs / "gt" / "x.png").write_bytes((pairs / "gt" / "x.png").read_bytes()[:50])
    assert "cut off" in left_out(pairs, "x.png")


def test_two_masks_for_one_photograph_are_left_out(pairs: Path) -> None:
    """Nobody can say which is meant."""
    pair(pairs, "x", 9)
    mask(pairs / "gt" / "x.bmp")
    assert "two masks" in left_out(pairs, "x.jpg")


@pytest.mark.parametrize(("value", "state"), [(0, "in focus"), (255, "out of focus"), (253, "out of focus")])
def test_a_mask_of_one_value_is_kept_with_a_warning(pairs: Path, value: int, state: str) -> None:
    """All in focus and all out of focus are legal in real life."""
    pair(pairs, "x", 9)
    mask(pairs / "gt" / "x.png", np.full(SIZE, value, np.uint8))
    summary, samples = indexed_pairs(pairs)
    assert len(samples) == 4
    assert summary.problems == []
    assert len(summary.warnings) == 1
    assert f"everything {state}" in summary.warnings[0]


def test_a_mask_of_zeros_and_ones_is_left_out(pairs: Path) -> None:
    """It would count as all black; the message says how to mend it."""
    pair(pairs, "x", 9)
    mask(pairs / "gt" / "x.png", (HALF > 0).astype(np.uint8))
    assert "multiply them by 255" in left_out(pairs, "x.png")
    mask(pairs / "gt" / "x.png", HALF.astype(np.uint16))
    assert "multiply them by 257" in left_out(pairs, "x.png")


def test_a_mask_on_one_side_of_the_middle_is_left_out(pairs: Path) -> None:
    """Such as a palette of black and dark red."""
    pair(pairs, "x", 9)
    mask(pairs / "gt" / "x.png", HALF // 3)
    assert "all on one side" in left_out(pairs, "x.png")


def test_masks_with_stray_values_are_kept(pairs: Path) -> None:
    """Values near black and white, as JPEG leaves them."""
    values = HALF.copy()
    values[0, :3], values[0, -3:] = (1, 2, 3), (252, 253, 254)
    pair(pairs, "x", 9)
    mask(pairs / "gt" / "x.png", values)
    sample = kept(pairs, "x")
    assert sample.mask_path is not None
    assert sample.blur is not None
    blurred = read_blur_mask(sample.mask_path, blur=sample.blur, size=SIZE)
    np.testing.assert_array_equal(blurred, HALF > 0)


@pytest.mark.parametrize("mode", ["1", "P", "RGBA", "I;16"])
def test_masks_of_unusual_modes_are_kept(pairs: Path, mode: str) -> None:
    """They are masks all the same."""
    pair(pairs, "x", 9)
    deep = Image.fromarray((HALF > 0).astype(np.uint16) * 65535)
    (deep if mode == "I;16" else Image.fromarray(HALF).convert(mode)).save(pairs / "gt" / "x.png")
    assert kept(pairs, "x").mask == "gt/x.png"


def test_nothing_is_written_where_nothing_is_good(tmp_path: Path) -> None:
    """The old manifest stays, and the message names the first problem."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    out = tmp_path / "out.jsonl"
    out.write_text("old")
    with pytest.raises(DatasetError, match=r"the first of 1 problems: .*a\.jpg: an empty file"):
        index("images", tmp_path / "photos", out=out)
    assert out.read_text() == "old"


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """A file where a folder should be, for instance."""
    photograph(tmp_path / "photos" / "a.jpg")
    (tmp_path / "file").touch()
    with pytest.raises(SoftfocusError, match="cannot be written"):
        index("images", tmp_path / "photos", out=tmp_path / "file" / "out.jsonl")


# Real data


def test_the_real_cuhk(shared: Path, tmp_path: Path) -> None:
    """704 photographs: 604 for training, of which a tenth for validation, and 100 for the test."""
    summary = index("cuhk", shared / "data" / "cuhk", out=tmp_path / "cuhk.jsonl", jobs=2)
    assert summary.by_split == {"train": 547, "val": 57, "test": 100}
    assert (summary.with_mask, summary.without_mask) == (704, 0)
    assert summary.problems == []
    inverted = [s.id[-4:] for s in read_manifest(tmp_path / "cuhk.jsonl") if s.blur == "black"]
    assert inverted == ["0508", "0509"]
    assert [number in warning for number, warning in zip(inverted, summary.warnings, strict=True)] == [True, True]
    samples = read_manifest(tmp_path / "cuhk.jsonl", split="test")
    listed = (shared / "data" / "cuhk" / "test.txt").read_text().split()
    assert [Path(sample.image).name for sample in samples] == sorted(listed)
    assert all(sample.image_path.is_file() for sample in samples)


def test_the_real_dut(shared: Path, tmp_path: Path) -> None:
    """Five test pairs whose stray values between black and white are legal."""
    summary = index("dut", shared / "data" / "dut5", out=tmp_path / "dut.jsonl", jobs=2)
    assert summary.by_split == {"train": 0, "val": 0, "test": 5}
    assert summary.problems == summary.warnings == []
    assert {sample.blur for sample in read_manifest(tmp_path / "dut.jsonl")} == {"black"}
