"""The label store: exact codes, a plan that never moves, files that are whole or refused by name."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import pickle
import re
import sys
import threading
import zlib
from pathlib import Path
from typing import Any

import h5py
import msgspec
import numpy as np
import pytest

from pipeline.files import FileTaken
from pipeline.provenance import Provenance
from pipeline.store import (
    ABSENT,
    DTYPES,
    SEAL_BYTES,
    DamagedShard,
    Encoded,
    Images,
    LabelReader,
    MissingLabel,
    Plan,
    StoreDescription,
    StoreError,
    check_settings,
    check_teacher,
    count_splits,
    create_store,
    decode,
    encode,
    finished_shards,
    next_generation,
    pack,
    read_description,
    read_plan,
    read_reasons,
    read_results,
    shard_path,
    split_table,
    write_generation,
    write_shard,
)
from pipeline.store.codec import CODECS, arrange, chunk_filters, codec_words, fletcher32, unpack
from pipeline.store.description import SCHEMA
from pipeline.store.seal import check_seal, read_seal

TEACHER = Provenance(
    kind="test",
    name="ramp",
    weights_sha256="0" * 64,
    direction="inverse depth",
    preprocessing={"range": [0, 255]},
    versions={"numpy": np.__version__},
)


def same_size(height: int, width: int) -> tuple[int, int]:
    return height, width


def sha256_of(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def images(content_by_id: dict[str, str], size: tuple[int, int] = (2, 8)) -> Images:
    """Columns of samples, each with the SHA-256 of a made-up content."""
    ids = sorted(content_by_id)
    return Images(
        ids=np.array([name.encode() for name in ids]),
        sha256=np.array([list(bytes.fromhex(sha256_of(content_by_id[name]))) for name in ids], np.uint8),
        sizes=np.array([size] * len(ids), np.int32).reshape(-1, 2),
    )


def value_map(number: int) -> np.ndarray[Any, Any]:
    """A label of 2 x 8 with the values 100 * number to 100 * number + 15, which 16 bits hold exactly."""
    return (100 * number + np.arange(16, dtype=np.float32)).reshape(2, 8)


def make_store(
    folder: Path,
    count: int = 5,
    *,
    failed: dict[int, str] | None = None,
    shard_size: int = 2,
    codec: Any = "delta-deflate",
) -> Path:
    """A store with up to ten ids "set/0", "set/1", ..., in rows 0, 1, ..., whose labels are `value_map`."""
    store = folder / "labels"
    description = create_store(store, TEACHER, shard_size=shard_size, codec=codec)
    columns = images({f"set/{i}": f"photograph {i}" for i in range(count)})
    draft = next_generation(Plan(), columns, shard_size)
    assert draft is not None
    write_generation(store, description, Plan(), draft.finish(same_size))
    plan = read_plan(store, description)
    for number in range(len(plan.shards)):
        write_numbered(store, description, plan, number, failed or {})
    return store


def write_numbered(store: Path, description: StoreDescription, plan: Plan, number: int, failed: dict[int, str]) -> None:
    shard = plan.shard(number)
    results = [
        (
            i,
            failed.get(shard.start + i)
            or pack(encode(value_map(shard.start + i), description.dtype), description.codec),
        )
        for i in range(len(shard))
    ]
    write_shard(store, description, shard, results, provenance=TEACHER)


def flip_bit(path: Path, byte: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 1 << bit
    path.write_bytes(content)


# Codes


@pytest.mark.parametrize(("dtype", "steps"), [("u16", 131070), ("u8", 510)])
@pytest.mark.parametrize("seed", range(20))
def test_codes_keep_every_value_within_half_a_step(dtype: Any, steps: int, seed: int) -> None:
    """Without invalid pixels no value moves by more than the range / 131070 (u8: / 510)."""
    random = np.random.default_rng(seed)
    values = (random.normal(size=(7, 5)) * 10.0 ** random.integers(-6, 7) + random.normal()).astype(np.float32)
    encoded = encode(values, dtype)
    half_step = (float(values.max()) - float(values.min())) / steps
    exact = decode(*encoded, precision=np.float64)
    assert np.abs(exact - values).max() <= half_step * (1 + 1e-9)
    rounding = np.spacing(np.abs(values).max()) / 2
    assert np.abs(decode(*encoded).astype(np.float64) - values).max() <= half_step * (1 + 1e-9) + rounding


@pytest.mark.parametrize(("dtype", "last"), [("u16", 65535), ("u8", 255)])
def test_smallest_and_largest_value_use_the_whole_range(dtype: Any, last: int) -> None:
    """The smallest value has code 0, the largest the last code, and both come back exactly."""
    encoded = encode(np.array([[2.0, 5.0, 3.0]], np.float32), dtype)
    assert encoded.codes[0, :2].tolist() == [0, last]
    assert decode(*encoded)[0, :2].tolist() == [2.0, 5.0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_invalid_pixels_come_back_as_nan_and_the_others_as_values(dtype: Any) -> None:
    """NaN and infinities are invalid pixels, counted; the largest value is no longer the highest code."""
    values = np.array([[1.0, np.nan, 2.0], [np.inf, 3.0, -np.inf]], np.float32)
    encoded = encode(values, dtype)
    back = decode(*encoded)
    assert encoded.invalid_count == 3
    assert np.isnan(back).tolist() == [[False, True, False], [True, False, True]]
    assert back[0, 0] == 1.0
    assert back[1, 1] == 3.0
    assert abs(back[0, 2] - 2.0) <= 2 / 500


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [0.0, -3.5, 1e-30, 3e38])
def test_constant_map_is_exact(dtype: Any, value: float) -> None:
    """A constant map has scale 0 and comes back as it was, also where a pixel is invalid."""
    values = np.full((2, 3), value, np.float32)
    assert (decode(*encode(values, dtype)) == values).all()
    values[0, 0] = np.nan
    assert np.array_equal(decode(*encode(values, dtype)), values, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_map_without_a_valid_pixel_is_all_nan(dtype: Any) -> None:
    """Nothing known in, nothing known out."""
    encoded = encode(np.full((2, 3), np.nan), dtype)
    assert encoded.invalid_count == 6
    assert np.isnan(decode(*encoded)).all()


def test_single_pixel_and_huge_range_survive() -> None:
    """The extremes of shape and of float32 are maps like any other."""
    assert decode(*encode(np.array([[7.0]], np.float32), "u16")).tolist() == [[7.0]]
    largest = np.finfo(np.float32).max
    assert decode(*encode(np.array([[-largest, largest]]), "u16")).tolist() == [[-largest, largest]]


SHAPES = [(1, 1), (1, 7), (7, 1), (3, 5), (40, 60)]


def random_codes(dtype: Any, shape: tuple[int, int]) -> np.ndarray[Any, Any]:
    """Codes that use the whole range, so that differences wrap round."""
    return np.random.default_rng(shape[0]).integers(0, np.iinfo(DTYPES[dtype]).max + 1, shape).astype(DTYPES[dtype])


def written(codes: np.ndarray[Any, Any], codec: Any) -> h5py.File:
    """An HDF5 file in memory with one chunk, written as the store writes it."""
    file = h5py.File(f"memory {codec}", "w", driver="core", backing_store=False)
    filters = chunk_filters(codec)
    labels = file.create_dataset("labels", (1, *codes.shape), codes.dtype, chunks=(1, *codes.shape), **filters)
    labels.id.write_direct_chunk((0, 0, 0), pack(Encoded(codes, 0, 1, 0), codec).chunk)
    return file


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_unpacked_codes_are_those_that_were_packed(codec: Any, dtype: Any, shape: tuple[int, int]) -> None:
    """Every codec is exact, for any codes and any shape."""
    codes = random_codes(dtype, shape)
    back = unpack(pack(Encoded(codes, 0, 1, 0), codec).chunk, shape, DTYPES[dtype], codec)
    assert back.dtype == codes.dtype
    assert np.array_equal(back, codes)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_hdf5_and_the_formula_in_words_give_the_codes(codec: Any, dtype: Any, shape: tuple[int, int]) -> None:
    """Who has h5py (for zstd also hdf5plugin) and the stored sentence needs nothing of ours."""
    codes = random_codes(dtype, shape)
    formula = codec_words(codec, DTYPES[dtype]).removeprefix("code = ").split(", all modulo")[0]
    with written(codes, codec) as file:
        assert np.array_equal(eval(formula, {"numpy": np, "labels": file["labels"], "row": 0}), codes)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_chunk_is_what_hdf5_itself_writes_but_for_the_deflate_library(dtype: Any, shape: tuple[int, int]) -> None:
    """Shuffle and checksum are HDF5's own, byte for byte, and any zlib undoes the rest."""
    codes = random_codes(dtype, shape)
    chunk = pack(Encoded(codes, 0, 1, 0), "deflate").chunk
    with h5py.File("memory", "w", driver="core", backing_store=False) as file:
        dataset = file.create_dataset("labels", data=codes, chunks=shape, **chunk_filters("deflate"))
        theirs = dataset.id.read_direct_chunk((0, 0))[1]
    assert zlib.decompress(chunk[:-4]) == zlib.decompress(theirs[:-4])
    assert int.from_bytes(theirs[-4:], "little") == fletcher32(theirs[:-4])
    assert int.from_bytes(chunk[-4:], "little") == fletcher32(chunk[:-4])


