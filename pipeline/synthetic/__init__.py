"""Scenes with exact depth and exact defocus, as a dataset on disk."""

from pipeline.synthetic.camera import Camera, circle_of_confusion_px
from pipeline.synthetic.dataset import THRESHOLD_PX, SynthError, SynthSummary, render_scene, synthesize

__all__ = [
    "THRESHOLD_PX",
    "Camera",
    "SynthError",
    "SynthSummary",
    "circle_of_confusion_px",
    "render_scene",
    "synthesize",
]
