"""Students: networks that see blur and depth in one photograph, small enough for everyday use.

`lite` is an encoder of timm and a light top-down decoder. It keeps what matters of the paper's network (blur
and depth read off every scale, fused into one map of each) and drops what costs (wide decoder features,
large kernels). `base` is the same on two encoders.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.config import Student
from trainer.students.context import ConvNormAct, create_context
from trainer.students.encoders import ModelError, create_encoder
from trainer.students.outputs import StudentOutput
from trainer.students.paper import PaperStudent, SupervisionGuidedAttention

__all__ = ["STUDENT_NAMES", "LiteStudent", "ModelError", "build_student", "create_student", "require_size"]

STUDENT_NAMES = ("lite", "paper-resnext101", "paper-vgg16")
PAPER_ENCODERS = {"paper-resnext101": "resnext101_32x4d", "paper-vgg16": "vgg16"}  # timm's names
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class LiteStudent(nn.Module):
    """Encoder, top-down decoder, and a blur and a depth head on each of its scales.

    Args:
        encoder: a timm model that offers `features_only`.
        channels: width of the decoder; the finest scale has half of it.
        context: what widens the view at the coarsest scale: none, srfb or attention (`trainer.students.context`).
        sab: whether a scale's blur and depth weigh the feature that goes on to the next one (the paper's SAB).
        weights: files of the encoder's weights in timm's names, one for each of its networks; none for random ones.

    Raises:
        ModelError: the encoder cannot serve, or the weights do not fit it.
    """

    def __init__(
        self,
        encoder: str = "tf_efficientnet_lite0",
        *,
        channels: int = 64,
        context: str = "none",
        sab: bool = False,
        weights: Sequence[Path | None] = (),
    ) -> None:
        super().__init__()
        self.encoder, inputs, self.stride = create_encoder(encoder, weights=weights)
        widths = [channels] * (len(inputs) - 1) + [channels // 2]
        self.laterals = nn.ModuleList(nn.Conv2d(i, w, 1) for i, w in zip(inputs, widths, strict=True))
        self.steps = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in pairwise(widths))
        self.context = create_context(context, channels)
        self.refine = nn.ModuleList(
            nn.Sequential(ConvNormAct(w, w), ConvNormAct(w, w) if w == channels else nn.Identity()) for w in widths
        )
        self.heads = nn.ModuleList(nn.Conv2d(w, 2, 1) for w in widths)  # blur logit, depth
        self.guides = nn.ModuleList(SupervisionGuidedAttention() for _ in widths[1:] if sab)
        self.fuse_blur = nn.Conv2d(len(widths), 1, 1)
        self.fuse_depth = nn.Conv2d(len(widths), 1, 1)
        for fuse in (self.fuse_blur, self.fuse_depth):
            nn.init.constant_(fuse.weight, 1 / len(widths))  # start as the mean of the scales
            nn.init.zeros_(fuse.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> StudentOutput:
        """Blur logits (positive = out of focus) and relative inverse depth of a batch.

        Args:
            images: (B, 3, H, W), ImageNet-normalised; H and W multiples of `stride`.
        """
        height, width = images.shape[-2:]
        if height % self.stride or width % self.stride:
            fits = [max(round(n / self.stride), 1) * self.stride for n in (height, width)]
            raise ValueError(
                f"input is {height} x {width}; sides must be multiples of {self.stride}: {fits[0]} x {fits[1]}"
            )
        features = self.encoder(images)[::-1]
        x = self.refine[0](self.context(self.laterals[0](features[0])))
        sides = [self.heads[0](x)]
        for number, (step, lateral, refine, head, feature) in enumerate(
            zip(self.steps, self.laterals[1:], self.refine[1:], self.heads[1:], features[1:], strict=True)
        ):
            if self.guides:
                x = x * self.guides[number](sides[-1][:, :1], sides[-1][:, 1:])
            # the 1x1 convolution comes before the up-sampling: the same result for a quarter of the work
            x = refine(_enlarged(step(x), feature.shape[-2:]) + lateral(feature))
            sides.append(head(x))
        # up-sampling and the 1x1 fusion are both linear: fusing on the finest scale is cheaper
        finest = sides[-1].shape[-2:]
        stacked = torch.stack(
            [F.interpolate(side, size=finest, mode="bilinear", align_corners=False) for side in sides], dim=2
        )
        fused_blur, fused_depth = (
            F.interpolate(fuse(stacked[:, task]), size=(height, width), mode="bilinear", align_corners=False)
            for task, fuse in enumerate((self.fuse_blur, self.fuse_depth))
        )
        return StudentOutput(
            blur=[fused_blur, *(side[:, :1] for side in sides)],
            depth=[fused_depth, *(side[:, 1:] for side in sides)],
        )


def _enlarged(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Nearest up-sampling in the precision of `x`: autocast would make it, and all that is added to it, float32."""
    with torch.autocast(x.device.type, enabled=False):
        return F.interpolate(x, size=size, mode="nearest")


