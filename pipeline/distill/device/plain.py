"""Resize and quantise in plain torch: exact on any device, and the yardstick of the kernels."""

from __future__ import annotations

import functools

import torch

from pipeline.distill.device.resampling import PRECISION_BITS, bicubic_table
from pipeline.store import Codec, DType
from pipeline.store.codec import BIAS, is_delta
from pipeline.store.encoding import DTYPES

__all__ = ["Placed", "arrange", "numbers", "resize"]

Placed = tuple[int, int, int]
"""A photograph in a buffer of bytes: where it begins, its height and its width; 3 bytes a pixel."""


def resize(pixels: torch.Tensor, placed: list[Placed], size: tuple[int, int], count: int) -> torch.Tensor:
    """Photographs at (height, width), as `pipeline.distill.feed.resize` does it with Pillow.

    Args:
        pixels: uint8, one dimension.
        count: of the result, at least that of the photographs; the last one fills up.

    Returns:
        uint8 (count, height, width, 3).
    """
    height, width = size
    out = pixels.new_empty((count, height, width, 3))
    for number, (start, tall, wide) in enumerate(placed):
        image = pixels[start : start + tall * wide * 3].view(tall, wide, 3)
        rows = _rounded(_matrix(wide, width, image.device) @ image.double())
        columns = _rounded(_matrix(tall, height, image.device) @ rows.double().view(tall, width * 3))
        out[number] = columns.view(height, width, 3)
    out[len(placed) :] = out[len(placed) - 1]
    return out


def _rounded(sums: torch.Tensor) -> torch.Tensor:
    half = float(1 << (PRECISION_BITS - 1))
    return ((sums + half) / (1 << PRECISION_BITS)).floor().clamp(0, 255).byte()


@functools.lru_cache(maxsize=256)
def _matrix(length: int, out: int, device: torch.device) -> torch.Tensor:
    """The weights (out, length) in float64, which holds all sums of them exactly."""
    table = bicubic_table(length, out)
    dense = torch.zeros(out, length + table.weights.shape[1] + 1, dtype=torch.float64)
    places = torch.from_numpy(table.first).long()[:, None] + torch.arange(table.weights.shape[1])
    dense.scatter_(1, places, torch.from_numpy(table.weights).double())
    return dense[:, :length].contiguous().to(device)


def numbers(maps: torch.Tensor, dtype: DType) -> torch.Tensor:
    """Offset, scale and largest value of each map, float64 (B, 3); not finite where the map is not."""
    low, high = (part.double() for part in maps.flatten(1).aminmax(dim=1))
    last = 256 ** DTYPES[dtype].itemsize - 1
    return torch.stack([low, (high - low) / last, high], dim=1)


def arrange(maps: torch.Tensor, facts: torch.Tensor, dtype: DType, codec: Codec) -> torch.Tensor:
    """What `pipeline.store.codec.arrange` makes of each map's codes.

    Args:
        maps: float32 (B, h, w), finite; of others the result has no meaning.
        facts: of `numbers`.

    Returns:
        uint8 (B, bytes of a map).
    """
    offset, scale = facts[:, 0, None, None], facts[:, 1, None, None]
    codes = ((maps.double() - offset) / torch.where(scale > 0, scale, 1.0)).round().to(torch.int32)
    itemsize = DTYPES[dtype].itemsize
    if is_delta(codec):
        above_and_left = torch.nn.functional.pad(codes, (1, 0, 1, 0))
        codes = above_and_left.diff(dim=1).diff(dim=2) + BIAS[itemsize]
    parts = [(codes >> 8 * place).bitwise_and(255).byte() for place in range(itemsize)]
    return torch.stack(parts, dim=-1 if codec == "none" else 1).flatten(1)
