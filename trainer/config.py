"""What a training run is made of: presets, YAML files and `KEY=VALUE` overrides, checked as one typed tree.

A run is the preset, then the file given with `--config`, then the overrides, each on top of the one
before. The result is written into the run folder, and every checkpoint carries it.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml

from pipeline.contract import SoftfocusError

__all__ = ["Augmentation", "BlurDistillation", "BlurLoss", "Config", "ConfigError", "Data", "DepthLoss"]
__all__ += ["Distillation", "Log", "Optimiser", "Student", "dump_config", "load_config", "preset_names"]

Weight = Annotated[float, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]


class ConfigError(SoftfocusError):
    """A configuration that cannot be used; the message names the key and the mend."""


class Section(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A part of the configuration; unknown keys are refused by name."""


class Student(Section):
    """The network: see `trainer.students.model.create_student`."""

    name: str = "lite"
    encoder: str = "tf_efficientnet_lite0"  # any timm model with `features_only` (lite only)
    encoder_weights: str = "auto"  # auto, hub, shipped, none, or a file in timm's names
    channels: int = 64  # decoder width (lite only)
    context: str = "none"  # at the coarsest scale of lite: none, srfb (depth-wise) or attention
    start: str | None = None  # a run folder or .safetensors file whose student this run starts from, all of it
    freeze: int = 0  # blocks of the encoder that stay as they are, counted from the input; -1: all


class Data(Section):
    """Sizes are sides in pixels of the square that the whole frame is squashed to, as in the paper."""

    input_size: int = 320  # what the network sees
    test_sizes: tuple[int, ...] = ()  # what it sees in use, averaged over; by default input_size
    prepared_size: int = 400  # what is decoded once and then cropped from
    batch_size: int = 32
    cache_gib: float = 8.0  # prepared samples are kept in memory up to this; beyond it they are decoded anew
    workers: int = -1  # processes that decode; -1: one a core, 16 at most
    partial: bool = False  # train also on samples that lack a mask or a label
    teacher: str | None = None  # whose labels must be in the store: KIND:NAME, NAME, or a hash's first digits
    splits: tuple[str, ...] = ("train",)  # what is learnt; ("train", "val") leaves nothing to validate by
    cache: str | None = None  # folder of prepared samples, mapped into memory, shared by runs
    steps: int | None = None  # steps an epoch; by default one pass over the samples
    mask_fraction: float = 1.0  # share of the training masks that is used (the rest counts as lacking)
    mask_seed: int = 0  # which masks; a larger fraction of the same seed holds the smaller one
    masked_share: float | None = None  # share of each batch that has masks; by default as they come


class Augmentation(Section):
    """Random changes to a training sample; mask and depth follow the geometry of the image."""

    min_area: float = 0.5  # a crop covers this share of the frame to all of it
    aspect: float = 0.15  # its aspect ratio changes by up to this factor, log-uniform
    flip: float = 0.5  # probability of a horizontal flip
    brightness: float = 0.3
    contrast: float = 0.3
    saturation: float = 0.4
    grey: float = 0.1  # probability of a grey photograph
    noise: float = 0.0  # largest deviation of Gaussian noise, pixels in [0, 1]; uniform below it
    cutmix: float = 0.0  # probability that a rectangle comes from another sample, mask and labels with it


class BlurLoss(Section):
    """Weights of the task loss's terms (`trainer.losses.blur`); `side` weighs their sum on each side output."""

    bce: Weight = 1.0  # cross-entropy
    focal: Weight = 0.0
    l1: Weight = 1.0
    iou: Weight = 0.5  # soft IoU, of both classes
    dice: Weight = 0.0  # likewise
    ssim: Weight = 0.0  # structural similarity
    edge: Weight = 0.0  # cross-entropy in a band around the mask's boundary
    side: Weight = 0.2

    @property
    def in_use(self) -> bool:
        """Whether masks are learnt at all."""
        return any((self.bce, self.focal, self.l1, self.iou, self.dice, self.ssim, self.edge))


class Distillation(Section):
    """`weight` scales a distillation loss, 0 leaves it out; see `trainer.losses.schedule` for its course."""

    weight: Weight = 0.5
    schedule: Literal["constant", "linear", "cosine"] = "constant"  # after the warm-up
    warmup: Share = 0.0  # share of the run in which the weight rises from 0
    final: Weight = 0.0  # what is left of the weight at the end: linear and cosine
    side: Weight = 0.2


class DepthLoss(Distillation):
    """Weights of the terms that compare depth with the stored label (`trainer.losses.depth`)."""

    l1: Weight = 1.0  # scale-and-shift-invariant L1
    gradient: Weight = 0.5  # multi-scale gradient term
    plain_l1: Weight = 0.0  # the student's depth as it is against the normalised label
    plain_l2: Weight = 0.0
    ranking: Weight = 0.0  # order of pairs of pixels
    edges: Weight = 0.0  # where depth jumps


class BlurDistillation(Distillation):
    """Weights of the terms that compare blur with a stored blur probability (`trainer.losses.soft_blur`)."""

    kl: Weight = 1.0  # Kullback-Leibler divergence; the gradient of cross-entropy
    l1: Weight = 0.0
    temperature: Positive = 1.0  # above 1 the teacher's doubts count more


class Optimiser(Section):
    """Names of optimiser and schedule are timm's; `encoder_lr` is the encoder's share of the learning rate."""

    name: str = "adamw"
    lr: float = 1e-3
    encoder_lr: float = 0.5
    layer_decay: float = 1.0  # factor of the rate from each block of the encoder to the one before
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.99)
    schedule: str = "cosine"
    warmup: float = 0.05  # share of the run in which the rate rises
    accumulate: int = 1  # batches a step: gradients are averaged over them
    clip: float = 1.0  # largest norm of the gradient
    ema: float = 0.998  # decay of the averaged weights that are validated and shipped