def require_size(student: nn.Module, size: int) -> None:
    """Refuse a side of the input that the student does not take.

    Raises:
        ModelError: naming the nearest sides that it takes.
    """
    stride = int(student.stride)  # type: ignore[arg-type]
    if size % stride:
        below = size // stride * stride
        fits = f"{below} or {below + stride}" if below else f"{stride}"
        raise ModelError(f"input size {size}: this student takes multiples of {stride}; choose {fits}")


def create_student(
    name: str = "lite",
    *,
    encoder: str = "tf_efficientnet_lite0",
    channels: int = 64,
    context: str = "none",
    sab: bool = False,
    encoder_weights: str = "none",
) -> LiteStudent | PaperStudent:
    """A student by name: `lite`, `paper-resnext101` or `paper-vgg16`, in training mode.

    Args:
        name: which student.
        encoder: the timm encoder of `lite`, or two, `TRANSFORMER+PYRAMID`; the paper's networks are fixed.
        channels: decoder width of `lite`.
        context, sab: of `lite`, see there.
        encoder_weights: `none` (random), `hub` (ImageNet weights from the model hub) or a file in timm's
            names (`.safetensors`, or a `.pth` that loads with `weights_only`); of two encoders either one
            word for both or `FILE+FILE`. The rest is random.

    Raises:
        ModelError: unknown name, unusable encoder, or weights that are absent or do not fit.
    """
    if name not in STUDENT_NAMES:
        raise ModelError(f"student {name!r} does not exist; choose one of: {', '.join(STUDENT_NAMES)}")
    weights = _weights_files(PAPER_ENCODERS.get(name, encoder), encoder_weights)
    if name == "lite":
        return LiteStudent(encoder, channels=channels, context=context, sab=sab, weights=weights)
    try:
        return PaperStudent("vgg16" if name == "paper-vgg16" else "resnext101", pretrained=weights[0] or False)
    except Exception as error:  # timm and torch raise kinds of their own
        raise ModelError(f"{name}: encoder weights {weights[0]} do not fit ({_line(error)}); give others") from error


def build_student(settings: Student, *, encoder_weights: str = "none") -> LiteStudent | PaperStudent:
    """The student that a configuration describes; weights as in `create_student`, not as the configuration asks.

    Raises:
        ModelError: as `create_student`.
    """
    return create_student(
        settings.name,
        encoder=settings.encoder,
        channels=settings.channels,
        context=settings.context,
        sab=settings.sab,
        encoder_weights=encoder_weights,
    )


def _weights_files(encoder: str, weights: str) -> list[Path | None]:
    """A file for each of the encoder's networks, see `_weights_file`."""
    encoders = encoder.split("+")
    if len(encoders) == 1 or weights in ("none", "hub"):
        return [_weights_file(name, weights) for name in encoders]
    files = weights.split("+")
    if len(files) != len(encoders):
        raise ModelError(f"encoder {encoder!r} is two networks and {weights!r} one file of weights; give FILE+FILE")
    return [_weights_file(name, file) for name, file in zip(encoders, files, strict=True)]


def _weights_file(encoder: str, weights: str) -> Path | None:
    """The file that `none`, `hub` or a path stands for."""
    if weights == "none":
        return None
    if weights == "hub":
        return _from_hub(encoder)
    if not Path(weights).is_file():
        raise ModelError(f"{weights}: no such file of encoder weights; give a file in timm's names, hub or none")
    return Path(weights)


def _from_hub(encoder: str) -> Path:
    """ImageNet weights from the model hub or its local cache, without minutes of retries when it is away."""
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.utils import get_session  # type: ignore[attr-defined]

    settings = timm.get_pretrained_cfg(encoder, allow_unregistered=True)
    if settings is None or not settings.hf_hub_id:
        raise ModelError(f"encoder {encoder!r}: timm offers no weights on the hub; give a local file, or none")
    try:
        get_session().head(constants.ENDPOINT, timeout=5)
        answers = True
    except Exception:  # whatever the HTTP library of the day raises
        answers = False
    try:
        return Path(hf_hub_download(settings.hf_hub_id, "model.safetensors", local_files_only=not answers))
    except Exception as error:
        why = _line(error) if answers else "the hub cannot be reached, and its local cache has none"
        raise ModelError(f"encoder {encoder!r}: no weights ({why}); give a local file, or none") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
