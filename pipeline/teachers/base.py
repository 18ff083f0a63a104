"""What a teacher is, and how one is found by name.

A teacher is a frozen depth network together with its preprocessing, so that the two cannot drift apart.
Whatever a network puts out, a teacher gives relative inverse depth. Kinds of teachers are plug-ins:
a name such as `onnx:FILE` says which function loads it, and another package can bring kinds of its own
through the entry point group `softfocus.teachers`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import re
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SoftfocusError
from pipeline.provenance import Provenance

if TYPE_CHECKING:
    import torch

__all__ = [
    "DEPTH_RATIO_LIMIT",
    "GROUP",
    "PRECISIONS",
    "REHEARSAL_SIZE",
    "DeviceTeacher",
    "Direction",
    "OutOfMemory",
    "Provenance",
    "Teacher",
    "TeacherError",
    "check_images",
    "inverse_depth",
    "known_kinds",
    "library_versions",
    "load_teacher",
    "one_line",
    "register_kind",
    "require",
]

GROUP = "softfocus.teachers"
PRECISIONS = ("auto", "float32", "bfloat16", "float16")

# Depth less than 1/10000 of the largest in the same map is a fault of the network (8 mm where the
# background is at 80 m); its reciprocal alone would use up every code of a 16-bit label.
DEPTH_RATIO_LIMIT = 1e4

# (height, width) of the plain grey photograph that a network is tried on when it is loaded.
REHEARSAL_SIZE = (480, 640)

Direction = Literal["inverse depth", "depth"]


class TeacherError(SoftfocusError):
    """A teacher that cannot be found, loaded or run; one line with the name and the mend."""


class OutOfMemory(TeacherError):
    """The device has too little memory for this batch: try again with fewer images at once."""


@runtime_checkable
class Teacher(Protocol):
    """A frozen network that gives relative inverse depth."""

    @property
    def provenance(self) -> Provenance:
        """Which network, which weights, which preprocessing."""

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that a photograph of this size is resized to, whole frame; the label's size.

        A pure function of its arguments.
        """

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 RGB (B, h, w, 3), all of one input size, to float32 (B, h, w).

        The values are relative inverse depth (large = near, scale and shift of each map unknown), NaN
        where not known. A teacher whose provenance tells of a confidence gives (B, 2, h, w): depth, and
        confidence from 0 to 1.

        Raises:
            OutOfMemory: fewer images at once may do.
            TeacherError: the network fails on this input.
        """

    def close(self) -> None:
        """Free the network's memory; the teacher is of no use afterwards."""


