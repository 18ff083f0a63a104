"""Labelling on a GPU, step by step on the CPU: every byte is the one that the host's own code makes."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.distill import label
from pipeline.distill import stream as stream_module
from pipeline.distill.device import jpeg, plain
from pipeline.distill.device import predictor as device_module
from pipeline.distill.device.resampling import bicubic_table
from pipeline.distill.photographs import resize
from pipeline.images import read_image
from pipeline.manifest import Sample, write_manifest
from pipeline.provenance import Provenance
from pipeline.store import CODECS, DTYPES, LabelReader, encode
from pipeline.store.codec import arrange
from pipeline.teachers import DeviceTeacher, OutOfMemory

# Resize


def photographs(*sizes: tuple[int, int]) -> list[np.ndarray[Any, Any]]:
    """Noise and, in turn, black and white pixels, whose sums run out of 0..255 on both sides."""
    random = np.random.default_rng(0)
    noise = [random.integers(0, 256, (*size, 3)).astype(np.uint8) for size in sizes]
    return [image if number % 2 else (image > 127) * np.uint8(255) for number, image in enumerate(noise)]


def in_one_buffer(images: list[np.ndarray[Any, Any]]) -> tuple[torch.Tensor, list[plain.Placed]]:
    placed, start = [], 0
    for image in images:
        placed.append((start, image.shape[0], image.shape[1]))
        start += image.size
    return torch.from_numpy(np.concatenate([image.reshape(-1) for image in images])), placed


@pytest.mark.parametrize("size", [(24, 28), (61, 13), (1, 1), (40, 60)])
def test_torch_resizes_to_the_pixels_of_pillow(size: tuple[int, int]) -> None:
    """Larger, smaller, along one side only, not at all: the same bytes; the last photograph fills up."""
    images = photographs((40, 60), (70, 33), (24, 28), (100, 140), (10, 12), (1, 7), (61, 200))
    resized = plain.resize(*in_one_buffer(images), size, len(images) + 2).numpy()
    expected = [resize(image, size) for image in images]
    assert np.array_equal(resized, [*expected, expected[-1], expected[-1]])


def test_a_weight_table_by_hand() -> None:
    """Four pixels to two: symmetric, sums of one; a pixel to itself: one."""
    table = bicubic_table(4, 2)
    assert table.first.tolist() == [0, 0]
    assert table.weights[0, :4].tolist() == table.weights[1, 3::-1].tolist()
    assert abs(int(table.weights.sum()) - 2 * (1 << 22)) <= 4
    assert bicubic_table(3, 3).weights.max(axis=1).tolist() == [1 << 22] * 3


def test_host_resizes_rows_first_whatever_the_version_of_pillow() -> None:
    """Pillow 13 may take the columns first, which rounds otherwise; labels must not depend on that."""
    (image,) = photographs((147, 95))
    rows = Image.fromarray(image).resize((129, 147), Image.Resampling.BICUBIC)
    assert np.array_equal(resize(image, (87, 129)), rows.resize((129, 87), Image.Resampling.BICUBIC))


# Quantise


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_torch_quantises_to_the_bytes_of_the_host(dtype: Any, codec: Any) -> None:
    """Codes, differences and their order, for maps of any range, and a constant one."""
    random = np.random.default_rng(0)
    maps = random.normal(size=(4, 9, 13)).astype(np.float32) * np.float32([1, 1e-6, 1e6, 0])[:, None, None] + 3
    facts = plain.numbers(torch.from_numpy(maps), dtype)
    arranged = plain.arrange(torch.from_numpy(maps), facts, dtype, codec).numpy()
    for values, found, (offset, scale, _) in zip(maps, arranged, facts.tolist(), strict=True):
        encoded = encode(values, dtype)
        assert (encoded.offset, encoded.scale) == (offset, scale)
        assert found.tobytes() == arrange(encoded.codes, codec)


KERNELS = """
import numpy as np, torch
from pipeline.distill.device import kernels, plain
from pipeline.store import CODECS, DTYPES
from test_device import in_one_buffer, photographs
buffer = in_one_buffer(photographs((14, 20), (23, 9), (8, 10)))
assert torch.equal(kernels.resize(*buffer, (8, 10), 4), plain.resize(*buffer, (8, 10), 4))
maps = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 5, 7)).astype(np.float32))
maps[1] = 3.5
for dtype in DTYPES:
    facts = plain.numbers(maps, dtype)
    for codec in CODECS:
        assert torch.equal(kernels.arrange(maps, facts, dtype, codec), plain.arrange(maps, facts, dtype, codec))
print("same")
"""


def test_kernels_do_what_plain_torch_does() -> None:
    """Byte for byte, run by Triton's interpreter, which needs no GPU."""
    pytest.importorskip("triton")
    root = Path(__file__).parents[1]
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": f"{root}:{root / 'tests'}"}
    run = subprocess.run([sys.executable, "-c", KERNELS], env=environment, capture_output=True, text=True, check=False)
    assert run.stdout == "same\n", run.stderr


