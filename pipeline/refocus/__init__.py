"""Photographs blurred by their own depth labels, as a dataset on disk."""

from pipeline.refocus.job import refocus

__all__ = ["refocus"]