def test_differences_by_hand() -> None:
    """5 7 / 6 9: first 5, then 7 - 5, then 6 - 5, then 9 - 7 - 6 + 5; each plus 128, low bytes before high ones."""
    codes = np.array([[5, 7], [6, 9]], np.uint16)
    assert arrange(codes, "delta-deflate") == bytes([133, 130, 129, 129, 0, 0, 0, 0])
    assert arrange(codes.astype(np.uint8), "delta-deflate") == bytes([5, 2, 1, 1])
    assert arrange(codes, "deflate") == bytes([5, 7, 6, 9, 0, 0, 0, 0])
    assert arrange(codes, "none") == bytes([5, 0, 7, 0, 6, 0, 9, 0])


@pytest.mark.parametrize("codec", CODECS)
def test_flipped_bit_in_a_chunk_is_found(codec: Any) -> None:
    """No bit of a stored map can change without notice."""
    chunk = pack(Encoded(random_codes("u16", (5, 4)), 0, 1, 0), codec).chunk
    for bit in range(8 * len(chunk)):
        damaged = bytearray(chunk)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match="checksum"):
            unpack(bytes(damaged), (5, 4), DTYPES["u16"], codec)


def test_chunk_of_another_size_is_refused() -> None:
    """A whole chunk of another map shows when it is read."""
    for codec in CODECS:
        chunk = pack(Encoded(random_codes("u16", (5, 4)), 0, 1, 0), codec).chunk
        for shape in ((5, 5), (5, 3)):
            with pytest.raises(ValueError, match=r"bytes where a map has|cannot be decompressed"):
                unpack(chunk, shape, DTYPES["u16"], codec)


