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
from trainer.refusal import explain

__all__ = ["Augmentation", "BlurDistillation", "BlurLoss", "Config", "ConfigError", "Data", "DepthLoss"]
__all__ += [
    "Distillation",
    "Log",
    "Optimiser",
    "Student",
    "dump_config",
    "load_config",
    "preset_names",
    "stored_config",
]

HUGE = 1e9  # keeps infinity out
Weight = Annotated[float, msgspec.Meta(ge=0, le=HUGE)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
PartOf = Annotated[float, msgspec.Meta(gt=0, le=1)]  # a share that is not nothing
Decay = Annotated[float, msgspec.Meta(ge=0, lt=1)]  # what is kept of a mean at each step; at 1 it would never move
Positive = Annotated[float, msgspec.Meta(gt=0, le=HUGE)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Optional = Annotated[int, msgspec.Meta(ge=0)]  # a count, 0 = none
Seed = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
Side = Annotated[int, msgspec.Meta(ge=1, le=8192)]  # pixels
OrAll = Annotated[int, msgspec.Meta(ge=-1, le=256)]  # -1: all there are
Splits = Annotated[tuple[Literal["train", "val"], ...], msgspec.Meta(min_length=1)]
Text = Annotated[str, msgspec.Meta(min_length=1)]


class ConfigError(SoftfocusError):
    """A configuration that cannot be used; the message names the key and the mend."""


class Section(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A part of the configuration; unknown keys are refused by name."""


class Student(Section):
    """The network: see `trainer.students.model.create_student`."""

    name: Text = "lite"
    encoder: Text = "tf_efficientnet_lite0"  # any timm model with `features_only`, or TRANSFORMER+PYRAMID (lite only)
    encoder_weights: Text = "auto"  # auto, hub, shipped, none, or a file in timm's names (FILE+FILE for two)
    channels: Annotated[int, msgspec.Meta(ge=2, le=2048)] = 64  # decoder width (lite only)
    context: Literal["none", "srfb", "attention"] = "none"  # at the coarsest scale of lite
    sab: bool = False  # the paper's attention between the scales of lite, by their blur and depth
    start: Text | None = None  # a run folder or .safetensors file whose student this run starts from, all of it
    freeze: Annotated[int, msgspec.Meta(ge=-1)] = (
        0  # blocks of the encoder that stay as they are, counted from the input; -1: all
    )


class Data(Section):
    """Sizes are sides in pixels of the square that the whole frame is squashed to, as in the paper."""

    input_size: Side = 320  # what the network sees
    test_sizes: tuple[Side, ...] = ()  # what it sees in use, averaged over; by default input_size
    prepared_size: Side = 400  # what is decoded once and then cropped from
    batch_size: Count = 32
    cache_gib: Weight = 8.0  # prepared samples are kept in memory up to this; beyond it they are decoded anew
    workers: OrAll = -1  # processes that decode; -1: one a core, 16 at most
    partial: bool = False  # train also on samples that lack a mask or a label
    teacher: Text | None = None  # whose labels must be in the store: KIND:NAME, NAME, or a hash's first digits
    splits: Splits = ("train",)  # what is learnt; ("train", "val") leaves nothing to validate by
    cache: Text | None = None  # folder of prepared samples, mapped into memory, shared by runs
    steps: Count | None = None  # steps an epoch; by default one pass over the samples
    mask_fraction: PartOf = 1.0  # share of the training masks that is used (the rest counts as lacking)
    mask_seed: int = 0  # which masks; a larger fraction of the same seed holds the smaller one
    masked_share: PartOf | None = None  # share of each batch that has masks; by default as among the samples


class Augmentation(Section):
    """Random changes to a training sample; mask and depth follow the geometry of the image."""

    min_area: PartOf = 0.5  # a crop covers this share of the frame to all of it
    aspect: Share = 0.15  # its aspect ratio changes by up to this factor, log-uniform
    flip: Share = 0.5  # probability of a horizontal flip
    brightness: Share = 0.3
    contrast: Share = 0.3
    saturation: Share = 0.4
    sharpness: Share = 0.0  # of the whole frame: softened at 0, as it is at 1, sharpened above
    motion: Weight = 0.0  # longest smear of half of the frames, in pixels, as by a camera that moves
    grey: Share = 0.1  # probability of a grey photograph
    noise: Share = 0.0  # largest deviation of Gaussian noise, pixels in [0, 1]; uniform below it
    cutmix: Share = 0.0  # probability that a rectangle comes from another sample, mask and labels with it


class BlurLoss(Section):
    """Weights of the task loss's terms (`trainer.losses.blur`); `side` weighs their sum on each side output.

    `weight` scales the whole, 0 leaves it out: then depth or soft labels are learnt alone.
    """

    weight: Weight = 1.0
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
        return self.weight > 0 and any((self.bce, self.focal, self.l1, self.iou, self.dice, self.ssim, self.edge))


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

    name: Text = "adamw"
    lr: Positive = 1e-3
    encoder_lr: Weight = 0.5
    layer_decay: PartOf = 1.0  # factor of the rate from each block of the encoder to the one before
    weight_decay: Weight = 0.05
    betas: tuple[Decay, Decay] = (0.9, 0.99)
    schedule: Text = "cosine"
    warmup: Share = 0.05  # share of the run in which the rate rises
    accumulate: Count = 1  # batches a step: gradients are averaged over them
    clip: Weight = 1.0  # largest norm of the gradient
    ema: Decay = 0.998  # decay of the averaged weights that are validated and shipped


class Log(Section):
    """What is written while a run goes on, beside metrics.csv; it does not change what the run comes to."""

    pictures: Optional = 6  # validation samples whose maps are drawn at each validation
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
    epochs: Count = 100
    validate_every: Count = 5  # epochs
    seed: Seed = 0
    precision: Literal["auto", "bfloat16", "float32"] = "auto"  # auto: bfloat16 where the device has it, else float32
    channels_last: bool = True
    compile: bool = False  # torch.compile: minutes the first time, then faster steps
    cuda_graph: bool = True  # on a GPU a step is recorded once and replayed
    search_kernels: bool = False  # try cuDNN's kernels for each layer: a minute at the start, then faster steps
    keep_every: Optional = 0  # also keep epoch-NNNN.safetensors every so many epochs

    @property
    def learns_blur(self) -> bool:
        """Whether blur is learnt: from masks, or from soft labels (whose weight a run without them sets to 0)."""
        return self.blur_loss.in_use or self.blur_distillation.weight > 0

    def __post_init__(self) -> None:
        if self.data.prepared_size < self.data.input_size:
            raise ValueError(
                f"data.prepared_size ({self.data.prepared_size}) is smaller than data.input_size "
                f"({self.data.input_size}); make it at least as large"
            )


def stored_config(values: dict[str, Any]) -> Config:
    """A configuration as a run or a student has stored it: keys that a later version added have their defaults.

    One from before there were soft labels has learnt none, whatever the default is now.

    Raises:
        msgspec.ValidationError: it is not one.
    """
    return msgspec.convert({"blur_distillation": {"weight": 0.0}} | values, Config)


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
        raise ConfigError(f"configuration ({where} and overrides): {explain(error, tree, Config)}") from error


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
