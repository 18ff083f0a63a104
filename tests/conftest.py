"""What several test files share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml
from PIL import Image

from pipeline.files import sha256_file
from pipeline.manifest import Sample, write_manifest

SMALL_SIZE = (48, 64)
QUICK = [  # overrides that make a run of a second
    "student.encoder=test_efficientnet",
    "student.encoder_weights=none",
    "student.channels=16",
    "data.input_size=32",
    "data.prepared_size=40",
    "data.batch_size=4",
    "data.workers=1",
    "epochs=3",
    "validate_every=2",
    "optimiser.lr=0.01",
]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real photographs (`data/`) and weights (`weights/`), or a skip where it is absent."""
    folder = Path(os.environ.get("SOFTFOCUS_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "data" / "cuhk" / "image").is_dir():
        pytest.skip("no real data beside this clone: set SOFTFOCUS_SHARED to a folder with data/ and weights/")
    return folder.resolve()


class BrightnessTeacher:
    """Depth is the mean of a pixel's channels: labels with obvious values, in no time."""

    def __init__(self) -> None:
        from pipeline.contract import Provenance

        self.provenance = Provenance(
            kind="test",
            name="brightness",
            weights_sha256="0" * 64,
            direction="inverse depth",
            preprocessing={},
            versions={},
        )

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        return height // 2, width // 2

    def predict(self, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return images.astype(np.float32).mean(-1)

    def close(self) -> None:
        pass


def draw_photograph(number: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A photograph whose bright side is blurred (smooth) and whose dark side is sharp (noise), and its mask."""
    random = np.random.default_rng(number)
    height, width = SMALL_SIZE
    blurred = np.broadcast_to(np.arange(width) < random.integers(width // 4, 3 * width // 4), (height, width))
    noise = random.integers(0, 100, (height, width, 3))
    return np.where(blurred[..., None], 200, noise).astype(np.uint8), blurred


@pytest.fixture
def small_set(tmp_path: Path) -> Path:
    """A manifest of 12 training, 3 validation and 3 test photographs, 48 x 64, with masks."""
    samples = []
    for number in range(18):
        image, blurred = draw_photograph(number)
        for folder, pixels in (("image", image), ("mask", blurred.astype(np.uint8) * 255)):
            file = tmp_path / "photos" / folder / f"{number:02d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file)
        samples.append(
            Sample(
                id=f"small/{number:02d}",
                image=f"image/{number:02d}.png",
                mask=f"mask/{number:02d}.png",
                blur="white",
                split="train" if number < 12 else "val" if number < 15 else "test",
                height=SMALL_SIZE[0],
                width=SMALL_SIZE[1],
                sha256=sha256_file(tmp_path / "photos" / "image" / f"{number:02d}.png"),
            )
        )
    write_manifest(tmp_path / "small.jsonl", samples, root=tmp_path / "photos")
    return tmp_path / "small.jsonl"


@pytest.fixture
def small_labels(small_set: Path) -> Path:
    """The label store of `small_set` by `BrightnessTeacher`."""
    from pipeline.distill import label

    store = small_set.parent / "labels"
    label(small_set, store, load_teacher=BrightnessTeacher, shard_size=5)
    return store


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Makes a run folder by hand: `make_run(name, seed=.., mae=.., epochs=.., rows=.., per_image=.., **values)`."""

    def make(
        name: str,
        *,
        seed: int = 0,
        mae: float = 0.1,
        epochs: int = 3,
        rows: list[dict[str, Any]] | None = None,
        per_image: dict[str, float] | None = None,
        **values: Any,
    ) -> Path:
        from trainer.runs.run_folder import write_metrics, write_per_image

        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(yaml.safe_dump({"seed": seed, "epochs": epochs, **values}))
        write_metrics(folder / "metrics.csv", rows or [{"epoch": 3, "val_mae": mae, "val_f": 1 - mae}])
        (folder / "run.json").write_text('{"device": "cpu"}')
        write_per_image(
            folder, [{"id": i, "mae": v, "f_at_half": 1 - v} for i, v in (per_image or {}).items()], epoch="best"
        )
        return folder

    return make


def differing_shards(store: Path, other: Path) -> list[str]:
    """The shards of two stores that do not hold the same: names, values and attributes, bit by bit.

    Not the bytes of the files: ISA-L has been seen to compress the same chunk in two ways, once in thousands.
    """
    one, two = ({path.name: path for path in (each / "shards").iterdir()} for each in (store, other))
    return sorted(n for n in one.keys() | two.keys() if n not in one or n not in two or not _same(one[n], two[n]))


def _same(path: Path, other: Path) -> bool:
    return path.read_bytes() == other.read_bytes() or _contents(path) == _contents(other)


def _contents(path: Path) -> dict[str, object]:
    """What an HDF5 file says, as values that compare exactly."""
    found: dict[str, object] = {}
    with h5py.File(path) as file:

        def note(name: str, item: h5py.Group | h5py.Dataset) -> None:
            attributes = {key: np.asarray(value).tolist() for key, value in item.attrs.items()}
            values = (str(item.dtype), item.shape, item[()].tobytes()) if isinstance(item, h5py.Dataset) else ()
            found[name] = attributes, values

        note("/", file)
        file.visititems(note)
    return found
