"""The paper's network, written from its description.

Network: X. Cun and C.-M. Pun, *Defocus Blur Detection via Depth Distillation*, ECCV 2020
(arXiv 2007.08113). An encoder with five scales, five decoder steps, and at each of them a blur logit
and a depth value read off the feature; the two then steer the feature that goes on.

Polarity: a blur logit's sigmoid is the probability of OUT OF FOCUS, as everywhere in this project. The
official network's positive class is IN FOCUS; `trainer.students.official` turns its weights round.
"""

from __future__ import annotations

from functools import reduce
from pathlib import Path
from typing import Literal, cast, get_args

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.students.outputs import StudentOutput

__all__ = ["EncoderName", "PaperStudent", "SelectiveReceptionField", "SupervisionGuidedAttention"]

EncoderName = Literal["resnext101", "vgg16"]

STRIDE = 32
"""Height and width of an image must be multiples of the encoder's largest stride."""


class SelectiveReceptionField(nn.Module):
    """SRFB: lets each channel choose among four receptive fields, from the whole image's content.

    The fields are a chain, each dilated convolution reading the output of the one before:
    identity, 3x3, 5x5, 7x7. Shape (B, C, H, W) in and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = max(channels // 16, 32)
        self.branches = nn.ModuleList(_dilated_branch(channels, kernel) for kernel in (3, 5, 7))
        self.squeeze = nn.Linear(channels, squeezed)
        self.expand = nn.ModuleList(nn.Linear(squeezed, channels) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        fields = [x]
        for branch in self.branches:
            fields.append(branch(fields[-1]))
        summary = self.squeeze(reduce(torch.add, fields).mean((2, 3)))
        weights = torch.stack([expand(summary) for expand in self.expand]).softmax(0)  # (4, B, C)
        weighted = [field * weight[:, :, None, None] for field, weight in zip(fields, weights, strict=True)]
        return cast(Tensor, reduce(torch.add, weighted))


def _dilated_branch(channels: int, kernel: int) -> nn.Sequential:
    padding = kernel * (kernel - 1) // 2  # keeps the size, as the dilation equals the kernel
    return nn.Sequential(
        nn.Conv2d(channels, channels, kernel, dilation=kernel, padding=padding),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
    )


class SupervisionGuidedAttention(nn.Module):
    """SAB: one weight in (0, 1) per pixel, made from a scale's blur logit and depth.

    Two maps (B, 1, H, W) in, one (B, 1, H, W) out.
    """

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.read = nn.Conv2d(2, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.write = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, blur_logit: Tensor, depth: Tensor) -> Tensor:
        x = torch.cat([blur_logit, depth], 1)
        return torch.sigmoid(self.write(self.norm(F.relu(self.read(x)))))


class DecoderStep(nn.Module):
    """Doubles the size: (B, in, H, W) to (B, out, 2 H, 2 W), with a selective block at a quarter of `in`."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        inner = in_channels // 4
        self.reduce = nn.Conv2d(in_channels, inner, 3, padding=1)
        self.reduce_norm = nn.BatchNorm2d(inner)
        self.select = SelectiveReceptionField(inner)
        self.project = nn.Conv2d(inner, out_channels, 1)
        self.project_norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        x = self.select(self.reduce_norm(F.relu(self.reduce(x))))
        return cast(Tensor, self.project_norm(F.relu(self.project(x))))


