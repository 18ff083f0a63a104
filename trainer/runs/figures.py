"""Which figure of a run is meant, and where it stands: training's own validation, or a saved evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from trainer.runs.listing import Run, RunError

__all__ = ["Figure", "usual_figures"]

VALIDATION = {"mae": "val_mae", "f": "val_f", "f_at_half": "val_f", "iou": "val_iou"}
VALIDATION |= {"depth": "val_depth", "soft_blur": "val_soft_blur"}
PER_IMAGE = {"mae": "mae", "f": "f_at_half", "f_at_half": "f_at_half"}  # means over images, so they have an interval
LOWER_IS_BETTER = ("mae", "depth", "soft_blur", "loss")
TOLERANCE = 1e-3  # of a mean over images against the figure itself: float32, and a file of other weights is farther


class Figure(msgspec.Struct, frozen=True):
    """A figure by name.

    Attributes:
        name: in training's validation `mae`, `f`, `iou` (D-DFFNet's protocol), `depth` or `soft_blur`, or any
            column of metrics.csv; in an evaluation `PROTOCOL.MEASURE`, or a measure of the protocol `dffnet` alone, or
            `depth.rank_correlation`.
        evaluation: name of a saved evaluation, such as `test`; None for training's own validation.
        epoch: of training's validation, the `best` or the `last` epoch. An evaluation is of the best.
    """

    name: str = "mae"
    evaluation: str | None = None
    epoch: str = "best"

    def __str__(self) -> str:
        if self.evaluation is None:
            return f"validation {_spelt(self.name)} of the {self.epoch} epoch"
        protocol, measure = self._measure()
        return f"{_spelt(measure)} ({protocol}) of evaluation {self.evaluation!r}"

    @property
    def short(self) -> str:
        """A heading for a column."""
        return f"{self.evaluation} {self.name}" if self.evaluation else f"val {self.name} {self.epoch}"

    @property
    def lower_is_better(self) -> bool:
        return self.name.rpartition(".")[2].removeprefix("val_") in LOWER_IS_BETTER

    def of(self, run: Run) -> float | None:
        """The figure of a run; None where it has not been measured, or is not defined.

        Raises:
            RunError: the evaluation is of other weights than the folder holds now.
        """
        if self.evaluation is None:
            value = run.row(self.epoch).get(VALIDATION.get(self.name, self.name))
        else:
            protocol, measure = self._measure()
            report = self._report(run)
            measures = report.get("depth") if protocol == "depth" else report.get("measures", {}).get(protocol)
            value = (measures or {}).get(measure)
        return None if value is None or not math.isfinite(value) else float(value)

    def per_image(self, run: Run) -> dict[str, float]:
        """Sample id -> figure, where the figure is a mean over images and those of each were saved; else empty.

        Raises:
            RunError: their mean is not the figure, so they are of other weights.
        """
        protocol, measure = self._measure()
        if measure not in PER_IMAGE or protocol != "dffnet":
            return {}
        rows: Sequence[dict[str, Any]] = (
            run.per_image(self.epoch) if self.evaluation is None else self._report(run).get("per_image") or []
        )
        values = {row["id"]: float(row[PER_IMAGE[measure]]) for row in rows}
        figure = self.of(run)
        if values and figure is not None and abs(sum(values.values()) / len(values) - figure) > TOLERANCE:
            raise RunError(f"{run.folder}: its figures of each image do not average to the {self}; make them again")
        return values

    def _measure(self) -> tuple[str, str]:
        protocol, dot, measure = self.name.rpartition(".")
        measure = "f_at_half" if measure == "f" and self.evaluation else measure
        return (protocol if dot else "dffnet"), measure

    def _report(self, run: Run) -> dict[str, Any]:
        report = run.evaluations.get(str(self.evaluation), {})
        epoch, best = report.get("epoch"), run.row("best").get("epoch")
        if report and epoch is not None and best is not None and epoch != best:
            raise RunError(
                f"{run.folder}: evaluation {self.evaluation!r} is of epoch {epoch}, its best is now {best:.0f}; "
                "run `softfocus evaluate` again"
            )
        return report


def usual_figures(runs: Sequence[Run]) -> list[Figure]:
    """What a list of runs shows: training's validation, and each saved evaluation in D-DFFNet's protocol."""
    figures = [Figure("mae"), Figure("mae", epoch="last")]
    figures += [Figure(name) for name in ("f", "iou", "depth", "soft_blur")]
    for evaluation in sorted({name for run in runs for name in run.evaluations}):
        figures += [Figure(measure, evaluation) for measure in ("mae", "f", "iou")]
    return [figure for figure in figures if any(figure.of(run) is not None for run in runs)]


def _spelt(measure: str) -> str:
    return {"mae": "MAE", "f": "F", "f_at_half": "F at 0.5", "iou": "IoU"}.get(measure, measure)
