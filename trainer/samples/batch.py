"""A batch of prepared samples: what the loader makes, the cache keeps and the augmentation changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Batch", "concatenate", "send"]


class Batch(NamedTuple):
    """Samples of one size S on one device; what is not known is marked, never invented.

    Attributes:
        images: (B, 3, S, S) uint8, sRGB.
        masks: (B, 1, S, S) uint8, 255 = out of focus.
        depth: (B, 1, S, S) float16, relative inverse depth scaled to [0, 1] per map, NaN = unknown.
        has_mask: (B,) bool; where False the mask is meaningless.
        soft_blur: (B, 1, S, S) float16, another student's probability of blur, NaN = unknown; or None.
        confidence: (B, 1, S, S) float16 in [0, 1], of the depth; or None where the store has none.
    """

    images: Tensor
    masks: Tensor
    depth: Tensor
    has_mask: Tensor
    soft_blur: Tensor | None = None
    confidence: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with every field changed alike."""
        return Batch(**{name: change(field) for name, field in self._asdict().items() if field is not None})

    def to(self, device: torch.device) -> Batch:
        return self.map(lambda field: field.to(device, non_blocking=True))

    def select(self, rows: Tensor) -> Batch:
        rows = send(rows, self.images.device)
        return self.map(lambda field: field[rows])

    def pin_memory(self) -> Batch:
        return self.map(lambda field: field.pin_memory())

    @property
    def bytes(self) -> int:
        return sum(f.nbytes for f in self if f is not None)


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A small tensor on the device, without waiting until the device has done what it was given before."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()  # from other memory the copy waits
    return tensor.to(device, non_blocking=True)


def concatenate(items: Sequence[Batch]) -> Batch:
    """Batches as one."""
    present = [name for name, field in items[0]._asdict().items() if field is not None]
    return Batch(**{name: torch.cat([getattr(item, name) for item in items]) for name in present})
