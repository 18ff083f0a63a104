"""Encoders of timm as a pyramid of features, fine to coarse."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.contract import SoftfocusError
from trainer.students.context import ConvNormAct

__all__ = ["ModelError", "PairedEncoder", "PlainEncoder", "block_of", "create_encoder", "network_of"]

PLAIN_LEVELS = 3  # maps that a plain transformer gives, half its grid, its grid, and twice its grid
STEM = (32, 64)  # channels of the convolutions at strides 2 and 4 beside it


class ModelError(SoftfocusError):
    """A student that cannot be built; the message names what and the mend."""


def create_encoder(name: str, *, weights: Sequence[Path | None] = ()) -> tuple[nn.Module, list[int], int]:
    """An encoder, the channels of its features coarse to fine, and the number that input sides must be multiples of.

    Its forward gives the features fine to coarse. A plain vision transformer, which has one stride, becomes
    a pyramid (`PlainEncoder`); `TRANSFORMER+PYRAMID` makes one of two (`PairedEncoder`).

    Args:
        name: of timm, or two names with a plus sign between them.
        weights: a file for each name; None or nothing for random ones.

    Raises:
        ModelError: the encoder cannot serve, or the weights do not fit it.
    """
    names = name.split("+")
    if len(names) > 2:
        raise ModelError(f"encoder {name!r}: two can be paired, not {len(names)}")
    made = [_create(part, file) for part, file in zip_longest(names, weights)]
    flat = [len(set(encoder.feature_info.reduction())) == 1 for encoder in made]
    if len(made) == 2:
        if flat != [True, False]:
            raise ModelError(f"encoder {name!r}: name a plain vision transformer first, then one with a pyramid")
        paired = PairedEncoder(*made)
        return paired, paired.channels[::-1], paired.stride
    (encoder,) = made
    channels, strides = encoder.feature_info.channels(), encoder.feature_info.reduction()
    if flat[0]:
        plain = PlainEncoder(encoder)
        return plain, [channels[-1]] * PLAIN_LEVELS + list(STEM[::-1]), plain.stride
    if any(b != 2 * a for a, b in pairwise(strides)):
        raise ModelError(f"encoder {name!r} has strides {strides}; each must double the one before")
    return encoder, channels[::-1], int(strides[-1])


def _create(name: str, weights: Path | None) -> Any:
    """timm's encoder; a plain transformer gives `PLAIN_LEVELS` maps and takes any size."""
    overlay: dict[str, Any] = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(weights)}} if weights else {}
    try:
        with _missing_weights() as missing:
            encoder: Any = timm.create_model(name, features_only=True, **overlay)
            if len(set(encoder.feature_info.reduction())) == 1:
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
    return encoder


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


class PairedEncoder(nn.Module):
    """A plain vision transformer, which knows what things are, beside a pyramid, which sees how sharp their edges are.

    The transformer's early, middle and late features are brought to the sizes of the pyramid's last three
    scales and stand beside them.

    Attributes:
        channels: of the features, fine to coarse.
        stride: sides of the input are multiples of it: the patch size.
    """

    def __init__(self, transformer: Any, pyramid: Any) -> None:
        super().__init__()
        self.transformer, self.pyramid = transformer, pyramid
        self.stride = int(transformer.feature_info.reduction()[-1])
        self.channels = [int(c) for c in pyramid.feature_info.channels()]
        for level, more in zip(range(-PLAIN_LEVELS, 0), transformer.feature_info.channels(), strict=True):
            self.channels[level] += more

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) to features at the pyramid's strides."""
        features = list(self.pyramid(images))
        for level, known in zip(range(-PLAIN_LEVELS, 0), self.transformer(images), strict=True):
            there = features[level].shape[-2:]
            known = F.interpolate(known, size=there, mode="bilinear", align_corners=False)
            features[level] = torch.cat([features[level], known.to(features[level].dtype)], 1)
        return features


def network_of(block: str) -> str:
    """Which of an encoder's networks a block belongs to."""
    match = re.match(r"encoder\.(?:transformer|pyramid)\b", block)
    return match[0] if match else "encoder"


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
