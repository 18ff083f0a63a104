"""What a run tells while it goes on: TensorBoard, figures of each image, and pictures of the same few samples.

The pictures show what no figure does: whether depth is learnt at all, and where the masks go wrong.

    log = RunLog(run, shown=choose_shown(photographs, count=6), tensorboard=False, step=step)
    ...                                               # after each epoch, its row of metrics being complete:
    log.epoch(row, per_image=rows, best=is_best)
    log.pictures(student, row)                        # where the epoch was validated
    ...
    log.close()
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn

from pipeline.contract import SoftfocusError
from trainer.report import as_picture, write_sheet
from trainer.runs.run_folder import write_per_image
from trainer.samples.augment import normalise, targets
from trainer.samples.batch import Batch, concatenate
from trainer.samples.data import Photographs

__all__ = ["RunLog", "Shown", "choose_shown"]

COLUMNS = ("photograph", "mask (white: blurred)", "student's blur", "teacher's depth", "student's depth")
PICTURE_WIDTH = 192
NOT_SCALARS = ("epoch", "step")


class Shown(NamedTuple):
    """Samples whose pictures are drawn: ids, the photographs' width / height, and (B, ., S, S) at the input size."""

    ids: list[str]
    ratios: list[float]
    batch: Batch


def choose_shown(photographs: Photographs, *, count: int) -> Shown | None:
    """`count` samples at most, spread evenly over a split, always the same ones; None where there is none to show."""
    samples = photographs.samples
    positions = sorted({round(p) for p in np.linspace(0, len(samples) - 1, min(count, len(samples)))})
    if not positions:
        return None
    return Shown(
        ids=[samples[p].id for p in positions],
        ratios=[samples[p].width / samples[p].height for p in positions],
        batch=concatenate([photographs[p] for p in positions]),
    )


class RunLog:
    """Writes into a run folder: `samples/EPOCH.png`, `validation-{best,last}.csv` and `tensorboard/`.

    Args:
        run: run folder.
        shown: what `pictures` draws; None draws nothing.
        tensorboard: write scalars and pictures for TensorBoard.
        step: where the run goes on; what TensorBoard has of later steps is dropped.

    Raises:
        SoftfocusError: TensorBoard is asked for and not installed.
    """

    def __init__(
        self, run: Path | str, *, shown: Shown | None = None, tensorboard: bool = False, step: int = 0
    ) -> None:
        self.run, self.shown = Path(run), shown
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="softfocus-pictures")  # drawing takes longer than a step
        self._drawing: Future[None] | None = None
        self._board = _open_board(self.run / "tensorboard", step) if tensorboard else None

    def epoch(self, row: Mapping[str, Any], *, per_image: Sequence[dict[str, Any]] = (), best: bool = False) -> None:
        """Note an epoch.

        Args:
            row: its row of metrics, complete.
            per_image: its validation figures of each image (`Evaluation.per_image`); empty where not validated.
            best: whether it is the best epoch so far.
        """
        for epoch in ("last", "best") if best else ("last",):
            write_per_image(self.run, list(per_image), epoch=epoch)
        if self._board is not None:
            for name, value in row.items():
                if name not in NOT_SCALARS:
                    part = "validation" if name.startswith("val_") else "training"
                    self._board.add_scalar(f"{part}/{name.removeprefix('val_')}", value, row["step"])
            self._board.flush()

    def pictures(
        self,
        student: nn.Module,
        row: Mapping[str, Any],
        *,
        autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    ) -> None:
        """Draw the student's maps of the shown samples; it is left in the mode and on the device where it was."""
        if self.shown is None:
            return
        device, training = next(student.parameters()).device, student.training
        student.eval()
        with torch.inference_mode(), autocast():
            output = student(normalise(self.shown.batch.images.to(device).float() / 255))
        student.train(training)
        blur, depth = output.blur[0][:, 0].float().sigmoid().cpu().numpy(), output.depth[0][:, 0].float().cpu().numpy()
        self._wait()
        self._drawing = self._pool.submit(self._draw, self.shown, blur, depth, dict(row))

    def _draw(self, shown: Shown, blur: np.ndarray, depth: np.ndarray, row: dict[str, Any]) -> None:
        masks, labels = (target[:, 0].numpy() for target in targets(shown.batch))
        rows, captions = [], []
        for i, (name, ratio) in enumerate(zip(shown.ids, shown.ratios, strict=True)):
            photograph = as_picture(shown.batch.images[i].permute(1, 2, 0).numpy())
            theirs, ours = aligned(labels[i], depth[i])
            rows.append(
                [
                    photograph.resize((PICTURE_WIDTH, max(round(PICTURE_WIDTH / ratio), 1))),
                    as_picture(masks[i]),
                    as_picture(blur[i]),
                    as_picture(theirs, colour=True),
                    as_picture(ours, colour=True),
                ]
            )
            error = float(np.abs(blur[i] - masks[i]).mean())
            captions.append(name if np.isnan(error) else f"{name}, MAE {error:.4f}")
        path = self.run / "samples" / f"{row['epoch']:04d}.png"
        write_sheet(path, rows, headings=COLUMNS, captions=captions, width=PICTURE_WIDTH)
        if self._board is not None:
            with Image.open(path) as sheet:
                self._board.add_image("samples", np.asarray(sheet), row["step"], dataformats="HWC")

    def _wait(self) -> None:
        if self._drawing is not None:
            self._drawing.result()

    def close(self) -> None:
        """Finish the files; the log takes nothing afterwards."""
        self._pool.shutdown()
        self._wait()
        if self._board is not None:
            self._board.close()


def aligned(label: np.ndarray, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Label and student's depth, (H, W), in one range for the eye: [0, 1] by the label, NaN where not known.

    The student's depth is known up to scale and shift; it is given those that fit the label best (least squares), or
    where it runs the wrong way the label's mean and deviation: a fit would turn it round and hide that. Without a
    label it is stretched by itself.
    """
    known = np.isfinite(label)
    if not known.any():
        low, high = np.percentile(depth, (1, 99))
        return label, (depth - low) / max(high - low, 1e-12)
    x, y = depth[known].astype(np.float64), label[known].astype(np.float64)
    covariance = float(((x - x.mean()) * (y - y.mean())).mean())
    scale = covariance / max(x.var(), 1e-12) if covariance > 0 else y.std() / max(x.std(), 1e-12)
    fitted = scale * (depth - x.mean()) + y.mean()
    low, high = y.min(), max(y.max(), y.min() + 1e-12)
    return (label - low) / (high - low), (fitted - low) / (high - low)


def _open_board(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise SoftfocusError("TensorBoard is not installed; `pip install 'softfocus[tensorboard]'`") from error
    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)
