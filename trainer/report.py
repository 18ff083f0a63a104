"""A run in pictures: curves as PNG, and one HTML page that needs nothing beside itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.contract import new_file

__all__ = ["draw_curves", "picture", "write_page"]

BLUE, ORANGE, GREY = "#3b6ea8", "#d97a2b", "#888888"


def draw_curves(history: Sequence[Mapping[str, Any]], path: Path | str) -> None:
    """Losses and validation figures over epochs, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = [
        ("training loss", {"blur": BLUE, "depth": ORANGE, "loss": GREY}),
        ("validation MAE", {"val_mae": BLUE}),
        ("validation F and IoU", {"val_f": BLUE, "val_iou": ORANGE}),
        ("validation depth loss", {"val_depth": ORANGE}),
    ]
    panels = [(title, keys) for title, keys in panels if any(key in row for row in history for key in keys)]
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(4.2 * len(panels), 3.2), squeeze=False, layout="constrained"
    )
    for axis, (title, keys) in zip(axes[0], panels, strict=True):
        for key, colour in keys.items():
            points = [(row["epoch"], row[key]) for row in history if key in row]
            if points:
                x, y = zip(*points, strict=True)
                label = key.removeprefix("val_")
                axis.plot(x, y, color=colour, label=label, marker="." if len(points) < 60 else None)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        if len(keys) > 1:
            axis.legend(frameon=False)
    with new_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    pyplot.close(figure)


def picture(pixels: np.ndarray, *, colour: bool = False, quality: int = 88) -> str:
    """Pixels as a data URI: uint8 (H, W, 3), or a map in [0, 1] (H, W), in grey or in matplotlib's magma."""
    if pixels.ndim == 2 and colour:
        import matplotlib

        pixels = matplotlib.colormaps["magma"](np.clip(np.nan_to_num(pixels), 0, 1), bytes=True)[..., :3]
    elif pixels.ndim == 2:
        pixels = np.rint(np.clip(np.nan_to_num(pixels), 0, 1) * 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert("RGB").save(buffer, format="JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def write_page(path: Path | str, **content: Any) -> None:
    """Fill `report.html` with `content` (see its variables) and write it, atomically."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(loader=PackageLoader("trainer", "."), autoescape=True, undefined=StrictUndefined)
    with new_file(path) as temporary:
        temporary.write_text(environment.get_template("report.html").render(**content), encoding="utf-8")