def test_codec_without_its_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The one codec that needs more than plain h5py names the extra, before any work."""
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(StoreError, match=r"pip install 'softfocus\[zstd\]'"):
        create_store(tmp_path / "labels", TEACHER, codec="delta-zstd")
    assert not (tmp_path / "labels").exists()


def test_fletcher32_of_known_data() -> None:
    """Sums of 16-bit words by hand: 0x0102 + 0x0304 = 0x0406, and 2 * 0x0102 + 0x0304 = 0x0508."""
    assert fletcher32(bytes([1, 2, 3, 4])) == 0x05080406
    assert fletcher32(b"") == 0
    assert fletcher32(bytes([1])) == 0x01000100


# The plan


def test_plan_groups_by_label_size_and_then_goes_by_id() -> None:
    """Shards hold one label size each, smallest first, and ids in order."""
    columns = images({name: name for name in "abcde"})
    columns.sizes[:] = [(8, 8), (4, 8), (8, 8), (4, 6), (8, 8)]
    draft = next_generation(Plan(), columns, 2)
    assert draft is not None
    plan = Plan([draft.finish(lambda height, width: (height // 2, width // 2))])
    shards = [plan.shard(number) for number in range(len(plan.shards))]
    assert [(s.height, s.width, s.ids) for s in shards] == [
        (2, 3, ["d"]),
        (2, 4, ["b"]),
        (4, 4, ["a", "c"]),
        (4, 4, ["e"]),
    ]
    assert plan.rows_of(["d", "b", "a", "c", "e", "unknown"]).tolist() == [0, 1, 2, 3, 4, -1]
    assert plan.shards_of(np.arange(5)).tolist() == [0, 1, 2, 2, 3]


def test_identical_photographs_share_a_row() -> None:
    """Two ids of one SHA-256 are labelled once; the smallest id stands in the shard."""
    draft = next_generation(Plan(), images({"a": "one", "b": "two", "c": "one"}), 2)
    assert draft is not None
    plan = Plan([draft.finish(same_size)])
    assert plan.rows_of(["a", "b", "c"]).tolist() == [0, 1, 0]
    assert plan.shard(0).ids == ["a", "b"]


def test_size_rule_is_asked_once_for_each_size() -> None:
    """Planning a million photographs must not call the teacher a million times."""
    asked = []

    def size_rule(height: int, width: int) -> tuple[int, int]:
        asked.append((height, width))
        return height, width

    draft = next_generation(Plan(), images({str(i): str(i) for i in range(50)}), 8)
    assert draft is not None
    draft.finish(size_rule)
    assert asked == [(2, 8)]


def test_size_rule_without_pixels_is_refused() -> None:
    """A teacher's mistake shows before any work."""
    draft = next_generation(Plan(), images({"a": "one"}), 8)
    assert draft is not None
    with pytest.raises(StoreError, match="size rule"):
        draft.finish(lambda height, width: (0, width))


