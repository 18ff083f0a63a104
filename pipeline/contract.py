"""The only module of `pipeline` that `trainer` may import: samples, pixels, soft labels.

It loads neither torch nor timm nor click, so that data workers start fast.
"""

from pipeline.errors import SoftfocusError
from pipeline.files import new_file, sha256_file
from pipeline.images import read_blur_mask, read_image
from pipeline.manifest import Sample, read_manifest
from pipeline.provenance import BLUR_PROBABILITY, INVERSE_DEPTH, Provenance
from pipeline.store import LabelReader

__all__ = [
    "BLUR_PROBABILITY",
    "INVERSE_DEPTH",
    "LabelReader",
    "Provenance",
    "Sample",
    "SoftfocusError",
    "new_file",
    "read_blur_mask",
    "read_image",
    "read_manifest",
    "sha256_file",
]