# JPEG


def encoded(image: Image.Image, format: str = "JPEG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def picture(mode: str = "RGB", size: tuple[int, int] = (50, 37)) -> Image.Image:
    smooth = np.linspace(0, 255, size[0] * size[1] * 3).reshape(size[1], size[0], 3)
    noise = np.random.default_rng(0).normal(scale=20, size=smooth.shape)
    return Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8)).convert(mode)


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x010F] = "a camera"
    tags[0x0112] = orientation
    return tags


PICTURES = {
    "plain": (encoded(picture()), (37, 50)),
    "coarse": (encoded(picture(), quality=20, subsampling=2), (37, 50)),
    "no subsampling": (encoded(picture(), subsampling=0), (37, 50)),
    "progressive": (encoded(picture(), progressive=True), (37, 50)),
    "grey": (encoded(picture("L")), (37, 50)),
    "with a comment": (encoded(picture(), comment=b"x" * 300), (37, 50)),
    "upright": (encoded(picture(), exif=exif(1)), (37, 50)),
    "turned": (encoded(picture(), exif=exif(6)), None),
    "CMYK": (encoded(picture("CMYK")), None),
    "PNG": (encoded(picture(), "PNG"), None),
}


def decoded(content: bytes, at_least: tuple[int, int]) -> np.ndarray[Any, Any]:
    found = jpeg.look(content, at_least)
    assert found is not None
    pixels = np.empty((found.height, found.width, 3), np.uint8)
    jpeg.decode_into(content, found, pixels)
    return pixels


@pytest.mark.parametrize("name", PICTURES)
def test_plain_jpegs_are_told_from_those_that_only_pillow_reads_right(name: str) -> None:
    """Those have the same pixels however they are decoded."""
    content, size = PICTURES[name]
    assert jpeg.plain_size(content) == size
    if size is not None:
        assert np.array_equal(decoded(content, (30, 40)), read_image(content, at_least=(30, 40)))


@pytest.mark.parametrize("side", [130, 100, 70, 50, 40, 30, 20])
@pytest.mark.parametrize("size", [(400, 300), (399, 301)])
def test_large_jpegs_are_decoded_at_the_same_reduced_size(size: tuple[int, int], side: int) -> None:
    """A half, a quarter, an eighth: as `read_image` does it, pixel for pixel."""
    content = encoded(picture(size=size))
    assert np.array_equal(decoded(content, (side, side)), read_image(content, at_least=(side, side)))


def test_damaged_jpegs_are_left_to_pillow() -> None:
    """Cut off in the header they are not plain, cut off in the pixels they are refused."""
    content = encoded(picture())
    assert all(jpeg.look(content[:length], (30, 40)) is None for length in range(0, 160, 3))
    with pytest.raises(ValueError, match="Premature end"):
        decoded(content[:-100], (30, 40))


def test_real_photographs_have_the_same_pixels(shared: Path) -> None:
    """Photographs of CUHK, decoded with little Python and with much."""
    paths = sorted((shared / "data" / "cuhk" / "image").glob("*.jpg"))[::100]
    assert paths
    for path in paths:
        content = path.read_bytes()
        for at_least in ((300, 400), (100, 100)):
            assert np.array_equal(decoded(content, at_least), read_image(content, at_least=at_least))


# The whole way


