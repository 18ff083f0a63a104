"""Random changes to whole batches on the device; image, mask and labels move together.

What is random is drawn first (on the CPU, so that a seed means the same on every device); what is done with
it is a pure function of tensors, so that a step can be compiled or recorded as a CUDA graph.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.config import Augmentation
from trainer.samples.batch import Batch, send
from trainer.students.model import IMAGENET_MEAN, IMAGENET_STD

__all__ = ["Draws", "Inputs", "augment", "draw", "normalise", "targets"]

BINOMIAL = (1, 4, 6, 4, 1)
TAPS = 8  # samples along a smear
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


class Draws(NamedTuple):
    """What is random about a batch of B samples, float32.

    Attributes:
        theta: (B, 2, 3) affine matrices, output to input coordinates in [-1, 1].
        colour: (B, 4) factors of brightness, contrast and saturation, and the deviation of the noise.
        noise: (B, 3, size, size) of deviation 1; empty where none is asked for.
        partner: (B,) int64, the sample that a pasted rectangle comes from.
        box: (B, 4) top, bottom, left and right of the rectangle in [0, 1]; empty where nothing is pasted.
        sharpness: (B,) factors of the detail, 1 = as it is; no numbers where none are asked for.
        motion: (B, 2) smear to the right and down, in pixels of the result, of whole frames; likewise.
    """

    theta: Tensor
    colour: Tensor
    noise: Tensor
    partner: Tensor
    box: Tensor
    sharpness: Tensor
    motion: Tensor

    def to(self, device: torch.device) -> Draws:
        return Draws(*(send(t, device) for t in self))


class Inputs(NamedTuple):
    """An augmented batch, all (B, ., size, size) float32; NaN = unknown, None where the batch has none.

    `images` are ImageNet-normalised; `mask`, `soft_blur` and `confidence` lie in [0, 1].
    """

    images: Tensor
    mask: Tensor
    depth: Tensor
    soft_blur: Tensor | None
    confidence: Tensor | None


def draw(
    count: int,
    *,
    size: int,
    config: Augmentation,
    seed: int,
    device: torch.device,
    groups: Sequence[int] = (),
) -> Draws:
    """The random part for `count` samples, on `device`; all but the noise is the same on every device.

    Args:
        count: B.
        size: side of the result, for the noise.
        config: ranges.
        seed: what is drawn is a function of it.
        device: where it goes.
        groups: sizes of the parts of the batch that paste among themselves alone; by default it is one.
    """
    generator = torch.Generator().manual_seed(seed)
    spread = torch.tensor([config.brightness, config.contrast, config.saturation])
    colour = 1 + spread * (2 * torch.rand(count, 3, generator=generator) - 1)
    grey = _uniform(count, 0, 1, generator) < config.grey
    colour[:, 2] = torch.where(grey, 0.0, colour[:, 2])
    deviation = config.noise * torch.rand(count, 1, generator=generator)
    theta = _crops(count, config, generator)
    partner, box = _boxes(groups or [count], config, generator)
    noise = torch.zeros(0, device=device)
    if config.noise:  # millions of numbers: drawn where they are needed
        there = torch.Generator(device).manual_seed(seed)
        noise = torch.randn(count, 3, size, size, generator=there, device=device)
    sharpness = torch.zeros(0)
    if config.sharpness:
        sharpness = _uniform(count, 1 - config.sharpness, 1 + config.sharpness, generator)
    motion = torch.zeros(0)
    if config.motion:
        motion = _smears(count, config.motion, generator)
    return Draws(theta, torch.cat([colour, deviation], 1), noise, partner, box, sharpness, motion).to(device)


def augment(batch: Batch, draws: Draws, *, size: int) -> Inputs:
    """Crop, flip, paste and recolour each sample as drawn.

    Zooming into a crop widens a blur disk by the same factor as the objects around it. What counts as in
    focus is a human judgement of the scene as a whole, so the mask is kept, and `min_area` bounds the zoom.
    Likewise `sharpness` softens or sharpens the whole frame by a pixel or so, as lenses, cameras and resizing do.
    So with `motion`: a camera that moved is not out of focus.
    A pasted rectangle brings its own mask; depth is relative to a scene, so it is unknown there.

    Args:
        batch: (B, ., S, S), on the device of `draws`.
        draws: from `draw`.
        size: side of the result.
    """
    mask, depth = targets(batch)
    planes = [batch.images.float() / 255]
    known = []
    for target in (mask, depth, batch.soft_blur, batch.confidence):
        if target is not None:
            known.append(torch.isfinite(target).float())
            planes.append(target.float().nan_to_num(0.0))
    stacked = torch.cat([*planes, *known], 1)
    grid = F.affine_grid(draws.theta, [len(mask), 1, size, size], align_corners=False)
    sampled = _sample(stacked, grid)
    if draws.motion.numel():
        sampled = torch.cat([_smeared(stacked[:, :3], grid, draws), sampled[:, 3:]], 1)
    pasted = _inside(draws.box, size)
    stacked = torch.where(pasted, sampled[draws.partner], sampled)
    count = len(known)
    # a pixel next to an unknown one is unknown
    values = torch.where(stacked[:, 3 + count :] > 0.999, stacked[:, 3 : 3 + count], torch.nan)
    images = normalise(_recolour(stacked[:, :3], draws))
    mask, depth, *others = torch.split(values, 1, dim=1)
    depth = torch.where(pasted, torch.nan, depth)
    soft_blur = others.pop(0) if batch.soft_blur is not None else None
    confidence = others.pop(0) if batch.confidence is not None else None
    return Inputs(images, mask, depth, soft_blur, confidence)


def targets(batch: Batch) -> tuple[Tensor, Tensor]:
    """Mask in [0, 1] and depth, float32, NaN = unknown."""
    known = batch.has_mask.view(-1, 1, 1, 1)
    return torch.where(known, batch.masks.float() / 255, torch.nan), batch.depth.float()


def normalise(images: Tensor) -> Tensor:
    """RGB in [0, 1] to ImageNet's mean 0 and deviation 1."""
    # a channel at a time: nothing has to be copied to the device, which a CUDA graph could not record
    channels = [
        (images[:, i : i + 1] - mean) / std
        for i, (mean, std) in enumerate(zip(IMAGENET_MEAN, IMAGENET_STD, strict=True))
    ]
    return torch.cat(channels, 1)


