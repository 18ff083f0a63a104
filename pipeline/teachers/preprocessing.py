"""How a photograph becomes a network's input: its size and its numbers.

The size comes from a rule that looks at the photograph's (height, width) alone, so that the plan of a
store can be made before any network is loaded. The whole frame is kept: nothing is cropped or padded.
The caller resizes (see INTERPOLATION); the numbers are changed on the teacher's device.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ASPECT_LIMIT",
    "Colour",
    "Fixed",
    "LongSide",
    "PositiveTriple",
    "Preprocessing",
    "Range",
    "ShortSide",
    "SizeRule",
    "Triple",
    "describe_size",
    "input_size",
    "with_side",
]

# A panorama of more than 4:1 is squeezed to 4:1, so that one photograph cannot ask for a hundred times
# the memory of the others.
ASPECT_LIMIT = 4

INTERPOLATION = (
    "Pillow's bicubic, antialiased: along rows, then along columns, 8 bits between the two; JPEGs are decoded at "
    "1/2, 1/4 or 1/8 of their size where that is at least the network's"
)

Pixels = Annotated[int, msgspec.Meta(ge=1, le=16384)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Triple = tuple[float, float, float]
PositiveTriple = tuple[Positive, Positive, Positive]
Range = Literal["0..1", "0..255"]
Colour = Literal["RGB", "BGR"]


class Fixed(msgspec.Struct, frozen=True, tag_field="rule", tag="fixed", forbid_unknown_fields=True):
    """One size for every photograph, whatever its aspect ratio."""

    height: Pixels
    width: Pixels


class ShortSide(msgspec.Struct, frozen=True, tag_field="rule", tag="short side", forbid_unknown_fields=True):
    """The short side becomes `side`, the long side follows; both are rounded to a multiple."""

    side: Pixels
    multiple: Pixels = 1


class LongSide(msgspec.Struct, frozen=True, tag_field="rule", tag="long side", forbid_unknown_fields=True):
    """The long side becomes `side`, the short side follows; both are rounded to a multiple."""

    side: Pixels
    multiple: Pixels = 1


SizeRule = Fixed | ShortSide | LongSide


class Preprocessing(msgspec.Struct, frozen=True, kw_only=True):
    """What a network wants to see: a size rule, a range, and mean and std in units of that range."""

    size: SizeRule
    range: Range
    mean: Triple = (0.0, 0.0, 0.0)
    std: Triple = (1.0, 1.0, 1.0)
    colour: Colour = "RGB"

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) in pixels that a photograph of this size is resized to."""
        return input_size(self.size, height, width)

    def affine(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(factor, offset), each (3,): the network's input is factor * pixel + offset, pixel in 0..255."""
        unit = 1.0 / 255.0 if self.range == "0..1" else 1.0
        mean, std = np.asarray(self.mean, np.float64), np.asarray(self.std, np.float64)
        return (unit / std).astype(np.float32), (-mean / std).astype(np.float32)

    def normalise(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 RGB (B, h, w, 3) to the network's float32 (B, 3, h, w)."""
        factor, offset = self.affine()
        ordered = images[..., ::-1] if self.colour == "BGR" else images
        planes = np.ascontiguousarray(ordered.transpose(0, 3, 1, 2)).astype(np.float32)
        planes *= factor[:, None, None]
        planes += offset[:, None, None]
        return planes

    def record(self) -> dict[str, Any]:
        """The same in words and numbers, for a provenance record."""
        return {
            "colour order": self.colour,
            "input range": self.range,
            "mean": list(self.mean),
            "std": list(self.std),
            "size rule": describe_size(self.size),
            "interpolation": INTERPOLATION,
        }


def input_size(rule: SizeRule, height: int, width: int) -> tuple[int, int]:
    """(height, width) that the rule gives a photograph of `height` x `width` pixels.

    Whole numbers throughout, so that every machine plans the same size.
    """
    if isinstance(rule, Fixed):
        return rule.height, rule.width
    short, long = sorted((height, width))
    if isinstance(rule, ShortSide):
        long = min(long, ASPECT_LIMIT * short)
        sides = _nearest(rule.side, 1, rule.multiple), _nearest(rule.side * long, short, rule.multiple)
    else:
        short = max(short, -(-long // ASPECT_LIMIT))
        sides = _nearest(rule.side * short, long, rule.multiple), _nearest(rule.side, 1, rule.multiple)
    return sides if height <= width else (sides[1], sides[0])


def with_side(rule: SizeRule, side: int, *, multiple: int = 1) -> SizeRule:
    """The rule with another side in pixels; a fixed size keeps its shape, its short side becomes `side`."""
    if isinstance(rule, Fixed):
        short = min(rule.height, rule.width)
        return Fixed(_nearest(side * rule.height, short, multiple), _nearest(side * rule.width, short, multiple))
    return msgspec.structs.replace(rule, side=side)


def describe_size(rule: SizeRule) -> str:
    """The rule in words: equal words, equal sizes."""
    if isinstance(rule, Fixed):
        return f"fixed {rule.height} x {rule.width} (height x width), aspect ratio not kept"
    name = "short side" if isinstance(rule, ShortSide) else "long side"
    return (
        f"{name} {rule.side}, both sides rounded to a multiple of {rule.multiple}, "
        f"aspect ratio kept up to {ASPECT_LIMIT}:1"
    )


def _nearest(numerator: int, denominator: int, multiple: int) -> int:
    """The multiple nearest to numerator / denominator (halves go up), at least one multiple."""
    return max(1, (2 * numerator + denominator * multiple) // (2 * denominator * multiple)) * multiple