def test_known_photographs_need_no_new_generation(tmp_path: Path) -> None:
    """The same manifest, or a part of it, adds nothing to the plan."""
    store = make_store(tmp_path)
    plan = read_plan(store, read_description(store))
    assert next_generation(plan, images({"set/1": "photograph 1"}), 2) is None


def test_new_photographs_only_add_shards(tmp_path: Path) -> None:
    """A later generation moves no row and no shard, and known photographs with new ids cost no work."""
    store = make_store(tmp_path, 3)
    description = read_description(store)
    before = read_plan(store, description)
    draft = next_generation(before, images({"a/alias": "photograph 1", "a/new": "new", "set/0": "photograph 0"}), 2)
    assert draft is not None
    write_generation(store, description, before, draft.finish(same_size))
    after = read_plan(store, description)
    assert after.shards[:2].tolist() == before.shards.tolist()
    assert after.shard(1).ids == before.shard(1).ids
    assert after.rows_of(["set/0", "set/1", "set/2", "a/alias", "a/new"]).tolist() == [0, 1, 2, 1, 3]
    assert after.shard(2).ids == ["a/new"]


def test_aliases_alone_take_no_work(tmp_path: Path) -> None:
    """New ids of known photographs need no size rule, hence no teacher."""
    store = make_store(tmp_path, 2)
    description = read_description(store)
    plan = read_plan(store, description)
    draft = next_generation(plan, images({"other": "photograph 1"}), 2)
    assert draft is not None
    assert not draft.takes_work
    write_generation(store, description, plan, draft.finish(None))
    assert (LabelReader(store)["other"] == value_map(1)).all()


def test_changed_photograph_gets_a_row_of_its_own(tmp_path: Path) -> None:
    """An id points to the photograph that it had last."""
    store = make_store(tmp_path, 2)
    description = read_description(store)
    plan = read_plan(store, description)
    draft = next_generation(plan, images({"set/0": "retouched"}), 2)
    assert draft is not None
    write_generation(store, description, plan, draft.finish(same_size))
    plan = read_plan(store, description)
    assert plan.rows_of(["set/0", "set/1"]).tolist() == [2, 1]
    assert plan.shard(0).ids == ["set/0", "set/1"]
    assert plan.shard(1).ids == ["set/0"]


def test_of_two_processes_that_plan_at_once_one_is_told_to_look_again(tmp_path: Path) -> None:
    """A generation is never overwritten."""
    store = make_store(tmp_path, 2)
    description = read_description(store)
    plan = read_plan(store, description)
    for content, expected in (("one", None), ("two", FileTaken)):
        draft = next_generation(plan, images({"new": content}), 2)
        assert draft is not None
        if expected is None:
            write_generation(store, description, plan, draft.finish(same_size))
        else:
            with pytest.raises(expected, match="exists already"):
                write_generation(store, description, plan, draft.finish(same_size))
    assert read_plan(store, description).sha256[-1].tobytes().hex() == sha256_of("one")


def test_missing_generation_is_refused(tmp_path: Path) -> None:
    """A plan with a hole would give labels to the wrong ids."""
    store = make_store(tmp_path, 2)
    (store / "plan" / "0000.h5").rename(store / "plan" / "0001.h5")
    with pytest.raises(StoreError, match=r"0000\.h5: missing"):
        LabelReader(store)


def test_plan_of_another_store_is_refused(tmp_path: Path) -> None:
    """A plan says which store it belongs to."""
    store = make_store(tmp_path / "one", 2)
    other = tmp_path / "other"
    create_store(other, TEACHER, dtype="u8")
    (other / "plan").mkdir()
    (store / "plan" / "0000.h5").rename(other / "plan" / "0000.h5")
    with pytest.raises(StoreError, match=r"0000\.h5: the plan of another label store"):
        LabelReader(other)


# The description


def test_description_says_what_a_number_means(tmp_path: Path) -> None:
    """store.json is for people with a text editor: quantity, direction, formula, geometry, teacher."""
    store = make_store(tmp_path)
    told = json.loads((store / "store.json").read_text())
    assert told["schema"] == SCHEMA == 2
    assert told["codec"] == "delta-deflate"
    assert "plain HDF5" in told["filters"]
    assert "numpy.cumsum" in told["encoding"]
    assert told["quantity"] == "relative inverse depth"
    assert "large = near" in told["direction"]
    assert "offset[row] + scale[row] * code" in told["encoding"]
    assert "65535 is invalid" in told["encoding"]
    assert "no crop" in told["geometry"]
    assert told["provenance"]["weights_sha256"] == "0" * 64
    assert read_description(store).fingerprint == LabelReader(store).fingerprint