def _crops(count: int, config: Augmentation, generator: torch.Generator) -> Tensor:
    """Affine matrices (B, 2, 3), each a crop inside the frame."""
    area = _uniform(count, config.min_area, 1.0, generator)
    aspect = _uniform(count, -config.aspect, config.aspect, generator).exp()
    width, height = (area * aspect).sqrt().clamp_max(1), (area / aspect).sqrt().clamp_max(1)
    x = (1 - width) * _uniform(count, -1, 1, generator)
    y = (1 - height) * _uniform(count, -1, 1, generator)
    mirror = torch.where(_uniform(count, 0, 1, generator) < config.flip, -1.0, 1.0)
    zero = torch.zeros(count)
    return torch.stack([width * mirror, zero, x, zero, height, y], 1).view(count, 2, 3)


def _boxes(groups: Sequence[int], config: Augmentation, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Partners (B,) and rectangles (B, 4) of a fifth to two thirds of each side."""
    count = sum(groups)
    partner = torch.cat([torch.randperm(size, generator=generator) + sum(groups[:n]) for n, size in enumerate(groups)])
    extent = 0.2 + 0.47 * torch.rand(count, 2, generator=generator)
    low = (1 - extent) * torch.rand(count, 2, generator=generator)
    used = (_uniform(count, 0, 1, generator) < config.cutmix).float()[:, None]
    low, high = low * used, (low + extent) * used
    return partner, torch.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], 1)


def _smears(count: int, longest: float, generator: torch.Generator) -> Tensor:
    """(B, 2): no smear for half of the frames, else one of up to so many pixels in any direction."""
    length = longest * _uniform(count, -1, 1, generator).clamp_min(0)
    angle = math.pi * _uniform(count, 0, 1, generator)
    return torch.stack([length * angle.cos(), length * angle.sin()], 1)


def _sample(planes: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(planes, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _smeared(images: Tensor, grid: Tensor, draws: Draws) -> Tensor:
    """The mean of samples along the smear, from half of it before a pixel to half of it behind."""
    size = grid.shape[1]
    # from pixels of the result to the input's coordinates
    whole = (draws.theta[:, :, :2] @ (2 * draws.motion / size)[:, :, None]).view(-1, 1, 1, 2)
    places = [(2 * tap + 1) / (2 * TAPS) - 0.5 for tap in range(TAPS)]
    return torch.stack([_sample(images, grid + place * whole) for place in places]).mean(0)


def _inside(box: Tensor, size: int) -> Tensor:
    """(B, 1, size, size) bool: the pixels of each rectangle."""
    position = (torch.arange(size, device=box.device) + 0.5) / size
    top, bottom, left, right = (edge[:, None] for edge in box.unbind(1))
    rows, columns = (position >= top) & (position < bottom), (position >= left) & (position < right)
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def _recolour(images: Tensor, draws: Draws) -> Tensor:
    brightness, contrast, saturation, deviation = (c.view(-1, 1, 1, 1) for c in draws.colour.unbind(1))
    if draws.sharpness.numel():
        soft = _softened(images)
        images = soft + draws.sharpness.view(-1, 1, 1, 1) * (images - soft)
    images = images * brightness
    mean = images.mean((1, 2, 3), keepdim=True)
    images = (images - mean) * contrast + mean
    luma = sum(weight * images[:, i : i + 1] for i, weight in enumerate(LUMA))
    images = torch.lerp(luma.expand_as(images), images, saturation)  # type: ignore[union-attr]
    if draws.noise.numel():
        images = images + deviation * draws.noise
    return images.clamp(0, 1)


def _softened(images: Tensor) -> Tensor:
    """A Gaussian blur of about one pixel: the binomial kernel of five taps, in each direction."""
    for dim in (2, 3):
        pad = (0, 0, 2, 2) if dim == 2 else (2, 2, 0, 0)
        padded, size = F.pad(images, pad, mode="replicate"), images.shape[dim]
        images = sum(w / 16 * padded.narrow(dim, i, size) for i, w in enumerate(BINOMIAL))  # type: ignore[assignment]
    return images


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator) * (high - low) + low
