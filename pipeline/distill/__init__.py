"""The labelling job: a manifest and a teacher to a label store."""

from pipeline.distill.job import label
from pipeline.distill.meters import LabelProgress, LabelSummary

__all__ = ["LabelProgress", "LabelSummary", "label"]