def test_fingerprint_tells_teachers_dtypes_and_codecs_apart_but_not_library_versions(tmp_path: Path) -> None:
    """Equal fingerprints mean equal labels that are read in the same way."""
    other = msgspec.structs.replace(TEACHER, name="other")
    newer = msgspec.structs.replace(TEACHER, versions={"numpy": "99"})
    stores = [
        create_store(tmp_path / "a", TEACHER),
        create_store(tmp_path / "b", newer),
        create_store(tmp_path / "c", other),
        create_store(tmp_path / "d", TEACHER, dtype="u8"),
        create_store(tmp_path / "e", TEACHER, codec="none"),
    ]
    prints = [store.fingerprint for store in stores]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 4


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "damaged"),
        (b'{"softfocus": "label store", "schema": 2', "damaged"),
        (b'{"softfocus": "label store", "schema": 2}', "damaged"),
        (b'{"softfocus": "manifest", "schema": 1}', "describes no label store"),
        (b'{"softfocus": "label store", "schema": 1}', "schema 1, and this softfocus reads schema 2"),
        (b"\xff\xfe", "damaged"),
    ],
)
def test_damaged_or_foreign_description_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    """The error names store.json and what is wrong with it."""
    (tmp_path / "store.json").write_bytes(content)
    with pytest.raises(StoreError, match=f"store.json: .*{problem}"):
        LabelReader(tmp_path)


def test_folder_without_description_is_no_store(tmp_path: Path) -> None:
    """Neither is a folder that is not there, nor a file."""
    (tmp_path / "file").write_text("text")
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(StoreError, match="no label store"):
            LabelReader(path)


def test_store_is_not_made_among_other_files(tmp_path: Path) -> None:
    """A folder of photographs does not become a label store by a slip."""
    (tmp_path / "photograph.jpg").write_text("")
    with pytest.raises(StoreError, match=r"photograph\.jpg"):
        create_store(tmp_path, TEACHER)


def test_store_that_another_process_made_meanwhile_is_kept(tmp_path: Path) -> None:
    """Two runs that start at once agree on one description."""
    first = create_store(tmp_path / "s", TEACHER, shard_size=3)
    assert create_store(tmp_path / "s", TEACHER, shard_size=7) == first


@pytest.mark.parametrize(
    ("asked", "named"),
    [({"dtype": "u8"}, "dtype u16"), ({"codec": "none"}, "codec delta-deflate"), ({"shard_size": 5}, "shard size 256")],
)
def test_other_settings_are_refused_by_name(tmp_path: Path, asked: dict[str, Any], named: str) -> None:
    """The error names what the store has and what was asked for."""
    description = create_store(tmp_path / "s", TEACHER)
    same: dict[str, Any] = {"dtype": "u16", "codec": "delta-deflate", "shard_size": 256}
    check_settings(tmp_path / "s", description, **same)
    with pytest.raises(StoreError, match=named):
        check_settings(tmp_path / "s", description, **same | asked)


def test_other_teacher_is_refused_by_name(tmp_path: Path) -> None:
    """The error names both teachers and in what they differ; other library versions are no difference."""
    description = create_store(tmp_path / "s", TEACHER)
    check_teacher(tmp_path / "s", description, msgspec.structs.replace(TEACHER, versions={}))
    other = msgspec.structs.replace(TEACHER, kind="onnx", weights_sha256="1" * 64)
    with pytest.raises(StoreError, match=r"test:ramp .* not of onnx:ramp .*other kind, weights_sha256"):
        check_teacher(tmp_path / "s", description, other)


@pytest.mark.parametrize("bad", [{"dtype": "u32"}, {"shard_size": 0}])
def test_impossible_settings_are_refused(tmp_path: Path, bad: dict[str, Any]) -> None:
    """Before anything is written."""
    with pytest.raises(StoreError, match="choose"):
        create_store(tmp_path / "s", TEACHER, **bad)
    assert not (tmp_path / "s").exists()


# Reading


def test_labels_come_back_by_id(tmp_path: Path) -> None:
    """A label is float32 (H, W) of the label's own size, and comes with its photograph's hash."""
    reader = LabelReader(make_store(tmp_path))
    for number in range(5):
        label = reader[f"set/{number}"]
        assert label.dtype == np.float32
        assert (label == value_map(number)).all()
        assert reader.size_of(f"set/{number}") == label.shape == (2, 8)
        assert reader.sha256_of(f"set/{number}") == sha256_of(f"photograph {number}")


