"""`hf:NAME_OR_FOLDER`: depth-estimation models of transformers.

A name is fetched from the Hugging Face hub into its cache; a folder is read as it lies, without any
network. Code that comes with a model is never run. Preprocessing is read from the model's own
preprocessor_config.json; a card can override any part of it. The hash of the weights is that of the
weight file's bytes, which is also the one that the hub shows (for several files: a hash of their hashes
in the order of their names).
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.teachers.base import (
    DEPTH_RATIO_LIMIT,
    REHEARSAL_SIZE,
    Direction,
    OutOfMemory,
    Provenance,
    TeacherError,
    check_images,
    inverse_depth,
    library_versions,
    one_line,
    require,
)
from pipeline.teachers.cards import find_card
from pipeline.teachers.hf_folder import (
    Family,
    find_folder,
    image_processor,
    preprocessing_of,
    quiet,
    read_config,
    read_family,
    weights_sha256,
)
from pipeline.teachers.preprocessing import Preprocessing

__all__ = ["HfTeacher", "load"]

# The one part of the DPT neck that its forward pass leaves out; published checkpoints lack it.
_UNUSED_WEIGHTS = "neck.fusion_stage.layers.0.residual_layer1."


class HfTeacher:
    """A depth-estimation model of transformers; made by `load`.

    `precision` says in which floating-point type the network runs; its output is float32. It is no part
    of the provenance's fingerprint: a store begun on a CPU can go on with a GPU.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        preprocessing: Preprocessing,
        provenance: Provenance,
        *,
        direction: Direction,
        device: torch.device,
        dtype: torch.dtype,
        reflect: bool,
    ) -> None:
        self.provenance = provenance
        self.precision = str(dtype).removeprefix("torch.")
        self.device = device
        self.note = ""  # what is slower than it could be, and why
        self._network: torch.nn.Module | None = _Network(model, preprocessing, reflect=reflect).to(device).eval()
        self._compiled: Callable[[torch.Tensor], torch.Tensor] | None = None
        self._preprocessing = preprocessing
        self._direction = direction
        self._wide: torch.nn.Module | None = None

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that a photograph of this size is resized to."""
        return self._preprocessing.input_size(height, width)

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 RGB (B, h, w, 3) to float32 (B, h, w) relative inverse depth, NaN where not known."""
        check_images(images)
        network = self._opened()
        if len(images) == 0:
            return np.empty(images.shape[:3], np.float32)
        with self._explained(images.shape[1:3], len(images)):
            on_host = torch.from_numpy(np.require(images, requirements=["C", "W"]))
            # Turned round, not copied: in memory it stays channels-last, the order that suits a GPU.
            pixels = on_host.to(self.device).permute(0, 3, 1, 2)
            raw = _on_host(self._mended(network(pixels), pixels))
        return inverse_depth(raw, self._direction)

    def predict_on_device(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 RGB (B, 3, h, w) to float32 (B, h, w), see `DeviceTeacher`; channels-last in memory is best."""
        network = self._opened()
        with self._explained(images.shape[-2:], len(images)):
            raw: torch.Tensor | None = self._from_compiled(images) if self._compiled is not None else None
            return _inverse_depth(network(images) if raw is None else raw, self._direction)

    def _from_compiled(self, images: torch.Tensor) -> torch.Tensor | None:
        """The raw maps, or None where the compiler fails; it is not asked again then."""
        assert self._compiled is not None
        try:
            return self._compiled(images)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # a compiler has many; without it the network does the same, more slowly
            self._compiled, self.note = None, f"not compiled, slower ({one_line(error)})"
            return None

    def compile(self) -> None:
        """Let torch.compile make the network faster for each size of batch that comes.

        The network does the same sums in another order: maps differ by no more than the precision's noise.
        """
        if self._compiled is None and not self.note:
            self._compiled = torch.compile(self._opened(), dynamic=False)

    def close(self) -> None:
        """Free the model."""
        self._network = self._wide = self._compiled = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _opened(self) -> torch.nn.Module:
        if self._network is None:
            raise ValueError("this teacher was closed")
        return self._network

    @contextlib.contextmanager
    def _explained(self, size: tuple[int, ...], count: int) -> Iterator[None]:
        """torch's errors as ours, and no gradients."""
        height, width = size
        name = f"hf:{self.provenance.name}"
        try:
            with torch.inference_mode():
                yield
        except (RuntimeError, ValueError) as error:
            if _is_too_much(error):
                raise OutOfMemory(f"{name}: too little memory for {count} images of {height} x {width}") from error
            raise TeacherError(
                f"{name}: fails on an input of {height} x {width} ({one_line(error)}); choose another --size"
            ) from error

    def _mended(self, raw: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        """Do images whose map overflowed in float16 again in float32, whatever batch they came in."""
        if self.precision != "float16":
            return raw
        overflowed = ~torch.isfinite(raw).flatten(1).all(dim=1)
        if overflowed.any():
            self._wide = self._wide or copy.deepcopy(self._network).float()  # type: ignore[union-attr]
            raw[overflowed] = self._wide(pixels[overflowed])
        return raw


class _Network(torch.nn.Module):
    """Pixels in, the model's own output at their size out: one graph, so that a compiler can fuse the ends."""

    factor: torch.Tensor
    offset: torch.Tensor

    def __init__(self, model: torch.nn.Module, preprocessing: Preprocessing, *, reflect: bool) -> None:
        super().__init__()
        factor, offset = (torch.from_numpy(part)[:, None, None] for part in preprocessing.affine())
        self.register_buffer("factor", factor)
        self.register_buffer("offset", offset)
        self.model = model
        self._dtype = next(model.parameters()).dtype
        self._is_bgr = preprocessing.colour == "BGR"
        self._reflect = reflect

    def float(self) -> _Network:
        """In float32, input included."""
        self._dtype = torch.float32
        return super().float()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 RGB (B, 3, h, w) to float32 (B, h, w)."""
        if self._is_bgr:
            pixels = pixels.flip(1)
        planes = pixels * self.factor + self.offset
        size = planes.shape[-2:]
        margin = _margin(*size) if self._reflect else (0, 0)
        if self._reflect:
            planes = _resized(_reflected(planes, margin), size)
        raw: torch.Tensor = self.model(pixel_values=planes.to(self._dtype)).predicted_depth.float()
        raw = raw.reshape(len(pixels), 1, *raw.shape[-2:])
        padded = _resized(raw, (size[0] + 2 * margin[0], size[1] + 2 * margin[1]))
        return padded[:, 0, margin[0] : margin[0] + size[0], margin[1] : margin[1] + size[1]]


def load(
    name: str,
    *,
    device: str = "auto",
    card: str | None = None,
    size: int | None = None,
    precision: str = "auto",
) -> HfTeacher:
    """The model of that name on the hub, or in that folder; arguments as in `load_teacher`.

    With precision "auto" a GPU runs float16 and the CPU float32. Measured on the Depth Anything V2 Small
    architecture (DINOv2 weights, random head, 518 x 518): float16 is off by 0.036 % of a map's range (rms),
    bfloat16 by 0.35 %, which is as coarse as an 8-bit map. A map that overflows is done again in float32.

    Raises:
        TeacherError: not to be had, not a depth model, of unknown direction, or transformers is missing.
    """
    transformers = require("transformers", extra="hf")
    facts = find_card(card) if card else None
    place = _device(device)
    folder, name = find_folder(name)
    with quiet():
        config = read_config(transformers, folder, name)
        family = read_family(transformers, config, facts, name)
        given = image_processor(folder)
        preprocessing = preprocessing_of(given, config, facts, size, name)
        dtype = _dtype(precision, place, family)
        model = _frozen(_model(transformers, folder, config, name), family, place, dtype)
    reflect = config.model_type == "zoedepth" and (given is None or given.do_pad is not False)
    provenance = Provenance(
        kind="hf",
        name=name,
        weights_sha256=weights_sha256(folder, name),
        direction=family.direction,
        preprocessing=preprocessing.record() | ({"padding": "reflected margin, removed again"} if reflect else {}),
        versions=library_versions(torch, transformers, np),
    )
    teacher = HfTeacher(
        model, preprocessing, provenance, direction=family.direction, device=place, dtype=dtype, reflect=reflect
    )
    with quiet():  # what cannot run at all says so now, and libraries that load late warn unheard
        teacher.predict(np.full((1, *teacher.input_size(*REHEARSAL_SIZE), 3), 127, np.uint8))
    return teacher


def _model(transformers: Any, folder: Path, config: Any, name: str) -> torch.nn.Module:
    try:
        model, report = transformers.AutoModelForDepthEstimation.from_pretrained(
            folder, config=config, local_files_only=True, trust_remote_code=False, output_loading_info=True
        )
    except Exception as error:  # damaged weights can raise nearly anything
        raise TeacherError(f"hf:{name}: the weights cannot be loaded ({one_line(error)})") from error
    missing = [key for key in report["missing_keys"] if not key.startswith(_UNUSED_WEIGHTS)]
    absent = sorted(map(str, [*missing, *report["mismatched_keys"]]))
    if absent:
        raise TeacherError(
            f"hf:{name}: {len(absent)} weights of the network are not in the checkpoint (first: {absent[0]}); "
            "this is not a whole depth model"
        )
    return model  # type: ignore[no-any-return]


def _frozen(model: torch.nn.Module, family: Family, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
    model = model.float().to(device=device, dtype=dtype).eval().requires_grad_(False)
    if device.type == "cuda":
        model = model.to(memory_format=torch.channels_last)
    if family.last_layer and dtype != torch.float32:
        last = model.get_submodule(family.last_layer).float()
        last.register_forward_pre_hook(lambda _, inputs: tuple(value.float() for value in inputs))
    return model


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise TeacherError(f"device {device!r} is not known; choose auto, cpu, cuda or cuda:N") from error
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise TeacherError(f"device {device}: torch sees {torch.cuda.device_count()} CUDA devices; use cpu")
    return place


def _dtype(precision: str, device: torch.device, family: Family) -> torch.dtype:
    if precision != "auto":
        return getattr(torch, precision)  # type: ignore[no-any-return]
    has_fast_half = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (7, 0)
    return torch.float16 if has_fast_half and family.last_layer else torch.float32


def _is_too_much(error: Exception) -> bool:
    """Whether fewer images at once may do: no memory on the GPU or the host, or past a kernel's index range."""
    words = ("can't allocate memory", "INT_MAX")
    return isinstance(error, torch.cuda.OutOfMemoryError) or any(word in str(error) for word in words)


def _inverse_depth(raw: torch.Tensor, direction: Direction) -> torch.Tensor:
    """As `pipeline.teachers.base.inverse_depth`, on the device; not finite where not known."""
    if direction == "inverse depth":
        return raw
    known = torch.isfinite(raw) & (raw > torch.finfo(torch.float32).tiny)
    largest = torch.where(known, raw, 0.0).amax(dim=(1, 2), keepdim=True)
    return torch.where(known & (raw >= largest / DEPTH_RATIO_LIMIT), raw.reciprocal(), torch.nan)


def _on_host(raw: torch.Tensor) -> NDArray[np.float32]:
    """The same numbers in the host's memory, which is pinned for a GPU: the copy is twice as fast."""
    if raw.device.type == "cpu":
        return raw.numpy()
    return torch.empty(raw.shape, dtype=raw.dtype, pin_memory=True).copy_(raw).numpy()


def _margin(height: int, width: int) -> tuple[int, int]:
    """ZoeDepth's margin in pixels, 3 sqrt(side / 2): its maps are wrong near the border (Bhat et al. 2023)."""
    return int((height / 2) ** 0.5 * 3), int((width / 2) ** 0.5 * 3)


def _reflected(planes: torch.Tensor, margin: tuple[int, int]) -> torch.Tensor:
    vertical, horizontal = margin
    return torch.nn.functional.pad(planes, (horizontal, horizontal, vertical, vertical), mode="reflect")


def _resized(planes: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    if planes.shape[-2:] == tuple(size):
        return planes
    return torch.nn.functional.interpolate(planes, size=tuple(size), mode="bilinear", align_corners=False)
