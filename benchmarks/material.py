"""What benchmarks label: photographs that cost what photographs cost, and teachers as large as real ones."""

from __future__ import annotations

import hashlib
import io
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.manifest import Sample, write_manifest
from pipeline.provenance import Provenance
from pipeline.teachers.base import require

__all__ = ["SlowTeacher", "draw_photographs", "save_depth_anything_small"]

_PATTERNS = 32


def draw_photographs(folder: Path, count: int, size: tuple[int, int] = (427, 640)) -> Path:
    """Distinct JPEG files (height, width) and their manifest, which is returned.

    Their pixels are a few random scenes of soft and fine detail, compressed as cameras do. Files differ in
    the bytes after the picture, so that each is a photograph of its own to the pipeline and all of them
    decode in the time of one.
    """
    contents = [_draw(np.random.default_rng(number), size) for number in range(min(count, _PATTERNS))]
    samples = []
    for number in range(count):
        content = contents[number % len(contents)] + b"%d" % number
        name = f"{number // 1000:04d}/{number:08d}.jpg"
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        samples.append(
            Sample(id=f"drawn/{number:08d}", image=name, split="train", height=size[0], width=size[1], sha256=digest)
        )
    manifest = folder / "photographs.jsonl"
    write_manifest(manifest, samples, root=folder)
    return manifest


def _draw(random: np.random.Generator, size: tuple[int, int]) -> bytes:
    """A JPEG of quality 90: noise of every scale from the whole frame down to a pixel."""
    height, width = size
    pixels = np.zeros((height, width, 3), np.float32)
    for octave in range(9):
        coarse = random.normal(0, 1, (height >> octave or 1, width >> octave or 1, 3)) * 2.0**octave / 10
        planes = [
            Image.fromarray(plane).resize((width, height), Image.Resampling.BICUBIC)
            for plane in np.moveaxis(coarse.astype(np.float32), -1, 0)
        ]
        pixels += np.stack([np.asarray(plane) for plane in planes], axis=-1)
    stream = io.BytesIO()
    Image.fromarray(np.clip(128 + 2 * pixels, 0, 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def save_depth_anything_small(folder: Path) -> str:
    """The architecture of Depth Anything V2 Small with random weights, 518 x 518; returns the teacher's name.

    Raises:
        TeacherError: transformers is not installed.
    """
    transformers = require("transformers", extra="hf")
    torch = require("torch", extra="hf")
    torch.manual_seed(0)
    backbone = transformers.Dinov2Config(
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        image_size=518,
        patch_size=14,
        out_indices=[3, 6, 9, 12],
        apply_layernorm=True,
        reshape_hidden_states=False,
    )
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone,
        neck_hidden_sizes=[48, 96, 192, 384],
        reassemble_hidden_size=384,
        fusion_hidden_size=64,
        head_hidden_size=32,
        patch_size=14,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers' own, about its file formats
        transformers.DepthAnythingForDepthEstimation(config).save_pretrained(folder)
    preprocessor = {
        "image_processor_type": "DPTImageProcessor",
        "do_resize": True,
        "size": {"height": 518, "width": 518},
        "keep_aspect_ratio": False,
        "ensure_multiple_of": 14,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return f"hf:{folder}"


class SlowTeacher:
    """Waits as long for each photograph as a device would work, and needs no device."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.provenance = Provenance(
            kind="bench",
            name="slow",
            weights_sha256="0" * 64,
            direction="inverse depth",
            preprocessing={},
            versions={},
        )

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        return 64, 96

    def predict(self, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        time.sleep(self._seconds * len(images))
        return images[..., 0].astype(np.float32)

    def close(self) -> None:
        pass