def test_reader_is_like_a_mapping(tmp_path: Path) -> None:
    """`in`, `len`, iteration and `missing` regard the labels that are really there."""
    store = make_store(tmp_path, 5, failed={3: "broken file"})
    shard_path(store, 2).unlink()
    reader = LabelReader(store)
    assert list(reader) == ["set/0", "set/1", "set/2"]
    assert len(reader) == 3
    assert "set/2" in reader
    assert "set/3" not in reader
    assert "nobody" not in reader
    assert 7 not in reader
    assert reader.missing(["set/4", "set/0", "nobody", "set/3"]) == ["set/4", "nobody", "set/3"]
    assert reader.missing([]) == []


def test_missing_label_says_why_and_what_to_do(tmp_path: Path) -> None:
    """Unknown, not made yet, or failed: three reasons, each a KeyError too."""
    store = make_store(tmp_path, 5, failed={3: "broken file"})
    shard_path(store, 2).unlink()
    reader = LabelReader(store)
    reasons = {"nobody": "run `softfocus label`", "set/4": "shard 2 is not made yet", "set/3": "broken file; .*--retry"}
    for sample_id, reason in reasons.items():
        with pytest.raises(MissingLabel, match=reason) as raised:
            reader[sample_id]
        assert isinstance(raised.value, KeyError)
        assert str(raised.value).startswith(str(store))
    with pytest.raises(MissingLabel):
        reader.sha256_of("nobody")
    with pytest.raises(MissingLabel, match="--retry-failed"):
        reader.size_of("set/3")


def test_ids_of_any_language_and_length_are_found(tmp_path: Path) -> None:
    """Ids are stored as UTF-8 and compared whole."""
    names = ["kurz", "München/Straße", "東京/写真", "x" * 300, "x" * 301]
    store = tmp_path / "labels"
    description = create_store(store, TEACHER)
    draft = next_generation(Plan(), images_of(names), 256)
    assert draft is not None
    write_generation(store, description, Plan(), draft.finish(same_size))
    write_numbered(store, description, read_plan(store, description), 0, {})
    reader = LabelReader(store)
    assert sorted(reader) == sorted(names)
    assert "x" * 299 not in reader
    assert "x" * 400 not in reader
    assert "\ud800" not in reader


def images_of(names: list[str]) -> Images:
    ordered = sorted(names, key=str.encode)
    columns = images({name: name for name in names})
    return Images(np.array([name.encode() for name in ordered]), columns.sha256, columns.sizes)


def test_shard_is_understood_with_plain_h5py(tmp_path: Path) -> None:
    """A shard alone, without softfocus, tells what its numbers mean and whose they are."""
    store = make_store(tmp_path, 2, failed={1: "broken\nfile"})
    with h5py.File(shard_path(store, 0), "r") as file:
        offset, scale = file["offset"][0], file["scale"][0]
        codes = np.cumsum(np.cumsum(file["labels"][0] - np.uint16(128), axis=0, dtype="u2"), axis=1, dtype="u2")
        assert "numpy.cumsum(numpy.cumsum(labels[row] - numpy.uint16(128)" in file.attrs["encoding"]
        assert np.allclose(offset + scale * codes, value_map(0))
        assert file["labels"].dtype == np.uint16
        assert file["labels"].chunks == (1, 2, 8)
        assert file["labels"].fletcher32
        assert file["id"].asstr()[()].tolist() == ["set/0", "set/1"]
        assert file["failed"].asstr()[()].tolist() == ["", "broken file"]
        assert bytes(file["sha256"][0]).hex() == sha256_of("photograph 0")
        assert file["invalid_count"][()].tolist() == [0, 16]
        assert json.loads(file.attrs["provenance"])["name"] == "ramp"
        assert "large = near" in file.attrs["direction"]


@pytest.mark.parametrize("codec", CODECS)
def test_reader_gives_the_same_labels_whatever_the_codec(tmp_path: Path, codec: Any) -> None:
    """The codec of a store is its own affair."""
    reader = LabelReader(make_store(tmp_path, 3, codec=codec))
    assert all((reader[f"set/{i}"] == value_map(i)).all() for i in range(3))


def test_every_process_opens_its_own_files(tmp_path: Path) -> None:
    """A reader that has files open works in a forked child, and after pickling."""
    reader = LabelReader(make_store(tmp_path))
    expected = reader["set/4"]
    assert (pickle.loads(pickle.dumps(reader))["set/4"] == expected).all()
    child = os.fork() if multiprocessing.get_start_method() == "fork" else None
    if child == 0:
        os._exit(0 if (reader["set/4"] == expected).all() and (reader["set/0"] == value_map(0)).all() else 1)
    if child:
        assert os.waitpid(child, 0)[1] == 0
    assert (reader["set/4"] == expected).all()


