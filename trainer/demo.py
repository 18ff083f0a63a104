"""The demo's last step: a trained run, shown on one page with pictures and figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.contract import LabelReader, Sample, read_blur_mask, read_image, read_manifest
from trainer.checkpoint import load_student
from trainer.evaluate import evaluate, predict_maps
from trainer.report import as_picture, data_uri, write_page, write_sheet

__all__ = ["show_run"]

SHOWN, SHEET_ROWS = 8, 4
MEASURES = {
    "mae": "MAE",
    "f_at_half": "F-measure at 0.5",
    "f_at_half_floored": "F-measure, D-DFFNet's test.py",
    "f_adaptive": "F-measure, adaptive threshold",
    "f_best_per_image": "F, best threshold of each image",
    "f_max": "F, best threshold of all images",
    "iou": "IoU",
}


def show_run(
    manifest: Path | str,
    *,
    labels: Path | str,
    run: Path | str,
    out: Path | str,
    commands: Sequence[str] = (),
) -> Path:
    """Write one HTML page: the first test photographs with mask, prediction and both depths, and the figures;
    and beside it a sheet of the pictures alone, as JPEG.

    Args:
        manifest: from `softfocus index`, with masks in its test split.
        labels: the label store the student was trained from.
        run: run folder.
        out: the page; it needs no file beside itself.
        commands: command lines to list, without the leading `softfocus`.
    """
    report = evaluate(manifest, model=run, labels=labels, device="cpu")
    student, config, figures = load_student(run)
    reader = LabelReader(labels)
    samples = [s for s in read_manifest(manifest, split="test") if s.mask_path is not None][:SHOWN]
    errors = {row["id"]: row["mae"] for row in report.per_image}
    curves = Path(run) / "curves.png"
    rows = [_row(student, sample, reader, config.data.input_size, errors[sample.id]) for sample in samples]
    write_sheet(Path(out).with_suffix(".jpg"), [list(row["pictures"].values()) for row in rows[:SHEET_ROWS]])
    write_page(
        out,
        rows=rows,
        data_uri=data_uri,
        protocols=[
            {"name": protocol, "measures": [(MEASURES.get(name, name), value) for name, value in measures.items()]}
            for protocol, measures in report.measures.items()
        ],
        depth=report.depth,
        images=report.images,
        parameters=sum(p.numel() for p in student.parameters()),
        config=config,
        epoch=figures.get("epoch"),
        teacher=reader.description.provenance,
        curves=data_uri(as_picture(read_image(curves)), quality=92),
        commands=commands,
    )
    return Path(out)


def _row(student: Any, sample: Sample, reader: LabelReader, size: int, error: float) -> dict[str, Any]:
    image = read_image(sample.image_path)
    blur, depth = predict_maps(student, image, sizes=(size,))
    assert sample.mask_path is not None
    assert sample.blur is not None
    mask = read_blur_mask(sample.mask_path, blur=sample.blur, size=(sample.height, sample.width))
    return {
        "id": sample.id,
        "ratio": f"{sample.width} / {sample.height}",
        "error": error,
        "pictures": {
            "photograph": as_picture(image),
            "mask": as_picture(mask.astype(np.float32)),
            "student's blur": as_picture(blur),
            "teacher's depth": as_picture(_stretch(reader[sample.id]), colour=True),
            "student's depth": as_picture(_stretch(depth), colour=True),
        },
    }


def _stretch(depth: np.ndarray) -> np.ndarray:
    low, high = float(np.nanmin(depth)), float(np.nanmax(depth))
    stretched: np.ndarray = (depth - low) / max(high - low, 1e-12)
    return stretched