class VggEncoder(nn.Module):
    """VGG-16's convolutions; gives the five features after its max-pools, at strides 2 to 32.

    Layers are numbered as in torchvision and timm (`features.0` ...), so their weight files fit.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for out_channels, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
            for _ in range(depth):
                layers += [nn.Conv2d(channels, out_channels, 3, padding=1), nn.ReLU(inplace=True)]
                channels = out_channels
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = []
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.MaxPool2d):
                outputs.append(x)
        return outputs


class PaperStudent(nn.Module):
    """The paper's network over a ResNeXt-101 32x4d or a VGG-16 encoder.

    `pretrained`: a file of ImageNet weights for the encoder in timm's names (`.safetensors`, or a `.pth`
    that loads with `weights_only`; for VGG-16 the names are torchvision's too), or False. RuntimeError
    where a weight is missing in it. Parameters: 84,468,186 with `resnext101`, 19,436,634 with `vgg16`,
    as in the official network.
    """

    stride = STRIDE

    def __init__(self, encoder: EncoderName, *, pretrained: str | Path | Literal[False] = False) -> None:
        super().__init__()
        self.encoder, channels = _create_encoder(encoder, pretrained)
        ins = channels[::-1]
        outs = (*ins[1:], 32)
        self.steps = nn.ModuleList(DecoderStep(i, o) for i, o in zip(ins, outs, strict=True))
        self.blur_sides = nn.ModuleList(nn.Conv2d(o, 1, 1) for o in outs)
        self.depth_sides = nn.ModuleList(nn.Conv2d(o, 1, 1) for o in outs)
        self.attention = nn.ModuleList(SupervisionGuidedAttention() for _ in outs[:-1])
        self.blur_fusion = nn.Conv2d(len(outs), 1, 1)
        self.depth_fusion = nn.Conv2d(len(outs), 1, 1)

    def forward(self, images: Tensor) -> StudentOutput:
        """Six blur and six depth maps for images (B, 3, H, W), RGB, normalised by ImageNet's mean and std.

        Fused map first (B, 1, H, W), then the sides (B, 1, H / s, W / s) for s = 16, 8, 4, 2, 1. A blur
        logit's sigmoid is the probability of OUT OF FOCUS. Raises ValueError unless H and W are
        multiples of 32.
        """
        height, width = images.shape[-2:]
        _check_size(height, width)
        *skips, x = self.encoder(images)
        blur: list[Tensor] = []
        depth: list[Tensor] = []
        for n, step in enumerate(self.steps):
            x = step(x)
            blur.append(self.blur_sides[n](x))
            depth.append(self.depth_sides[n](x))
            if skips:  # the last step has neither attention nor skip
                x = x * self.attention[n](blur[-1], depth[-1]) + skips.pop()
        fused_blur = self.blur_fusion(_stack(blur, height, width))
        fused_depth = self.depth_fusion(_stack(depth, height, width))
        return StudentOutput(blur=[fused_blur, *blur], depth=[fused_depth, *depth])


def _check_size(height: int, width: int) -> None:
    if height % STRIDE or width % STRIDE:
        works = tuple(-(-side // STRIDE) * STRIDE for side in (height, width))
        raise ValueError(
            f"the network takes images whose height and width are multiples of {STRIDE}: "
            f"{(height, width)} would work resized to {works}"
        )


def _stack(sides: list[Tensor], height: int, width: int) -> Tensor:
    """Side outputs as the channels of one map (B, 5, H, W)."""
    return torch.cat([F.interpolate(side, (height, width), mode="bilinear") for side in sides], 1)


def _create_encoder(name: EncoderName, pretrained: str | Path | Literal[False]) -> tuple[nn.Module, tuple[int, ...]]:
    """The encoder and its features' channels at strides 2, 4, 8, 16, 32."""
    if name not in get_args(EncoderName):
        raise ValueError(f"no encoder is called {name!r}: choose one of {', '.join(get_args(EncoderName))}")
    encoder, channels = _resnext_encoder() if name == "resnext101" else _vgg_encoder()
    if pretrained:
        # loaded here and not by timm, which only logs what is missing in a file
        weights = timm.models.load_state_dict(str(pretrained), weights_only=True)
        own = encoder.state_dict().keys()
        encoder.load_state_dict({key: value for key, value in weights.items() if key in own})
    return encoder, channels


def _resnext_encoder() -> tuple[nn.Module, tuple[int, ...]]:
    encoder = timm.create_model("resnext101_32x4d", features_only=True, out_indices=(0, 1, 2, 3, 4))
    return encoder, (64, 256, 512, 1024, 2048)


def _vgg_encoder() -> tuple[nn.Module, tuple[int, ...]]:
    return VggEncoder(), (64, 128, 256, 512, 512)