class RedTeacher:
    """A photograph's map is its red channel, plus a tenth of the blue one; unknown where red is 255 throughout."""

    def __init__(self, *, memory: int = 10**9, precision: str = "float32") -> None:
        self.provenance = Provenance(
            kind="test", name="red", weights_sha256="0" * 64, direction="inverse depth", preprocessing={}, versions={}
        )
        self.device = torch.device("cpu")
        self.precision = precision
        self.memory = memory
        self.calls: list[int] = []
        self.compiled = False

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        return 12, 16

    def predict(self, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        values = images[..., 0].astype(np.float32) + images[..., 2].astype(np.float32) * np.float32(0.1)
        unknown = np.float32(np.nan)
        return np.where((images[..., 0] == 255).all(axis=(1, 2))[:, None, None], unknown, values)

    def predict_on_device(self, images: torch.Tensor) -> torch.Tensor:
        self.calls.append(len(images))
        if len(images) > self.memory:
            raise OutOfMemory("too many at once")
        values = images[:, 0].float() + images[:, 2].float() * 0.1
        return torch.where((images[:, 0] == 255).flatten(1).all(dim=1)[:, None, None], torch.inf, values)

    def compile(self) -> None:
        self.compiled = True

    def close(self) -> None:
        pass


def make_set(folder: Path, count: int = 11) -> Path:
    """Photographs of several sizes and formats: the third is all red, the fourth damaged, the last large."""
    samples = []
    for number in range(count):
        width, height = 20 + number, 30 - number
        image = picture(size=(width, height)) if number != 2 else Image.new("RGB", (width, height), (255, 0, 0))
        if number == count - 1:
            width, height = 200, 30
            image = picture(size=(width, height))
        path = folder / f"{number:02d}.{'png' if number % 3 == 2 else 'jpg'}"
        image.save(path, exif=exif(3)) if number == 4 else image.save(path)
        if number == 3:
            path.write_bytes(path.read_bytes()[:-40])
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        samples.append(
            Sample(id=f"s/{number}", image=path.name, split="train", height=height, width=width, sha256=sha256)
        )
    write_manifest(folder / "set.jsonl", samples, root=folder)
    return folder / "set.jsonl"


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a teacher on the CPU be treated as one on a GPU."""
    monkeypatch.setattr(stream_module, "is_on_gpu", lambda teacher: isinstance(teacher, DeviceTeacher))


def maps(store: Path) -> dict[str, bytes]:
    reader = LabelReader(store)
    return {sample_id: reader[sample_id].tobytes() for sample_id in reader}


@pytest.mark.parametrize("codec", ["delta-deflate", "none"])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_labels_do_not_depend_on_the_device(
    tmp_path: Path, request: pytest.FixtureRequest, batch_size: int, codec: Any
) -> None:
    """The same maps and the same failures, map for map, whatever the batch."""
    manifest = make_set(tmp_path)
    options: dict[str, Any] = {"shard_size": 4, "batch_size": batch_size, "codec": codec}
    host = label(manifest, tmp_path / "host", load_teacher=RedTeacher, **options)
    request.getfixturevalue("on_device")
    device = label(manifest, tmp_path / "device", load_teacher=RedTeacher, **options)
    assert maps(tmp_path / "device") == maps(tmp_path / "host")
    assert device.failed == host.failed
    assert [sample for sample, _ in device.failed] == ["s/2", "s/3"]
    assert device.labelled == 9
    assert device.note == ""


@pytest.mark.usefixtures("on_device")
def test_batch_is_halved_on_the_device(tmp_path: Path) -> None:
    """Short memory shows when a batch is handed over; what fits is kept for good."""
    teacher = RedTeacher(memory=3)
    summary = label(make_set(tmp_path), tmp_path / "labels", load_teacher=lambda: teacher, batch_size=8)
    assert summary.batch_size == 3
    assert teacher.calls == [7, 3, 3, 1, 3]  # one of the first eight is damaged
    assert summary.labelled == 9


@pytest.mark.usefixtures("on_device")
def test_compiled_teacher_sees_one_size_of_batch(tmp_path: Path) -> None:
    """A short batch is filled up, as another size would be compiled anew; by default short jobs are not compiled."""
    teacher = RedTeacher()
    summary = label(make_set(tmp_path), tmp_path / "a", load_teacher=lambda: teacher, batch_size=4, compile=True)
    assert teacher.compiled
    assert set(teacher.calls) == {4}
    assert summary.labelled == 9
    other = RedTeacher()
    label(tmp_path / "set.jsonl", tmp_path / "b", load_teacher=lambda: other, batch_size=4)
    assert not other.compiled
    assert maps(tmp_path / "a") == maps(tmp_path / "b")


@pytest.mark.usefixtures("on_device")
def test_overflown_map_is_asked_for_again(tmp_path: Path) -> None:
    """In float16 a map that is not finite may be mended by the teacher's own `predict`."""

    class Mending(RedTeacher):
        def predict(self, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            return np.broadcast_to(np.linspace(1, 2, 16, dtype=np.float32), images.shape[:3])

    summary = label(make_set(tmp_path), tmp_path / "a", load_teacher=lambda: Mending(precision="float16"))
    assert [sample for sample, _ in summary.failed] == ["s/3"]
    assert LabelReader(tmp_path / "a")["s/2"][0, -1] == 2.0


@pytest.mark.usefixtures("on_device")
def test_summary_has_a_meter_for_each_stage(tmp_path: Path) -> None:
    """What a photograph cost, and who waited."""
    summary = label(make_set(tmp_path), tmp_path / "a", load_teacher=RedTeacher)
    assert all(seconds > 0 for stage, seconds in summary.stage_seconds.items() if stage != "waiting for the writer")


def test_kernels_that_err_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is wrong with them: plain torch does the same, and the run says so."""
    assert device_module._best_steps(torch.device("cpu")) == (plain.resize, plain.arrange, "")
    with pytest.raises(ValueError, match="resized pixels differ"):
        device_module._check_kernels(torch.device("cpu"), lambda *_: torch.zeros(1), plain.arrange)
    with pytest.raises(ValueError, match="quantised maps differ"):
        device_module._check_kernels(torch.device("cpu"), plain.resize, lambda *_: torch.zeros(1))
    device_module._check_kernels(torch.device("cpu"), plain.resize, plain.arrange)
    monkeypatch.setitem(sys.modules, "pipeline.distill.device.kernels", None)
    note = device_module._best_steps(torch.device("cuda", 0))[2]
    assert note.startswith("without Triton kernels, slower (")