def test_reader_works_in_threads_with_few_open_files(tmp_path: Path) -> None:
    """More shards than open files, several threads: every label is the right one."""
    reader = LabelReader(make_store(tmp_path, 10), open_files=2)
    wrong = []

    def read(seed: int) -> None:
        for number in np.random.default_rng(seed).integers(0, 10, 50).tolist():
            if not (reader[f"set/{number}"] == value_map(number)).all():
                wrong.append(number)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    reader.close()
    assert (reader["set/0"] == value_map(0)).all()


class Labels:
    """A data set for torch's DataLoader; at the top of the module so that a spawned worker can load it."""

    def __init__(self, reader: LabelReader) -> None:
        self.reader, self.ids = reader, sorted(reader)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Any:
        return self.reader[self.ids[index]]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_reader_in_workers_of_a_data_loader(tmp_path: Path, method: str) -> None:
    """Two worker processes read what this process reads, though it had files open before."""
    data = pytest.importorskip("torch.utils.data")
    labels = Labels(LabelReader(make_store(tmp_path, 6)))
    first = labels[0]
    loader = data.DataLoader(labels, batch_size=2, num_workers=2, multiprocessing_context=method)
    batches = np.concatenate([batch.numpy() for batch in loader])
    assert (batches[0] == first).all()
    assert (batches == np.stack([value_map(i) for i in range(6)])).all()


# Damage


def test_every_flipped_bit_of_a_shard_is_found(tmp_path: Path) -> None:
    """Wherever in the file a bit flips, the seal does not fit any more."""
    path = shard_path(make_store(tmp_path, 2), 0)
    good = path.read_bytes()
    places = np.random.default_rng(0).integers(0, len(good), 200).tolist() + list(range(0, SEAL_BYTES, 5))
    for place in places:
        flip_bit(path, place, bit=place % 8)
        with pytest.raises(StoreError, match=re.escape(str(path))):
            check_seal(path, kind="shard")
        path.write_bytes(good)
    assert check_seal(path, kind="shard").rows == 2


def test_flipped_bit_of_a_label_is_found_when_it_is_read(tmp_path: Path) -> None:
    """The error names the file, the row, the sample and the mend; the other labels can be read."""
    store = make_store(tmp_path, 2)
    path = shard_path(store, 0)
    flip_bit(path, path.read_bytes().rindex(pack(encode(value_map(1), "u16"), "delta-deflate").chunk) + 9)
    reader = LabelReader(store)
    assert (reader["set/0"] == value_map(0)).all()
    with pytest.raises(DamagedShard, match=r"000000\.h5: row 1 \('set/1'\).*`softfocus verify STORE --repair`"):
        reader["set/1"]
    with pytest.raises(DamagedShard, match="wrong checksum in row 1"):
        list(read_results(path, [0, 1]))


@pytest.mark.parametrize("keep", [0, 100, SEAL_BYTES, -1])
def test_shard_that_is_cut_short_is_refused_at_once(tmp_path: Path, keep: int) -> None:
    """A truncated file shows when the store is opened, not hours later."""
    store = make_store(tmp_path, 2)
    path = shard_path(store, 0)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(StoreError, match=r"000000\.h5: "):
        LabelReader(store)


def test_foreign_hdf5_file_is_refused_by_name(tmp_path: Path) -> None:
    """A file that softfocus did not write is neither read nor passed over."""
    store = make_store(tmp_path, 4)
    path = shard_path(store, 0)
    path.unlink()
    with h5py.File(path, "w") as file:
        file["labels"] = np.zeros(3)
    with pytest.raises(StoreError, match=r"000000\.h5: an HDF5 file that softfocus did not write; move it out"):
        LabelReader(store)
    path.rename(path.with_name("other.h5"))
    with pytest.raises(StoreError, match=r"other\.h5: no shard of softfocus; move it out"):
        LabelReader(store)


def test_shard_of_another_store_or_place_is_refused(tmp_path: Path) -> None:
    """A copied shard would give labels to the wrong samples."""
    store = make_store(tmp_path, 4)
    first = shard_path(store, 0).read_bytes()
    shard_path(store, 1).write_bytes(first)
    with pytest.raises(StoreError, match=r"000001\.h5: does not hold the images that the plan puts there"):
        LabelReader(store)
    other = tmp_path / "other"
    description = create_store(other, TEACHER, dtype="u8", shard_size=2)
    draft = next_generation(Plan(), images({"a": "a", "b": "b"}), 2)
    assert draft is not None
    write_generation(other, description, Plan(), draft.finish(same_size))
    (other / "shards").mkdir()
    shard_path(other, 0).write_bytes(first)
    with pytest.raises(StoreError, match=r"000000\.h5: a shard of another label store"):
        LabelReader(other)


