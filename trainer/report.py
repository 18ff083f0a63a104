"""A run in pictures: curves as PNG, and one HTML page that needs nothing beside itself."""

from __future__ import annotations

import base64
import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from pipeline.contract import new_file

__all__ = ["as_picture", "data_uri", "draw_curves", "draw_groups", "write_page", "write_sheet"]

BLUE, ORANGE, GREY = "#3b6ea8", "#d97a2b", "#888888"
COLOURS = dict.fromkeys(("blur", "val_mae", "val_f"), BLUE) | dict.fromkeys(("loss", "lr"), GREY)
COLOURS |= dict.fromkeys(("depth", "val_depth", "val_iou"), ORANGE)
OTHERS = ("#5b9a5b", "#8a5fa8", "#b04a4a", "#3aa0a0", "#a08a3a")  # further terms of the loss
NO_LOSS = ("epoch", "step", "lr", "seconds", "images_per_second")


def draw_curves(history: Sequence[Mapping[str, Any]], path: Path | str) -> None:
    """A run's losses, validation figures and learning rate over epochs, as a PNG; the best epoch is marked."""
    terms = [key for key in dict.fromkeys(key for row in history for key in row) if key not in NO_LOSS]
    losses = [key for key in terms if not key.startswith("val_")]
    panels = {
        "training loss": {"loss": "loss"} | {key: key for key in losses if key != "loss"},
        "validation MAE": {"val_mae": "MAE"},
        "validation F and IoU": {"val_f": "F", "val_iou": "IoU"},
        "validation depth loss": {"val_depth": "depth"},
        "validation soft blur": {"val_soft_blur": "difference"},
        "learning rate": {"lr": "rate"},
    }
    there = {key for row in history for key in row}
    panels = {title: {key: word for key, word in keys.items() if key in there} for title, keys in panels.items()}
    panels = {title: keys for title, keys in panels.items() if keys}
    with _figure(len(panels), path) as axes:
        for axis, (title, keys) in zip(axes, panels.items(), strict=True):
            axis.set_prop_cycle(color=OTHERS)
            for key, word in keys.items():
                _draw_line(axis, history, key, word)
            axis.set_title(title, fontsize=10)
            if len(keys) > 1:
                axis.legend(frameon=False, fontsize=8)
            if title in ("validation MAE", "validation depth loss", "validation soft blur"):
                _mark_lowest(axis, history, next(iter(keys)))
            if title in ("training loss", "learning rate"):
                axis.set_ylim(bottom=0)


def draw_groups(groups: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]], path: Path | str) -> None:
    """Validation MAE of groups of runs over epochs, as a PNG: each group's mean, and its runs' range as a band.

    Args:
        groups: name -> the histories of its runs; drawn where every run of the group was validated.
        path: the PNG.
    """
    measures = {"val_mae": "validation MAE", "val_depth": "validation depth loss"}
    there = [m for m in measures if any(m in row for runs in groups.values() for run in runs for row in run)]
    with _figure(max(len(there), 1), path, width=6.0) as axes:
        for axis, measure in zip(axes, there, strict=False):
            for name, runs in groups.items():
                _draw_band(axis, runs, measure, f"{name} ({len(runs)})")
            axis.set_title(measures[measure], fontsize=10)
            axis.legend(frameon=False, fontsize=8)


@contextlib.contextmanager
def _figure(panels: int, path: Path | str, *, width: float = 4.2) -> Iterator[list[Any]]:
    """Axes side by side, three a row, that become a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = min(panels, 3)
    rows = -(-panels // columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(width * columns, 3.2 * rows), squeeze=False, layout="constrained"
    )
    try:
        for axis in axes.flat[:panels]:
            axis.set_xlabel("epoch")
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
        for axis in axes.flat[panels:]:
            axis.set_axis_off()
        yield list(axes.flat[:panels])
        with new_file(path) as temporary:
            figure.savefig(temporary, format="png", dpi=110)
    finally:
        pyplot.close(figure)


def _draw_line(axis: Any, history: Sequence[Mapping[str, Any]], key: str, label: str) -> None:
    x, y = _points(history, key)
    axis.plot(x, y, color=COLOURS.get(key), label=label, marker="." if len(x) < 60 else None)


def _mark_lowest(axis: Any, history: Sequence[Mapping[str, Any]], key: str) -> None:
    x, y = _points(history, key)
    lowest = int(np.argmin(y))
    axis.plot(x[lowest], y[lowest], "o", color="none", markeredgecolor="black", markersize=8)
    axis.annotate(
        f"{y[lowest]:.4f}, epoch {x[lowest]:.0f}",
        (x[lowest], y[lowest]),
        (0, 12),
        textcoords="offset points",
        fontsize=8,
        ha="right" if lowest > len(x) / 2 else "left",
    )


def _draw_band(axis: Any, runs: Sequence[Sequence[Mapping[str, Any]]], key: str, label: str) -> None:
    tables = [dict(zip(*_points(run, key), strict=True)) for run in runs]
    epochs = sorted(set.intersection(*map(set, tables))) if tables else []
    if not epochs:
        return
    values = np.array([[table[epoch] for epoch in epochs] for table in tables])
    (line,) = axis.plot(epochs, values.mean(0), label=label)
    axis.fill_between(epochs, values.min(0), values.max(0), color=line.get_color(), alpha=0.15, linewidth=0)


def _points(history: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    points = [(float(row["epoch"]), float(row[key])) for row in history if key in row]
    return [x for x, _ in points], [y for _, y in points]


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


def write_sheet(
    path: Path | str,
    rows: Sequence[Sequence[Image.Image]],
    *,
    headings: Sequence[str] = (),
    captions: Sequence[str] = (),
    width: int = 240,
    gap: int = 6,
) -> None:
    """Rows of pictures as one JPEG or PNG, by the suffix of `path`.

    Args:
        path: the file.
        rows: each row has the aspect ratio of its first picture.
        headings: a word above each column.
        captions: a line below each row.
        width: of a picture, pixels.
        gap: between pictures, pixels.
    """
    line = 18
    heights = [round(width * row[0].height / row[0].width) for row in rows]
    above, below = (line if headings else 0), (line if captions else 0)
    size = (max(map(len, rows)) * (width + gap) - gap, above + sum(heights) + len(rows) * (gap + below) - gap)
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    for column, word in enumerate(headings):
        pen.text((column * (width + gap) + 1, 2), word, fill="black")
    top = above
    for number, (row, height) in enumerate(zip(rows, heights, strict=True)):
        for column, tile in enumerate(row):
            sheet.paste(tile.resize((width, height), Image.Resampling.LANCZOS), (column * (width + gap), top))
        top += height + below + gap
        if captions:
            pen.text((1, top - gap - below + 2), captions[number], fill="black")
    with new_file(path) as temporary:
        sheet.save(temporary, format="PNG" if Path(path).suffix == ".png" else "JPEG", quality=90)


def write_page(path: Path | str, **content: Any) -> None:
    """Fill `report.html` with `content` (see its variables) and write it, atomically."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(loader=PackageLoader("trainer", "."), autoescape=True, undefined=StrictUndefined)
    with new_file(path) as temporary:
        temporary.write_text(environment.get_template("report.html").render(**content), encoding="utf-8")
