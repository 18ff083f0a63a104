"""The workshop of a scene: its random numbers, its palette, and materials made on demand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.synthetic import textures
from pipeline.synthetic.camera import Array
from pipeline.synthetic.colour import vary
from pipeline.synthetic.materials import Material, texture
from pipeline.synthetic.prints import Photographs, label, page

__all__ = ["Kit"]

SMALL, LARGE = 256, 512  # texture sizes: of things, of walls and grounds


@dataclass
class Kit:
    """What the makers of things share."""

    rng: np.random.Generator
    palette: list[Array]
    photographs: Photographs

    def chance(self, probability: float) -> bool:
        """True that often."""
        return bool(self.rng.random() < probability)

    def between(self, low: float, high: float) -> float:
        """A number between the two."""
        return float(self.rng.uniform(low, high))

    def colour(self) -> Array:
        """A colour of the palette, varied."""
        return vary(self.rng, self.palette[int(self.rng.integers(len(self.palette)))], 0.1)

    def made_of(
        self, painter: Callable[..., Array], *colours: Array, tile_m: float | None = None, gloss: float = 0.0
    ) -> Material:
        """A material from one of the painters of textures."""
        return Material(texture(painter(self.rng, SMALL, *colours)), tile_m, gloss)

    def large(self, painter: Callable[..., Array], tile_m: float, gloss: float = 0.0) -> Material:
        """A finer one, for walls and grounds."""
        uneven = painter in (textures.lawn, textures.asphalt, textures.stone, textures.pebbles)
        return Material(texture(painter(self.rng, LARGE)), tile_m, gloss, uneven=uneven)

    def plain(self, colour: Array | None = None, *, gloss: float = 0.2) -> Material:
        """Glazed, painted or moulded in one colour."""
        return self.made_of(textures.ceramic, self.colour() if colour is None else colour, gloss=gloss)

    def surface(self, size_m: float) -> Material:
        """Something a thing of about that size may be made of: painted, patterned, woven, wooden, stone."""
        painter = (textures.ceramic, textures.checks, textures.cloth, textures.wood, textures.stone, textures.metal)
        kind = painter[int(self.rng.choice(6, p=(0.26, 0.2, 0.16, 0.16, 0.12, 0.1)))]
        colours = () if kind in (textures.wood, textures.stone) else (self.colour(), self.colour())
        gloss = self.between(0.1, 0.9) if kind in (textures.ceramic, textures.metal) else 0.0
        tile_m = size_m * self.between(0.6, 1.4) if kind is not textures.ceramic else None
        return self.made_of(
            kind, *colours[: 1 if kind in (textures.ceramic, textures.metal) else 2], tile_m=tile_m, gloss=gloss
        )

    def printed(self) -> Material:
        """A label, a cover or a page."""
        if self.chance(0.2):
            return Material(texture(page(self.rng, SMALL)), None, 0.05)
        order = [self.palette[i] for i in self.rng.permutation(len(self.palette))]
        order.sort(key=lambda c: float(c.sum()), reverse=self.chance(0.5))
        picked = [order[0], order[3], order[-1]]  # the ink stands out from the ground
        return Material(texture(label(self.rng, SMALL, picked, self.photographs)), None, 0.1)

    def cut_out(self, painter: Callable[..., Array], size: int = SMALL) -> Material:
        """A flat thing with an outline."""
        return Material(texture(painter(self.rng, size)), None, 0.0, cut_out=True)
