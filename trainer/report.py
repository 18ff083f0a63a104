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

__all__ = ["as_picture", "data_uri", "draw_curves", "write_page", "write_sheet"]

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


def as_picture(pixels: np.ndarray, *, colour: bool = False) -> Image.Image:
    """uint8 (H, W, 3), or a map in [0, 1] (H, W) in grey or in matplotlib's magma, as a picture."""
    if pixels.ndim == 2 and colour:
        import matplotlib

        pixels = matplotlib.colormaps["magma"](np.clip(np.nan_to_num(pixels), 0, 1), bytes=True)[..., :3]
    elif pixels.ndim == 2:
        pixels = np.rint(np.clip(np.nan_to_num(pixels), 0, 1) * 255).astype(np.uint8)
    return Image.fromarray(pixels).convert("RGB")


def data_uri(picture: Image.Image, *, quality: int = 88) -> str:
    """A picture as a JPEG inside a page."""
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def write_sheet(path: Path | str, rows: Sequence[Sequence[Image.Image]], *, width: int = 240, gap: int = 6) -> None:
    """Rows of pictures as one JPEG; each row has the aspect ratio of its first picture."""
    heights = [round(width * row[0].height / row[0].width) for row in rows]
    size = (max(map(len, rows)) * (width + gap) - gap, sum(heights) + gap * (len(rows) - 1))
    sheet = Image.new("RGB", size, "white")
    top = 0
    for row, height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            sheet.paste(tile.resize((width, height), Image.Resampling.LANCZOS), (column * (width + gap), top))
        top += height + gap
    with new_file(path) as temporary:
        sheet.save(temporary, format="JPEG", quality=90)


def write_page(path: Path | str, **content: Any) -> None:
    """Fill `report.html` with `content` (see its variables) and write it, atomically."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(loader=PackageLoader("trainer", "."), autoescape=True, undefined=StrictUndefined)
    with new_file(path) as temporary:
        temporary.write_text(environment.get_template("report.html").render(**content), encoding="utf-8")
