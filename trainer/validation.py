"""Figures of a student as it trains, on the validation split."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from pipeline.contract import LabelReader, Sample
from trainer.augment import normalise, targets
from trainer.config import Config
from trainer.data import Photographs
from trainer.device import autocast
from trainer.losses import ssi_l1_loss
from trainer.metrics import Evaluation

__all__ = ["Validation"]


class Validation:
    """Figures of a student on the validation split, at the network's input size."""

    def __init__(self, samples: list[Sample], reader: LabelReader | None, config: Config, device: torch.device) -> None:
        self.device, self.autocast = device, autocast(config.precision, device)
        weights = config.blur_loss
        self.masked = any((weights.bce, weights.iou, weights.l1)) and any(s.mask is not None for s in samples)
        self.labelled = reader is not None and any(s.id in reader for s in samples)
        self.measure = "val_mae" if self.masked else "val_depth"
        if samples:
            self.ids = [s.id for s in samples]
            self.photographs = Photographs(samples, reader, size=config.data.input_size)
            self.items = [self.photographs[i] for i in range(len(samples))]

    def __call__(self, student: nn.Module) -> dict[str, float]:
        if not (self.masked or self.labelled):
            return {}
        training = student.training
        student.eval()
        evaluation, depth_errors = Evaluation(protocols=("dffnet",)), []
        for sample_id, item in zip(self.ids, self.items, strict=True):
            batch = item.to(self.device)
            with torch.inference_mode(), self.autocast():
                output = student(normalise(batch.images.float() / 255))
            mask, depth = targets(batch)
            if bool(batch.has_mask):
                probability = output.blur[0][0, 0].float().sigmoid().cpu().numpy()
                evaluation.update(probability, mask[0, 0].cpu().numpy() > 0.5, sample_id)
            if bool(torch.isfinite(depth).any()):
                depth_errors.append(float(ssi_l1_loss(output.depth[0].float(), depth)))
        student.train(training)
        figures = {}
        if self.masked:
            result = evaluation.result()["dffnet"]
            figures = {"val_mae": result["mae"], "val_f": result["f_at_half"], "val_iou": result["iou"]}
        if depth_errors:
            figures["val_depth"] = float(np.mean(depth_errors))
        return figures
