"""Depth Anything V2 with random weights: teachers as fast as the trained ones, for benchmarks."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pipeline.teachers.hf_folder import quiet

__all__ = ["ARCHITECTURES", "count_gflops", "make_teacher"]


class Architecture(NamedTuple):
    """A Depth Anything V2: width, depth and heads of its backbone, which layers are tapped, widths of its head."""

    hidden: int
    layers: int
    heads: int
    taps: list[int]
    neck: list[int]
    fusion: int


ARCHITECTURES = {
    "small": Architecture(384, 12, 6, [3, 6, 9, 12], [48, 96, 192, 384], 64),
    "base": Architecture(768, 12, 12, [3, 6, 9, 12], [96, 192, 384, 768], 128),
    "large": Architecture(1024, 24, 16, [5, 12, 18, 24], [256, 512, 1024, 1024], 256),
    "tiny": Architecture(32, 4, 2, [1, 2, 3, 4], [8, 8, 16, 16], 8),
}
"""Depth Anything V2 Small, Base and Large (Yang et al. 2024), and one for a dry run on a CPU."""


def make_teacher(folder: Path, architecture: str, side: int) -> None:
    """A model folder with random weights, whose maps vary as maps do, and a preprocessor that squashes to a square."""
    transformers: Any = importlib.import_module("transformers")
    torch.manual_seed(0)
    model = transformers.DepthAnythingForDepthEstimation(_config(architecture, side))
    with torch.no_grad():
        model.head.conv3.weight.abs_()
        model.head.conv3.bias.fill_(1.0)  # above 0, where the last ReLU would leave a constant map
    with quiet():
        model.save_pretrained(folder)
    preprocessor = {
        "do_resize": True,
        "size": {"height": side, "width": side},
        "keep_aspect_ratio": False,
        "ensure_multiple_of": 14,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))


def count_gflops(architecture: str, side: int) -> float:
    """Of one photograph, counted operation by operation on a network without weights; a multiply-add as two."""
    from torch.utils.flop_counter import FlopCounterMode

    transformers: Any = importlib.import_module("transformers")
    with torch.device("meta"):
        model = transformers.DepthAnythingForDepthEstimation(_config(architecture, side)).eval()
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            model(pixel_values=torch.empty(1, 3, side, side))
    return float(counter.get_total_flops()) / 1e9


def _config(architecture: str, side: int) -> Any:
    transformers: Any = importlib.import_module("transformers")  # its types lag behind it
    facts = ARCHITECTURES[architecture]
    backbone = transformers.Dinov2Config(
        hidden_size=facts.hidden,
        num_hidden_layers=facts.layers,
        num_attention_heads=facts.heads,
        out_indices=facts.taps,
        image_size=side,
        patch_size=14,
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    return transformers.DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=facts.hidden,
        neck_hidden_sizes=facts.neck,
        fusion_hidden_size=facts.fusion,
        head_hidden_size=32,
        patch_size=14,
    )
