"""What the trainer gets from stage 1, and what it does not get with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from pipeline import contract
from pipeline.contract import LabelReader, read_blur_mask, read_image, read_manifest

ROOT = Path(__file__).parents[1]


def test_contract_loads_nothing_heavy() -> None:
    """A data worker that imports the contract loads no torch, no timm, no click, and no teacher."""
    code = "import sys, pipeline.contract; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "h5py" in loaded
    assert not loaded & {"torch", "timm", "click", "transformers", "onnxruntime", "pipeline.teachers"}


def test_contract_names_are_all_there() -> None:
    """Each name that is promised can be imported, and no other is."""
    assert sorted(contract.__all__) == sorted(name for name in vars(contract) if not name.startswith("_"))
    assert {"Sample", "read_manifest", "read_image", "read_blur_mask", "LabelReader"} <= set(contract.__all__)
    assert {"SoftfocusError", "new_file", "sha256_file"} <= set(contract.__all__)


def test_contract_is_enough_to_load_a_training_sample(small_set: Path, small_labels: Path) -> None:
    """Photograph, blur mask and soft label of a sample, joined by its id."""
    samples, reader = read_manifest(small_set, split="train"), LabelReader(small_labels)
    assert not reader.missing(sample.id for sample in samples)
    sample = samples[0]
    image = read_image(sample.image_path)
    assert sample.mask_path is not None
    assert sample.blur is not None
    mask = read_blur_mask(sample.mask_path, blur=sample.blur, size=image.shape[:2])
    label = reader[sample.id]
    assert image.shape == (48, 64, 3)
    assert mask.shape == (48, 64)
    assert label.shape == (24, 32)
    assert abs(float(label.mean()) - float(np.mean(image))) < 3