class Log(Section):
    """What is written while a run goes on, beside metrics.csv; it does not change what the run comes to."""

    pictures: int = 6  # validation samples whose maps are drawn at each validation
    tensorboard: bool = False  # needs the extra `tensorboard`


class Config(Section):
    """Everything that a run depends on beside its data; figures of a run are its config's figures."""

    student: Student = msgspec.field(default_factory=Student)
    data: Data = msgspec.field(default_factory=Data)
    augmentation: Augmentation = msgspec.field(default_factory=Augmentation)
    blur_loss: BlurLoss = msgspec.field(default_factory=BlurLoss)
    depth_loss: DepthLoss = msgspec.field(default_factory=DepthLoss)
    blur_distillation: BlurDistillation = msgspec.field(default_factory=BlurDistillation)
    optimiser: Optimiser = msgspec.field(default_factory=Optimiser)
    log: Log = msgspec.field(default_factory=Log)
    epochs: int = 100
    validate_every: int = 5  # epochs
    seed: int = 0
    precision: str = "auto"  # auto: bfloat16 where the device has it, else float32; or bfloat16, float32
    channels_last: bool = True
    compile: bool = False  # torch.compile: a minute at the start, then faster steps
    cuda_graph: bool = True  # on a GPU a step is recorded once and replayed
    search_kernels: bool = False  # try cuDNN's kernels for each layer: a minute at the start, then faster steps
    keep_every: int = 0  # also keep epoch-NNNN.safetensors every so many epochs

    def __post_init__(self) -> None:
        for key, value in (
            ("epochs", self.epochs),
            ("validate_every", self.validate_every),
            ("data.batch_size", self.data.batch_size),
            ("data.input_size", self.data.input_size),
            ("optimiser.accumulate", self.optimiser.accumulate),
        ):
            if value < 1:
                raise ValueError(f"{key} is {value}; it must be at least 1")
        if self.data.prepared_size < self.data.input_size:
            raise ValueError(
                f"data.prepared_size ({self.data.prepared_size}) is smaller than data.input_size "
                f"({self.data.input_size}); make it at least as large"
            )
        if not 0 < self.augmentation.min_area <= 1:
            raise ValueError(f"augmentation.min_area is {self.augmentation.min_area}; it must lie in (0, 1]")
        if not 0 < self.data.mask_fraction <= 1:
            raise ValueError(f"data.mask_fraction is {self.data.mask_fraction}; it must lie in (0, 1]")
        if self.data.masked_share is not None and not 0 < self.data.masked_share <= 1:
            raise ValueError(f"data.masked_share is {self.data.masked_share}; it must lie in (0, 1]")
        unknown = set(self.data.splits) - {"train", "val"}
        if unknown or not self.data.splits:
            raise ValueError(f"data.splits is {list(self.data.splits)}; name train, val or both")
        if self.student.context not in ("none", "srfb", "attention"):
            raise ValueError(f"student.context is {self.student.context!r}; choose none, srfb or attention")
        if self.precision not in ("auto", "bfloat16", "float32"):
            raise ValueError(f"precision is {self.precision!r}; choose auto, bfloat16 or float32")


def preset_names() -> list[str]:
    """The presets that come with the package."""
    return sorted(p.name.removesuffix(".yaml") for p in _presets().iterdir() if p.name.endswith(".yaml"))


def load_config(*, preset: str = "lite", file: Path | str | None = None, overrides: Iterable[str] = ()) -> Config:
    """The resolved configuration: preset, then `file` (YAML), then `KEY=VALUE` overrides.

    Keys of nested values are dotted (`optimiser.lr=0.002`); values are read as YAML.

    Raises:
        ConfigError: no such preset, unreadable file, unknown key, or a value of the wrong type or range.
    """
    if preset not in preset_names():
        raise ConfigError(f"preset {preset!r} does not exist; choose one of: {', '.join(preset_names())}")
    tree = _parse((_presets() / f"{preset}.yaml").read_text(encoding="utf-8"), f"preset {preset}")
    if file is not None:
        try:
            text = Path(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file}: cannot be read ({error}); give a YAML file") from error
        tree = _merge(tree, _parse(text, str(file)))
    for override in overrides:
        tree = _merge(tree, _parse_override(override))
    try:
        # strict=False also takes YAML's "1e-3", which is a string there
        return msgspec.convert(tree, Config, strict=False)
    except msgspec.ValidationError as error:
        where = str(file) if file is not None else f"preset {preset}"
        raise ConfigError(f"configuration ({where} and overrides): {_plain(str(error))}") from error


def dump_config(config: Config) -> str:
    """The configuration as YAML, every value spelled out."""
    return yaml.safe_dump(msgspec.to_builtins(config), sort_keys=False)


def _presets() -> Any:
    return resources.files("trainer") / "presets"


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{where}: holds {type(tree).__name__}, not keys and values")
    return tree


def _parse_override(override: str) -> dict[str, Any]:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {override!r} is not KEY=VALUE, for instance optimiser.lr=0.002")
    tree: Any = _parse(f"value: {value}", f"override {override}")["value"]
    for part in reversed(key.strip().split(".")):
        tree = {part: tree}
    result: dict[str, Any] = tree
    return result


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _plain(message: str) -> str:
    """msgspec's message with its `$.data` path in our dotted keys."""
    return message.replace("`$.", "`").replace(" - at `$`", "")