@runtime_checkable
class DeviceTeacher(Teacher, Protocol):
    """A teacher that also takes and gives tensors on its device, so that nothing waits for the host."""

    @property
    def device(self) -> torch.device:
        """Where the network is."""

    def predict_on_device(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 RGB (B, 3, h, w) to float32 (B, h, w), both on `device`; the values are those of `predict`.

        Returns while the device still computes. A map that is not finite throughout has unknown pixels, or
        has overflowed in a narrow precision: `predict` then has the last word.

        Raises:
            OutOfMemory: fewer images at once may do.
            TeacherError: the network fails on this input.
        """

    def compile(self) -> None:
        """Spend up to minutes at the first batch of each size, so that all batches of that size are faster."""


# Functions (name, *, device, card, size, precision) -> Teacher, imported when they are asked for.
_KINDS = {"hf": "pipeline.teachers.hf:load", "onnx": "pipeline.teachers.onnx:load"}


def register_kind(kind: str, target: str) -> None:
    """Make `kind` known for this process; `target` is "module:function" of a loading function.

    Raises:
        ValueError: the kind is taken by another function, or a word is not of that form.
    """
    if not re.fullmatch(r"[\w-]+", kind) or not re.fullmatch(r"[\w.]+:\w+", target):
        raise ValueError(f"{kind!r} -> {target!r}: expected a plain word and 'module:function'")
    if _KINDS.setdefault(kind, target) != target:
        raise ValueError(f"teacher kind {kind!r} is already {_KINDS[kind]}")


def known_kinds() -> list[str]:
    """Names of the kinds: built in, registered, and brought by installed packages."""
    return sorted({*_KINDS, *(point.name for point in importlib.metadata.entry_points(group=GROUP))})


def load_teacher(
    spec: str,
    *,
    device: str = "auto",
    card: str | None = None,
    size: int | None = None,
    precision: str = "auto",
) -> Teacher:
    """The teacher that `spec` names, ready to predict.

    Args:
        spec: "KIND:NAME" or "KIND", for instance "onnx:model.onnx" or
            "hf:depth-anything/Depth-Anything-V2-Small-hf".
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N".
        card: a YAML file, or the name of a known card, with what the weights do not say themselves.
        size: side in pixels in place of the one in the teacher's size rule.
        precision: one of PRECISIONS; the output is float32 in any case.

    Raises:
        TeacherError: unknown kind, missing extra, or weights that cannot be used.
    """
    kind, _, name = spec.partition(":")
    if precision not in PRECISIONS:
        raise TeacherError(f"precision {precision!r} is not known; choose one of {', '.join(PRECISIONS)}")
    if size is not None and size < 1:
        raise TeacherError(f"size {size}: give the side in pixels, 1 or more")
    teacher = _loader(kind)(name, device=device, card=card, size=size, precision=precision)
    if not isinstance(teacher, Teacher):
        raise TeacherError(f"teacher kind {kind!r} gave a {type(teacher).__name__}, which is no teacher")
    return teacher


def _loader(kind: str) -> Callable[..., Any]:
    points = {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}
    if kind not in _KINDS and kind not in points:
        raise TeacherError(
            f"unknown teacher kind {kind!r}; known kinds: {', '.join(known_kinds())}; "
            "write KIND:NAME, for instance onnx:model.onnx"
        )
    try:
        if kind in _KINDS:
            module, _, function = _KINDS[kind].partition(":")
            loader: Callable[..., Any] = getattr(importlib.import_module(module), function)
        else:
            loader = points[kind].load()
    except (ImportError, AttributeError) as error:
        raise TeacherError(
            f"teacher kind {kind!r} cannot be loaded ({error}); install or update the package that brings it"
        ) from error
    return loader


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional library.

    Raises:
        TeacherError: it is missing; the line says which extra to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise TeacherError(
            f"teacher {extra}: {module} cannot be imported ({error}); pip install 'softfocus[{extra}]'"
        ) from error


def library_versions(*modules: ModuleType) -> dict[str, str]:
    """Library -> version, with softfocus itself ("not installed" when it runs from a checkout)."""
    try:
        own = importlib.metadata.version("softfocus")
    except importlib.metadata.PackageNotFoundError:
        own = "not installed"
    return {"softfocus": own, **{module.__name__: str(module.__version__) for module in modules}}


def check_images(images: NDArray[Any]) -> None:
    """Images as `Teacher.predict` takes them.

    Raises:
        ValueError: not uint8 (B, h, w, 3).
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"expected uint8 (B, h, w, 3), got {images.dtype} {images.shape}")


def inverse_depth(raw: NDArray[np.floating[Any]], direction: Direction) -> NDArray[np.float32]:
    """Raw maps (B, h, w) as float32 relative inverse depth, NaN where not known.

    Inverse depth passes unchanged where it is finite. Depth (large = far) becomes 1 / depth where it is
    finite, positive, and not below 1 / DEPTH_RATIO_LIMIT of the map's largest.
    """
    values = raw.astype(np.float32, copy=False)
    known = np.isfinite(values)
    if direction == "inverse depth":
        return values if known.all() else np.where(known, values, np.float32(np.nan))
    known &= values > np.finfo(np.float32).tiny
    largest = values.max(axis=(1, 2), where=known, initial=0.0, keepdims=True)
    known &= values >= largest / np.float32(DEPTH_RATIO_LIMIT)
    return np.divide(1.0, values, out=np.full_like(values, np.nan), where=known)


def one_line(error: Exception) -> str:
    """A foreign exception's message as part of one line of ours."""
    return " ".join(str(error).split())[:200] or type(error).__name__
