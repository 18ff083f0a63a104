"""The manifest: what is written is read back; what is not a manifest is refused with its line."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipeline.manifest import ManifestError, Sample, iter_manifest, read_manifest, write_manifest

HEADER = {"softfocus": "manifest", "version": 1, "root": "."}


def sample(number: int = 1, **changes: Any) -> Sample:
    fields: dict[str, Any] = {
        "id": f"set/{number}",
        "image": f"image/{number}.jpg",
        "mask": f"gt/{number}.png",
        "blur": "white",
        "split": "train",
        "height": number,
        "width": 10 * number,
        "sha256": f"{number:064x}",
    }
    return Sample(**fields | changes)


def line(number: int = 1, **changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(sample(number))
    return fields | changes


def manifest(folder: Path, *lines: dict[str, Any] | str, name: str = "a.jsonl") -> Path:
    path = folder / name
    text = [entry if isinstance(entry, str) else json.dumps(entry, ensure_ascii=False) for entry in lines]
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_samples_are_read_back_sorted_with_their_root(tmp_path: Path) -> None:
    """What is written is what is read, in the order of ids."""
    root = tmp_path / "data" / "set"
    root.mkdir(parents=True)
    path = tmp_path / "set.jsonl"
    write_manifest(path, [sample(3), sample(1), sample(2, mask=None, blur=None)], root=root)

    samples = read_manifest(path)
    assert [one.id for one in samples] == ["set/1", "set/2", "set/3"]
    assert samples[0] == sample(1, root=str(root))
    assert samples[0].image_path == root / "image" / "1.jpg"
    assert samples[0].mask_path == root / "gt" / "1.png"
    assert samples[1].mask_path is None
    assert pickle.loads(pickle.dumps(samples)) == samples


def test_a_split_can_be_asked_for(tmp_path: Path) -> None:
    """Its samples only; none is an answer too, and a name that is no split is an error."""
    path = tmp_path / "a.jsonl"
    write_manifest(path, [sample(1), sample(2, split="test")], root=tmp_path)
    assert [one.id for one in read_manifest(path, split="test")] == ["set/2"]
    assert read_manifest(path, split="val") == []
    with pytest.raises(ManifestError, match="train, val, test"):
        read_manifest(path, split="tset")


def test_the_file_is_json_lines_with_a_header(tmp_path: Path) -> None:
    """The root is relative to the manifest's own folder, so that both can move together."""
    (tmp_path / "data").mkdir()
    path = tmp_path / "lists" / "a.jsonl"
    write_manifest(path, [sample(1, mask=None, blur=None)], root=tmp_path / "data")
    first, second = (json.loads(text) for text in path.read_text().splitlines())
    assert first == {"softfocus": "manifest", "version": 1, "root": "../data"}
    assert second == {key: value for key, value in line(1).items() if key not in ("mask", "blur")}
    (tmp_path / "moved").mkdir()
    (tmp_path / "lists").rename(tmp_path / "moved" / "lists")
    (tmp_path / "data").rename(tmp_path / "moved" / "data")
    moved = read_manifest(tmp_path / "moved" / "lists" / "a.jsonl")
    assert moved[0].root == str(tmp_path / "moved" / "data")


