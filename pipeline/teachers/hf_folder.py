"""What a transformers model's folder says: files, configuration, direction, preprocessing, hash.

Read by `pipeline.teachers.hf`; nothing here runs a network. A name is fetched from the Hugging Face hub
into its cache first, so that everything afterwards is a folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from pipeline.files import sha256_file
from pipeline.teachers.base import Direction, TeacherError, one_line, require
from pipeline.teachers.cards import CARD_FIELDS, Card
from pipeline.teachers.preprocessing import Fixed, Preprocessing, Range, ShortSide, SizeRule, Triple, with_side

__all__ = [
    "Family",
    "ImageProcessor",
    "find_folder",
    "image_processor",
    "preprocessing_of",
    "quiet",
    "read_config",
    "read_family",
    "weights_sha256",
]

_SMALL_FILES = ["config.json", "preprocessor_config.json", "processor_config.json"]
_SAFETENSORS = ["model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors"]
_PICKLES = ["pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin"]

# For networks that take a photograph at its own size (GLPN, the DINOv2 heads): the short side of the
# pictures that they were trained on (NYU Depth v2, 480 x 640).
_NATIVE_SHORT_SIDE = 480


class Family(NamedTuple):
    """What a model type puts out, and its last layer, which stays in float32 when the rest does not.

    A last layer in bfloat16 would leave a map 256 values an octave, and so bands. No last layer: float32
    throughout, unless asked otherwise.
    """

    direction: Direction
    last_layer: str | None = None


class ImageProcessor(msgspec.Struct, frozen=True):
    """The part of preprocessor_config.json that matters here; whatever else it holds is left alone."""

    do_resize: bool | None = None
    size: int | dict[str, int | None] | None = None
    keep_aspect_ratio: bool | None = None
    ensure_multiple_of: float | None = None
    size_divisor: int | None = None
    do_rescale: bool | None = None
    rescale_factor: float | None = None
    do_normalize: bool | None = None
    image_mean: float | Triple | None = None
    image_std: float | Triple | None = None
    do_pad: bool | None = None

    def __post_init__(self) -> None:
        # Not as a constraint in the type: msgspec 0.22 reads past its memory for a union of a constrained
        # number with a tuple of fixed length.
        if self.image_std is not None and not all(value > 0 for value in _triple(self.image_std) or ()):
            raise ValueError("image_std must be above 0")


def find_folder(name: str) -> tuple[Path, str]:
    """The folder that holds the model, and its name without the machine's path."""
    if not name:
        raise TeacherError("hf: say which model, for instance hf:depth-anything/Depth-Anything-V2-Small-hf")
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise TeacherError(f"hf:{name}: the folder has no config.json, so it holds no transformers model")
        return folder, folder.resolve().name
    if folder.is_absolute() or name.startswith(".") or name.count("/") > 1:
        raise TeacherError(f"hf:{name}: no such folder")
    return _fetched(name), name


def _fetched(name: str) -> Path:
    hub = require("huggingface_hub", extra="hf")
    try:
        with quiet(bars=sys.stderr.isatty()):
            folder = Path(hub.snapshot_download(name, allow_patterns=_SMALL_FILES + _SAFETENSORS))
            if not any(folder.glob("*.safetensors")):
                folder = Path(hub.snapshot_download(name, allow_patterns=_SMALL_FILES + _PICKLES))
    except Exception as error:  # the hub's client raises its own, the HTTP library's and OSError
        raise TeacherError(
            f"hf:{name}: cannot be fetched from the Hugging Face hub ({one_line(error)}); "
            "check the name and the network, or give a folder that holds the model"
        ) from error
    return folder


def read_config(transformers: Any, folder: Path, name: str) -> Any:
    """The model's configuration; code that lies beside it is not run."""
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a damaged or foreign config.json can raise nearly anything
        raise TeacherError(f"hf:{name}: config.json cannot be used ({one_line(error)})") from error
    if config.model_type == "depth_pro":
        config.use_fov_model = False  # a second encoder that only estimates the focal length
    return config


def read_family(transformers: Any, config: Any, card: Card | None, name: str) -> Family:
    """The direction of the raw output: from the card, else from what the model type is known to be."""
    if type(config) not in transformers.MODEL_FOR_DEPTH_ESTIMATION_MAPPING:
        raise TeacherError(f"hf:{name}: a {config.model_type} model, which is not for depth estimation")
    known = _known_family(config)
    if card is not None:
        return Family(card.direction, known.last_layer if known else None)
    if known is None:
        raise TeacherError(
            f"hf:{name}: whether a {config.model_type} model gives depth or inverse depth is not known; "
            "say so in a card: --card FILE.yaml with direction: inverse depth | depth"
        )
    return known


def _known_family(config: Any) -> Family | None:
    """What transformers' code and the authors say of each model type.

    Depth Pro's raw output is the canonical inverse depth; its post-processing would invert it. A DPT with
    `add_projection` is a DINOv2 head, trained on depth in metres. Left out on purpose, so that a card must
    speak: Prompt Depth Anything (relative depth without its sensor's prompt) and CHMv2 (height of trees).
    """
    kind = config.model_type
    if kind == "depth_anything":
        is_metric = getattr(config, "depth_estimation_type", "relative") == "metric"
        return Family("depth" if is_metric else "inverse depth", "head.conv3")
    if kind == "dpt":
        return Family("depth" if config.add_projection else "inverse depth", "head.head.4")
    families = {
        "depth_pro": Family("inverse depth", "head.layers.4"),
        "glpn": Family("depth", "head.head.2"),
        "zoedepth": Family("depth"),
        "tipsv2_dpt": Family("depth"),
    }
    return families.get(kind)


