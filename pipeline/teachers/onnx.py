"""`onnx:FILE`: any depth network as an ONNX file, with a card that says what the file does not.

The network's own input shape decides the size where it is static, else the card's rule does. A network
is tried once when it is loaded, so that one that is no depth network is refused before any work.
"""

from __future__ import annotations

import functools
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.files import sha256_file
from pipeline.teachers.base import (
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
from pipeline.teachers.cards import CARD_FIELDS, Card, card_for_sha256, find_card, known_cards
from pipeline.teachers.preprocessing import Fixed, Preprocessing, with_side

__all__ = ["OnnxTeacher", "load", "thread_count"]

_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class OnnxTeacher:
    """A depth network run by ONNX Runtime; made by `load`.

    `precision` is the floating-point type of the file's input; its output is float32.
    """

    def __init__(
        self, network: _Network, preprocessing: Preprocessing, direction: Direction, provenance: Provenance
    ) -> None:
        self.provenance = provenance
        self.precision = network.precision
        self._network: _Network | None = network
        self._preprocessing = preprocessing
        self._direction = direction

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that a photograph of this size is resized to."""
        return self._preprocessing.input_size(height, width)

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 RGB (B, h, w, 3) to float32 (B, h, w) relative inverse depth, NaN where not known."""
        check_images(images)
        if self._network is None:
            raise ValueError("this teacher was closed")
        if len(images) == 0:
            return np.empty(images.shape[:3], np.float32)
        raw = self._network.run(images, self._preprocessing)
        return inverse_depth(_resized(raw, images.shape[1:3]), self._direction)

    def close(self) -> None:
        """Free the network."""
        if self._network is not None and self._network.pool is not None:
            self._network.pool.shutdown()
        self._network = None


class _Network(msgspec.Struct, frozen=True):
    """A session and what its graph says: float (N, 3, H, W) in, one map (N, H, W) or (N, 1, H, W) out."""

    path: Path
    session: Any
    input: str
    output: str
    dtype: Any
    batch: int | None  # images at once; None: as many as come
    size: Fixed | None  # None: decided by the card
    pool: ThreadPoolExecutor | None  # on the CPU: one image a core

    @property
    def precision(self) -> str:
        return str(np.dtype(self.dtype))

    def run(self, images: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.float32]:
        """uint8 RGB (B, h, w, 3) to the raw maps (B, h', w')."""
        step = self.batch or len(images)
        parts = [images[start : start + step] for start in range(0, len(images), step)]
        run = functools.partial(self._run_batch, preprocessing=preprocessing, step=step)
        return np.concatenate(list(self.pool.map(run, parts) if self.pool else map(run, parts)))

    def _run_batch(self, images: NDArray[np.uint8], *, preprocessing: Preprocessing, step: int) -> NDArray[np.float32]:
        missing = step - len(images)  # a network of a static batch always gets a whole one
        whole = np.concatenate([images, images[-1:].repeat(missing, axis=0)]) if missing else images
        planes = preprocessing.normalise(whole)
        try:
            (raw,) = self.session.run([self.output], {self.input: planes.astype(self.dtype, copy=False)})
        except Exception as error:  # ONNX Runtime's own exceptions share no base class
            raise self._explained(error, planes.shape) from error
        if raw.ndim == 4 and raw.shape[1] == 1:
            raw = raw[:, 0]
        if raw.ndim != 3 or len(raw) != step or raw.size == 0:
            raise _not_depth(self.path, f"output {self.output!r} has shape {list(raw.shape)}, not one map")
        maps: NDArray[np.float32] = raw[: len(images)].astype(np.float32, copy=False)
        return maps

    def _explained(self, error: Exception, shape: tuple[int, ...]) -> TeacherError:
        reason = one_line(error)
        if "alloc" in reason.lower() or "out of memory" in reason.lower():
            return OutOfMemory(f"{self.path}: too little memory for an input of shape {shape}")
        return TeacherError(
            f"{self.path}: fails on an input of {shape[2]} x {shape[3]} ({reason}); "
            "does the card's size rule give the multiple that the network needs?"
        )


def load(
    name: str,
    *,
    device: str = "auto",
    card: str | None = None,
    size: int | None = None,
    precision: str = "auto",
    threads: int | None = None,
) -> OnnxTeacher:
    """The network in the ONNX file `name`.

    Args:
        name: path of the file.
        device, size, precision: see `load_teacher`; the precision is the file's own.
        card: YAML file or name of a known card; not needed for a file whose hash a known card names.
        threads: images at once on the CPU, each on one core; by default `thread_count()`.

    Raises:
        TeacherError: not a depth network, no card, or ONNX Runtime is missing.
    """
    path = Path(name)
    if not name:
        raise TeacherError("onnx: say which file, for instance onnx:model.onnx")
    if not path.is_file():
        raise TeacherError(f"onnx:{name}: no such file")
    sha256 = sha256_file(path)
    facts = find_card(card) if card else card_for_sha256(sha256)
    onnxruntime = require("onnxruntime", extra="onnx")
    network = _open(path, _session(onnxruntime, path, device), facts, threads or thread_count())
    if facts is None:
        raise TeacherError(
            f"{path}: not a known network; give a card: --card NAME ({', '.join(known_cards())}) "
            f"or --card FILE.yaml with {CARD_FIELDS}"
        )
    if precision not in ("auto", network.precision):
        raise TeacherError(f"{path}: runs in {network.precision} only; leave --precision at auto")
    preprocessing = _preprocessing(path, facts, network, size)
    network.run(_rehearsal_image(preprocessing), preprocessing)
    provenance = Provenance(
        kind="onnx",
        name=facts.name or path.stem,
        weights_sha256=_weights_sha256(path, sha256),
        direction=facts.direction,
        preprocessing=preprocessing.record() | ({"output": facts.output} if facts.output else {}),
        versions=library_versions(onnxruntime, np),
    )
    return OnnxTeacher(network, preprocessing, facts.direction, provenance)


def thread_count() -> int:
    """Cores for a network on the CPU: OMP_NUM_THREADS if it says, else every core this process may use."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _session(onnxruntime: Any, path: Path, device: str) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # `_open` says how the cores are used
    options.log_severity_level = 3  # errors; its warnings are about the exporter's leftovers
    providers = _providers(onnxruntime, device)
    try:
        session = onnxruntime.InferenceSession(os.fspath(path), options, providers=providers)
    except Exception as error:  # ONNX Runtime's own exceptions share no base class
        raise TeacherError(
            f"{path}: not an ONNX network that can be run ({one_line(error)}); export it again"
        ) from error
    if device.startswith("cuda") and "CUDAExecutionProvider" not in session.get_providers():
        raise TeacherError(f"device {device}: onnxruntime found no working CUDA; install onnxruntime-gpu or use cpu")
    return session


def _providers(onnxruntime: Any, device: str) -> list[Any]:
    kind, _, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (index and not index.isdecimal()):
        raise TeacherError(f"device {device!r} is not known; choose auto, cpu, cuda or cuda:N")
    has_cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if kind == "cuda" and not has_cuda:
        raise TeacherError(f"device {device}: this onnxruntime is for the CPU only; pip install onnxruntime-gpu")
    if kind == "cpu" or not has_cuda:
        return ["CPUExecutionProvider"]
    if hasattr(onnxruntime, "preload_dlls"):  # finds the CUDA libraries that came with torch
        onnxruntime.preload_dlls()
    return [("CUDAExecutionProvider", {"device_id": int(index or 0)}), "CPUExecutionProvider"]


def _open(path: Path, session: Any, card: Card | None, threads: int) -> _Network:
    """The graph's facts, or a refusal that says what was found.

    On the CPU each core runs images of its own, so that the numbers do not depend on the count of cores.
    Measured with TCMonoDepth at 448 x 672 on two cores, against both cores on one image: 36 images/s
    against 34, and 24 against 14 while another process wants a core.
    """
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or inputs[0].type not in _DTYPES or len(inputs[0].shape) != 4 or inputs[0].shape[1] != 3:
        raise _not_depth(path, f"inputs {_listed(inputs)}; expected one float image N x 3 x H x W")
    output = _map_output(path, outputs, card.output if card else None)
    batch, _, height, width = inputs[0].shape
    on_cpu = session.get_providers()[0] == "CPUExecutionProvider"
    return _Network(
        path=path,
        session=session,
        input=inputs[0].name,
        output=output,
        dtype=_DTYPES[inputs[0].type],
        batch=batch if isinstance(batch, int) else (1 if on_cpu else None),
        size=Fixed(height, width) if isinstance(height, int) and isinstance(width, int) else None,
        pool=ThreadPoolExecutor(threads) if on_cpu and threads > 1 else None,
    )


def _map_output(path: Path, outputs: list[Any], wanted: str | None) -> str:
    named = [output for output in outputs if wanted in (None, output.name)]
    if not named:
        raise TeacherError(f"{path}: the card's output {wanted!r} is not there; outputs {_listed(outputs)}")
    shape = named[0].shape
    is_map = len(shape) == 3 or (len(shape) == 4 and (shape[1] == 1 or not isinstance(shape[1], int)))
    if not is_map:
        raise _not_depth(path, f"outputs {_listed(outputs)}; expected one map N x 1 x H x W or N x H x W")
    return str(named[0].name)


def _preprocessing(path: Path, card: Card, network: _Network, size: int | None) -> Preprocessing:
    if network.size is not None and size is not None:
        fixed = network.size
        raise TeacherError(f"{path}: takes {fixed.height} x {fixed.width} only; leave out --size")
    rule = network.size or card.size
    if rule is None or card.range is None or card.mean is None or card.std is None:
        needed = {"range": card.range, "mean": card.mean, "std": card.std, "size": rule}
        missing = ", ".join(name for name, value in needed.items() if value is None)
        raise TeacherError(f"{path}: its card lacks {missing}; a card has {CARD_FIELDS}")
    return Preprocessing(
        size=rule if size is None else with_side(rule, size),
        range=card.range,
        mean=card.mean,
        std=card.std,
        colour=card.colour or "RGB",
    )


def _rehearsal_image(preprocessing: Preprocessing) -> NDArray[np.uint8]:
    return np.full((1, *preprocessing.input_size(*REHEARSAL_SIZE), 3), 127, np.uint8)


def _resized(raw: NDArray[np.float32], size: tuple[int, ...]) -> NDArray[np.float32]:
    """Maps (B, h', w') at (B, h, w), bilinear; before any reciprocal, so that no NaN spreads."""
    if raw.shape[1:] == size:
        return raw
    shape = (size[1], size[0])
    return np.stack([np.asarray(Image.fromarray(m).resize(shape, Image.Resampling.BILINEAR)) for m in raw])


def _weights_sha256(path: Path, sha256: str) -> str:
    """The file's hash; where weights lie in files beside it (FILE_data, FILE.data), a hash of all hashes."""
    prefixes = (f"{path.name}_data", f"{path.name}.data")
    beside = sorted(file for file in path.parent.iterdir() if file.name.startswith(prefixes))
    if not beside:
        return sha256
    return hashlib.sha256("".join([sha256, *map(sha256_file, beside)]).encode()).hexdigest()


def _listed(values: list[Any]) -> str:
    return ", ".join(f"{value.name!r} {value.type} {list(value.shape)}" for value in values) or "none"


def _not_depth(path: Path, found: str) -> TeacherError:
    return TeacherError(f"{path}: not a depth network: {found}")