def test_manifests_can_be_joined_end_to_end(tmp_path: Path) -> None:
    """A later header holds for the samples below it."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_manifest(tmp_path / f"{name}.jsonl", [sample(1, id=f"{name}/1")], root=tmp_path / name)
    both = tmp_path / "both.jsonl"
    both.write_bytes((tmp_path / "a.jsonl").read_bytes() + (tmp_path / "b.jsonl").read_bytes())
    assert {one.id: one.root for one in read_manifest(both)} == {
        "a/1": str(tmp_path / "a"),
        "b/1": str(tmp_path / "b"),
    }


def test_names_in_any_language_survive(tmp_path: Path) -> None:
    """Written as UTF-8, not as escapes."""
    path = tmp_path / "été.jsonl"
    write_manifest(path, [sample(1, id="写真/été", image="写真/été.jpg")], root=tmp_path)
    assert read_manifest(path)[0].image_path == tmp_path / "写真" / "été.jpg"
    assert "写真" in path.read_text(encoding="utf-8")


def test_what_editors_do_to_a_file_does_no_harm(tmp_path: Path) -> None:
    """A byte-order mark, Windows line ends, blank lines, another order of keys, no line end at the end."""
    text = "\r\n".join([json.dumps(dict(reversed(HEADER.items()))), "", json.dumps(line(1)), json.dumps(line(2))])
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert [one.height for one in read_manifest(path)] == [1, 2]


def test_reading_streams(tmp_path: Path) -> None:
    """Samples before a bad line are yielded before it is met."""
    samples = iter_manifest(manifest(tmp_path, HEADER, line(1), "nonsense"))
    assert next(samples).id == "set/1"
    with pytest.raises(ManifestError, match=":3:"):
        next(samples)


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("{", "not JSON"),
        ("plain text", "not JSON"),
        ('{"id": "set/2", "image": "im', "not JSON"),
        ("[1, 2]", "not a sample"),
        ({key: value for key, value in line(2).items() if key != "sha256"}, "missing required field `sha256`"),
        ({key: value for key, value in line(2).items() if key != "split"}, "missing required field `split`"),
        (line(2, colour="red"), "unknown field `colour`"),
        (line(2, root="/elsewhere"), "unknown field `root`"),
        (line(2, height="427"), "Expected `int`, got `str`"),
        (line(2, height=0), "$.height"),
        (line(2, width=1.5), "$.width"),
        (line(2, id=""), "$.id"),
        (line(2, split="training"), "training"),
        (line(2, blur="grey"), "grey"),
        (line(2, sha256="abc"), "sha256"),
        (line(2, sha256="A" * 64), "sha256"),
        (line(2, image="/etc/passwd"), "does not stay below its root"),
        (line(2, image="../secret.jpg"), "does not stay below its root"),
        (line(2, image="a/../../secret.jpg"), "does not stay below its root"),
        (line(2, mask="..\\secret.png"), "does not stay below its root"),
        (line(2, mask="C:\\secret.png"), "does not stay below its root"),
        (line(2, image="a\0.jpg"), "does not stay below its root"),
        (line(2, id="../out"), "does not stay below its root"),
        (line(2, mask=None), "'mask' and 'blur' belong together"),
        (line(2, blur=None), "'mask' and 'blur' belong together"),
        (line(1, image="other.jpg"), "'set/1' is on line 2 already"),
        (HEADER | {"version": 2}, "version 2"),
        (HEADER | {"version": "1"}, "version '1'"),
        (HEADER | {"more": 1}, "not the header"),
        ({"softfocus": "manifest", "version": 1}, "not the header"),
        ({"softfocus": "store", "version": 1}, "not the header"),
    ],
)
def test_a_bad_line_is_refused_with_its_number(tmp_path: Path, bad: Any, why: str) -> None:
    """File, line and reason, on one line."""
    path = manifest(tmp_path, HEADER, line(1), bad)
    message = refusal(path)
    assert message.startswith(f"{path}:3: ")
    assert why in message


def test_dots_inside_a_name_are_no_way_out(tmp_path: Path) -> None:
    """Only a whole part of a path that is '..' climbs."""
    path = manifest(tmp_path, HEADER, line(1, image="a..b/..c.jpg"))
    assert read_manifest(path)[0].image == "a..b/..c.jpg"


def test_samples_before_any_header_are_refused(tmp_path: Path) -> None:
    """Nobody could say where their files are."""
    assert ":1: no header" in refusal(manifest(tmp_path, line(1)))


@pytest.mark.parametrize("lines", [[], [HEADER], ["", "  "]])
def test_a_manifest_without_samples_is_refused(tmp_path: Path, lines: list[Any]) -> None:
    """An empty list is a mistake somewhere before."""
    assert "holds no samples" in refusal(manifest(tmp_path, *lines))


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """A missing file, a folder and a photograph given for a manifest."""
    assert "No such file" in refusal(tmp_path / "gone.jsonl")
    assert "cannot be read" in refusal(tmp_path)
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0\x00\x10JFIF")
    assert "photo.jpg:1: not JSON" in refusal(tmp_path / "photo.jpg")
    (tmp_path / "latin.jsonl").write_bytes(json.dumps(HEADER).encode() + b'\n{"id": "\xe9t\xe9"}\n')
    assert "latin.jsonl:2: " in refusal(tmp_path / "latin.jsonl")


@pytest.mark.parametrize(
    ("samples", "why"),
    [
        ([], "no samples"),
        ([sample(1), sample(1, image="b.jpg")], "two samples have the id 'set/1'"),
        ([sample(1, image="../b.jpg")], "does not stay below its root"),
        ([sample(1, blur=None)], "belong together"),
        ([sample(1, image=os.fsdecode(b"image/\xff.jpg"))], "not valid Unicode"),
    ],
)
def test_a_refused_write_leaves_the_old_file(tmp_path: Path, samples: list[Sample], why: str) -> None:
    """The old manifest stays, and nothing half written lies beside it."""
    path = tmp_path / "a.jsonl"
    write_manifest(path, [sample(7)], root=tmp_path)
    with pytest.raises(ManifestError, match=why):
        write_manifest(path, samples, root=tmp_path)
    assert [one.id for one in read_manifest(path)] == ["set/7"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.jsonl"]


def test_a_manifest_read_can_be_written_elsewhere(tmp_path: Path) -> None:
    """The root that a sample was read with is not written with it."""
    write_manifest(tmp_path / "a.jsonl", [sample(1)], root=tmp_path / "x")
    write_manifest(tmp_path / "b.jsonl", read_manifest(tmp_path / "a.jsonl"), root=tmp_path / "y")
    assert read_manifest(tmp_path / "b.jsonl")[0].root == str(tmp_path / "y")
