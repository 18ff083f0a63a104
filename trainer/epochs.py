"""The end of an epoch: its row of metrics, and all that is written of it into the run folder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from torch import nn

from trainer.checkpoint import save_student
from trainer.config import Config
from trainer.runs.logs import RunLog, choose_shown
from trainer.runs.run_folder import BEST, LAST, METRICS, best_row, write_metrics
from trainer.validation import Validation

__all__ = ["Epochs"]

STATE_SECONDS = 30.0  # a state is due at least this often (at the end of an epoch)

Row = dict[str, Any]


class Epochs:
    """The epochs of a run, those before a stop included; only the first of several processes ends one.

    Args:
        run: run folder.
        config: of the run.
        judge: scores the student.
        step: where the run goes on.
        history: rows of the epochs that are done.
        figures: what each student's file keeps beside its row of metrics.
        tensorboard: whether to write for it.

    Attributes:
        history: a row an epoch.
    """

    def __init__(
        self,
        run: Path,
        config: Config,
        judge: Validation,
        *,
        step: int,
        history: list[Row],
        figures: Row,
        tensorboard: bool,
    ) -> None:
        self.history = history
        self._run, self._config, self._judge, self._figures = run, config, judge, figures
        shown = choose_shown(judge.batches.photographs, count=config.log.pictures)
        self._log = RunLog(run, shown=shown, tensorboard=tensorboard, step=step)
        self._began = self._saved = time.monotonic()
        self._seconds_before = float(history[-1]["seconds"]) if history else 0.0

    @property
    def best(self) -> Row:
        """The best epoch's row; empty before the first."""
        return best_row(self.history, self._judge.measure) if self.history else {}

    @property
    def note(self) -> str:
        """The newest figures in a few words."""
        row = self.history[-1] if self.history else {}
        names = {"loss": "loss", "val_mae": "val MAE", "val_depth": "val depth"}
        return ", ".join(f"{label} {row[key]:.4f}" for key, label in names.items() if key in row)

    def end(self, row: Row, student: nn.Module) -> bool:
        """Score the averaged student if it is due, note the epoch, and keep the student; whether a state is due.

        Args:
            row: number of the epoch and step, learning rate and mean losses.
            student: in any mode, which stays as it is.
        """
        epoch, is_last = row["epoch"], row["epoch"] == self._config.epochs
        if epoch % self._config.validate_every == 0 or is_last:
            row |= self._judge(student)
        row["seconds"] = round(self._seconds_before + time.monotonic() - self._began, 2)
        self.history.append(row)
        is_validated = self._judge.measure in row
        is_best = is_validated and row is self.best
        self._log.epoch(row, per_image=self._judge.per_image if is_validated else (), best=is_best)
        if is_validated:
            self._log.pictures(student, row, autocast=self._judge.autocast)
        if is_best:
            self._keep(BEST, student, row)
        if self._config.keep_every and epoch % self._config.keep_every == 0:
            self._keep(f"epoch-{epoch:04d}.safetensors", student, row)
        if not (is_last or is_validated or time.monotonic() - self._saved > STATE_SECONDS):
            return False
        self._keep(LAST, student, row)
        write_metrics(self._run / METRICS, self.history)
        self._saved = time.monotonic()
        return True

    def close(self) -> None:
        """Finish what is still being drawn."""
        self._log.close()

    def _keep(self, name: str, student: nn.Module, row: Row) -> None:
        save_student(self._run / name, student.state_dict(), self._config, figures={**row, **self._figures})
