"""Scenes with exact depth and exact defocus, as a dataset on disk."""

from pipeline.synthetic.camera import Camera, circle_of_confusion_px
from pipeline.synthetic.dataset import render_scene, synthesize
from pipeline.synthetic.folder import Picture, SynthError, SynthSummary, usual_threshold_px

__all__ = [
    "Camera",
    "Picture",
    "SynthError",
    "SynthSummary",
    "circle_of_confusion_px",
    "render_scene",
    "synthesize",
    "usual_threshold_px",
]