def test_plan_where_a_shard_belongs_is_refused(tmp_path: Path) -> None:
    """Seals say what a file is."""
    store = make_store(tmp_path, 2)
    with pytest.raises(StoreError, match="a plan where a shard belongs"):
        read_seal(store / "plan" / "0000.h5", kind="shard")


def test_damaged_plan_is_refused(tmp_path: Path) -> None:
    """A flipped bit in the stored ids would lose a sample."""
    store = make_store(tmp_path, 2)
    path = store / "plan" / "0000.h5"
    with h5py.File(path, "r") as file:
        where = file["id"].id.get_chunk_info(0).byte_offset
    flip_bit(path, where + 4)
    with pytest.raises(DamagedShard, match=r"0000\.h5: damaged"):
        LabelReader(store)


def test_later_shards_do_not_disturb_a_reader(tmp_path: Path) -> None:
    """A shard of a generation that was planned after the plan was read is passed over."""
    store = make_store(tmp_path, 4)
    description = read_description(store)
    plan = read_plan(store, description)
    short = Plan()
    assert finished_shards(store, description, short) == {}
    assert sorted(finished_shards(store, description, plan)) == [0, 1]


# Writing


def test_shard_needs_a_result_for_each_row(tmp_path: Path) -> None:
    """A forgotten row is a mistake of the program, and nothing is written."""
    store = make_store(tmp_path, 2)
    description = read_description(store)
    shard = read_plan(store, description).shard(0)
    before = shard_path(store, 0).read_bytes()
    with pytest.raises(ValueError, match="no result for position 1"):
        write_shard(store, description, shard, [(0, "reason")], provenance=TEACHER)
    assert shard_path(store, 0).read_bytes() == before


def test_error_while_results_come_leaves_nothing_behind(tmp_path: Path) -> None:
    """The shard is not there and neither is a temporary file."""
    store = make_store(tmp_path, 2)
    description = read_description(store)
    shard_path(store, 0).unlink()

    def results() -> Any:
        yield 0, "reason"
        raise RuntimeError("the teacher failed")

    with pytest.raises(RuntimeError, match="teacher failed"):
        write_shard(store, description, read_plan(store, description).shard(0), results(), provenance=TEACHER)
    assert list((store / "shards").iterdir()) == []


def test_reasons_are_one_line_of_bounded_length(tmp_path: Path) -> None:
    """A long reason in any language is cut between characters."""
    store = make_store(tmp_path, 2, failed={0: "é" * 1000, 1: ABSENT})
    reasons = read_reasons(shard_path(store, 0))
    assert reasons == ["é" * 250, ABSENT]


def test_labels_pass_unchanged_into_the_next_version_of_a_shard(tmp_path: Path) -> None:
    """What is not labelled again is copied code by code."""
    store = make_store(tmp_path, 2, failed={1: "broken"})
    description = read_description(store)
    shard = read_plan(store, description).shard(0)
    new = pack(encode(value_map(1), "u16"), "delta-deflate")
    results = [*read_results(shard_path(store, 0), [0]), (1, new)]
    write_shard(store, description, shard, results, provenance=TEACHER)
    reader = LabelReader(store)
    assert (reader["set/0"] == value_map(0)).all()
    assert (reader["set/1"] == value_map(1)).all()


def test_coverage_counts_masks_and_labels_by_split() -> None:
    """With and without mask, with and without label, and labels of another photograph, for each split that there is."""
    splits, total = count_splits(
        splits=np.array([0, 0, 0, 2, 2], np.uint8),
        masked=np.array([True, True, False, True, False]),
        labelled=np.array([True, False, True, False, False]),
        stale=np.array([False, False, False, True, False]),
    )
    lines = [line.split() for line in split_table([*splits, total])]
    assert lines == [
        ["split", "samples", "masks", "labels", "both", "stale"],
        ["train", "3", "2", "2", "1", "0"],
        ["test", "2", "1", "0", "0", "1"],
        ["all", "5", "3", "2", "1", "1"],
    ]


def test_plan_matches_ids_with_their_photographs(tmp_path: Path) -> None:
    """An id that is planned with another photograph has a row and does not match; an unknown one has none."""
    store = make_store(tmp_path, 2)
    plan = read_plan(store, read_description(store))
    asked = Images(
        ids=np.array([b"set/0", b"set/1", b"set/9"]),
        sha256=np.stack([plan.sha256[plan.row_of("set/0")], np.zeros(32, np.uint8), np.zeros(32, np.uint8)]),
        sizes=np.ones((3, 2), np.int32),
    )
    rows, same = plan.match(asked)
    assert (rows >= 0).tolist() == [True, True, False]
    assert same.tolist() == [True, False, False]
