"""Random changes to whole batches on the device; image, mask and depth move together."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.config import Augmentation
from trainer.data import Batch
from trainer.model import IMAGENET_MEAN, IMAGENET_STD

__all__ = ["augment", "normalise", "targets"]

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def augment(
    batch: Batch, *, size: int, config: Augmentation, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """A random crop, flip and colour change of each sample.

    Zooming into a crop widens a blur disk by the same factor as the objects around it. What counts as in
    focus is a human judgement of the scene as a whole, so the mask is kept, and `min_area` bounds the zoom.

    Args:
        batch: (B, ., S, S).
        size: side of the result.
        config: ranges.
        generator: on the CPU, so that a seed means the same on every device.

    Returns:
        Images (B, 3, size, size) ImageNet-normalised; mask and depth (B, 1, size, size), NaN = unknown.
    """
    images, mask, depth = batch.images.float() / 255, *targets(batch)
    known = torch.stack([torch.isfinite(mask), torch.isfinite(depth)], 1).squeeze(2).float()
    planes = torch.cat([images, mask.nan_to_num(0.0), depth.nan_to_num(0.0), known], 1)
    theta = _crops(len(images), config, generator).to(images.device)
    grid = F.affine_grid(theta, [len(images), 1, size, size], align_corners=False)
    planes = F.grid_sample(planes, grid, mode="bilinear", padding_mode="border", align_corners=False)
    images, mask, depth = planes[:, :3], planes[:, 3:4], planes[:, 4:5]
    known = planes[:, 5:] > 0.999  # a pixel next to an unknown one is unknown
    mask = torch.where(known[:, :1], mask, torch.nan)
    depth = torch.where(known[:, 1:], depth, torch.nan)
    return normalise(_recolour(images, config, generator)), mask, depth


def targets(batch: Batch) -> tuple[Tensor, Tensor]:
    """Mask in [0, 1] and depth, float32, NaN = unknown."""
    known = batch.has_mask.view(-1, 1, 1, 1)
    return torch.where(known, batch.masks.float() / 255, torch.nan), batch.depth.float()


def normalise(images: Tensor) -> Tensor:
    """RGB in [0, 1] to ImageNet's mean 0 and deviation 1."""
    mean, std = (images.new_tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (images - mean) / std


def _crops(count: int, config: Augmentation, generator: torch.Generator) -> Tensor:
    """Affine matrices (B, 2, 3), output to input coordinates in [-1, 1], each a crop inside the frame."""
    area = _uniform(count, config.min_area, 1.0, generator)
    aspect = _uniform(count, -config.aspect, config.aspect, generator).exp()
    width, height = (area * aspect).sqrt().clamp_max(1), (area / aspect).sqrt().clamp_max(1)
    x = (1 - width) * _uniform(count, -1, 1, generator)
    y = (1 - height) * _uniform(count, -1, 1, generator)
    mirror = torch.where(_uniform(count, 0, 1, generator) < config.flip, -1.0, 1.0)
    zero = torch.zeros(count)
    return torch.stack([width * mirror, zero, x, zero, height, y], 1).view(count, 2, 3)


def _recolour(images: Tensor, config: Augmentation, generator: torch.Generator) -> Tensor:
    count = len(images)
    brightness, contrast, saturation = (
        _uniform(count, 1 - spread, 1 + spread, generator).view(-1, 1, 1, 1).to(images.device)
        for spread in (config.brightness, config.contrast, config.saturation)
    )
    grey = (_uniform(count, 0, 1, generator) < config.grey).view(-1, 1, 1, 1).to(images.device)
    images = images * brightness
    images = (images - images.mean((1, 2, 3), keepdim=True)) * contrast + images.mean((1, 2, 3), keepdim=True)
    luma = (images * images.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    return torch.lerp(luma, images, torch.where(grey, 0.0, saturation)).clamp(0, 1)


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator) * (high - low) + low
