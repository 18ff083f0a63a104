"""Encoders of timm as a pyramid of features, fine to coarse."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import timm
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.contract import SoftfocusError
from trainer.students.context import ConvNormAct

__all__ = ["ModelError", "PlainEncoder", "block_of", "create_encoder"]

PLAIN_LEVELS = 3  # maps that a plain transformer gives, half its grid, its grid, and twice its grid
STEM = (32, 64)  # channels of the convolutions at strides 2 and 4 beside it


class ModelError(SoftfocusError):
    """A student that cannot be built; the message names what and the mend."""


def create_encoder(name: str, *, weights: Path | None = None) -> tuple[nn.Module, list[int], int]:
    """An encoder, the channels of its features coarse to fine, and the number that input sides must be multiples of.

    Its forward gives the features fine to coarse. A plain vision transformer, which has one stride, becomes
    a pyramid (`PlainEncoder`).

    Raises:
        ModelError: the encoder cannot serve, or the weights do not fit it.
    """
    overlay: dict[str, Any] = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(weights)}} if weights else {}
    try:
        with _missing_weights() as missing:
            encoder: Any = timm.create_model(name, features_only=True, **overlay)
            strides = encoder.feature_info.reduction()
            if len(set(strides)) == 1:  # told where the features come from, and to take any size
                depth = len(encoder.feature_info.info)
                chosen = [round(depth * (i + 1) / PLAIN_LEVELS) - 1 for i in range(PLAIN_LEVELS)]
                encoder = timm.create_model(
                    name, features_only=True, out_indices=chosen, dynamic_img_size=True, **overlay
                )
        if weights and missing:
            raise ValueError(missing[0])
    except Exception as error:  # timm and torch raise kinds of their own
        what = f"weights {weights} do not fit" if weights else "cannot serve"
        line = " ".join(str(error).split())[:200]
        raise ModelError(
            f"encoder {name!r}: {what} ({line}); choose a timm model with features_only and its weights"
        ) from error
    channels = encoder.feature_info.channels()
    if len(set(strides)) == 1:
        plain = PlainEncoder(encoder)
        return plain, [channels[-1]] * PLAIN_LEVELS + list(STEM[::-1]), plain.stride
    if any(b != 2 * a for a, b in pairwise(strides)):
        raise ModelError(f"encoder {name!r} has strides {strides}; each must double the one before")
    return encoder, channels[::-1], int(strides[-1])


class PlainEncoder(nn.Module):
    """A plain vision transformer and a few convolutions as a pyramid.

    The transformer sees patches; how sharp an edge is shows in single pixels. So the two finest scales come
    from convolutions on the photograph itself, and the transformer's last, middle and early features serve
    at half its grid, its grid, and twice its grid (in the manner of Li et al., Exploring Plain Vision
    Transformer Backbones for Object Detection, ECCV 2022).

    Attributes:
        stride: sides of the input are multiples of it: twice the patch size.
    """

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer
        self.stride = 2 * int(transformer.feature_info.reduction()[-1])  # type: ignore[operator,union-attr]
        self.pixel_stem = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, o, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU(inplace=True))
            for i, o in zip((3, STEM[0]), STEM, strict=True)
        )
        self.pixel_detail = nn.ModuleList(ConvNormAct(c, c) for c in STEM)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) to features at strides 2, 4, p / 2, p and 2 p, where p is the size of a patch."""
        half = self.pixel_stem[0](images)
        quarter = self.pixel_stem[1](half)
        early, middle, late = self.transformer(images)
        return [
            self.pixel_detail[0](half),
            self.pixel_detail[1](quarter),
            F.interpolate(early, scale_factor=2.0, mode="bilinear", align_corners=False),
            middle,
            F.avg_pool2d(late, 2),
        ]


def block_of(name: str) -> str | None:
    """The block of the pretrained encoder that a student's parameter belongs to, or None for the rest.

    It is the parameter's name up to the first number: `encoder.blocks.3.1.conv.weight` is of
    `encoder.blocks.3`; what has no number is named by its first part: `encoder.conv_stem`.
    """
    if not name.startswith("encoder.") or name.startswith("encoder.pixel_"):
        return None
    match = re.match(r"(.*?\d+)(?:\.|$)", name)
    return match[1] if match else ".".join(name.split(".")[:2])


@contextlib.contextmanager
def _missing_weights() -> Iterator[list[str]]:
    """Collects what timm only logs: tensors that a file of weights lacks; its other remarks are of no use."""
    missing: list[str] = []

    def collect(record: logging.LogRecord) -> bool:
        if record.getMessage().startswith("Missing keys"):
            missing.append(record.getMessage())
        return False

    builder = logging.getLogger("timm.models._builder")
    builder.addFilter(collect)
    try:
        yield missing
    finally:
        builder.removeFilter(collect)