def image_processor(folder: Path) -> ImageProcessor | None:
    """The image processor's settings, or None where the folder has none."""
    for file in (folder / "processor_config.json", folder / "preprocessor_config.json"):
        if not file.is_file():
            continue
        try:
            content = msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
            whole = content if file.name == "preprocessor_config.json" else None
            if settings := content.get("image_processor", whole):
                return msgspec.convert(settings, type=ImageProcessor)
        except msgspec.MsgspecError as error:
            raise TeacherError(f"{file}: not an image processor's settings ({one_line(error)})") from error
    return None


def preprocessing_of(
    given: ImageProcessor | None, config: Any, card: Card | None, size: int | None, name: str
) -> Preprocessing:
    """The processor's settings, each overridden by what the card says, as softfocus applies them.

    Raises:
        TeacherError: together they leave something open.
    """
    given = given or ImageProcessor()
    card = card or Card(direction="depth")
    multiple = _multiple(given, config)
    mean, std = _mean_and_std(given)
    facts: dict[str, Any] = {
        "range": card.range or _range(given),
        "mean": card.mean or mean,
        "std": card.std or std,
        "size": card.size or _size_rule(given, config, multiple),
    }
    if missing := ", ".join(field for field, value in facts.items() if value is None):
        raise TeacherError(
            f"hf:{name}: preprocessor_config.json is not there or does not say {missing}; "
            f"save the image processor into the folder, or give --card FILE.yaml with {CARD_FIELDS}"
        )
    if size is not None:
        facts["size"] = with_side(facts["size"], size, multiple=multiple)
    return Preprocessing(**facts, colour=card.colour or "RGB")


def _mean_and_std(given: ImageProcessor) -> tuple[Triple | None, Triple | None]:
    is_normalised = given.image_mean is not None if given.do_normalize is None else given.do_normalize
    if not is_normalised:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return _triple(given.image_mean), _triple(given.image_std)


def _triple(value: float | Triple | None) -> Triple | None:
    return (value, value, value) if isinstance(value, float) else value


def _range(given: ImageProcessor) -> Range | None:
    if given.do_rescale is None and given.rescale_factor is None and given.image_mean is None:
        return None
    if given.do_rescale is False:
        return "0..255"
    factor = 1 / 255 if given.rescale_factor is None else given.rescale_factor
    return "0..1" if abs(factor * 255 - 1) < 1e-3 else None


def _size_rule(given: ImageProcessor, config: Any, multiple: int) -> SizeRule | None:
    """The image processor's size as a rule.

    Where it keeps the aspect ratio, the short side counts (Depth Anything's and MiDaS's own rule, which
    transformers' agrees with for photographs larger than the network's size).
    """
    if config.model_type == "glpn" or given.do_resize is False:
        return ShortSide(_NATIVE_SHORT_SIDE, multiple)
    size = {"height": given.size, "width": given.size} if isinstance(given.size, int) else given.size or {}
    if shortest := size.get("shortest_edge"):
        return ShortSide(shortest, multiple)
    height, width = size.get("height"), size.get("width")
    if height is None or width is None:
        return None
    return ShortSide(min(height, width), multiple) if given.keep_aspect_ratio else Fixed(height, width)


def _multiple(given: ImageProcessor, config: Any) -> int:
    """What the sides must divide by: the processor's word, else the patch of the transformer."""
    stated = given.ensure_multiple_of or given.size_divisor or 1
    if stated > 1:
        return int(stated)
    configs = (config, getattr(config, "backbone_config", None))
    patches = (getattr(part, "patch_size", None) for part in configs)
    return next((patch for patch in patches if isinstance(patch, int)), 32)


def weights_sha256(folder: Path, name: str) -> str:
    """SHA-256 of the weight file's bytes; of several files, that of their hashes in the order of names."""
    for patterns in (_SAFETENSORS, _PICKLES):
        single, _, several = patterns
        if (folder / single).is_file():
            return sha256_file(folder / single)
        if files := sorted(folder.glob(several)):
            return hashlib.sha256("".join(map(sha256_file, files)).encode()).hexdigest()
    raise TeacherError(f"hf:{name}: no weight file ({_SAFETENSORS[0]} or {_PICKLES[0]}) to take the hash of")


@contextlib.contextmanager
def quiet(*, bars: bool = False) -> Iterator[None]:
    """Keep transformers' and the hub's reports and progress bars off stderr."""
    hub_logging: Any = importlib.import_module("huggingface_hub.utils.logging")
    logging: Any = importlib.import_module("transformers.utils.logging")
    before = logging.get_verbosity(), hub_logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    hub_logging.set_verbosity_error()
    if not bars:
        logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before[0])
        hub_logging.set_verbosity(before[1])
        if before[2]:
            logging.enable_progress_bar()
