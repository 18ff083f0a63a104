"""Figures of a student as it trains, on the validation split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.contract import LabelReader, Sample, SoftfocusError
from trainer.config import Config
from trainer.device import autocast
from trainer.losses import ssi_l1_loss
from trainer.metrics import Evaluation
from trainer.samples.augment import normalise, targets
from trainer.samples.data import Batches, Photographs

__all__ = ["Validation"]


class Validation:
    """The validation split, prepared once, at the network's input size.

    Attributes:
        measure: the figure that a best epoch is chosen by: blur where masks are learnt, else blur or depth as labelled.
        per_image: figures of each image at the last call; see `trainer.metrics.Evaluation.per_image`.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        reader: LabelReader | None,
        config: Config,
        device: torch.device,
        blur_reader: LabelReader | None = None,
    ) -> None:
        self.measure = "val_soft_blur" if blur_reader is not None else "val_depth"
        if config.blur_loss.in_use and any(s.mask for s in samples):
            self.measure = "val_mae"
        self.ids = [s.id for s in samples]
        self.per_image: list[dict[str, Any]] = []
        self.batch_size = config.data.batch_size
        self._lr = config.optimiser.lr
        self.autocast = autocast(config.precision, device)
        self.batches = Batches(
            Photographs(samples, reader, size=config.data.input_size, blur_reader=blur_reader),
            device=device,
            cache_gib=config.data.cache_gib,
            folder=config.data.cache,
            workers=config.data.workers,
        )

    def __call__(self, student: nn.Module) -> dict[str, float]:
        """`val_mae`, `val_f`, `val_iou` (D-DFFNet's protocol), `val_depth` (scale-and-shift-invariant L1).

        And `val_soft_blur`, the mean difference from the stored probabilities of blur: each where it is labelled.

        Raises:
            SoftfocusError: the student's maps are not finite.
        """
        if not self.ids:
            return {}
        training = student.training
        student.eval()
        evaluation, depth_errors, ids = Evaluation(protocols=("dffnet",)), [], iter(self.ids)
        soft_errors: list[float] = []
        for batch in self.batches.in_order(self.batch_size):
            with torch.inference_mode(), self.autocast():
                output = student(normalise(batch.images.float() / 255))
            masks, depths = targets(batch)
            blur = output.blur[0].float().sigmoid()
            if not bool(torch.isfinite(blur).all()):
                raise SoftfocusError(
                    "the student's maps are not finite; lower optimiser.lr "
                    f"(now {self._lr}) and train into a new folder"
                )
            for row, sample_id in zip(range(len(masks)), ids, strict=False):
                if bool(batch.has_mask[row]) and self.measure == "val_mae":
                    mask = masks[row, 0].cpu().numpy() > 0.5
                    evaluation.update(blur[row, 0].cpu().numpy(), mask, sample_id)
                label = depths[row : row + 1]
                if bool(torch.isfinite(label).any()):
                    depth_errors.append(float(ssi_l1_loss(output.depth[0][row : row + 1].float(), label)))
                if batch.soft_blur is not None:
                    difference = (blur[row] - batch.soft_blur[row]).abs().nanmean()
                    soft_errors += [float(difference)] if torch.isfinite(difference) else []
        student.train(training)
        self.per_image = evaluation.per_image
        figures = {}
        if self.measure == "val_mae":
            result = evaluation.result()["dffnet"]
            figures = {"val_mae": result["mae"], "val_f": result["f_at_half"], "val_iou": result["iou"]}
        if depth_errors:
            figures["val_depth"] = float(np.mean(depth_errors))
        if soft_errors:
            figures["val_soft_blur"] = float(np.mean(soft_errors))
        return figures
